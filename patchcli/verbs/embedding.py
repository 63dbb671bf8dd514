"""The steps of `embed`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from patchcli import runtime
from patchcli.bank import pages
from patchcli.bank.build import (
    BankSummary,
    EmbedBlocks,
    Embedder,
    IndexShards,
    Shard,
    embed_block,
    index,
    index_blocks,
    lay_shard,
)
from patchcli.bank.pages import Laid
from patchcli.bank.search.trees import page_bytes
from patchcli.cluster import Running
from patchcli.errors import StoreError
from patchcli.observer import Observer
from patchcli.store import Bank, Blocks, Store, Thinning, bank_bytes


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


def begun(store: Store, embedder: Embedder, overwrite: bool, observer: Observer) -> Blocks:
    """The blocks of an unfinished bank: those that are there, or with `overwrite` or another precision new ones."""
    searched, images = _plan(store, embedder, observer), len(store.images)
    blocks = None if overwrite else store.blocks()
    if blocks is None or blocks.precision != embedder.precision:
        blocks = store.begin_blocks(embedder.grids, embedder.D, embedder.precision)
    done, count = int(blocks.done.sum()), len(blocks.done)
    if 0 < done < count:
        observer.note(f"going on: {done} of {count} blocks are done")
    disk = runtime.megabytes(bank_bytes(embedder.grids, embedder.D, images))
    observer.note(f"{embedder.vectors(images):,} vectors will need {disk} of disk in the meantime, and {searched}")
    return blocks


def task(store: Store, precision: str, device: str, threads: int | None) -> EmbedBlocks:
    """The task to embed blocks of this version of a store."""
    return EmbedBlocks(store.path, store.root.revision, precision, device, threads)


@dataclass(frozen=True)
class Builder:
    """Who embeds and indexes the blocks of a store: this process, or workers where they `run`."""

    store: Store
    blocks: Blocks
    embedder: Embedder
    device: str
    threads: int | None  # of a worker
    run: Running | None

    def embedded(self, numbers: Iterable[int]) -> Iterator[int]:
        """Embed blocks by number; how many images each has."""
        if self.run is None:
            return map(partial(embed_block, self.blocks, self.embedder, self.store.images.read), numbers)
        return self.run(task(self.store, self.embedder.precision, self.device, self.threads), numbers)

    def indexed(self, thinning: Thinning, budget: int, embedded: int, observer: Observer) -> BankSummary:
        """Index the blocks, all of which are done."""
        store, blocks, embedder = self.store, self.blocks, self.embedder
        blocks.check()
        with store.writing_bank(embedder.grids, embedder.D, embedder.precision) as bank:
            lay: Callable[[Iterable[Shard]], Iterator[Laid]] = partial(map, partial(lay_shard, bank, blocks, thinning.half))
            if self.run is not None:
                begun = bank.name, bank.attributes
                lay = partial(self.run, IndexShards(store.path, store.root.revision, *begun, thinning.half, self.threads))
            index_blocks(bank, blocks, lay, thinning, budget, observer)
        return BankSummary.of(store.bank(), embedded)


def thinned(
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
