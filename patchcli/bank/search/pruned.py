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

    def of_page(self, page: int, rows: Array, at_home: bool) -> Array:
        """Those of the query rows whose home a page is; or else those to which it may hold a nearer vector than their homes."""
        chosen = self.home[rows] == page
        if not at_home:
            reach = (np.sqrt(self.squared[rows]) + self.slack[rows]) ** 2 * kernels.RELATIVE + kernels.TINY
            chosen = ~chosen & (self.bounds[rows, page] <= reach.astype(np.float32))
        of: Array = rows[chosen]
        return of

    def enter(self, number: int, page: Page, skip: tuple[int, int]) -> None:
        """Find a leaf, and a vector in it, for the queries whose home this page is."""
        stored, found = (page.vectors, page.ids, page.coords, page.tree), (self.squared, self.ids)
        rows = np.flatnonzero(self.home == number)
        kernels.home_leaves(*stored, self.vectors, self.points, rows, skip, *found, self.leaves)

    def search(self, page: Page, rows: Array, skip: tuple[int, int]) -> None:
        """Look for nearer vectors in a page, for the query rows; neighbours, one after another, visit much the same leaves."""
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
        for at_home in (True, False):  # a good neighbour first, then whatever might be nearer
            for group in _groups(pages, wanted, at_home):
                _search_pages(group, wanted, at_home, skip, pool)
    return wanted.squared, wanted.ids


def _groups(pages: Pages, wanted: _Queries, at_home: bool) -> Iterator[dict[int, Page]]:
    """Pages that are searched before others are read: all that are in memory, then each of the others by itself."""
    every = np.arange(len(wanted.ids))
    held = {number: pages[number] for number in pages.held if len(wanted.of_page(number, every, at_home))}
    if held:
        yield held
    for number in range(len(pages)):
        if number not in held and len(wanted.of_page(number, every, at_home)):
            yield {number: pages[number]}


def _search_pages(
    group: dict[int, Page], wanted: _Queries, at_home: bool, skip: tuple[int, int], pool: ThreadPoolExecutor
) -> None:
    """Look for nearer vectors in pages, for the queries whose home they are or for all others."""
    rows = np.arange(len(wanted.ids))
    if at_home:
        rows = rows[np.isin(wanted.home, list(group))]
        _all(pool.map(lambda number: wanted.enter(number, group[number], skip), group))

    def run(dealt: Array) -> None:
        for number, page in group.items():
            wanted.search(page, wanted.of_page(number, dealt, at_home), skip)

    rows = rows[np.lexsort((wanted.leaves[rows], wanted.home[rows]))]
    runs = np.array_split(rows, -(-len(rows) // RUN) or 1)
    hands = [np.concatenate(runs[first :: _threads()]) for first in range(min(_threads(), len(runs)))]
    _all(pool.map(run, hands))


def _all(done: Iterable[None]) -> None:
    """Wait for all, and raise what one of them raised."""
    deque(done, maxlen=0)


def _threads() -> int:
    return min(torch.get_num_threads(), os.cpu_count() or 1)
