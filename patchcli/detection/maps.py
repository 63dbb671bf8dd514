"""Patch scores → pixels (Patch SVDD, Sect. 3.4): each pixel takes the mean over the patches that cover it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from patchcli.features.encoder import Scale
from patchcli.features.grid import PatchGrid


def _cover(starts: tuple[int, ...], K: int, length: int, scale: Scale) -> NDArray[np.float64]:
    """(patches, length): how much a patch counts for a pixel; each pixel's weights add up to 1."""
    pixel, first = np.arange(length), np.array(starts)[:, None]
    middle = first + (K - 1) / 2
    if scale.blur is not None:
        from scipy.ndimage import gaussian_filter1d  # takes long to import, and few need it

        linear = np.array([np.interp(pixel, middle[:, 0], one) for one in np.eye(len(starts))])
        return np.asarray(gaussian_filter1d(linear, scale.blur))
    if scale.focus is None:
        weights = ((pixel >= first) & (pixel < first + K)).astype(np.float64)
    else:
        squares = ((pixel - middle) / scale.focus) ** 2 / 2
        weights = np.exp(squares.min(axis=0) - squares)  # the nearest patch weighs 1, also beyond the outermost middles
    covers: NDArray[np.float64] = weights / weights.sum(axis=0)
    return covers


def spread(scores: NDArray[np.float32], grid: PatchGrid, scale: Scale) -> NDArray[np.float32]:
    """Scores (B, rows, columns) of the patches → anomaly maps (B, height, width).

    With the scale's `focus`, the patches around a pixel weigh as a Gaussian of that σ, in pixels, from their middle. With its
    `blur`, a pixel takes the bilinear interpolation between the patches' middles, and the map goes through that Gaussian.
    """
    rows, columns = _cover(grid.ys, grid.K, grid.height, scale), _cover(grid.xs, grid.K, grid.width, scale)
    return (rows.T @ scores.astype(np.float64) @ columns).astype(np.float32)


def multiply(maps: Mapping[str, NDArray[np.float32]], exponents: Mapping[str, float] | None = None) -> NDArray[np.float32]:
    """The product over the scales: the map "multi" (Eq. 7); with exponents, of the maps that they name, each to its own."""
    chosen = [maps[name] ** np.float32(exponent) for name, exponent in exponents.items()] if exponents else [*maps.values()]
    product: NDArray[np.float32] = np.prod(chosen, axis=0, dtype=np.float32)
    return product
