"""Images into and out of a store and its bank."""

from pathlib import Path

from patchcli import runtime
from patchcli.bank.build import BankSummary
from patchcli.bank.edit import Decoded, EditedImages, edit
from patchcli.datasets import images, layouts
from patchcli.datasets.copies import copy_of, same_images
from patchcli.datasets.layouts import Sample
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.store import Store
from patchcli.verbs.sources import Paths, all_by_path, all_samples, each, expanded, id_of, note_gone


def bank_remove(
    store: Path | str,
    names: Paths,
    *,
    memory: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    observer: Observer | None = None,
) -> BankSummary:
    """Take images out of the store and its bank, one or many, by id or by the path that `bank_add` was given.

    `memory` bounds what is kept of the vectors in memory, in bytes; None: half of what is free.
    """
    observer = observer or Observer()
    runtime.set_threads(threads)
    target, budget = runtime.device(device), runtime.memory(memory)
    with Store.writing(store, observer) as opened:
        ids, known = opened.images.ids, all_by_path(all_samples(opened))
        unwanted: set[str] = set()
        for path in each(names, observer.problem):
            name = images.printable(path)
            name = name if name in ids else id_of(path, opened, known)
            if name not in ids:
                raise InputError(f"not in the bank; expected an id such as {ids[0]} (see: `bank_list()`)", subject=path)
            unwanted.add(name)
        if not unwanted:
            raise InputError("none", expected="ids of images to remove", advice="see: `bank_list()`")
        kept = [number for number, name in enumerate(ids) if name not in unwanted]
        if len(kept) < 2:
            raise InputError(f"{len(kept)} of {len(ids)}", expected="at least 2 images to stay")
        return edit(EditedImages(opened, kept), target, budget, observer)


def bank_add(
    store: Path | str,
    paths: Paths,
    *,
    force: bool = False,
    memory: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    observer: Observer | None = None,
) -> BankSummary:
    """Put good images and folders of them, one or many, into the store and its bank; what cannot be read is left out.

    So are test images of the data set, those it labels as defective, and copies of either, unless `force` insists.
    `memory` is that of `bank_remove`.
    """
    observer = observer or Observer()
    runtime.set_threads(threads)
    target, budget = runtime.device(device), runtime.memory(memory)
    with Store.writing(store, observer) as opened:
        added = _additions(opened, paths, force, observer)
        if not added:
            raise InputError("no image to add; expected png, jpg, bmp, tif, webp or gif files that are not in the bank")
        return edit(EditedImages(opened, range(len(opened.images)), added), target, budget, observer)


def _additions(store: Store, paths: Paths, force: bool, observer: Observer) -> list[Decoded]:
    """The images that can be added; of each other one the observer hears why."""
    every, names, remarks = all_samples(store), set(store.images.ids), observer.remarks()
    note_gone(store, every, observer)
    known, given = all_by_path(every), list(expanded(paths, observer.problem))
    labelled = [sample for sample in every if sample.defective or sample.split.startswith("test")]
    unfit = same_images([Sample("", path, "", "good") for path in given], labelled)
    added: list[Decoded] = []
    defective: list[str] = []
    for path in given:
        name = id_of(path, store, known)
        try:
            _check_fit(path, name, names, None if force else unfit.get(path))
            pixels = store.source.reader.read(path, remarks)
            _check_unreserved(path, name, store.source.holdout)
        except InputError as error:
            observer.problem(str(error))
            continue
        names.add(name)
        defective += [name] * (path in unfit and unfit[path].defective)
        added.append((name, (pixels.shape[0], pixels.shape[1]), store.canvas.fit(pixels)))
    remarks.close()
    if defective:
        labels = f"{len(defective)} of the images are labelled as defective (first: {defective[0]})"
        observer.note(f"{labels}; with them in the bank, defects like theirs score low")
    return added


def _check_fit(path: Path, name: str, names: set[str], other: Sample | None) -> None:
    """Raise InputError for an image whose id is in the bank, or which is the data set's `other`, no good one to learn from."""
    if name in names:
        raise InputError(f"an image of this id ({name}) is in the bank; remove it first to replace it", subject=path)
    if other is not None:
        what = f"{'a test' if other.split.startswith('test') else 'an'} image of the data set ({other.kind})"
        same = f"is {copy_of(path, other)}{what}, not a good one to learn from"
        raise InputError(same, subject=path, advice="`force` adds it")


def _check_unreserved(path: Path, name: str, reserved: dict[str, str]) -> None:
    """Raise InputError for an image that is reserved for calibration: its id or content (id → sha256) is."""
    digest = layouts.digest(path) if reserved else ""
    for other, content in reserved.items():
        if other == name or content == digest:
            raise InputError(f"is reserved for calibration ({other}), so the bank may not hold it", subject=path)
