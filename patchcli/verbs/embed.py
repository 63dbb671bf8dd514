"""Images and encoder → the memory bank."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchcli import runtime
from patchcli.bank import pages as paged
from patchcli.bank import thinning as cover
from patchcli.bank.search.pruned import Pages, Stream, page_bytes
from patchcli.errors import StoreError
from patchcli.features import dense as embedding
from patchcli.observer import Observer
from patchcli.store import Bank, Blocks, Store, Thinning, bank_bytes


@dataclass(frozen=True)
class Embedded:
    """What the bank holds: images, vectors of each scale, and how many images this run embedded."""

    images: int
    vectors: dict[str, int]
    embedded: int
    radius: dict[str, float]  # by how much a distance may be off: 0 where every vector is kept as it is

    @classmethod
    def of(cls, bank: Bank, embedded: int) -> "Embedded":
        """A finished bank."""
        vectors = {scale: bank.vectors(scale) for scale in bank.scales}
        return cls(bank.images, vectors, embedded, bank.attributes.radius)


def embed(
    store: Path | str = "patchcli.zarr",
    *,
    tolerance: float | None = None,
    keep: float | None = None,
    half: bool = False,
    memory: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    force: bool = False,
    observer: Observer | None = None,
) -> Embedded:
    """Embed every patch of the training images at each scale (Algorithm 2, first half), and index the bank.

    Goes on where an interrupted run stopped; a finished bank of the same encoder and images is left as it is, one of
    another encoder is replaced. Blocks are written whole, each followed by its flag.

    With `tolerance` or `keep` only some vectors are kept (greedy k-centre, page by page); `half` stores them as float16.
    What a distance may then be off by at most is in the bank, the records and the maps. `memory` bounds what is held.
    Raises StoreError where the encoder's training failed, or stopped before it was of use, unless `force` insists.
    """
    observer = observer or Observer()
    wanted = Thinning(tolerance, keep, half)
    runtime.set_threads(threads)
    target, budget = runtime.device(device), runtime.memory(memory)
    with Store.writing(store, observer) as opened:
        if (trouble := opened.encoder.attributes.trouble) and not force:
            raise StoreError(f"{store}: {trouble} (or insist with embed --force)")
        return _embed(opened, wanted, target, budget, overwrite, observer)


def _embed(opened: Store, wanted: Thinning, target: torch.device, budget: int, overwrite: bool, observer: Observer) -> Embedded:
    store, encoder = opened.path, opened.encoder.restore(target)
    mean = opened.images.mean
    grids = embedding.grids(encoder, mean.shape[0], mean.shape[1], opened.encoder.attributes.strides)
    present = None if overwrite else opened.any_bank()
    thinning = None if present is None else present.attributes.thinning
    if thinning is not None and wanted == Thinning():
        wanted = thinning  # as before
    overwrite = overwrite or thinning not in (None, Thinning(), wanted)
    D: int = opened.encoder.attributes.D
    vectors = len(opened.images) * sum(grid.patches for grid in grids.values())
    finished = None if overwrite else opened.finished_bank()
    if finished is not None and wanted == finished.attributes.thinning:
        observer.plan(f"the bank of {store}", "nothing: it is finished")
    disk = bank_bytes(grids, D, len(opened.images))
    if observer.dry:
        opened.check_space(disk)
    searched = f"{runtime.megabytes(page_bytes(vectors, D))} of memory to be searched"
    observer.plan(f"images of {store}", f"its bank: {vectors:,} vectors before thinning, {searched}", disk)
    if finished is not None:
        opened.drop_blocks()
        if wanted != finished.attributes.thinning:
            with opened.writing_bank(grids, D) as new:
                index(new, {scale: pages_stream(finished, scale) for scale in grids}, wanted, budget, observer)
        return Embedded.of(opened.bank(), 0)
    blocks = (None if overwrite else opened.blocks()) or opened.begin_blocks(grids, D)
    pending = np.flatnonzero(blocks.done == 0).tolist()
    if 0 < len(pending) < len(blocks.done):
        observer.note(f"going on: {len(blocks.done) - len(pending)} of {len(blocks.done)} blocks are done")
    observer.note(f"{vectors:,} vectors will need {runtime.megabytes(disk)} of disk in the meantime, and {searched}")
    embedded = 0
    for count, block in enumerate(pending, 1):
        start, stop = blocks.bounds(block)
        features = embedding.embed(encoder, opened.images.read(start, stop), mean, grids, target)
        blocks.write_block(block, {scale: values.cpu().numpy() for scale, values in features.items()})
        embedded += stop - start
        observer.progress("embed", count, len(pending), f"{blocks.images} images")
    blocks.check()
    with opened.writing_bank(grids, D) as bank:
        index(bank, {scale: blocks_stream(blocks, scale) for scale in grids}, wanted, budget, observer)
    return Embedded.of(opened.bank(), embedded)


def blocks_stream(blocks: Blocks, scale: str) -> Stream:
    """What was embedded, block by block."""
    return lambda: blocks.stream(scale)


def pages_stream(bank: Bank, scale: str) -> Stream:
    """What a finished bank holds, page by page."""

    def stream() -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        for page in paged.read(bank, scale, budget=0):
            yield page.ids, page.vectors

    return stream


def index(
    bank: Bank,
    streams: dict[str, Stream],
    wanted: Thinning,
    budget: int,
    observer: Observer,
    rounded_before: Mapping[str, float] | None = None,
) -> None:
    """Lay out a bank's vectors as pages, thinned as is wanted.

    `rounded_before` is by how much vectors that come from another float16 bank may be off already.
    """
    radius = {}
    budget //= 2  # what is sorted into pages, and what is read of them, or of another bank, meanwhile
    for scale, stream in streams.items():
        total = bank.images * bank.patches(scale)
        rounded, rounding = _rounded(stream) if wanted.half else (stream, lambda: 0.0)
        options: dict[str, Any] = {"half": wanted.half, "budget": budget}
        paged.write(bank, scale, rounded, total, progress=_progress(observer, "index", total), **options)
        radius[scale] = max(rounding(), (rounded_before or {}).get(scale, 0.0))
        if not wanted.selects:
            continue
        pages = paged.read(bank, scale, budget)
        number = None if wanted.keep is None else max(1, round(wanted.keep * total))
        rows, covered = cover.select(pages, wanted.tolerance, number)
        radius[scale] += covered
        count = sum(map(len, rows))
        paged.write(bank, scale, _kept(pages, rows), count, progress=_progress(observer, "thin", count), **options)
    bank.attributes = replace(bank.attributes, thinning=wanted, radius=radius)


def _kept(pages: Pages, rows: list[NDArray[np.int64]]) -> Stream:
    return lambda: cover.kept(pages, rows)


def _progress(observer: Observer, task: str, total: int) -> Callable[[int], None]:
    return lambda done: observer.progress(task, done, total)


def _rounded(stream: Stream) -> tuple[Stream, Callable[[], float]]:
    """A stream through float16, and by how much its vectors moved at most."""
    moved = [0.0]

    def rounded() -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        for ids, vectors in stream():
            short = vectors.astype(np.float16).astype(np.float32)
            moved.append(float(np.sqrt(np.square(vectors - short, dtype=np.float64).sum(axis=1).max(initial=0))))
            yield ids, short

    return rounded, lambda: max(moved)
