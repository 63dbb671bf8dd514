"""MVTec AD and its kin: train/<good>, test/<kind>, masks in a tree of the same kinds."""

from collections import Counter
from pathlib import Path

from patchcli.images import find, printable
from patchcli.layouts.dataset import Dataset, Layout, Sample, subfolders

PRIVATE = ("test_private", "test_private_mixed")


def tree(
    root: Path,
    layout: str,
    *,
    good: str = "good",
    test: str = "test",
    truth: str = "ground_truth",
    nested: bool = False,
    nonzero: bool = False,
) -> Dataset:
    """Images in train/<good>, validation/<good> and <test>/<kind>, masks in <truth>/<kind>/<stem>[_mask].png.

    `nested`: several masks an image, <truth>/<kind>/<stem>/*.png. `nonzero`: masks of label values.
    """
    masks: dict[tuple[str, str], list[Path]] = {}
    for path in find(root / truth) if (root / truth).is_dir() else ():
        where = path.parent.relative_to(root / truth)
        kind, stem = (where.parent, where.name) if nested else (where, path.stem.removesuffix("_mask"))
        masks.setdefault((kind.as_posix(), stem), []).append(path)
    samples: list[Sample] = []
    stems: Counter[tuple[str, str]] = Counter()

    def add(split: str, folder: str, name: str, kind: str) -> None:
        for path in find(root / folder / name):
            own: list[Path] = []
            if split == "test":
                own = masks.pop((name, path.stem), [])
                stems[name, path.stem] += 1
            samples.append(Sample(printable(path.relative_to(root)), path, split, kind, tuple(own), nonzero))

    for split in ("train", "validation"):
        if (root / split / good).is_dir():
            add(split, split, good, "good")
    for child in subfolders(root / test) if (root / test).is_dir() else ():
        if child != root / truth:
            add("test", test, child.name, "good" if child.name == good else child.name)
    for split in PRIVATE if test == "test_public" else ():
        if (root / split).is_dir():
            add(split, split, "", "unlabelled")
    problems = [
        f"{mask}: mask without an image; expected {test}/{name}/{stem}.*"
        for (name, stem), paths in masks.items()
        for mask in paths
    ]
    shared = ((name, stem, count) for (name, stem), count in stems.items() if count > 1)
    problems += [f"{root}/{test}/{name}/{stem}.*: {count} images share one mask name" for name, stem, count in shared]
    return Dataset(root, layout, root.name, samples, problems)


def _is_mvtec(root: Path) -> bool:
    return (root / "train" / "good").is_dir()


def _is_mvtec2(root: Path) -> bool:
    return _is_mvtec(root) and (root / "test_public").is_dir()


def _is_loco(root: Path) -> bool:
    truth = root / "ground_truth"
    return _is_mvtec(root) and truth.is_dir() and any(True for kind in subfolders(truth) for _ in subfolders(kind))


MVTEC = Layout(
    "train/good",
    _is_mvtec,
    lambda root: tree(root, "mvtec"),
    ("train", "validation", "test", "ground_truth"),
)
MVTEC2 = Layout(
    "train/good beside test_public",
    _is_mvtec2,
    lambda root: tree(root, "mvtec2", test="test_public", truth="test_public/ground_truth"),
    ("train", "validation", "test_public", *PRIVATE),
)
LOCO = Layout(
    "train/good beside ground_truth/<kind>/<image>/",
    _is_loco,
    lambda root: tree(root, "loco", nested=True, nonzero=True),
    MVTEC.folders,
)
BTAD = Layout(
    "train/ok",
    lambda root: (root / "train" / "ok").is_dir(),
    lambda root: tree(root, "btad", good="ok"),
    MVTEC.folders,
)
