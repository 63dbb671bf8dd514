"""A smaller bank with a promise: greedy k-centre over pages (Gonzalez 1985; the "coreset" of PatchCore, exact here).

Every vector has a kept one within the cover radius ρ, so the distance d of a query to the bank and d' to what is kept obey
d ≤ d' ≤ d + ρ. Each page is covered by its own vectors, whoever covers it, so that workers can share the pages.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from patchcli import runtime
from patchcli.bank import pages
from patchcli.bank.pages import Laid
from patchcli.bank.search import kernels, trees
from patchcli.bank.search.trees import Page
from patchcli.cluster import Work
from patchcli.observer import Observer
from patchcli.store import Bank, Reference, Thinning

BEYOND = 1.05  # how many vectors are aimed at for each that is wanted, since it is only guessed where they are reached

Rows = NDArray[np.int32]  # of a page
Picks = tuple[Rows, NDArray[np.float64]]  # in their order; the squared cover radius with those up to each, never rising
Goal = tuple[str, int, float]  # a scale, one of its pages, a squared cover radius
Kept = tuple[str, int, list[tuple[int, Rows | None]]]  # a scale, the first of its new pages, and of old ones what is kept


class Cover:
    """The greedy selection on one page, which goes on from where it stands."""

    def __init__(self, page: Page, slack: float) -> None:
        self._page, self._slack = page, slack
        self._squared = np.full(len(page.ids), np.inf)  # distances to the nearest pick
        self._farthest = np.full(len(page.nodes), np.inf)  # their maximum in each node of the tree
        self._picks, self._before = np.empty(len(page.ids), np.int64), np.empty(len(page.ids))
        self._count = 0

    def until(self, goal: float) -> Picks:
        """Pick until the squared cover radius is at most `goal`; one vector at least."""
        page, first = self._page, goal == math.inf
        self._count = kernels.pick_centres(
            page.vectors,
            page.coords,
            *page.tree,
            self._slack,
            self._squared,
            self._farthest,
            self._picks,
            self._before,
            self._count,
            1 if first else len(page.ids),
            0.0 if first else goal,
        )
        return self._picks[: self._count].astype(np.int32), np.append(self._before[1 : self._count], self._farthest[0])

    @property
    def nbytes(self) -> int:
        """What it holds in memory beside its page."""
        return sum(values.nbytes for values in (self._squared, self._farthest, self._picks, self._before))


@dataclass(frozen=True)
class CoverPages:
    """The task to cover pages of a bank with some of their vectors; what is covered already it remembers, in `memory`."""

    bank: Reference
    memory: int | None  # bytes; None: half of what is free
    readers: int
    threads: int | None

    def open(self, observer: Observer) -> Callable[[Goal], Picks]:
        """What covers a page."""
        runtime.set_threads(self.threads)
        bank, memory = Bank.begun(self.bank), runtime.memory(self.memory)
        left, budgets = memory // 4, pages.budgets(bank, bank.scales, memory - memory // 4, self.readers)
        of_scale = {scale: pages.read(bank, scale, budget) for scale, budget in budgets.items()}
        covers: dict[tuple[str, int], Cover] = {}

        def cover(goal: Goal) -> Picks:
            nonlocal left
            scale, number, squared = goal
            known = covers.get((scale, number))
            if known is None:
                whole = of_scale[scale]
                known = Cover(whole[number], whole.slack)
                if known.nbytes <= left and number in whole.held:
                    left -= known.nbytes
                    covers[scale, number] = known
            return known.until(squared)

        return cover


@dataclass(frozen=True)
class LayKept:
    """The task to write what is kept of some pages of one bank as pages of another, or of the same."""

    source: Reference
    target: Reference
    half: bool
    threads: int | None

    def open(self, observer: Observer) -> Callable[[Kept], Laid]:
        """What writes the pages of one shard."""
        runtime.set_threads(self.threads)
        source, target = Bank.begun(self.source), Bank.begun(self.target)
        read = {scale: pages.read(source, scale, 0) for scale in source.scales}

        def lay(kept: Kept) -> Laid:
            scale, first, of_pages = kept
            vectors = trees.joined([_vectors(read[scale][number], rows) for number, rows in of_pages])
            return pages.lay(target, scale, first, vectors, self.half)

        return lay


def _vectors(page: Page, rows: Rows | None) -> trees.Vectors:
    return (page.ids, page.vectors) if rows is None else (page.ids[rows], page.vectors[rows])


def select(cover: Callable[[float], list[Picks]], tolerance: float | None, keep: int | None) -> tuple[list[Rows], float]:
    """Rows to keep of each page, and the cover radius: at most `tolerance`, or that of `keep` vectors in all.

    `cover` gives the picks of every page until its squared cover radius is at most so much. With `keep`, of all pages the
    picks that were made at the largest radii stay, at least one of each page.
    """
    if tolerance is not None:
        found = cover(tolerance**2)
        return [rows for rows, _ in found], math.sqrt(_largest(found))
    assert keep is not None
    found = cover(math.inf)
    wanted, rounds = max(keep, len(found)), [(_largest(found), len(found))]
    while rounds[-1][0] > 0 and rounds[-1][1] < wanted:
        found = cover(_goal(rounds[-2:], wanted))
        rounds.append((_largest(found), sum(len(rows) for rows, _ in found)))
    before = np.concatenate([np.append(math.inf, radii[:-1]) for _, radii in found])  # each pick
    of_page = np.repeat(np.arange(len(found)), [len(rows) for rows, _ in found])
    counts = np.bincount(of_page[np.argsort(-before, kind="stable")[:wanted]], minlength=len(found))
    chosen = [(rows[:count], radii[:count]) for (rows, radii), count in zip(found, counts, strict=True)]
    return [rows for rows, _ in chosen], math.sqrt(_largest(chosen))


def _largest(found: Sequence[Picks]) -> float:
    """The squared cover radius of all pages together."""
    return max(float(radii[-1]) for _, radii in found)


def _goal(rounds: Sequence[tuple[float, int]], wanted: int) -> float:
    """The squared cover radius that so many vectors should have, from that of fewer: their number is about a power of it."""
    (squared, count), share = rounds[-1], 0.0
    if len(rounds) > 1 and count > rounds[0][1]:
        power = math.log(count / rounds[0][1]) / math.log(rounds[0][0] / squared)
        share = (count / (BEYOND * wanted)) ** (1 / power)
    return squared * min(max(share, 0.5), 0.97)


def thin(source: Bank, target: Bank, options: Thinning, work: Work, budget: int, observer: Observer) -> None:
    """Write what the options keep of a bank as pages of another, or of the same; `budget` bytes of memory bound a shard."""
    cover = CoverPages(source.reference, work.memory, max(1, len(work.run.workers)), work.threads)
    shards, counts, radius = list[Kept](), dict[str, int](), dict(source.attributes.radius)
    for scale in source.scales:
        sizes = source.place(scale).pages
        rows: Sequence[Rows | None] = [None] * len(sizes)
        if options.selects:
            rows, covered = _selected(source, scale, options, partial(work.run, cover, pinned=work.run.workers), observer)
            sizes, radius[scale] = [len(chosen) for chosen in rows], radius[scale] + covered
        counts[scale] = sum(sizes)
        shards += _shards(scale, rows, sizes, trees.shard_size(source.D, budget // 2))
        pages.begin(target, scale, pages.read(source, scale, 0).index.axes)
    lay = LayKept(source.reference, target.reference, options.half, work.threads)
    moved = pages.finished(target, shards, work.run(lay, shards), counts, observer)
    radius = {scale: radius[scale] + moved[scale] for scale in radius}
    target.attributes = replace(target.attributes, thinning=options, radius=radius)


def _selected(
    bank: Bank, scale: str, options: Thinning, run: Callable[[Iterable[Goal]], Iterator[Picks]], observer: Observer
) -> tuple[list[Rows], float]:
    """What `select` chooses of a scale, by whoever runs the task of covering pages."""
    picked = [0] * bank.attributes.scales[scale].pages
    keep = None if options.keep is None else max(1, round(options.keep * bank.vectors(scale)))

    def cover(goal: float) -> list[Picks]:
        found = []
        for number, picks in enumerate(run((scale, number, goal) for number in range(len(picked)))):
            found.append(picks)
            picked[number] = len(picks[0])
            observer.progress("thin", *((number + 1, len(picked)) if keep is None else (sum(picked), keep)))
        return found

    return select(cover, options.tolerance, keep)


def _shards(scale: str, rows: Sequence[Rows | None], sizes: Sequence[int], size: int) -> Iterator[Kept]:
    """Pages of which so many vectors are kept, as shards of `size` vectors or a few more."""
    first, waiting, count = 0, list[tuple[int, Rows | None]](), 0
    for number, kept in enumerate(rows):
        waiting.append((number, kept))
        count += sizes[number]
        if count >= size or number == len(rows) - 1:
            yield scale, first, waiting
            first, waiting, count = first + 2 ** trees.depth(count), [], 0
