"""A smaller bank with a promise: greedy k-centre over pages (Gonzalez 1985; the "coreset" of PatchCore, exact here).

Every vector has a kept one within the cover radius ρ, so the distance d of a query to the bank and d' to what is kept obey
d ≤ d' ≤ d + ρ. Each page is covered by its own vectors.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from patchcli.bank.search import kernels
from patchcli.bank.search.trees import Pages, slack_of


class _Cover:
    """Where the selection on one page stands; distances are squared."""

    def __init__(self, vectors: int, nodes: int) -> None:
        self.distances = np.full(vectors, np.inf)  # to the nearest pick
        self.farthest = np.full(nodes, np.inf)  # their maximum in each node of the tree
        self.picks = np.empty(vectors, np.int64)  # rows of the page
        self.radii = np.empty(vectors)  # the cover radius before each pick; never rising
        self.count = 0


def select(pages: Pages, tolerance: float | None = None, keep: int | None = None) -> tuple[list[NDArray[np.int64]], float]:
    """Rows to keep of each page, and the cover radius: at most `tolerance`, or that of `keep` vectors in all.

    With `keep` the next vector is always picked from the page that has the largest radius; a page keeps at least one.
    """
    covers = [_Cover(len(page.ids), len(page.nodes)) for page in pages]
    slack = slack_of(np.zeros((1, kernels.COORDS), np.float32), 2 * pages.index.radius)[0]
    least = 0.0 if tolerance is None else tolerance**2
    wanted = None if keep is None else max(keep, len(pages))

    def lower(goal: float, limit: int | None) -> float:
        """Pick from every page until no radius is above `goal`; the largest."""
        for page, cover in zip(pages, covers, strict=True):
            cover.count = kernels.pick_centres(
                page.vectors,
                page.coords,
                *page.tree,
                slack,
                cover.distances,
                cover.farthest,
                cover.picks,
                cover.radii,
                cover.count,
                len(page.ids) if limit is None else limit,
                goal,
            )
        return max(float(cover.farthest[0]) for cover in covers)

    squared = lower(least, 1)
    while squared > least and (wanted is None or sum(cover.count for cover in covers) < wanted):
        squared = lower(least if wanted is None else max(least, squared / 2), None)
    if wanted is not None:
        squared = max(squared, _drop(covers, wanted))
    return [cover.picks[: cover.count] for cover in covers], float(np.sqrt(squared))


def _drop(covers: list[_Cover], wanted: int) -> float:
    """Leave the `wanted` picks that were made at the largest radii; the largest radius at which one is dropped."""
    radii = np.concatenate([cover.radii[: cover.count] for cover in covers])
    if len(radii) <= wanted:
        return 0.0
    order = np.argsort(-radii, kind="stable")
    page = np.repeat(np.arange(len(covers)), [cover.count for cover in covers])
    for p, count in enumerate(np.bincount(page[order[:wanted]], minlength=len(covers))):
        covers[p].count = int(count)
    return float(radii[order[wanted]])


def kept(pages: Pages, rows: list[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The (ids, vectors) of the kept rows, page by page."""
    for page, chosen in zip(pages, rows, strict=True):
        yield page.ids[chosen], page.vectors[chosen]
