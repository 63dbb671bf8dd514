"""Exact nearest neighbours (Patch SVDD, Sect. 3.4, Eq. 6): a closed set of searches over a bank's pages.

Every search takes queries (Q, D) float32 and a range of ids to pass over, and returns distances (Q,) float32 and ids
(Q,) int64: of equally near vectors, that with the lowest id. A distance is always computed from direct differences.
brute and keops take the bank as blocks that stream by, (ids (M,) int64, vectors (M, D) float32), and keep a running
minimum; pruned reads the pages that it cannot exclude.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor

from patchcli.bank.search import brute, keops, pruned
from patchcli.bank.search.pruned import Pages
from patchcli.errors import InputError

Blocks = Iterable[tuple[Tensor, Tensor]]
Search = Callable[[Tensor, tuple[int, int]], tuple[Tensor, Tensor]]
STREAMING: dict[str, Callable[[Tensor, Blocks], tuple[Tensor, Tensor]]] = {"brute": brute.search, "keops": keops.search}
METHODS = ("pruned", *STREAMING)


def searcher(name: str, pages: Pages, device: torch.device, budget: int) -> Search:
    """The search by that name over pages; blocks that stream to a GPU stay there where `budget` bytes hold them all."""
    if name == "pruned":
        return lambda queries, skip: pruned.search(queries, pages, skip)
    held: list[tuple[Tensor, Tensor]] = []
    if device.type == "cuda":
        budget = min(budget, torch.cuda.mem_get_info(device)[0] // 2)

    def blocks(skip: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
        for ids, vectors in held or _blocks(pages, device, budget, held):
            stays = (ids < skip[0]) | (ids >= skip[1])
            yield (ids, vectors) if bool(stays.all()) else (ids[stays], vectors[stays])

    search = STREAMING[name]
    return lambda queries, skip: search(queries, (block for block in blocks(skip) if len(block[0])))


def _blocks(
    pages: Pages, device: torch.device, budget: int, held: list[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pages as blocks of up to a quarter of the budget; kept in `held` on a GPU that has room for all of them."""
    streamed: list[tuple[Tensor, Tensor]] = []
    waiting: list[tuple[Tensor, Tensor]] = []
    size = total = 0
    for p in range(len(pages)):
        page = pages[p]
        waiting.append((torch.from_numpy(page.ids), torch.from_numpy(page.vectors)))
        size += page.vectors.nbytes + page.ids.nbytes
        if size < budget // 4 and p < len(pages) - 1:
            continue
        ids, vectors = (torch.cat(column).to(device) for column in zip(*waiting, strict=True))
        total += size
        if device.type == "cuda" and total <= budget:
            streamed.append((ids, vectors))
        else:
            streamed.clear()
        yield ids, vectors
        waiting, size = [], 0
    if device.type == "cuda" and total <= budget:
        held.extend(streamed)


def choose(name: str, device: torch.device, D: int) -> tuple[str, str]:
    """(method, why it is not the one asked for or ""): auto is keops on a GPU and pruned on a CPU."""
    if name not in ("auto", *METHODS):
        raise InputError(f"--search: expected auto, {', '.join(METHODS[:-1])} or {METHODS[-1]}, found {name!r}")
    if name != "keops" and not (name == "auto" and device.type == "cuda"):
        return ("pruned" if name == "auto" else name), ""
    other = "brute" if device.type == "cuda" else "pruned"
    instead = f"searching with {other}, which is exact too"
    if find_spec("pykeops") is None:
        return other, f"KeOps is not installed (pip install pykeops); {instead}"
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return other, f"KeOps needs a C++ compiler and found none (install g++); {instead}"
    if found := keops.problem(device, D):
        return other, f"KeOps does not work here ({found}); {instead}"
    return "keops", ""
