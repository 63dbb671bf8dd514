"""A stored bank as pages: written when it is complete, and read to search."""

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from patchcli.bank.search import trees
from patchcli.bank.search.trees import Array, Axes, Index, Page, Pages, Stream
from patchcli.errors import IncompleteError, StoreError
from patchcli.store import Bank, Store


def write(
    bank: Bank, scale: str, vectors: Stream, total: int, *, half: bool, budget: int, progress: Callable[[int], None]
) -> None:
    """Write a scale's vectors, `total` of them, as pages in `budget` bytes of memory; as float16 with `half`."""
    name = bank.begin_index(scale)

    def write_page(number: int, page: Page) -> None:
        bank.write_page(scale, name, number, {array: getattr(page, array) for array in Page.STORED}, half)

    index = trees.build(vectors, total, write_page, budget, progress)
    axes = index.axes
    arrays: dict[str, Array] = {"centre": axes.centre, "axes": axes.axes, "low": index.low, "high": index.high}
    bank.write_index(scale, name, arrays, total, len(index.low), index.radius)


def read(bank: Bank, scale: str, budget: int) -> Pages:
    """A scale's pages; up to `budget` bytes of them stay in memory. Raises DamagedError where they make no sense."""
    arrays, radius = bank.read_index(scale)

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
