"""Patch scores spread over pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from patchcli.detection import maps
from patchcli.features.encoder import Scale
from patchcli.features.grid import PatchGrid

FLAT = Scale(1, 1, "")  # K and S are those of the grid


def naive_spread(scores: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """Each pixel's mean over the patches that cover it, patch by patch."""
    sums = np.zeros((len(scores), grid.height, grid.width))
    counts = np.zeros((grid.height, grid.width))
    for row, y in enumerate(grid.ys):
        for column, x in enumerate(grid.xs):
            sums[:, y : y + grid.K, x : x + grid.K] += scores[:, row, column, None, None]
            counts[y : y + grid.K, x : x + grid.K] += 1
    return sums / counts


@st.composite
def grids(draw: st.DrawFn) -> PatchGrid:
    K = draw(st.integers(1, 12))
    sides = st.integers(K, K + 30)
    return PatchGrid(draw(sides), draw(sides), K, draw(st.integers(1, K)))


@given(grids(), st.integers(1, 2), st.integers(0, 2**32 - 1))
def test_spread_equals_a_loop_over_patches(grid: PatchGrid, images: int, seed: int) -> None:
    scores = np.random.default_rng(seed).exponential(size=(images, *grid.shape)).astype(np.float32)
    spread = maps.spread(scores, grid, FLAT)
    assert spread.dtype == np.float32
    np.testing.assert_allclose(spread, naive_spread(scores, grid), rtol=1e-6)


@given(grids())
def test_constant_scores_give_a_constant_map(grid: PatchGrid) -> None:
    spread = maps.spread(np.full((1, *grid.shape), 0.3, np.float32), grid, FLAT)
    assert spread.shape == (1, grid.height, grid.width)
    np.testing.assert_allclose(spread, 0.3, rtol=1e-6)


def test_one_loud_patch_stays_inside_itself() -> None:
    grid = PatchGrid(20, 24, 8, 4)
    scores = np.zeros((1, *grid.shape), np.float32)
    scores[0, 1, 2] = 1
    at = np.argwhere(maps.spread(scores, grid, FLAT)[0] > 0)
    assert (at.min(0).tolist(), at.max(0).tolist()) == ([4, 8], [11, 15])


@pytest.mark.parametrize("names", [("big",), ("big", "small")])
def test_multiply_is_the_product_over_the_scales(names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    single = {name: rng.random((2, 5, 6), np.float32) for name in names}
    product = maps.multiply(single)
    assert product.dtype == np.float32
    expected = single["big"] * single["small"] if "small" in single else single["big"]
    np.testing.assert_allclose(product, expected, rtol=1e-6)


@given(grids(), st.floats(0.5, 9), st.integers(0, 2**32 - 1))
def test_with_a_focus_patches_weigh_by_their_distance_from_the_pixel(grid: PatchGrid, focus: float, seed: int) -> None:
    scores = np.random.default_rng(seed).exponential(size=(1, *grid.shape)).astype(np.float32)
    spread = maps.spread(scores, grid, replace(FLAT, focus=focus))
    middle = (grid.K - 1) / 2
    for y, x in ((0, 0), (grid.height // 2, grid.width // 3), (grid.height - 1, grid.width - 1)):
        squares = [[(y - top - middle) ** 2 + (x - left - middle) ** 2 for left in grid.xs] for top in grid.ys]
        weights = np.exp(-(np.array(squares) - np.min(squares)) / (2 * focus**2))
        assert spread[0, y, x] == pytest.approx((weights * scores[0]).sum() / weights.sum(), rel=1e-5)


@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 9), st.floats(0.5, 9), st.integers(0, 2**32 - 1))
def test_with_a_blur_the_map_is_interpolated_then_smoothed(S: int, rows: int, columns: int, blur: float, seed: int) -> None:
    grid = PatchGrid(S * rows, S * columns, S, S)
    scores = np.random.default_rng(seed).exponential(size=(1, rows, columns)).astype(np.float32)
    size = (grid.height, grid.width)
    linear = torch.nn.functional.interpolate(torch.from_numpy(scores)[None], size, mode="bilinear", align_corners=False)
    expected = gaussian_filter(linear[0, 0].double().numpy(), blur)
    np.testing.assert_allclose(maps.spread(scores, grid, replace(FLAT, blur=blur))[0], expected, rtol=1e-4)


def test_exponents_choose_and_weigh_the_maps() -> None:
    rng = np.random.default_rng(0)
    single = {name: rng.random((2, 5, 6), np.float32) for name in ("big", "small", "fixed")}
    product = maps.multiply(single, {"small": 0.5, "fixed": 1.5})
    np.testing.assert_allclose(product, single["small"] ** 0.5 * single["fixed"] ** 1.5, rtol=1e-5)
    np.testing.assert_array_equal(maps.multiply(single, {}), maps.multiply(single))
    np.testing.assert_array_equal(maps.multiply(single, {"big": 1.0}), single["big"])
