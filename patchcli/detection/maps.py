"""Patch scores → pixels (Patch SVDD, Sect. 3.4): each pixel takes the mean over the patches that cover it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from patchcli.features.grid import PatchGrid


def _cover(starts: tuple[int, ...], K: int, length: int) -> NDArray[np.float64]:
    """(patches, length): 1 where a patch covers a pixel."""
    pixel, first = np.arange(length), np.array(starts)[:, None]
    return ((pixel >= first) & (pixel < first + K)).astype(np.float64)


def spread(scores: NDArray[np.float32], grid: PatchGrid) -> NDArray[np.float32]:
    """Scores (B, rows, columns) of the patches → anomaly maps (B, height, width)."""
    rows, columns = _cover(grid.ys, grid.K, grid.height), _cover(grid.xs, grid.K, grid.width)
    sums = rows.T @ scores.astype(np.float64) @ columns
    return (sums / np.outer(rows.sum(0), columns.sum(0))).astype(np.float32)


def multiply(maps: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """The product over the scales: the map "multi" (Eq. 7)."""
    product: NDArray[np.float32] = np.prod(list(maps.values()), axis=0, dtype=np.float32)
    return product
