"""KeOps lazy tensors: the nearest by direct differences without a distance matrix. The only import of pykeops."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from patchcli import files
from patchcli.bank.search import brute, cuda_toolkit
from patchcli.bank.search.streaming import Block, Streaming

COMPILERS = ("c++", "g++", "clang++")
DAY = 86_400  # seconds
CANDIDATES = 4  # of each block, among which float64 decides
MOST = 16_000_000  # vectors of a block: KeOps counts them in float32, and refuses more
_TRIAL = """
import sys, torch
from patchcli.bank.search import keops
few = torch.arange((keops.CANDIDATES + 1) * int(sys.argv[2]), device=sys.argv[1]).view(keops.CANDIDATES + 1, -1).float()
ids = torch.arange(len(few), device=few.device)
if not torch.equal(keops.nearest(few, [(ids, few)])[1], ids):
    sys.exit("it finds other neighbours")
"""


class KeOps(Streaming):
    """Compare with every vector in one fused loop, compiled for the device."""

    preference: ClassVar = {"cpu": 2, "cuda": 0}

    @staticmethod
    def nearest(queries: Tensor, blocks: Iterable[Block]) -> tuple[Tensor, Tensor]:
        return nearest(queries, blocks)

    @classmethod
    def problem(cls, device: torch.device, D: int) -> str:
        if find_spec("pykeops") is None:
            return "KeOps is not installed (pip install pykeops)"
        if not any(map(shutil.which, COMPILERS)):
            return "KeOps needs a C++ compiler and found none (install g++)"
        if device.type == "cuda" and (lacking := cuda_toolkit.problem(torch.version.cuda)):
            return lacking
        failure = remembered(device, D)
        return f"KeOps does not work here ({failure})" if failure else ""


def remembered(device: torch.device, D: int) -> str:
    """The trial's answer; that of an earlier one in the same environment, of a failure for a day."""
    path = cuda_toolkit.cache() / "keops" / f"{_environment(device, D)}.txt"
    with contextlib.suppress(OSError, ValueError):
        known = path.read_text(encoding="utf-8")
        if not known or time.time() - path.stat().st_mtime < DAY:
            return known
    failure = trial(device, D)
    with contextlib.suppress(OSError):
        files.write_text(path, failure)
    return failure


def _environment(device: torch.device, D: int) -> str:
    """A name for all that decides whether KeOps works: versions, compiler, toolkit, driver, GPU, and what it has compiled."""
    gpu: tuple[object, ...] = ()
    if device.type == "cuda":
        driver = cuda_toolkit.driver()
        gpu = torch.version.cuda, torch.cuda.get_device_name(device), driver and driver.resolve(), cuda_toolkit.sites()
    compilers = [(found, Path(found).stat().st_mtime) for name in COMPILERS if (found := shutil.which(name))]
    compiled = Path(os.environ.get("KEOPS_CACHE_FOLDER") or Path.home() / ".cache" / f"keops{version('pykeops')}").is_dir()
    decides = device.type, D, gpu, compilers, compiled, torch.__version__, version("pykeops"), sys.version, _TRIAL
    return hashlib.sha256(repr(decides).encode()).hexdigest()[:32]


def trial(device: torch.device, D: int) -> str:
    """How a small search for vectors of length D fails here; "" where it works, and has compiled what it needs.

    It runs in a process of its own, since a driver or toolkit that does not fit can end the process that compiles.
    """
    verbose = {"PYKEOPS_VERBOSE": "1", "KEOPS_VERBOSE": "1", "LC_ALL": "C"}  # or the compiler's errors would not be seen
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | verbose
    command = [sys.executable, "-c", _TRIAL, str(device), str(D)]
    ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode < 0:
        return f"it ends the process with {signal.Signals(-ended.returncode).name}"
    return (_reason(ended.stderr) or f"exit status {ended.returncode}") if ended.returncode else ""


def _reason(said: str) -> str:
    """The line of a failed trial that says why: the first error of the compiler or the linker, else the last line."""
    for pattern in (r"fatal error: (.+)", r"\bld: (?!warning)(.+)", r"\berror: (.+)", r"([^\n]+)\s*\Z"):
        if found := re.search(pattern, said):
            return found[1].strip()
    return ""


@cache
def _lazy_tensor() -> Any:
    """pykeops' LazyTensor, its messages kept off standard output."""
    for name in ("KEOPS_VERBOSE", "PYKEOPS_VERBOSE"):  # or it would tell that it found no GPU, and what it compiles
        os.environ.setdefault(name, "0")
    cuda = torch.version.cuda if torch.cuda.is_available() else None
    gpus = "\n".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) if cuda else ""
    with contextlib.redirect_stdout(sys.stderr), cuda_toolkit.ready(cuda, gpus):
        from pykeops.torch import LazyTensor
    return LazyTensor


def nearest(queries: Tensor, blocks: Iterable[Block]) -> tuple[Tensor, Tensor]:
    """Distances (Q,) float32 and ids (Q,) of the vectors that are nearest to queries (Q, D)."""
    queries = queries.contiguous()
    best = queries.new_full((len(queries),), torch.inf, dtype=torch.float64)
    index = torch.full((len(queries),), torch.iinfo(torch.int64).max, device=queries.device)
    for ids, vectors in blocks:
        for block in zip(torch.split(ids, MOST), torch.split(vectors.contiguous(), MOST), strict=True):
            few = len(block[0]) < CANDIDATES  # KeOps would compile anew for each number
            nearest, at = brute.nearest(queries, [block]) if few else _nearest_of(block, queries)
            nearer = (nearest < best) | ((nearest == best) & (at < index))
            best[nearer], index[nearer] = nearest[nearer], at[nearer]
    return best.sqrt().float(), index


def _nearest_of(block: Block, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances (Q,) float64 and ids (Q,) of the nearest of a block's vectors, which are CANDIDATES or more.

    KeOps ranks by float32 sums of squares, which are off by less than r = 2(D + 2)2⁻²⁴ of themselves: what it does not
    name is no nearer than (1 - r)² times the farthest that it names. Where the nearest is not below that, as among
    many duplicates, brute force decides.
    """
    (ids, vectors), lazy = block, _lazy_tensor()
    backend = "CPU" if queries.device.type == "cpu" else "GPU"  # "auto" sends what is on the CPU to a GPU
    margin = (1 - 2 * (queries.shape[1] + 2) * 2.0**-24) ** 2
    with contextlib.redirect_stdout(sys.stderr):
        squared = ((lazy(queries[:, None, :]) - lazy(vectors[None, :, :])) ** 2).sum(-1)
        named = squared.argKmin(K=CANDIDATES, dim=1, backend=backend)  # (Q, K)
    direct = (queries[:, None].double() - vectors[named].double()).square().sum(2)
    nearest = direct.min(1).values
    at = torch.where(direct == nearest[:, None], ids[named], torch.iinfo(torch.int64).max).min(1).values
    unsure = torch.nonzero((nearest >= direct.max(1).values * margin) & (len(vectors) > CANDIDATES))[:, 0]
    if len(unsure):
        nearest[unsure], at[unsure] = brute.nearest(queries[unsure], [block])
    return nearest, at
