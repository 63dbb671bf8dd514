"""Folder layouts of data sets: a folder in, a list of samples out."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from patchcli.errors import InputError
from patchcli.images import find, printable

MVTEC_FOLDERS = ("train", "validation", "test", "ground_truth")


@dataclass(frozen=True)
class Sample:
    """One image of a data set."""

    id: str  # path below the data set's root, with forward slashes
    path: Path
    split: str  # train, validation or test
    kind: str  # "good", or the kind of defect
    mask: Path | None = None

    @property
    def defective(self) -> bool:
        """The image-level label."""
        return self.kind != "good"


@dataclass
class Dataset:
    """What a folder was understood to hold."""

    root: Path
    layout: str
    category: str
    samples: list[Sample]
    problems: list[str] = field(default_factory=list)  # one line each: masks without an image, …

    def split(self, name: str) -> list[Sample]:
        """The samples of one split, in order."""
        return [sample for sample in self.samples if sample.split == name]

    def manifest(self) -> str:
        """sha256 over the ids and contents of the training images: the identity of what is learned from."""
        digest = hashlib.sha256()
        for sample in self.split("train"):
            content = hashlib.sha256(sample.path.read_bytes()).hexdigest()
            digest.update(f"{sample.id}\t{content}\n".encode())
        return digest.hexdigest()


def read(root: Path) -> Dataset:
    """Understand a folder: MVTec AD where it has train/good, else a plain folder of normal images."""
    if not root.exists():
        raise InputError(f"{root}: no such folder; expected a data set (train/good, test/…) or a folder of good images")
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of images, found a file")
    root = root.resolve()
    if (root / "train" / "good").is_dir():
        dataset = _mvtec(root)
    else:
        _refuse_lookalikes(root)
        samples = [Sample(printable(path.relative_to(root)), path, "train", "good") for path in find(root)]
        dataset = Dataset(root, "plain", root.name, samples)
    if not dataset.split("train"):
        where = "train/good" if dataset.layout == "mvtec" else "it or its subfolders"
        raise InputError(f"{root}: no images found in {where}; expected png, jpg, bmp, tif or webp files")
    return dataset


def _refuse_lookalikes(root: Path) -> None:
    """Folders that hold defects too must not be taken for a plain folder of good images."""
    classes = [child.name for child in sorted(root.iterdir()) if (child / "train" / "good").is_dir()]
    if classes:
        found = f"found {len(classes)} ({classes[0]}, …); name one: {root / classes[0]}"
        raise InputError(f"{root}: expected one data set, {found}")
    for name in ("test", "ground_truth"):
        if (root / name).is_dir():
            advice = "put the good images into train/good/, or name their folder"
            raise InputError(f"{root}: found {name}/ but no train/good/; {advice}")


def _mvtec(root: Path) -> Dataset:
    """MVTec AD: train/good, test/<kind>, ground_truth/<kind>/<stem>[_mask].png, optionally validation/good."""
    masks: dict[tuple[str, str], Path] = {}
    for path in find(root / "ground_truth") if (root / "ground_truth").is_dir() else ():
        kind = path.parent.relative_to(root / "ground_truth").as_posix()
        masks[kind, path.stem.removesuffix("_mask")] = path

    def samples(split: str, kind: str) -> Iterator[Sample]:
        for path in find(root / split / kind):
            mask = masks.pop((kind, path.stem), None) if split == "test" else None
            yield Sample(printable(path.relative_to(root)), path, split, kind, mask)

    found = list(samples("train", "good"))
    if (root / "validation" / "good").is_dir():
        found += samples("validation", "good")
    if (root / "test").is_dir():
        for child in sorted((root / "test").iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                found += samples("test", child.name)
    problems = [f"{mask}: mask without an image; expected test/{kind}/{stem}.*" for (kind, stem), mask in masks.items()]
    stems = Counter((s.kind, s.path.stem) for s in found if s.split == "test")
    problems += [f"{root}/test/{kind}/{stem}.*: {n} images share one mask name" for (kind, stem), n in stems.items() if n > 1]
    return Dataset(root, "mvtec", root.name, found, problems)
