"""S_big and S_small, the sets of normal features (Algorithm 1, lines 10 to 17): every patch embedded, then laid out to search.

While a bank is embedded it lies in blocks of whole images; finished, in pages of neighbours, thinned and rounded as its
Thinning says.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from patchcli import runtime
from patchcli.bank import pages, thinning
from patchcli.bank.search.trees import Stream
from patchcli.datasets.images import Pixels
from patchcli.features import dense
from patchcli.features.encoder import Encoder
from patchcli.features.grid import PatchGrid
from patchcli.observer import Observer
from patchcli.store import Bank, Blocks, Store, Thinning


@dataclass(frozen=True)
class BankSummary:
    """A finished bank, and what this run did for it."""

    images: int
    vectors: dict[str, int]  # of each scale
    embedded: int  # images that this run embedded
    radius: dict[str, float]  # by how much a distance may be off: 0 where every vector is kept as it is

    @classmethod
    def of(cls, bank: Bank, embedded: int) -> "BankSummary":
        """A finished bank, of which this run embedded so many images."""
        vectors = {scale: bank.vectors(scale) for scale in bank.scales}
        return cls(bank.images, vectors, embedded, bank.attributes.radius)


@dataclass(frozen=True)
class Embedder:
    """A store's encoder on a device, with what it needs to embed images of the working size."""

    encoder: Encoder
    mean: NDArray[np.float32]  # (H, W, 3)
    grids: dict[str, PatchGrid]
    D: int
    device: torch.device
    precision: str  # of the encoder's forward pass

    @classmethod
    def of(cls, store: Store, device: torch.device, precision: str) -> "Embedder":
        """The encoder of a store, and its bank's grids."""
        encoder, mean, attributes = store.encoder.restore(device), store.mean, store.encoder.attributes
        grids = dense.grids(encoder, mean.shape[0], mean.shape[1], attributes.strides, attributes.exponents)
        return cls(encoder, mean, grids, attributes.D, device, precision)

    def __call__(self, pixels: Pixels) -> dict[str, NDArray[np.float32]]:
        """Images (B, H, W, 3) → features of each scale, (B, rows, columns, D)."""
        features = dense.embed(self.encoder, pixels, self.mean, self.grids, self.device, self.precision)
        return {scale: values.cpu().numpy() for scale, values in features.items()}

    def vectors(self, images: int) -> int:
        """How many vectors so many images have, at all scales together."""
        return images * sum(grid.patches for grid in self.grids.values())


def embed_block(blocks: Blocks, embedder: Embedder, read: Callable[[int, int], Pixels], block: int) -> int:
    """Embed one block, and set its flag; how many images. `read(start, stop)` gives images."""
    start, stop = blocks.bounds(block)
    blocks.write_block(block, embedder(read(start, stop)))
    return stop - start


@dataclass(frozen=True)
class EmbedBlocks:
    """The task to embed blocks of the unfinished bank of a version of a store, by number."""

    store: Path | str
    revision: str
    precision: str
    device: str
    threads: int | None

    def open(self, observer: Observer) -> Callable[[int], int]:
        """What embeds a block, and gives the number of its images."""
        runtime.set_threads(self.threads)
        store = Store.open(self.store, self.revision)
        blocks = store.blocks()
        assert blocks is not None
        embedder = Embedder.of(store, runtime.device(self.device), self.precision)
        return partial(embed_block, blocks, embedder, store.images.read)


def pending(blocks: Blocks, part: tuple[int, int] = (1, 1)) -> list[int]:
    """The blocks that are not done yet, of the part (number from 1 on, how many parts)."""
    number, count = part
    done = blocks.done
    own = np.array_split(np.arange(len(done)), count)[number - 1]
    return [block for block in own.tolist() if not done[block]]


def embed_blocks(blocks: Blocks, numbers: Sequence[int], embedded: Iterable[int], observer: Observer) -> int:
    """Watch these blocks being embedded: `embedded` gives how many images each has. How many images they have together."""
    total, done = sum(stop - start for start, stop in map(blocks.bounds, numbers)), 0
    for images in embedded:
        done += images
        observer.progress("embed", done, total, f"{blocks.images} images")
    return done


def index(
    bank: Bank,
    streams: Mapping[str, Stream],
    options: Thinning,
    budget: int,
    observer: Observer,
    moved: Mapping[str, float] | None = None,
) -> None:
    """Write the vectors of each scale as pages, rounded and thinned as the options say, in `budget` bytes of memory.

    `moved` says how far vectors that come from a float16 bank may be off already.
    """
    radius = {}
    budget //= 2  # for vectors on their way into pages; the other half is for pages that are read meanwhile
    for scale, stream in streams.items():
        total = bank.images * bank.patches(scale)
        rounded = _Rounded(stream) if options.half else None
        progress = _progress(observer, "index", total)
        pages.write(bank, scale, rounded or stream, total, half=options.half, budget=budget, progress=progress)
        radius[scale] = max(rounded.error if rounded else 0.0, (moved or {}).get(scale, 0.0))
        if options.selects:
            radius[scale] += _thin(bank, scale, options, budget, observer)
    bank.attributes = replace(bank.attributes, thinning=options, radius=radius)


def _thin(bank: Bank, scale: str, options: Thinning, budget: int, observer: Observer) -> float:
    """Replace a scale's pages by those of the vectors to keep; the cover radius."""
    whole = pages.read(bank, scale, budget)
    keep = None if options.keep is None else max(1, round(options.keep * bank.vectors(scale)))
    rows, radius = thinning.select(whole, options.tolerance, keep)
    count = sum(map(len, rows))
    progress = _progress(observer, "thin", count)
    pages.write(bank, scale, lambda: thinning.kept(whole, rows), count, half=options.half, budget=budget, progress=progress)
    return radius


def _progress(observer: Observer, task: str, total: int) -> Callable[[int], None]:
    return lambda done: observer.progress(task, done, total)


class _Rounded:
    """A stream whose vectors go through float16; `error` is how far one of them has moved at most."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self.error = stream, 0.0

    def __call__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        for ids, vectors in self._stream():
            rounded = vectors.astype(np.float16).astype(np.float32)
            squared = np.square(vectors - rounded, dtype=np.float64).sum(axis=1)
            self.error = max(self.error, float(np.sqrt(squared.max(initial=0))))
            yield ids, rounded
