"""Exact nearest neighbours that skip nearly all of the bank: k-d trees over principal coordinates, then sums of whole numbers.

Why it is exact. Let P be orthonormal axes, x ↦ xP the coordinates of a vector minus the centre, and t(x) the norm of what
they leave out. For a query q and a vector v, |q−v|² = |qP−vP|² + |rest(q)−rest(v)|², and by the triangle inequality
|rest(q)−rest(v)| ≥ |t(q)−t(v)|; so the distance of the points (xP, t(x)) is never above that of the vectors, and neither
is the distance of q's point to a box that holds v's. A box is skipped only where this bound is above the best distance so
far, with a margin for the rounding of float32 (`slack_of`).

The vectors of the other boxes are compared on 16 axes, then 32, up to 64, until the bound is above the best distance. Here
coordinates are whole multiples of a scale s, so that their products and sums are exact. Rounding moves a point of n
coordinates by at most s√n / 2; so |q−v| ≥ |q'−v'| − s√n for the rounded points of any n axes. A query far off is first moved
onto a ball that holds the page, which brings it no farther from any of its vectors.

Whatever is not skipped is decided by direct differences in float64; of equally near vectors the one with the lowest id is
taken, so bounds equal to the best are followed.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from patchcli import runtime
from patchcli.bank.search import kernels
from patchcli.bank.search.base import Search
from patchcli.bank.search.trees import Array, Page, Pages, slack_of

RUN = 64  # neighbouring queries that one thread takes; the next ones are another's, so that none waits long for another


class Pruned(Search):
    """Search the k-d trees of the pages, on the CPU; skip each page and box that cannot hold a nearer vector."""

    preference: ClassVar = {"cpu": 0, "cuda": 2}

    def __init__(self, pages: Pages, device: torch.device, budget: int) -> None:
        self._pages = pages

    def __call__(self, queries: Tensor, skip: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
        return search(queries, self._pages, skip)


@dataclass(frozen=True)
class _Queries:
    """Queries, and the nearest vector to each so far."""

    vectors: Array  # (Q, D) float32
    points: Array  # (Q, COORDS), their coordinates
    turned: Array  # (Q, 16 · groups), on all axes
    slack: Array  # (Q,)
    bounds: Array  # (Q, pages) squared distances of points to the boxes around pages
    home: Array  # (Q,) the nearest page
    leaves: Array  # (Q,) a leaf of it near the query
    squared: Array  # (Q,) float64, the distances
    ids: Array  # (Q,) int64

    @classmethod
    def of(cls, queries: Tensor, pages: Pages) -> "_Queries":
        """Queries (Q, D), nothing found yet."""
        vectors, axes = np.ascontiguousarray(queries.cpu().numpy(), np.float32), pages.index.axes
        points, count = axes.coords(vectors), len(vectors)
        bounds = np.empty((count, len(pages)), np.float32)
        kernels.to_boxes(pages.index.low, pages.index.high, points, bounds)
        slack, home, leaves = slack_of(points, pages.index.radius), bounds.argmin(axis=1), np.zeros(count, np.int64)
        nothing = np.full(count, np.inf), np.full(count, np.iinfo(np.int64).max)
        return cls(vectors, points, axes.turned(vectors), slack, bounds, home, leaves, *nothing)

    def in_order(self, rows: Array) -> Array:
        """The query rows so that neighbours visit much the same leaves."""
        ordered: Array = rows[np.lexsort((self.leaves[rows], self.home[rows]))]
        return ordered

    def elsewhere(self, rows: Array, page: int) -> Array:
        """Those of the query rows that have another home, and to which the page may hold a nearer vector."""
        reach = (np.sqrt(self.squared[rows]) + self.slack[rows]) ** 2 * kernels.RELATIVE + kernels.TINY
        may: Array = rows[(self.home[rows] != page) & (self.bounds[rows, page] <= reach.astype(np.float32))]
        return may

    def seed(self, page: Page, number: int, skip: tuple[int, int]) -> None:
        """Find a leaf, and a vector in it, for the queries whose home this page is."""
        rows = np.flatnonzero(self.home == number)
        stored, found = (page.vectors, page.ids, page.coords, page.tree), (self.squared, self.ids)
        leaves = np.empty(len(rows), np.int64)
        kernels.home_leaves(*stored, self.vectors, self.points, rows, skip, *found, leaves)
        self.leaves[rows] = leaves

    def search(self, page: Page, rows: Array, skip: tuple[int, int]) -> None:
        """Look for nearer vectors in a page, for the query rows."""
        stored = page.vectors, page.ids, page.blocks, page.scale, page.tree
        sought = self.vectors, self.points, self.turned, self.slack
        kernels.search(*stored, *sought, rows, skip, self.squared, self.ids)


def search(queries: Tensor, pages: Pages, skip: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
    """Exact nearest neighbours of queries (Q, D) float32 in pages, without ids skip[0] to skip[1] - 1."""
    squared, ids = nearest(queries, pages, skip)
    return distances(squared), torch.from_numpy(ids)


def distances(squared: Array) -> Tensor:
    """Squared distances float64 → distances float32."""
    return torch.from_numpy(np.sqrt(squared).astype(np.float32))


def nearest(queries: Tensor, pages: Pages, skip: tuple[int, int]) -> tuple[Array, Array]:
    """The same as squared distances (Q,) float64, inf where nothing is left, and ids (Q,)."""
    with runtime.one_blas_thread(), ThreadPoolExecutor(_threads()) as pool:
        wanted = _Queries.of(queries, pages)
        every = np.arange(len(queries))
        for group in _groups(pages):  # a good neighbour first,
            _all(pool.map(lambda number, page: wanted.seed(page, number, skip), group.keys(), group.values()))
            _search_pages(group, wanted, every[np.isin(wanted.home, list(group))], True, skip, pool)
        for group in _groups(pages):  # then whatever might be nearer
            _search_pages(group, wanted, every, False, skip, pool)
    return wanted.squared, wanted.ids


def _groups(pages: Pages) -> Iterator[dict[int, Page]]:
    """Pages that are searched before others are read: each that does not stay in memory, then all that do."""
    held = {}
    for number in range(len(pages)):
        page = pages[number]
        if number in pages.held:
            held[number] = page
        else:
            yield {number: page}
    if held:
        yield held


def _search_pages(
    group: dict[int, Page], wanted: _Queries, rows: Array, at_home: bool, skip: tuple[int, int], pool: ThreadPoolExecutor
) -> None:
    """Look for nearer vectors in pages, for the query rows, in those which are the query's home or in all others."""

    def run(dealt: Array) -> None:
        for number, page in group.items():
            chosen = dealt[wanted.home[dealt] == number] if at_home else wanted.elsewhere(dealt, number)
            if len(chosen):
                wanted.search(page, chosen, skip)

    runs = np.array_split(wanted.in_order(rows), -(-len(rows) // RUN) or 1)
    hands = [np.concatenate(runs[first :: _threads()]) for first in range(min(_threads(), len(runs)))]
    _all(pool.map(run, hands))


def _all(done: Iterable[None]) -> None:
    """Wait for all, and raise what one of them raised."""
    deque(done, maxlen=0)


def _threads() -> int:
    return min(torch.get_num_threads(), os.cpu_count() or 1)
