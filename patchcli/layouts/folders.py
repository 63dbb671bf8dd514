"""Folders of one's own: good/ beside folders of defects, or good images alone."""

from collections import Counter
from pathlib import Path

from patchcli.images import SUFFIXES, find, printable
from patchcli.layouts.dataset import GOOD, Dataset, Layout, Sample, held_out, subfolders

MASKS = frozenset({"ground_truth", "masks", "mask"})


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))


def _is_folders(root: Path) -> bool:
    """A folder named good (or ok, normal), and others with images, but none that belongs to a split."""
    children = list(subfolders(root)) if root.is_dir() else []
    if not {child.name.casefold() for child in children} & GOOD:
        return False
    names = {child.name.casefold() for child in children if _holds_images(child)}
    return bool(names & GOOD) and len(names) > 1 and not names & {"train", "test"}


def _folders(root: Path) -> Dataset:
    """good/ and a folder a kind of defect; masks by stem, in masks/<stem>[_mask].png or masks/<kind>/<stem>[_mask].png.

    Good images train, one in five left out for testing (`held_out` of its path below the root); defective images test.
    """
    samples: list[Sample] = []
    masks: dict[tuple[str, str], list[Path]] = {}
    defective: list[tuple[str, Path]] = []
    for child in subfolders(root):
        name = child.name.casefold()
        for path in find(child):
            if name in MASKS:
                where = path.parent.relative_to(child).as_posix()
                masks.setdefault((where, path.stem.removesuffix("_mask")), []).append(path)
            elif name in GOOD:
                id_ = printable(path.relative_to(root))
                samples.append(Sample(id_, path, "test" if held_out(id_) else "train", "good"))
            else:
                defective.append((child.name, path))
    keys = [(kind if (kind, path.stem) in masks else ".", path.stem) for kind, path in defective]
    claims = Counter(keys)
    for (kind, path), key in zip(defective, keys, strict=True):
        own = masks.get(key, []) if claims[key] == 1 else []
        samples.append(Sample(printable(path.relative_to(root)), path, "test", kind, tuple(own)))
    problems = []
    for key, paths in masks.items():
        if claims[key] != 1:
            why = f"{claims[key]} images share this mask's name" if claims[key] else "mask without a defective image"
            problems += [f"{path}: {why}" for path in paths]
    problems += [
        f"{path}: lies beside the folder of good images; expected it in that, or in a folder of defects"
        for path in find(root)
        if path.parent == root
    ]
    return Dataset(root, "folders", root.name, samples, problems)


def _plain(root: Path) -> Dataset:
    """Good images alone, at any depth."""
    samples = [Sample(printable(path.relative_to(root)), path, "train", "good") for path in find(root)]
    return Dataset(root, "plain", root.name, samples)


FOLDERS = Layout("good/ beside folders of defects", _is_folders, _folders, ("",))
PLAIN = Layout("it or its subfolders", Path.is_dir, _plain, ("",))
