"""Defect masks: image files → which pixels are defective, by one rule for all masks of a data set."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcli.datasets import decoding
from patchcli.datasets.images import DEPTHS, full_scale
from patchcli.errors import InputError

FEW = 32  # more distinct values than these are no labels
HALF = 128  # of the 255 that full scale is


@dataclass(frozen=True)
class Rule:
    """Values above the threshold are defects. What a mask's brightest pixel is does not matter.

    Masks of labels, lossless files of few values, have 0 for good and all else for defect. Grey ones count above half of
    full scale: files of many values, of values in between that are edges alone (antialiasing) or specks, and lossy files.
    """

    threshold: int  # of lossless files
    stated: bool = False  # by the user: then it is that of all files
    large: bool = False  # also files of more than decoding.LIMIT pixels

    @classmethod
    def of(cls, paths: Iterable[Path], stated: int | None = None, large: bool = False) -> "Rule":
        """The rule for these masks, all of a data set's, or one that is `stated`. Those that cannot be read do not count."""
        if stated is not None:
            if stated < 0:
                raise InputError(f"{stated}", parameter="mask_threshold", expected="0 or more")
            return cls(stated, True, large)
        counts, flat = Counter[int](), Counter[int]()
        for path in paths:
            try:
                values, lossy = _values(path, large)
            except InputError:
                continue
            if not lossy:
                _survey(values, counts, flat)
            if len(counts) > FEW:
                break
        highest = max(counts, default=0)
        between = [value for value in counts if value not in (0, highest)]
        labels = 2 * sum(flat[value] for value in between) >= sum(counts[value] for value in between)
        return cls(0 if labels and len(counts) <= FEW else _half(highest), False, large)

    def read(self, path: Path, labels: bool = False) -> NDArray[np.bool_]:
        """A mask (H, W), upright. `labels`: known to be one, so 0 is good, unless another threshold is stated.

        Raises InputError where it cannot be decoded, or has several values and all count.
        """
        values, lossy = _values(path, self.large)
        threshold = self.threshold if self.stated else 0 if labels else HALF if lossy else self.threshold
        mask: NDArray[np.bool_] = values > threshold
        if mask.all() and values.min() < values.max():
            problem = f"expected 0 where the mask is off, found values from {values.min()} to {values.max()}"
            raise InputError(problem, subject=path, advice="give `mask_threshold`, above which values count")
        return mask


def _values(path: Path, large: bool) -> tuple[NDArray[Any], bool]:
    """Grey values or labels (H, W), and whether the file is lossy."""
    try:
        samples = decoding.read(path, large, labels=True)
    except InputError as error:
        raise InputError(str(error).replace(": cannot be decoded", ": mask cannot be decoded", 1)) from None
    values = samples.values.max(axis=2) if samples.values.ndim == 3 else samples.values
    return full_scale(16) - values if samples.inverted else values, samples.head.lossy


def _survey(values: NDArray[Any], counts: Counter[int], flat: Counter[int]) -> None:
    """Add how often each value occurs, and how often as part of 2×2 pixels of that value."""
    for part, into in ((values, counts), (values[_flat(values)], flat)):
        for value, count in zip(*np.unique(part, return_counts=True), strict=True):
            into[int(value)] += int(count)


def _flat(values: NDArray[Any]) -> NDArray[np.bool_]:
    across = values[:, 1:] == values[:, :-1]
    block = across[1:] & across[:-1] & (values[1:, 1:] == values[:-1, 1:])
    flat = np.zeros(values.shape, bool)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            flat[rows, columns] |= block
    return flat


def _half(highest: int) -> int:
    """Half of the full scale of a depth that holds the highest value."""
    bits = next((depth for depth in DEPTHS if full_scale(depth) >= highest), DEPTHS[-1])
    return HALF << (bits - 8)
