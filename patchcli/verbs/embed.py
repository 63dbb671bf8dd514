"""Images and encoder → the memory bank."""

from functools import partial
from pathlib import Path

import torch

from patchcli import runtime
from patchcli.bank import pages
from patchcli.bank.build import BankSummary, Embedder, embed_blocks, index
from patchcli.bank.search.trees import page_bytes
from patchcli.errors import StoreError
from patchcli.observer import Observer
from patchcli.store import Bank, Store, Thinning, bank_bytes


def embed(
    store: Path | str = "patchcli.zarr",
    *,
    tolerance: float | None = None,
    keep: float | None = None,
    half: bool = False,
    precision: str = "auto",
    memory: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    force: bool = False,
    observer: Observer | None = None,
) -> BankSummary:
    """Embed every patch of the training images at each scale (Algorithm 1, lines 10 to 17), and index the bank.

    Resumes where an interrupted run stopped. A finished bank of the same encoder and images stays as it is; one of another
    encoder is replaced, and with `overwrite` any bank is.

    With `tolerance`, a distance, or `keep`, a share, only some vectors are kept (greedy k-centre, page by page); `half`
    stores them as float16. Bank, records and maps say by how much a distance may then be off. By default the new bank is
    thinned as the one before. `precision` is that of the encoder's forward pass, float32 or bfloat16, which the bank keeps
    and queries take too; "auto" is that of a bank which is there, or else what the encoder was trained with, where this
    machine is fast with it. `memory` bounds what is kept of the vectors in memory, in bytes; None: half of what is free.
    Raises StoreError where the encoder's training failed, or stopped before it was of use, unless `force` insists.
    """
    observer = observer or Observer()
    thinning = Thinning(tolerance, keep, half)
    runtime.set_threads(threads)
    target, budget = runtime.device(device), runtime.memory(memory)
    with Store.writing(store, observer) as opened:
        trouble, repair = opened.encoder.attributes.trouble, opened.encoder.attributes.repair
        if trouble and not force:
            raise StoreError(
                trouble, subject=store, advice=f"run: `{repair or 'train(overwrite)'}` (or insist with `embed(force)`)"
            )
        embedder = Embedder.of(opened, target, _precision(opened, precision, target, overwrite))
        before = None if overwrite else opened.any_bank()
        if before is not None and thinning == Thinning():
            thinning = before.attributes.thinning
        if before is not None and before.attributes.thinning not in (Thinning(), thinning):
            overwrite = True  # vectors that it left out are needed
        finished = None if overwrite else opened.finished_bank()
        if finished is None or finished.precision != embedder.precision:
            return _embed_all(opened, embedder, thinning, budget, overwrite, observer)
        return _thin_finished(opened, embedder, finished, thinning, budget, observer)


def _precision(store: Store, wanted: str, device: torch.device, overwrite: bool) -> str:
    """The precision to embed with, where this one is wanted."""
    present = None if overwrite else store.blocks() or store.finished_bank()
    if wanted == "auto" and present is not None:
        return present.precision
    recipe = store.encoder.attributes.recipe or {}
    return runtime.precision(wanted, device, automatic=recipe.get("precision") == "bfloat16")


def _embed_all(
    store: Store, embedder: Embedder, thinning: Thinning, budget: int, overwrite: bool, observer: Observer
) -> BankSummary:
    """Embed the images, or with `overwrite` False those that are not in blocks yet, and index them all."""
    searched = _plan(store, embedder, observer)
    grids, images = embedder.grids, len(store.images)
    blocks = None if overwrite else store.blocks()
    if blocks is None or blocks.precision != embedder.precision:
        blocks = store.begin_blocks(grids, embedder.D, embedder.precision)
    done, count = int(blocks.done.sum()), len(blocks.done)
    if 0 < done < count:
        observer.note(f"going on: {done} of {count} blocks are done")
    disk = runtime.megabytes(bank_bytes(grids, embedder.D, images))
    observer.note(f"{embedder.vectors(images):,} vectors will need {disk} of disk in the meantime, and {searched}")
    embedded = embed_blocks(blocks, embedder, store.images.read, observer)
    with store.writing_bank(grids, embedder.D, embedder.precision) as bank:
        index(bank, {scale: partial(blocks.stream, scale) for scale in grids}, thinning, budget, observer)
    return BankSummary.of(store.bank(), embedded)


def _thin_finished(
    store: Store, embedder: Embedder, finished: Bank, thinning: Thinning, budget: int, observer: Observer
) -> BankSummary:
    """Thin a finished bank, which may be what it is already."""
    if finished.attributes.thinning == thinning:
        observer.plan(f"the bank of {store.path}", "nothing: it is finished")
        store.drop_blocks()
        return BankSummary.of(store.bank(), 0)
    _plan(store, embedder, observer)
    store.drop_blocks()
    with store.writing_bank(embedder.grids, embedder.D, embedder.precision) as bank:
        index(bank, {scale: pages.stream(finished, scale) for scale in embedder.grids}, thinning, budget, observer)
    return BankSummary.of(store.bank(), 0)


def _plan(store: Store, embedder: Embedder, observer: Observer) -> str:
    """Say what a bank will take; what to say of its memory."""
    images = len(store.images)
    vectors, disk = embedder.vectors(images), bank_bytes(embedder.grids, embedder.D, images)
    if observer.dry:
        store.check_space(disk)
    searched = f"{runtime.megabytes(page_bytes(vectors, embedder.D))} of memory to be searched"
    observer.plan(f"images of {store.path}", f"its bank: {vectors:,} vectors before thinning, {searched}", disk)
    return searched
