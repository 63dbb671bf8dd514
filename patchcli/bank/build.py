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
from patchcli.bank.pages import Laid
from patchcli.bank.search import trees
from patchcli.bank.search.trees import Stream
from patchcli.datasets.images import Pixels
from patchcli.features import dense
from patchcli.features.encoder import Encoder
from patchcli.features.grid import PatchGrid
from patchcli.observer import Observer
from patchcli.store import Bank, BankAttributes, Blocks, Store, Thinning

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


Shard = tuple[str, int, int, int]  # a scale, its first block, the one after the last, and the number of the first page


@dataclass(frozen=True)
class IndexShards:
    """The task to write shards of the blocks of a version of a store as pages of a bank that has been begun."""

    store: Path | str
    revision: str
    bank: str
    attributes: BankAttributes
    half: bool
    threads: int | None

    def open(self, observer: Observer) -> Callable[[Shard], Laid]:
        """What writes a shard."""
        runtime.set_threads(self.threads)
        blocks = Store.open(self.store, self.revision).blocks()
        assert blocks is not None
        return partial(lay_shard, Bank.begun(self.store, self.bank, self.attributes), blocks, self.half)


def lay_shard(bank: Bank, blocks: Blocks, half: bool, shard: Shard) -> Laid:
    """Write one shard as pages."""
    scale, start, stop, first = shard
    return pages.lay(bank, scale, first, blocks.read(scale, start, stop), half)


def index_blocks(
    bank: Bank,
    blocks: Blocks,
    lay: Callable[[Iterable[Shard]], Iterator[Laid]],
    options: Thinning,
    budget: int,
    observer: Observer,
) -> None:
    """Write all blocks as pages, thinned as the options say, in `budget` bytes of memory; `lay` writes the shards."""
    shards, laid, count = [], {scale: list[Laid]() for scale in blocks.scales}, len(blocks.done)
    for scale in blocks.scales:
        patches, first = bank.patches(scale), 0
        few = -(-count // SAMPLED)
        pages.begin(bank, scale, trees.axes_of(blocks.stream(scale, few), -(-count // few) * blocks.block * patches))
        step = -(-trees.shard_size(bank.D, budget // 2) // (blocks.block * patches))
        for start in range(0, count, step):
            stop = min(start + step, count)
            shards.append((scale, start, stop, first))
            first += 2 ** trees.depth((blocks.bounds(stop - 1)[1] - blocks.bounds(start)[0]) * patches)
    for (scale, _, _, _), written in zip(shards, lay(shards), strict=True):
        laid[scale].append(written)
        observer.progress("index", sum(shard.vectors for shard in laid[scale]), bank.images * bank.patches(scale))
    _finish(bank, {scale: pages.finish(bank, scale, laid[scale]) for scale in laid}, options, budget, observer)


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
    errors = {}
    for scale, stream in streams.items():
        total = bank.images * bank.patches(scale)
        progress = _progress(observer, "index", total)
        error = pages.write(bank, scale, stream, total, half=options.half, budget=budget // 2, progress=progress)
        errors[scale] = max(error, (moved or {}).get(scale, 0.0))
    _finish(bank, errors, options, budget, observer)


def _finish(bank: Bank, radius: dict[str, float], options: Thinning, budget: int, observer: Observer) -> None:
    """Thin the pages as the options say; `radius` is how far vectors have moved already."""
    if options.selects:
        radius = {scale: moved + _thin(bank, scale, options, budget // 2, observer) for scale, moved in radius.items()}
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
