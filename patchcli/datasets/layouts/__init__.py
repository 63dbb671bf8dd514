"""Layouts of data sets: a folder or a manifest in, a list of samples out."""

import os
from importlib import import_module
from pathlib import Path, PurePosixPath

from patchcli import datasets, files
from patchcli.datasets.layouts.dataset import BAD, MASKS, Dataset, Layout, Sample, digest, subfolders
from patchcli.datasets.layouts.mvtec import PRIVATE
from patchcli.errors import InputError

__all__ = ["LAYOUTS", "PRIVATE", "Dataset", "Sample", "digest", "read"]

SHOWN = 5  # names of what was found instead

LAYOUTS: dict[str, Layout] = {
    name: getattr(import_module(f"{__name__}.{module}"), layout) for name, (module, layout) in datasets.LAYOUTS.items()
}


def read(root: Path, layout: str | None = None) -> Dataset:
    """Understand a folder, or a manifest, in the named layout or the first that fits."""
    if layout is not None and layout not in LAYOUTS:
        raise InputError(repr(layout), parameter="layout", expected=f"one of {', '.join(LAYOUTS)}")
    if not files.is_folder(root):
        if not os.path.lexists(root):
            raise InputError(f"{root}: no such folder; expected a data set (train/good, test/…) or a folder of good images")
        files.check_regular(root)
        if not LAYOUTS["manifest"].fits(root):
            raise InputError(f"{root}: expected a folder of images, found a file; a manifest's name ends in .csv or .jsonl")
    root = files.real(root) if files.is_folder(root) else files.place(root)
    name = layout or next(name for name, known in LAYOUTS.items() if known.fits(root))
    if not LAYOUTS[name].fits(root):
        wanted = f"{LAYOUTS[name].form} (`layout={name}`)"
        raise InputError(f"{root}: expected {wanted}, found none but {contents(root)}; leave `layout` out to detect it")
    if layout is None and name == "plain":
        _refuse_classes(root)
    dataset = LAYOUTS[name].read(root)
    if layout is None and name == "plain":
        _refuse_lookalikes(dataset)
    if not dataset.split("train"):
        expected = "expected png, jpg, bmp, tif, webp or gif files"
        raise InputError(f"{root}: no images found in {LAYOUTS[name].form}; {expected}, found {contents(root)}")
    return dataset


def contents(root: Path) -> str:
    """What is directly in a folder, in words."""
    if not files.is_folder(root):
        return "a file"
    names = [f"{child.name}/" for child in subfolders(root)]
    names += sorted(path.name for path in root.iterdir() if not (path.name.startswith(".") or files.is_folder(path)))
    return ", ".join(names[:SHOWN]) + ", …" * (len(names) > SHOWN) or "nothing"


def _refuse_classes(root: Path) -> None:
    """A folder of data sets is none."""
    special = [known for name, known in LAYOUTS.items() if name != "plain"]
    classes = [child for child in subfolders(root) if any(known.fits(child) for known in special)]
    if classes:
        problem = f"found {len(classes)} ({classes[0].name}, …); name one: {classes[0]}"
        raise InputError(f"{root}: expected one data set, {problem}")


def _refuse_lookalikes(dataset: Dataset) -> None:
    """Folders that hold defects too, or masks, must not be taken for good images."""
    folders = {parent for sample in dataset.samples for parent in PurePosixPath(sample.id).parents if parent.name}
    for folder in sorted(folders):
        name = folder.name.casefold()
        if name in MASKS or name == "test":
            expected, advice = "train/good/", "put the good images into train/good/"
        elif name in BAD:
            expected, advice = "good/", "put the good images into good/ beside it"
        else:
            continue
        problem = f"found {folder}/ but no {expected} beside it (there is {contents(dataset.root)})"
        raise InputError(f"{dataset.root}: {problem}; {advice}, or name their folder (if all are good: `layout=plain`)")
