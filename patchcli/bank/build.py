"""S_big and S_small, the sets of normal features (Algorithm 1, lines 10 to 17): every patch embedded, then laid out to search.

While a bank is embedded it lies in blocks of whole images; finished, in pages of neighbours, thinned and rounded as its
Thinning says.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from patchcli import runtime
from patchcli.bank import pages, thinning
from patchcli.bank.pages import Laid
from patchcli.bank.search import trees
from patchcli.bank.search.trees import Stream
from patchcli.cluster import Here, Work
from patchcli.datasets.images import Pixels
from patchcli.features import dense
from patchcli.features.encoder import Encoder
from patchcli.features.grid import PatchGrid
from patchcli.observer import Observer
from patchcli.store import Bank, Blocks, Reference, Store, Thinning, bank_bytes

SAMPLED = 64  # blocks that are read for the axes, about as many


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
class Shape:
    """What a bank of so many images holds before it is thinned."""

    images: int
    grids: dict[str, PatchGrid]
    D: int
    precision: str  # of the encoder's forward pass

    @classmethod
    def of(cls, store: Store, precision: str) -> "Shape":
        """The bank of a store's images by its encoder."""
        embedder = Embedder.of(store, torch.device("cpu"), precision)
        return cls(len(store.images), embedder.grids, store.encoder.attributes.D, precision)

    @property
    def vectors(self) -> int:
        """How many there are at all scales together."""
        return self.images * sum(grid.patches for grid in self.grids.values())

    @property
    def disk(self) -> int:
        """Bytes of disk space that making it takes."""
        return bank_bytes(self.grids, self.D, self.images)


@dataclass(frozen=True)
class Embedder:
    """A store's encoder on a device, with what it needs to embed images of the working size."""

    encoder: Encoder
    mean: NDArray[np.float32]  # (H, W, 3)
    grids: dict[str, PatchGrid]
    device: torch.device
    precision: str  # of the encoder's forward pass

    @classmethod
    def of(cls, store: Store, device: torch.device, precision: str) -> "Embedder":
        """The encoder of a store, and its bank's grids."""
        encoder, mean, attributes = store.encoder.restore(device), store.mean, store.encoder.attributes
        grids = dense.grids(encoder, mean.shape[0], mean.shape[1], attributes.strides, attributes.exponents)
        return cls(encoder, mean, grids, device, precision)

    def __call__(self, pixels: Pixels) -> dict[str, NDArray[np.float32]]:
        """Images (B, H, W, 3) → features of each scale, (B, rows, columns, D)."""
        features = dense.embed(self.encoder, pixels, self.mean, self.grids, self.device, self.precision)
        return {scale: values.cpu().numpy() for scale, values in features.items()}


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


Shard = tuple[str, int, int, int]  # a scale, its first block, the one after the last, and the number of the first page


@dataclass(frozen=True)
class IndexShards:
    """The task to write shards of the blocks of a version of a store as pages of a bank that has been begun."""

    store: Path | str
    revision: str
    bank: Reference
    half: bool
    threads: int | None

    def open(self, observer: Observer) -> Callable[[Shard], Laid]:
        """What writes a shard."""
        runtime.set_threads(self.threads)
        blocks = Store.open(self.store, self.revision).blocks()
        assert blocks is not None
        bank = Bank.begun(self.bank)

        def lay(shard: Shard) -> Laid:
            scale, start, stop, first = shard
            return pages.lay(bank, scale, first, blocks.read(scale, start, stop), self.half)

        return lay


def index_blocks(
    store: Store, bank: Bank, blocks: Blocks, options: Thinning, work: Work, budget: int, observer: Observer
) -> None:
    """Write all blocks as pages, thinned as the options say; `budget` bytes of memory bound a shard."""
    shards, count = list[Shard](), len(blocks.done)
    for scale in blocks.scales:
        patches, first = bank.patches(scale), 0
        few = -(-count // SAMPLED)
        pages.begin(bank, scale, trees.axes_of(blocks.stream(scale, few), -(-count // few) * blocks.block * patches))
        step = -(-trees.shard_size(bank.D, budget // 2) // (blocks.block * patches))
        for start in range(0, count, step):
            stop = min(start + step, count)
            shards.append((scale, start, stop, first))
            first += 2 ** trees.depth((blocks.bounds(stop - 1)[1] - blocks.bounds(start)[0]) * patches)
    task = IndexShards(store.path, store.root.revision, bank.reference, options.half and not options.selects, work.threads)
    counts = {scale: bank.images * bank.patches(scale) for scale in blocks.scales}
    moved = pages.finished(bank, shards, work.run(task, shards), counts, observer)
    _thin(bank, moved, options, work, budget, observer)


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
    errors, half = {}, options.half and not options.selects
    for scale, stream in streams.items():
        total = bank.images * bank.patches(scale)
        progress = _progress(observer, total)
        error = pages.write(bank, scale, stream, total, half=half, budget=budget // 2, progress=progress)
        errors[scale] = max(error, (moved or {}).get(scale, 0.0))
    _thin(bank, errors, options, Work(Here(observer), None, budget), budget, observer)


def _thin(bank: Bank, moved: dict[str, float], options: Thinning, work: Work, budget: int, observer: Observer) -> None:
    """Thin the pages of a bank as the options say; its vectors have `moved` so far already."""
    bank.attributes = replace(bank.attributes, thinning=options, radius=moved)
    if options.selects:
        thinning.thin(bank, bank, options, work, budget, observer)


def _progress(observer: Observer, total: int) -> Callable[[int], None]:
    return lambda done: observer.progress("index", done, total)
