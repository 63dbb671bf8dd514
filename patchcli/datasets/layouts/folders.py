"""Folders of one's own: good/ beside folders of defects, or good images alone."""

from pathlib import Path, PurePosixPath

from patchcli.datasets.images import find, printable
from patchcli.datasets.layouts.dataset import (
    MASKS,
    Dataset,
    Layout,
    Mask,
    Sample,
    assign,
    broken,
    held_out,
    holds_images,
    is_good,
    loose,
    subfolders,
)  # fmt: skip


def _is_folders(root: Path) -> bool:
    """A folder named good (or ok, normal), and others with images, but none that belongs to a split."""
    children = list(subfolders(root))
    if not any(is_good(child.name) for child in children):
        return False
    names = {child.name.casefold() for child in children if holds_images(child)}
    return any(map(is_good, names)) and not all(map(is_good, names)) and not names & {"train", "test"}


def _folders(root: Path) -> Dataset:
    """good/ and a folder a kind of defect; masks by stem, in masks/<stem>[_mask].png or masks/<kind>/<stem>[_mask].png.

    Good images train, one in five left out for testing (`held_out` of its path below the root); defective images test.
    """
    samples: list[Sample] = []
    problems = list(broken(root))
    masks: list[Mask] = []
    defective: list[tuple[str, Path]] = []
    children = list(subfolders(root))
    for path in find(*(child for child in children if is_good(child.name)), problem=problems.append):
        id_ = printable(path.relative_to(root))
        samples.append(Sample(id_, path, "test" if held_out(id_) else "train", "good"))
    for child in children:
        if child.name.casefold() in MASKS:
            for path in find(child, problem=problems.append):
                where = PurePosixPath(printable(path.parent.relative_to(child)))
                masks.append(Mask(path, where, path.stem.removesuffix("_mask")))
        elif not is_good(child.name):
            defective += [(child.name, path) for path in find(child, problem=problems.append)]
    ids = [printable(path.relative_to(root)) for _, path in defective]
    own, unclaimed = assign([(PurePosixPath(id_), True) for id_ in ids], masks, "")
    samples += [Sample(id_, path, "test", kind, paths) for id_, (kind, path), paths in zip(ids, defective, own, strict=True)]
    problems += unclaimed
    problems += loose(root, "images in the folder of good ones, or in one of defects")
    return Dataset(root, "folders", root.name, samples, problems)


def _plain(root: Path) -> Dataset:
    """Good images alone, at any depth."""
    problems: list[str] = []
    samples = [Sample(printable(path.relative_to(root)), path, "train", "good") for path in find(root, problem=problems.append)]
    return Dataset(root, "plain", root.name, samples, problems)


FOLDERS = Layout("good/ beside folders of defects", _is_folders, _folders, ("",))
PLAIN = Layout("it or its subfolders", Path.is_dir, _plain, ("",))
