"""Layouts of data sets: a folder or a manifest in, a list of samples out."""

from pathlib import Path

from patchcli.errors import InputError
from patchcli.layouts.dataset import BAD, GOOD, Dataset, Sample, digest, subfolders
from patchcli.layouts.folders import FOLDERS, MASKS, PLAIN
from patchcli.layouts.kolektor import KSDD, KSDD2
from patchcli.layouts.mvtec import BTAD, LOCO, MVTEC, MVTEC2, PRIVATE
from patchcli.layouts.tables import MANIFEST, VISA

__all__ = ["LAYOUTS", "PRIVATE", "Dataset", "Sample", "digest", "read"]

# Tried in this order; where two fit, the narrower comes first: mvtec2 and loco are mvtec too, and all folders are plain.
LAYOUTS = {
    "manifest": MANIFEST, "mvtec2": MVTEC2, "loco": LOCO, "mvtec": MVTEC, "btad": BTAD, "visa": VISA,
    "ksdd2": KSDD2, "ksdd": KSDD, "folders": FOLDERS, "plain": PLAIN,
}  # fmt: skip


def read(root: Path, layout: str | None = None) -> Dataset:
    """Understand a folder, or a manifest, in the named layout or the first that fits."""
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"--layout: expected one of {', '.join(LAYOUTS)}; found {layout!r}")
    if not root.exists():
        raise InputError(f"{root}: no such folder; expected a data set (train/good, test/…) or a folder of good images")
    if root.is_file() and not MANIFEST.fits(root):
        raise InputError(f"{root}: expected a folder of images, found a file; a manifest's name ends in .csv or .jsonl")
    root = root.resolve()
    name = layout or next(name for name, known in LAYOUTS.items() if known.fits(root))
    if not LAYOUTS[name].fits(root):
        raise InputError(f"{root}: expected {LAYOUTS[name].form} (--layout {name}), found none; leave --layout away to detect")
    if layout is None and name == "plain":
        _refuse_lookalikes(root)
    dataset = LAYOUTS[name].read(root)
    if not dataset.split("train"):
        raise InputError(f"{root}: no images found in {LAYOUTS[name].form}; expected png, jpg, bmp, tif or webp files")
    return dataset


def _refuse_lookalikes(root: Path) -> None:
    """Folders that hold defects too must not be taken for a plain folder of good images."""
    children = list(subfolders(root))
    special = [known for name, known in LAYOUTS.items() if name != "plain"]
    classes = [child for child in children if any(known.fits(child) for known in special)]
    if classes:
        found = f"found {len(classes)} ({classes[0].name}, …); name one: {classes[0]}"
        raise InputError(f"{root}: expected one data set, {found}")
    with_good = any(child.name.casefold() in GOOD for child in children)
    for child in children:
        name = child.name.casefold()
        if name in MASKS or name == "test":
            advice = "put the good images into train/good/, or name their folder"
            raise InputError(f"{root}: found {child.name}/ but no train/good/; {advice}")
        if name in BAD and not with_good:
            advice = "put the good images into good/ beside it, or name their folder"
            raise InputError(f"{root}: found {child.name}/ but no good/; {advice}")
