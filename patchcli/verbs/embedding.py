"""The steps of `embed`."""

import torch

from patchcli import runtime
from patchcli.bank import thinning
from patchcli.bank.build import EmbedBlocks, Shape, embed_blocks, index_blocks, pending
from patchcli.bank.search.trees import page_bytes
from patchcli.cluster import Work
from patchcli.errors import StoreError
from patchcli.observer import Observer
from patchcli.store import Bank, Blocks, Store, Thinning


def check_trained(store: Store, force: bool) -> None:
    """Raise StoreError where the encoder is of no use, unless `force` insists."""
    trouble, repair = store.encoder.attributes.trouble, store.encoder.attributes.repair
    if trouble and not force:
        advice = f"run: `{repair or 'train(overwrite)'}` (or insist with `embed(force)`)"
        raise StoreError(trouble, subject=store.path, advice=advice)


def precision(store: Store, wanted: str, device: torch.device, overwrite: bool) -> str:
    """The precision to embed with, where this one is wanted."""
    present = None if overwrite else store.blocks() or store.finished_bank()
    if wanted == "auto" and present is not None:
        return present.precision
    recipe = store.encoder.attributes.recipe or {}
    return runtime.precision(wanted, device, automatic=recipe.get("precision") == "bfloat16")


def finished(store: Store, precision: str) -> Bank | None:
    """The bank of the present encoder and images, embedded with that precision; None if there is none."""
    bank = store.finished_bank()
    return bank if bank is not None and bank.precision == precision else None


def begun(store: Store, shape: Shape, overwrite: bool, observer: Observer) -> Blocks:
    """The blocks of an unfinished bank: those that are there, or with `overwrite` or another precision new ones."""
    searched = plan(store, shape, observer)
    blocks = None if overwrite else store.blocks()
    if blocks is None or blocks.precision != shape.precision:
        blocks = store.begin_blocks(shape.grids, shape.D, shape.precision)
    done, count = int(blocks.done.sum()), len(blocks.done)
    if 0 < done < count:
        observer.note(f"resuming: {done} of {count} blocks are done")
    disk = runtime.megabytes(shape.disk)
    observer.note(f"{shape.vectors:,} vectors will need {disk} of disk in the meantime, and {searched}")
    return blocks


def plan(store: Store, shape: Shape, observer: Observer) -> str:
    """Say what a bank will take; what to say of its memory."""
    if observer.dry:
        store.check_space(shape.disk)
    searched = f"{runtime.megabytes(page_bytes(shape.vectors, shape.D))} of memory to be searched"
    observer.plan(f"images of {store.path}", f"its bank: {shape.vectors:,} vectors before thinning, {searched}", shape.disk)
    return searched


def embedded(store: Store, blocks: Blocks, part: tuple[int, int], device: str, work: Work, observer: Observer) -> int:
    """Embed the blocks of a part that are not done yet; how many images they have."""
    numbers = pending(blocks, part)
    task = EmbedBlocks(store.path, store.root.revision, blocks.precision, device, work.threads)
    return embed_blocks(blocks, numbers, work.run(task, numbers), observer)


def written(
    store: Store, shape: Shape, source: Blocks | Bank, options: Thinning, work: Work, budget: int, observer: Observer
) -> None:
    """Write a bank from blocks, all of which must be done, or from a finished one; `budget` bytes of memory bound a shard."""
    if isinstance(source, Blocks):
        source.check()
    with store.writing_bank(shape.grids, shape.D, shape.precision) as bank:
        if isinstance(source, Blocks):
            index_blocks(store, bank, source, options, work, budget, observer)
        else:
            thinning.thin(source, bank, options, work, budget, observer)
        work.run.forget()  # the blocks, which are removed now
