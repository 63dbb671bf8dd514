"""The masks of a sample: of one rule for a whole data set, and of the size of the image."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from patchcli.datasets.layouts import Sample
from patchcli.datasets.masks import Rule
from patchcli.errors import InputError
from patchcli.observer import Observer


def mask_rule(samples: Iterable[Sample], mask_threshold: int | None, large: bool) -> Rule:
    """What is a defect in the masks of a data set, but for those known to hold labels."""
    return Rule.of((path for sample in samples if not sample.nonzero for path in sample.masks), mask_threshold, large)


def read_mask(sample: Sample, shape: tuple[int, ...], rule: Rule, observer: Observer) -> NDArray[np.bool_] | None:
    """The sample's masks united, each checked against the image's (height, width); None, reported, where that fails."""
    if not sample.masks:
        return None
    united = np.zeros(shape, bool)
    for path in sample.masks:
        try:
            mask = rule.read(path, sample.nonzero)
        except InputError as error:
            observer.problem(str(error))
            return None
        if mask.shape != shape:
            sizes = f"{mask.shape[1]}x{mask.shape[0]}, its image has {shape[1]}x{shape[0]}"
            observer.problem(f"{path}: expected a mask of the image's size, found {sizes}")
            return None
        united |= mask
    if not united.any() and sample.defective:
        left_out = "mask of a defective image is empty; its pixels are left out"
        above = "" if sample.nonzero or not rule.threshold else f" (values above {rule.threshold} count: `mask_threshold`)"
        observer.problem(f"{sample.masks[0]}: {left_out}{above}")
        return None
    return united
