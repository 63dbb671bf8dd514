"""Exact nearest neighbours (Patch SVDD, Sect. 3.4, Eq. 6): a closed set of searches over a bank that streams by.

Every search takes queries (Q, D) float32 and the bank's blocks, (flat index of the first vector, vectors (M, D)
float32), and returns distances (Q,) float32 and flat indices (Q,) int64; of equally near vectors, the first. It keeps
a running minimum, and a distance is always computed from direct differences.
"""

import shutil
from collections.abc import Callable, Iterable
from importlib.util import find_spec

import torch
from torch import Tensor

from patchcli.errors import InputError
from patchcli.neighbours import brute, keops

Blocks = Iterable[tuple[int, Tensor]]
Search = Callable[[Tensor, Blocks], tuple[Tensor, Tensor]]
METHODS: dict[str, Search] = {"brute": brute.search, "keops": keops.search}


def choose(name: str, device: torch.device) -> tuple[str, str]:
    """(method, why it is not the one asked for or ""): auto is keops on a GPU and brute on a CPU."""
    if name not in ("auto", *METHODS):
        raise InputError(f"--search: expected auto, {' or '.join(METHODS)}, found {name!r}")
    if name == "brute" or (name == "auto" and device.type == "cpu"):
        return "brute", ""
    if find_spec("pykeops") is None:
        return "brute", "KeOps is not installed (pip install pykeops); searching with brute, as exact and slower"
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "brute", "KeOps needs a C++ compiler and found none (install g++); searching with brute, as exact"
    return "keops", ""
