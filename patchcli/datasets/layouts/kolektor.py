"""KolektorSDD and KolektorSDD2: the mask lies beside its image, and an image is good where its mask is empty."""

from collections.abc import Iterator
from pathlib import Path

from patchcli.datasets.images import find, printable
from patchcli.datasets.layouts.dataset import Dataset, Layout, Sample, below, broken, held_out, subfolders
from patchcli.datasets.masks import Rule
from patchcli.errors import InputError


def _pairs(folder: Path, ending: str, problems: list[str]) -> Iterator[tuple[Path, Path, bool]]:
    """Images of a folder with their masks <stem><ending>, and whether these show a defect."""
    paths = dict.fromkeys(find(folder, problem=problems.append))
    images = {path.stem for path in paths}
    for path in paths:
        if path.name.endswith(ending):
            if path.name.removesuffix(ending) not in images:
                problems.append(f"{path}: mask without an image; expected {path.name.removesuffix(ending)}.*")
            continue
        mask = path.with_name(path.stem + ending)
        if mask not in paths:
            problems.append(f"{path}: expected its mask {mask.name} beside it, found none")
            continue
        try:
            defective = bool(Rule(0).read(mask).any())
        except InputError as error:
            problems.append(str(error))
            continue
        yield path, mask, defective


def _sample(root: Path, path: Path, mask: Path, split: str, defective: bool) -> Sample:
    return Sample(printable(path.relative_to(root)), path, split, "defect" if defective else "good", (mask,), True)


def _ksdd(root: Path) -> Dataset:
    """KolektorSDD: <item>/Part<n>.jpg with Part<n>_label.bmp, an item being one part seen from several sides.

    It names no split for training on good images alone. Here good images train, one item in five left out for testing
    (`held_out` of its folder's name: all of its good images), and defective images test.
    """
    samples, problems = [], list(broken(root))
    for item in subfolders(root):
        for path, mask, defective in _pairs(item, "_label.bmp", problems):
            split = "test" if defective or held_out(item.name) else "train"
            samples.append(_sample(root, path, mask, split, defective))
    return Dataset(root, "ksdd", root.name, samples, problems)


def _ksdd2(root: Path) -> Dataset:
    """KolektorSDD2: train/<id>.png and test/<id>.png with <id>_GT.png; defective images of train are not used."""
    samples, problems = [], list(broken(root))
    for split in ("train", "test"):
        for path, mask, defective in (pair for folder in below(root, split) for pair in _pairs(folder, "_GT.png", problems)):
            used = "unused" if split == "train" and defective else split
            samples.append(_sample(root, path, mask, used, defective))
    return Dataset(root, "ksdd2", root.name, samples, problems)


KSDD = Layout(
    "<item>/<part>.jpg with <part>_label.bmp",
    lambda root: any(path.name.endswith("_label.bmp") for item in subfolders(root) for path in item.iterdir()),
    _ksdd,
    ("",),
)
KSDD2 = Layout(
    "train/<id>.png with <id>_GT.png",
    lambda root: any(path.name.endswith("_GT.png") for train in below(root, "train") for path in train.iterdir()),
    _ksdd2,
    ("train", "test"),
)
