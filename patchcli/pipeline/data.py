"""Data set → what was understood of it, before anything is trained."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchcli import images, layouts
from patchcli.errors import InputError
from patchcli.layouts import Sample
from patchcli.observer import Observer

SCHEMA = "patchcli.data/1"


@dataclass(frozen=True)
class Kind:
    """The images of one split and kind; sizes are in pixels, None where no image can be read."""

    schema: str
    category: str
    layout: str
    split: str  # train, validation, test; unused, test_private and test_private_mixed are for no verb by itself
    kind: str  # good, or the kind of defect
    images: int
    masks: int  # images with a usable mask
    unreadable: int  # images that will be left out
    height: int | None  # the most common size
    width: int | None
    smallest_height: int | None  # the size of the fewest pixels
    smallest_width: int | None


def data(data: Path | str, layout: str | None = None, observer: Observer | None = None) -> list[Kind]:
    """Read every image and mask of a data set (a folder or a manifest) and count them by split and kind.

    What cannot be used is a problem for the observer; the same file content twice, once among the good images that are
    learned from, is a note. Raises InputError where there is nothing to learn from.
    """
    observer = observer or Observer()
    dataset = layouts.read(Path(data), layout)
    for line in dataset.problems:
        observer.problem(line)
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in dataset.samples:
        groups.setdefault((sample.split, sample.kind), []).append(sample)
    kinds, done = [], 0
    for (split, kind), samples in groups.items():
        sizes: Counter[tuple[int, int]] = Counter()
        masks = 0
        for sample in samples:
            try:
                height, width = images.decode(sample.path).shape[:2]
            except InputError as error:
                observer.problem(str(error))
            else:
                sizes[height, width] += 1
                masks += read_mask(sample, (height, width), observer) is not None
            done += 1
            observer.progress("data", done, len(dataset.samples), sample.id)
        common = sizes.most_common(1)[0][0] if sizes else (None, None)
        smallest = min(sizes, key=lambda size: size[0] * size[1]) if sizes else (None, None)
        counts = len(samples), masks, len(samples) - sizes.total()
        kinds.append(Kind(SCHEMA, dataset.category, dataset.layout, split, kind, *counts, *common, *smallest))
    for group in dataset.duplicates():
        first, *others = (sample.id for sample in group)
        observer.note(f"{', '.join(others)}: the same file content as {first}")
    return kinds


def read_mask(sample: Sample, shape: tuple[int, ...], observer: Observer) -> NDArray[np.bool_] | None:
    """The sample's masks united, each checked against the image's (height, width); None, reported, where that fails."""
    if not sample.masks:
        return None
    united = np.zeros(shape, bool)
    for path in sample.masks:
        try:
            mask = images.read_mask(path, sample.nonzero)
        except InputError as error:
            observer.problem(str(error))
            return None
        if mask.shape != shape:
            found = f"{mask.shape[1]}x{mask.shape[0]}, its image has {shape[1]}x{shape[0]}"
            observer.problem(f"{path}: expected a mask of the image's size, found {found}")
            return None
        united |= mask
    if not united.any() and sample.defective:
        observer.problem(f"{sample.masks[0]}: mask of a defective image is empty; its pixels are left out")
        return None
    return united
