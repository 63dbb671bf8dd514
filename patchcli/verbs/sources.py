"""Paths as a user gives them → samples: one path or many, files and folders, and which images of a data set they are."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from patchcli import files
from patchcli.datasets import images, layouts
from patchcli.datasets.layouts import Dataset, Sample
from patchcli.detection.detector import Detector
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.store import Store

OnePath = str | bytes | os.PathLike[Any]
Paths = OnePath | Iterable[OnePath]
ByPath = dict[Path, Sample]


def each(paths: Paths, problem: Callable[[str], object]) -> Iterator[Path]:
    """One path or many; a text is one. An empty one, which would mean the working directory, is a problem."""
    for path in [paths] if isinstance(paths, str | bytes | os.PathLike) else paths:
        if name := os.fsdecode(path):
            yield Path(name)
        else:
            problem("expected a path, found an empty text (a variable that is not set?)")


def expanded(paths: Paths, problem: Callable[[str], object]) -> Iterator[Path]:
    """The files that are named, and the images of the folders; whether a file is an image is seen when it is decoded."""
    for given in each(paths, problem):
        if not files.is_folder(given):
            yield given
            continue
        inside = list(images.find(given, problem=problem))
        if not inside:
            problem(f"{given}: no images found in this folder")
        yield from inside


def dataset(store: Store | Detector) -> Dataset:
    """The data set that a store was made from; raises InputError where it is gone, with how to name its new place."""
    root = Path(store.source.root)
    if not files.is_folder(root) and files.trouble(root):
        advice = "where it moved, name the new place: `extract(data)`, with the same `store`"
        raise InputError(f"{root}: the data set that the store was made from is gone; {advice}")
    return layouts.read(root, store.source.layout)


def all_samples(store: Store | Detector) -> list[Sample]:
    """The data set's images; none where it is gone."""
    try:
        return dataset(store).samples
    except InputError:
        return []


def note_gone(store: Store, every: list[Sample], observer: Observer) -> None:
    """Note, where the data set has no images any more, what cannot be told of others."""
    if not every:
        observer.note(f"{store.source.root}: the data set is gone, so nothing tells whether its test images are among these")


def all_by_path(samples: Iterable[Sample]) -> ByPath:
    """Samples by path: each by its own name, and by where its links lead, where several may meet."""
    samples = list(samples)
    samples_by_path = {sample.path: sample for sample in samples}
    for follow in (files.place, files.real):
        for sample in samples:
            samples_by_path.setdefault(follow(sample.path), sample)
    return samples_by_path


def by_path(samples: Iterable[Sample]) -> ByPath:
    """A data set's images by path, but for its good training images."""
    return all_by_path(sample for sample in samples if sample.split != "train")


def at(path: Path, known: ByPath) -> Sample | None:
    """The image of the data set that a path leads to: rather the one of that name than another of the same file."""
    for key in (Path(os.path.abspath(path)), files.place(path), files.real(path)):  # noqa: PTH100  (links are kept)
        if key in known:
            return known[key]
    return None


def named(paths: Paths, known: ByPath, observer: Observer) -> Iterator[Sample]:
    """Samples of files and folders; images of the data set keep their id, kind and masks, others have the path as id."""
    for path in expanded(paths, observer.problem):
        name, sample = images.printable(path), at(path, known)
        yield Sample(name, path, "query", "", given=name) if sample is None else replace(sample, path=path, given=name)


def id_of(path: Path, store: Store | Detector, known: ByPath) -> str:
    """The id that an image of this path has in a store: that in the data set, the path below its root, else as given."""
    sample, full, root = at(path, known), files.real(path), Path(store.source.root)
    if sample is not None:
        return sample.id
    return images.printable(full.relative_to(root) if full.is_relative_to(root) else path)
