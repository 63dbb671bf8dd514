"""Images and encoder → the memory bank."""

from pathlib import Path

from patchcli import runtime
from patchcli.bank.build import BankSummary, Shape
from patchcli.cluster import Cluster, Here, Work, check_part, working
from patchcli.observer import Observer
from patchcli.store import Blocks, Store, Thinning
from patchcli.verbs import embedding


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
    cluster: Cluster | None = None,
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
    The workers of a `cluster` embed, index and thin, on that device and with so much memory and so many `threads` each; what
    they make is the same.
    Raises StoreError where the encoder's training failed, or stopped before it was of use, unless `force` insists.
    """
    observer = observer or Observer()
    thinning = Thinning(tolerance, keep, half)
    runtime.set_threads(threads)
    target, budget = runtime.device(device), runtime.memory(memory)
    with Store.writing(store, observer) as opened:
        embedding.check_trained(opened, force)
        shape = Shape.of(opened, embedding.precision(opened, precision, target, overwrite))
        before = None if overwrite else opened.any_bank()
        if before is not None and thinning == Thinning():
            thinning = before.attributes.thinning
        if before is not None and before.attributes.thinning not in (Thinning(), thinning):
            overwrite = True  # vectors that it left out are needed
        finished = None if overwrite else embedding.finished(opened, shape.precision)
        if finished is not None and finished.attributes.thinning == thinning:
            observer.plan(f"the bank of {opened.path}", "nothing: it is finished")
            opened.drop_blocks()
            return BankSummary.of(finished, 0)
        source = finished or embedding.begun(opened, shape, overwrite, observer)
        if source is finished:
            embedding.plan(opened, shape, observer)
            opened.drop_blocks()
        with working(cluster, threads, memory, observer) as work:
            embedded = 0
            if isinstance(source, Blocks):
                embedded = embedding.embedded(opened, source, (1, 1), device, work, observer)
            embedding.written(opened, shape, source, thinning, work, budget, observer)
        return BankSummary.of(opened.bank(), embedded)


def embed_part(
    store: Path | str,
    part: tuple[int, int],
    *,
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    force: bool = False,
    observer: Observer | None = None,
) -> int:
    """Embed the images of one part, as (3, 40) for the third of forty; how many images. `embed` finishes the bank.

    Parts may be embedded in any order, at the same time, and again: what is there already is not done twice.
    """
    observer = observer or Observer()
    check_part(part)
    runtime.set_threads(threads)
    target, opened = runtime.device(device), Store.open(store)
    embedding.check_trained(opened, force)
    used = embedding.precision(opened, precision, target, False)
    if embedding.finished(opened, used) is not None:
        observer.plan(f"the bank of {store}", "nothing: it is finished")
        return 0
    blocks = opened.blocks()
    if blocks is None or blocks.precision != used or observer.dry:
        with Store.writing(store, observer) as writing:  # many may come at once: only who finds no blocks takes the lock
            embedding.begun(writing, Shape.of(writing, used), False, observer)
        opened = Store.open(store)
        blocks = opened.blocks()
    if blocks is None:
        observer.note("another process has finished the bank meanwhile")
        return 0
    begun, work = opened.root.parts["blocks"], Work(Here(observer), threads, None)
    embedded = embedding.embedded(opened, blocks, part, device, work, observer)
    if Store.open(store).root.parts.get("blocks") != begun:
        observer.note("another process has finished the bank meanwhile, or begun another")
    return embedded
