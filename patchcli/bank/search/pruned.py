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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from patchcli.bank.search import kernels
from patchcli.bank.search.base import Search
from patchcli.bank.search.trees import Array, Page, Pages, slack_of

CHUNKS = 4  # a thread's shares of the queries, so that none waits long for another


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
    squared: Array  # (Q,) float64, the distances
    ids: Array  # (Q,) int64

    @classmethod
    def of(cls, queries: Tensor, pages: Pages) -> "_Queries":
        """Queries (Q, D), nothing found yet."""
        vectors = np.ascontiguousarray(queries.cpu().numpy(), np.float32)
        points = pages.index.axes.coords(vectors)
        squared, ids = np.full(len(vectors), np.inf), np.full(len(vectors), np.iinfo(np.int64).max)
        turned = pages.index.axes.turned(vectors)
        return cls(vectors, points, turned, slack_of(points, pages.index.radius), squared, ids)

    @property
    def reach(self) -> Array:
        """The squared distance of coordinates beyond which nothing can be nearer, (Q,) float32."""
        reach = (np.sqrt(self.squared) + self.slack) ** 2 * kernels.RELATIVE + kernels.TINY
        return reach.astype(np.float32)


def search(queries: Tensor, pages: Pages, skip: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
    """Exact nearest neighbours of queries (Q, D) float32 in pages, without ids skip[0] to skip[1] - 1."""
    squared, ids = nearest(queries, pages, skip)
    return distances(squared), torch.from_numpy(ids)


def distances(squared: Array) -> Tensor:
    """Squared distances float64 → distances float32."""
    return torch.from_numpy(np.sqrt(squared).astype(np.float32))


def nearest(queries: Tensor, pages: Pages, skip: tuple[int, int]) -> tuple[Array, Array]:
    """The same as squared distances (Q,) float64, inf where nothing is left, and ids (Q,)."""
    wanted = _Queries.of(queries, pages)
    bounds = np.empty((len(queries), len(pages)), np.float32)
    kernels.to_boxes(pages.index.low, pages.index.high, wanted.points, bounds)
    home = bounds.argmin(axis=1)
    with ThreadPoolExecutor(_threads()) as pool:
        for at_home in (True, False):  # a good neighbour first, then whatever might be nearer
            for p in range(len(pages)):
                chosen = home == p if at_home else (home != p) & (bounds[:, p] <= wanted.reach)
                rows = np.flatnonzero(chosen)
                if len(rows):
                    _search_page(pages[p], wanted, rows, skip, pool)
    return wanted.squared, wanted.ids


def _search_page(page: Page, queries: _Queries, rows: Array, skip: tuple[int, int], pool: ThreadPoolExecutor) -> None:
    """Look for nearer vectors in a page, for the query rows; queries near the same leaf are worked on together."""
    leaves = np.empty(len(rows), np.int64)
    found = queries.squared, queries.ids
    kernels.home_leaves(
        page.vectors, page.ids, page.coords, page.tree, queries.vectors, queries.points, rows, skip, *found, leaves
    )
    rows = rows[np.argsort(leaves, kind="stable")]
    stored = page.vectors, page.ids, page.blocks, page.scale, page.tree
    sought = queries.vectors, queries.points, queries.turned, queries.slack

    def run(part: Array) -> None:
        kernels.search(*stored, *sought, part, skip, *found)

    for _ in pool.map(run, np.array_split(rows, min(len(rows), _threads() * CHUNKS))):
        pass


def _threads() -> int:
    return min(torch.get_num_threads(), os.cpu_count() or 1)
