"""What a bank holds, image by image: list, remove, add, and find the bad among the good."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcli import files, runtime
from patchcli.bank.search.pruned import Stream
from patchcli.datasets import images, layouts
from patchcli.datasets.images import Pixels
from patchcli.datasets.layouts import Sample
from patchcli.detection.detector import Scored, Scorer
from patchcli.errors import InputError, StoreError
from patchcli.features import dense as embedding
from patchcli.observer import Observer, Remarks
from patchcli.store import Bank, Blocks, Store, bank_bytes
from patchcli.verbs.embed import Embedded, index, pages_stream
from patchcli.verbs.score import make_scorer
from patchcli.verbs.sources import Paths, all_by_path, all_samples, each, expanded, id_of

LIST_SCHEMA, AUDIT_SCHEMA = "patchcli.bank/1", "patchcli.audit/1"


@dataclass(frozen=True)
class Held:
    """A training image in the bank."""

    schema: str
    image: str  # its id, as no path was given
    id: str
    width: int  # original pixels
    height: int
    vectors_big: int
    vectors_small: int | None  # None for the flat encoder


@dataclass(frozen=True)
class Audited:
    """A training image, scored against the bank without itself; coordinates are original pixels."""

    schema: str
    image: str  # its id, as no path was given
    id: str
    score: float  # maximum of the product map
    deviation: float  # (score - median) / (1.4826 · median absolute deviation) over all training images
    peak_x: int
    peak_y: int
    nearest_image: str  # the other training image that comes closest at the peak
    nearest_x: int
    nearest_y: int
    nearest_width: int
    nearest_height: int


Decoded = tuple[str, tuple[int, int], Pixels]


def bank_list(store: Path | str = "patchcli.zarr") -> list[Held]:
    """The images of a finished bank, in its order, with the vectors that are kept of each."""
    opened = Store.open(store)
    bank = opened.bank()
    counts = {scale: np.zeros(bank.images, np.int64) for scale in bank.scales}
    for scale, count in counts.items():
        for ids, _ in pages_stream(bank, scale)():
            count += np.bincount(ids // bank.patches(scale), minlength=bank.images)
    small = counts.get("small")
    return [
        Held(
            LIST_SCHEMA, name, name, int(size[1]), int(size[0]), int(counts["big"][n]),
            None if small is None else int(small[n]),
        )
        for n, (name, size) in enumerate(zip(opened.images.ids, opened.images.sizes, strict=True))
    ]  # fmt: skip


def bank_remove(store: Path | str, names: Paths, *, observer: Observer | None = None, **options: Any) -> Embedded:
    """Take images out of the store and its bank, one or many, by id or by the path that `bank_add` was given.

    Options are those of `_edit`.
    """
    observer = observer or Observer()
    with Store.writing(store, observer) as opened:
        held, known = opened.images.ids, all_by_path(all_samples(opened))
        unwanted: set[str] = set()
        for path in each(names, observer.problem):
            name = images.printable(path)
            name = name if name in held else id_of(path, opened, known)
            if name not in held:
                raise InputError(f"{path}: not in the bank; expected an id such as {held[0]} (see: patchcli bank list)")
            unwanted.add(name)
        if not unwanted:
            raise InputError("expected ids of images to remove, found none (see: patchcli bank list)")
        if len(held) - len(unwanted) < 2:
            raise InputError(f"expected at least 2 images to stay, found {len(held) - len(unwanted)} of {len(held)}")
        return _edit(opened, [n for n, name in enumerate(held) if name not in unwanted], [], observer=observer, **options)


def bank_add(
    store: Path | str, paths: Paths, *, force: bool = False, observer: Observer | None = None, **options: Any
) -> Embedded:
    """Put good images and folders of them, one or many, into the store and its bank; what cannot be read is left out.

    So are test images of the data set and those it labels as defective, and copies of them, unless `force` insists.
    """
    observer = observer or Observer()
    with Store.writing(store, observer) as opened:
        every, held = all_samples(opened), set(opened.images.ids)
        known = all_by_path(every)
        aside = {digest: name for name, digest in opened.source.holdout.items()}
        canvas, reader, remarks = opened.canvas, opened.source.reader, Remarks(observer)
        added: list[Decoded] = []
        defective: list[str] = []
        if not every:
            gone = f"{opened.source.root}: the data set is gone"
            observer.note(f"{gone}, so nothing tells whether its test images are among these")
        given = list(expanded(paths, observer.problem))
        labelled = [sample for sample in every if sample.defective or sample.split.startswith("test")]
        unfit = same_images([Sample("", path, "", "good") for path in given], labelled)
        for path in given:
            name = id_of(path, opened, known)
            if name in held:
                observer.problem(f"{path}: an image of this id ({name}) is in the bank; remove it first to replace it")
                continue
            if path in unfit and not force:
                other = unfit[path]
                what = f"{'a test' if other.split.startswith('test') else 'an'} image of the data set ({other.kind})"
                observer.problem(f"{path}: is {copy_of(path, other)}{what}, not a good one to learn from; --force adds it")
                continue
            try:
                pixels = reader.read(path, remarks)
            except InputError as error:
                observer.problem(str(error))
                continue
            reserved = aside.get(layouts.digest(path)) if aside else None
            if reserved is not None or name in opened.source.holdout:
                observer.problem(f"{path}: is held out for calibration ({reserved or name}), so the bank may not hold it")
                continue
            held.add(name)
            defective += [name] * (path in unfit and unfit[path].defective)
            added.append((name, (pixels.shape[0], pixels.shape[1]), canvas.fit(pixels)))
        remarks.close()
        if defective:
            found = f"{len(defective)} of the images are labelled as defective (first: {defective[0]})"
            observer.note(f"{found}; with them in the bank, defects like theirs score low")
        if not added:
            raise InputError("no image to add; expected png, jpg, bmp, tif or webp files that are not in the bank")
        return _edit(opened, list(range(len(opened.images))), added, observer=observer, **options)


def _edit(
    opened: Store,
    kept: list[int],
    added: Sequence[Decoded],
    *,
    observer: Observer,
    memory: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Embedded:
    """Images and bank with the training images `kept`, then those `added`; only these are embedded.

    The mean and the encoder stay. A thinned bank is embedded anew, since what it keeps of an image depends on the others.
    """
    runtime.set_threads(threads)
    target, budget = runtime.device(device), runtime.memory(memory)
    bank, encoder, mean = opened.bank(), opened.encoder.restore(target), opened.images.mean
    thinning = bank.attributes.thinning
    ids, sizes = opened.images.ids, opened.images.sizes

    def pixels(number: int) -> NDArray[np.uint8]:
        old = number < len(kept)
        return opened.images.read(kept[number], kept[number] + 1)[0] if old else added[number - len(kept)][2]

    def decoded() -> Iterator[Decoded]:
        for number in kept:
            yield ids[number], (int(sizes[number][0]), int(sizes[number][1])), opened.images.read(number, number + 1)[0]
        yield from added

    identity = hashlib.sha256(opened.source.identity.encode())
    for name, _, own in added:
        identity.update(f"\tadded {name}\t{hashlib.sha256(own.tobytes()).hexdigest()}\n".encode())
    for name in sorted(set(ids) - {ids[number] for number in kept}):
        identity.update(f"\tremoved {name}\n".encode())
    count = len(kept) + len(added)
    grids = embedding.grids(encoder, mean.shape[0], mean.shape[1], opened.encoder.attributes.strides)
    D: int = opened.encoder.attributes.D
    needed = bank_bytes(grids, D, count)
    opened.check_space(needed)
    observer.plan(f"{len(added)} images to add", f"images and bank of {opened.path}, now of {count} images", needed)
    if thinning.selects:
        observer.note("the bank is thinned: it is embedded anew from the images in the store")
        stays, first = list[int](), 0
    else:
        stays, first = kept, len(kept)
    with (
        opened.editing(decoded(), identity.hexdigest()) as edit,
        opened.scratch_blocks(grids, D, count, first) as blocks,
        edit.writing_bank(grids, D) as new,
    ):
        for block in range(len(blocks.done)):
            start, stop = blocks.bounds(block)
            features = embedding.embed(encoder, np.stack([*map(pixels, range(start, stop))]), mean, grids, target)
            blocks.write_block(block, {scale: values.cpu().numpy() for scale, values in features.items()})
            observer.progress("embed", stop - first, count - first)
        streams = {scale: _edited(bank, blocks, scale, stays) for scale in grids}
        index(new, streams, thinning, budget, observer, None if thinning.selects else bank.attributes.radius)
    return Embedded.of(opened.bank(), count - first)


def _edited(bank: Bank, blocks: Blocks, scale: str, kept: list[int]) -> Stream:
    """The vectors of the kept images under their new ids, then those embedded now."""
    patches = bank.patches(scale)
    numbers = np.full(bank.images, -1)
    numbers[kept] = np.arange(len(kept))

    def stream() -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        for ids, vectors in pages_stream(bank, scale)() if kept else ():
            image, patch = np.divmod(ids, patches)
            stays = numbers[image] >= 0
            if stays.any():
                yield (numbers[image] * patches + patch)[stays], vectors[stays]
        yield from blocks.stream(scale)

    return stream


def copy_of(path: Path, other: Sample) -> str:
    """How a file that `same_images` found is said to be that other image."""
    return "" if files.real(path) == files.real(other.path) else f"a copy of {other.id}, "


def same_images(samples: list[Sample], others: list[Sample]) -> dict[Path, Sample]:
    """Paths of the samples that are a file of the others, or have the content of one, with that one."""
    paths = {files.real(other.path): other for other in others}
    found = {sample.path: paths[files.real(sample.path)] for sample in samples if files.real(sample.path) in paths}
    rest = [sample for sample in samples if sample.path not in found and not files.trouble(sample.path)]
    sizes = {sample.path.stat().st_size for sample in rest}
    contents = {
        layouts.digest(other.path): other
        for other in others
        if not files.trouble(other.path) and other.path.stat().st_size in sizes
    }
    if contents:
        found |= {sample.path: contents[key] for sample in rest if (key := layouts.digest(sample.path)) in contents}
    return found


def audit(
    store: Path | str = "patchcli.zarr",
    *,
    search: str = "auto",
    memory: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    observer: Observer | None = None,
) -> list[Audited]:
    """Score every training image as if the bank did not hold it; the most anomalous first, with the evidence.

    Raises StoreError for a thinned bank.
    """
    observer = observer or Observer()
    runtime.set_threads(threads)
    opened, target = Store.open(store), runtime.device(device)
    check_whole(opened)
    found = list(leave_one_out(opened, make_scorer(opened, target, search, memory, observer), "audit", observer))
    scores = np.array([result.score() for _, result in found])
    spread = 1.4826 * float(np.median(np.abs(scores - np.median(scores))))
    records = [
        Audited(
            AUDIT_SCHEMA, name, name, result.score(), (result.score() - float(np.median(scores))) / max(spread, 1e-30),
            *result.evidence.peak, result.evidence.normal_image, *result.evidence.normal_box,
        )
        for name, result in found
    ]  # fmt: skip
    return sorted(records, key=lambda record: -record.score)


def check_whole(store: Store) -> None:
    """Raise StoreError for a thinned bank: what it keeps of other images may have been left to the one left out."""
    if store.bank().attributes.thinning.selects:
        found = "leaving an image out needs the whole bank, this one is thinned"
        raise StoreError(f"{store.path}: {found}; run: patchcli embed --overwrite")


def leave_one_out(store: Store, scorer: Scorer, task: str, observer: Observer) -> Iterator[tuple[str, Scored]]:
    """Every training image of a whole bank by id, scored as if the bank did not hold it."""
    for number, (name, size) in enumerate(zip(scorer.ids, scorer.sizes, strict=True)):
        height, width = map(int, size)
        if scorer.roi is not None:
            scorer.roi.check(name, height, width)
        embedded = scorer.embed_stored(store.images.read(number, number + 1), [(height, width)])
        (result,) = scorer.compare(embedded, without=number)
        yield name, result
        observer.progress(task, number + 1, len(scorer.ids), name)
