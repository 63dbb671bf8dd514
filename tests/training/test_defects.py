"""Synthetic defects: drawn from a generator alone, inside the image, and where the mask says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcli.training import defects


def image(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 196, (height, width, 3), dtype=np.uint8)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(64, 100), st.integers(64, 100), st.integers(0, 3))
def test_the_mask_is_what_changed_visibly(seed: int, height: int, width: int, count: int) -> None:
    pixels, other = image(0, height, width), image(1, height, width)
    before = pixels.copy(), other.copy()
    damaged, mask = defects.damage(np.random.default_rng(seed), pixels, other, count)
    assert (damaged.dtype, damaged.shape, mask.shape) == (np.uint8, pixels.shape, pixels.shape[:2])
    change = np.abs(damaged.astype(int) - pixels).max(axis=2)
    np.testing.assert_array_equal(mask, change > defects.VISIBLE)
    np.testing.assert_array_equal((pixels, other), before)  # what was given is left alone
    assert mask.mean() < 0.5 * count or not mask.any()
    again, _ = defects.damage(np.random.default_rng(seed), pixels, other, count)
    np.testing.assert_array_equal(damaged, again)


def test_in_an_image_without_colour_a_defect_has_none() -> None:
    grey, rng = np.repeat(image(6, 96, 96)[..., :1], 3, axis=2), np.random.default_rng(0)
    for _ in range(60):
        damaged, mask = defects.damage_part(rng, grey, image(7, 96, 96))
        np.testing.assert_array_equal(damaged, np.repeat(damaged[..., :1], 3, axis=2))
        assert mask.any() == (np.abs(damaged[..., 0].astype(int) - grey[..., 0]) > defects.VISIBLE).any()
    damaged = np.stack([defects.damage(rng, grey, image(7, 96, 96), 2)[0] for _ in range(10)])
    assert (damaged != damaged[..., :1]).any()  # those that training learns from may have a colour


@pytest.mark.parametrize("kind", defects.KINDS)
def test_every_kind_shows_and_is_local(kind: str) -> None:
    seen = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        pixels = image(2, 96, 80).astype(np.float64)
        change = np.abs(defects.KINDS[kind](rng, pixels, image(3, 96, 80).astype(np.float64)) - pixels).max(axis=2)
        seen += (change > defects.VISIBLE).any()
        assert (change > defects.VISIBLE).mean() < 0.5
    assert seen >= 8  # some lie at the edge


def test_few_defects_lie_on_plain_ground() -> None:
    """As behind a part that fills the left half; on a constant image they lie anywhere."""
    pixels = image(4, 96, 128)
    pixels[:, 64:] = 20
    rng, middles = np.random.default_rng(0), []
    for _ in range(100):
        _, mask = defects.damage_part(rng, pixels, image(5, 96, 128))
        middles.append(np.nonzero(mask)[1].mean() if mask.any() else 128)
    assert 0 < np.mean(np.array(middles) > 70) < 0.25
    damaged, mask = defects.damage_part(rng, np.full((96, 128, 3), 90, np.uint8), pixels)
    assert (np.abs(damaged.astype(int) - 90).max(axis=2) > defects.VISIBLE).sum() == mask.sum()
