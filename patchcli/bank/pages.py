"""A stored bank as pages: written when it is complete, and read to search."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcli.bank.search import trees
from patchcli.bank.search.trees import Array, Axes, Index, Page, Pages, Stream, Vectors
from patchcli.errors import IncompleteError, StoreError
from patchcli.observer import Observer
from patchcli.store import Bank, Store

DESCRIBING = ("centre", "axes", "low", "high")  # the arrays of a scale that describe all of its pages


@dataclass(frozen=True)
class Laid:
    """What is kept of a shard whose pages are written."""

    low: Array  # (pages, COORDS) the boxes around the pages
    high: Array
    radius: float  # the largest norm of coordinates
    vectors: int
    error: float  # how far a vector has moved at most, where they are kept as float16


def begin(bank: Bank, scale: str, axes: Axes) -> None:
    """Begin the pages of a scale."""
    bank.begin_index(scale, {"centre": axes.centre, "axes": axes.axes})


def lay(bank: Bank, scale: str, first: int, vectors: Vectors, half: bool) -> Laid:
    """Write a shard's vectors as pages, from number `first` on; with `half` as float16."""
    axes = Axes(bank.read_begun(scale, "centre"), bank.read_begun(scale, "axes"))
    (ids, kept), error = vectors, 0.0
    if half:
        kept, error = _rounded(kept)
    low, high, radius = [], [], 0.0
    for number, page in enumerate(trees.cut(ids, kept, axes), first):
        bank.write_page(scale, number, {array: getattr(page, array) for array in Page.STORED}, half)
        low.append(page.low[0])
        high.append(page.high[0])
        radius = max(radius, page.radius)
    return Laid(np.array(low), np.array(high), radius, len(ids), error)


def _rounded(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Vectors (n, D) as float16 holds them, and how far one has moved at most."""
    rounded, squared = np.empty_like(vectors), 0.0
    for start in range(0, len(vectors), 1 << 14):
        part = slice(start, start + (1 << 14))
        rounded[part] = vectors[part].astype(np.float16)
        squared = max(squared, float(np.square(vectors[part] - rounded[part], dtype=np.float64).sum(axis=1).max()))
    return rounded, math.sqrt(squared)


def finish(bank: Bank, scale: str, laid: Sequence[Laid]) -> float:
    """Finish the pages of a scale, all of which are written; how far a vector has moved at most."""
    boxes = {side: np.concatenate([getattr(shard, side) for shard in laid]) for side in ("low", "high")}
    vectors, radius = sum(shard.vectors for shard in laid), max(shard.radius for shard in laid)
    bank.write_index(scale, boxes, vectors, len(boxes["low"]), radius)
    return max(shard.error for shard in laid)


def finished(
    bank: Bank,
    shards: Sequence[tuple[str, *tuple[Any, ...]]],
    laid: Iterable[Laid],
    counts: Mapping[str, int],
    observer: Observer,
) -> dict[str, float]:
    """Finish the pages of all scales when each shard, whose scale comes first, is laid; how far a vector has moved at most.

    `counts` are the vectors of the scales.
    """
    of_scale: dict[str, list[Laid]] = {}
    for (scale, *_), written in zip(shards, laid, strict=True):
        own = of_scale.setdefault(scale, [])
        own.append(written)
        observer.progress("index", sum(shard.vectors for shard in own), counts[scale])
    return {scale: finish(bank, scale, own) for scale, own in of_scale.items()}


def write(
    bank: Bank, scale: str, vectors: Stream, total: int, *, half: bool, budget: int, progress: Callable[[int], None]
) -> float:
    """Write a scale's vectors, `total` of them, as pages in `budget` bytes of memory; how far one has moved at most.

    They are kept as float16 with `half`.
    """
    begin(bank, scale, trees.axes_of(vectors(), total))
    laid: list[Laid] = []
    for shard in trees.shards(vectors(), trees.shard_size(bank.D, budget)):
        laid.append(lay(bank, scale, sum(len(before.low) for before in laid), shard, half))
        progress(sum(before.vectors for before in laid))
    return finish(bank, scale, laid)


def read(bank: Bank, scale: str, budget: int) -> Pages:
    """A scale's pages; up to `budget` bytes of them stay in memory. Raises DamagedError where they make no sense."""
    arrays, radius = bank.read_index(scale, DESCRIBING)

    def load(number: int) -> Page:
        try:
            return Page.stored(index.axes, **bank.read_page(scale, number)).checked(bank.D, bank.images * bank.patches(scale))
        except (ValueError, TypeError, IndexError) as error:
            if isinstance(error, StoreError):
                raise
            raise bank.damaged(f"page {number} of {scale}: {error}") from None

    try:
        index = Index(Axes(arrays["centre"], arrays["axes"]), arrays["low"], arrays["high"], radius).checked(bank.D)
    except (ValueError, KeyError) as error:
        raise bank.damaged(f"index of {scale}: {error}") from None
    return Pages(index, load, budget, memory(bank, scale))


def stream(bank: Bank, scale: str) -> Stream:
    """A scale's vectors with their ids, page by page, without keeping any page in memory."""

    def read_pages() -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        for page in read(bank, scale, budget=0):
            yield page.ids, page.vectors

    return read_pages


def memory(bank: Bank, scale: str) -> int:
    """About how many bytes a scale's pages hold when all are in memory."""
    return trees.page_bytes(bank.vectors(scale), bank.D)


def total_memory(bank: Bank) -> int:
    """The same of all scales together."""
    return sum(memory(bank, scale) for scale in bank.scales)


def budgets(bank: Bank, scales: Iterable[str], memory_: int, readers: int = 1) -> dict[str, int]:
    """The memory for the pages of each scale, in bytes: what those before it leave, of which as many readers have a share."""
    of_scale, left = {}, memory_
    for scale in scales:
        of_scale[scale] = left
        left = max(0, left - memory(bank, scale) // readers)
    return of_scale


def damages(store: Store) -> list[str]:
    """Read a whole store, every page of its bank too: a line for each thing that is damaged, with its repair."""
    lines = list(store.check())
    try:
        if not lines and (bank := store.finished_bank()) is not None:
            for scale in bank.scales:
                deque(read(bank, scale, budget=0), maxlen=0)
    except IncompleteError:  # no encoder yet
        pass
    except StoreError as error:
        lines.append(str(error))
    return lines
