"""A finished bank with images removed or added: only the new ones are embedded."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from patchcli.bank import build, pages
from patchcli.bank.build import BankSummary, Embedder
from patchcli.bank.search.trees import Stream
from patchcli.datasets.images import Pixels
from patchcli.observer import Observer
from patchcli.store import Bank, Blocks, Store, bank_bytes

Decoded = tuple[str, tuple[int, int], Pixels]  # id, original (height, width), pixels (H, W, 3) at the working size


@dataclass(frozen=True)
class EditedImages:
    """The images of a store after an edit: of the present ones those `kept`, by number, then those `added`."""

    store: Store
    kept: Sequence[int]
    added: Sequence[Decoded] = ()

    def __len__(self) -> int:
        return len(self.kept) + len(self.added)

    def __iter__(self) -> Iterator[Decoded]:
        images = self.store.images
        for number in self.kept:
            yield images.ids[number], images.sizes[number], images.read(number, number + 1)[0]
        yield from self.added

    def read(self, start: int, stop: int) -> Pixels:
        """Images start:stop, (B, H, W, 3)."""
        pixels: Pixels = np.stack([self._pixels(number) for number in range(start, stop)])
        return pixels

    def _pixels(self, number: int) -> Pixels:
        if number >= len(self.kept):
            return self.added[number - len(self.kept)][2]
        present = self.kept[number]
        (pixels,) = self.store.images.read(present, present + 1)
        return cast(Pixels, pixels)

    @property
    def identity(self) -> str:
        """sha256 of the images' identity before, and of what was added and removed."""
        ids = self.store.images.ids
        digest = hashlib.sha256(self.store.source.identity.encode())
        for name, _, pixels in self.added:
            digest.update(f"\tadded {name}\t{hashlib.sha256(pixels.tobytes()).hexdigest()}\n".encode())
        for name in sorted(set(ids) - {ids[number] for number in self.kept}):
            digest.update(f"\tremoved {name}\n".encode())
        return digest.hexdigest()


def edit(images: EditedImages, device: torch.device, budget: int, observer: Observer) -> BankSummary:
    """Replace a store's images and bank by the edited ones, in `budget` bytes of memory for the vectors.

    Mean and encoder stay. A thinned bank is embedded anew: which vectors of an image it keeps depends on the others.
    """
    store, bank = images.store, images.store.bank()
    embedder, thinning = Embedder.of(store, device, bank.precision), bank.attributes.thinning
    grids, D, count = embedder.grids, bank.D, len(images)
    disk = bank_bytes(grids, D, count)
    store.check_space(disk)
    plan = f"{len(images.added)} images to add", f"images and bank of {store.path}, now of {count} images"
    observer.plan(*plan, disk)
    if thinning.selects:
        observer.note("the bank is thinned: it is embedded anew from the images in the store")
    kept = [] if thinning.selects else images.kept
    moved = None if thinning.selects else bank.attributes.radius
    with (
        store.editing(iter(images), images.identity) as edited,
        store.scratch_blocks(grids, D, count, len(kept)) as blocks,
        edited.writing_bank(grids, D) as new,
    ):
        numbers = build.pending(blocks)
        one_by_one = map(partial(build.embed_block, blocks, embedder, images.read), numbers)
        embedded = build.embed_blocks(blocks, numbers, one_by_one, observer)
        blocks.check()
        streams = {scale: _stream(bank, blocks, scale, kept) for scale in grids}
        build.index(new, streams, thinning, budget, observer, moved)
    return BankSummary.of(store.bank(), embedded)


def _stream(bank: Bank, blocks: Blocks, scale: str, kept: Sequence[int]) -> Stream:
    """The vectors of the kept images under their new ids, then those of the blocks."""
    patches = bank.patches(scale)
    numbers = np.full(bank.images, -1)
    numbers[list(kept)] = np.arange(len(kept))

    def stream() -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        for ids, vectors in pages.stream(bank, scale)() if kept else ():
            image, patch = np.divmod(ids, patches)
            stays = numbers[image] >= 0
            if stays.any():
                yield (numbers[image] * patches + patch)[stays], vectors[stays]
        yield from blocks.stream(scale)

    return stream
