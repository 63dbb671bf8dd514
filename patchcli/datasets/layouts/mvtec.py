"""MVTec AD and its kin: train/<good>, test/<kind>, masks in a tree of the same kinds. Names are taken in any case."""

from pathlib import Path, PurePosixPath

from patchcli.datasets.images import find, named_as_one, printable
from patchcli.datasets.layouts.dataset import (
    MASKS,
    Dataset,
    Layout,
    Mask,
    Sample,
    assign,
    below,
    broken,
    is_good,
    subfolders,
    unused,
)  # fmt: skip

PRIVATE = ("test_private", "test_private_mixed")


def tree(
    root: Path,
    layout: str,
    *,
    test: str = "test",
    truth: str = "ground_truth",
    nested: bool = False,
    nonzero: bool = False,
) -> Dataset:
    """Images in train/<good>, validation/<good> and <test>/<kind>, masks in <truth>/<kind>/<stem>[_mask].png.

    `nested`: several masks an image, <truth>/<kind>/<stem>/*.png. `nonzero`: masks of label values.
    """
    samples: list[Sample] = []
    problems = list(broken(root))

    def sample(path: Path, split: str, kind: str, own: tuple[Path, ...] = ()) -> Sample:
        return Sample(printable(path.relative_to(root)), path, split, kind, own, nonzero)

    for split in ("train", "validation"):
        parents = below(root, split)
        good = [child for parent in parents for child in subfolders(parent) if is_good(child.name)]
        samples += [sample(path, split, "good") for path in find(*good, problem=problems.append)]
        for parent in parents:
            problems += unused(parent, good, f"good images in {parent.name}/good/")

    truths = below(root, truth)
    tests: list[tuple[Path, PurePosixPath, str]] = []  # path, place below the folder of tests, kind
    for parent in below(root, test):
        kinds = [child for child in subfolders(parent) if child.name.casefold() not in MASKS]
        for child in kinds:
            kind = "good" if is_good(child.name) else child.name
            paths = find(child, problem=problems.append)
            tests += [(path, PurePosixPath(printable(path.relative_to(parent))), kind) for path in paths]
        expected = f"images in {parent.name}/good/ and {parent.name}/<kind of defect>/"
        problems += unused(parent, [*kinds, *truths], expected)
    masks = [_mask(path, parent, nested) for parent in truths for path in find(parent, problem=problems.append)]
    own, unclaimed = assign([(place, kind != "good") for _, place, kind in tests], masks, test)
    samples += [sample(path, "test", kind, paths) for (path, _, kind), paths in zip(tests, own, strict=True)]
    for split in PRIVATE if test == "test_public" else ():
        paths = find(*below(root, split), problem=problems.append)
        samples += [sample(path, split, "unlabelled") for path in paths]
    return Dataset(root, layout, root.name, samples, problems + unclaimed)


def _mask(path: Path, truth: Path, nested: bool) -> Mask:
    where = PurePosixPath(printable(path.parent.relative_to(truth)))
    return Mask(path, where.parent, where.name) if nested else Mask(path, where, path.stem.removesuffix("_mask"))


def _good(root: Path) -> set[str]:
    """Names of the folders of good images in train/, in lower case."""
    return {child.name.casefold() for train in below(root, "train") for child in subfolders(train) if is_good(child.name)}


def is_mvtec(root: Path) -> bool:
    """Whether there is a folder of good images in train/."""
    return bool(_good(root))


def _is_mvtec2(root: Path) -> bool:
    return is_mvtec(root) and bool(below(root, "test_public"))


def _is_loco(root: Path) -> bool:
    """Whether more test images have a folder of masks than a mask; other folders among the masks say nothing."""
    if not is_mvtec(root):
        return False
    folders = single = 0
    kinds = [kind for truth in below(root, "ground_truth") for kind in subfolders(truth)]
    for kind in kinds:
        tests = below(root, f"test/{kind.name.casefold()}")
        stems = {path.stem for test in tests for path in test.iterdir() if named_as_one(path)}
        folders += sum(child.name in stems for child in subfolders(kind))
        single += sum(path.stem.removesuffix("_mask") in stems for path in kind.iterdir() if named_as_one(path))
    return folders > single


MVTEC = Layout(
    "train/good",
    is_mvtec,
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
    lambda root: _good(root) == {"ok"},
    lambda root: tree(root, "btad"),
    MVTEC.folders,
)
