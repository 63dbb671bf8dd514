"""Images and encoder → the memory bank."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patchcli import embedding, runtime, training
from patchcli.observer import Observer
from patchcli.store import Store


@dataclass(frozen=True)
class Embedded:
    """What the bank holds: images, vectors of each scale, and how many images this run embedded."""

    images: int
    vectors: dict[str, int]
    embedded: int


def embed(
    store: Path | str = "patchcli.zarr",
    *,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> Embedded:
    """Embed every patch of the training images at each scale (Algorithm 2, first half).

    Goes on where an interrupted run stopped; a finished bank of the same encoder and images is left as it is, one of
    another encoder is replaced. Blocks are written whole, each followed by its flag.
    """
    observer = observer or Observer()
    runtime.set_threads(threads)
    target = runtime.device(device)
    opened = Store.open(store, "r+")
    encoder = training.load(opened, target)
    mean = opened.mean
    grids = embedding.grids(encoder, *mean.shape[:2])
    bank = opened.prepare_bank(grids, opened.encoder_attributes["D"], overwrite)
    pending = np.flatnonzero(bank.done == 0).tolist()
    if 0 < len(pending) < len(bank.done):
        observer.note(f"going on: {len(bank.done) - len(pending)} of {len(bank.done)} blocks are done")
    embedded = 0
    for count, block in enumerate(pending, 1):
        start, stop = bank.bounds(block)
        features = embedding.embed(encoder, opened.read_images(start, stop), mean, grids, target)
        bank.write_block(block, {scale: values.cpu().numpy() for scale, values in features.items()})
        embedded += stop - start
        observer.progress("embed", count, len(pending), f"{bank.images} images")
    bank.finish()
    return Embedded(bank.images, {scale: bank.images * grid.patches for scale, grid in grids.items()}, embedded)
