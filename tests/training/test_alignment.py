"""When images count as aligned, and that the others call for the separation."""

import dataclasses
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import CONTRAST, begin
from PIL import Image
from scipy.ndimage import gaussian_filter

from patchcli.store import Store
from patchcli.training import alignment
from patchcli.training.recipe import Recipe
from patchcli.verbs.extract import extract
from patchcli.verbs.extraction import ImageOptions


@given(st.integers(2, 5), st.integers(21, 70), st.integers(21, 70), st.integers(0, 2**32 - 1), st.integers(0, 3))
@settings(max_examples=30)
def test_the_alignment_is_the_naive_r2(count: int, height: int, width: int, seed: int, common: int) -> None:
    """Of what a cell's mean has more than the cells around it: 1 - variance around the mean image / mean square."""
    rng = np.random.default_rng(seed)
    images = common * rng.integers(0, 64, (height, width, 3)) + rng.integers(0, 64, (count, height, width, 3))
    detail, k = [], min(height, width) // 21
    for image in images:
        for y, x in product(range(1, height // k - 1), range(1, width // k - 1)):
            places = [(y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            here, *around = (image[k * i : k * i + k, k * j : k * j + k].mean((0, 1)) for i, j in places)
            detail.append(here - np.mean(around, axis=0))
    each = np.array(detail).reshape(count, -1)
    expected = 1 - each.var(axis=0, ddof=1).mean() / np.square(each).mean()
    assert alignment.alignment(images.astype(np.uint8)) == pytest.approx(max(0, expected), abs=1e-9)


def test_copies_and_blank_images_are_aligned() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    assert alignment.alignment([image] * 3) == pytest.approx(1)
    assert alignment.alignment([np.full((48, 60, 3), 9, np.uint8)] * 3) == 1


def test_the_alignment_is_that_of_larger_images_too() -> None:
    rng = np.random.default_rng(0)
    common, own = rng.uniform(0, 127, (64, 64, 3)), rng.uniform(0, 127, (9, 64, 64, 3))
    images = gaussian_filter(common + own, (0, 1, 1, 0)).astype(np.uint8)
    larger = images.repeat(4, axis=1).repeat(4, axis=2)
    assert alignment.alignment(larger) == pytest.approx(alignment.alignment(images), abs=0.02)
    assert 0.4 < alignment.alignment(images) < 0.6


def test_an_uneven_light_aligns_nothing() -> None:
    """Twice as bright on one side as on the other, on fine noise."""
    light = np.linspace(0.7, 1.4, 256)[:, None]
    images = np.random.default_rng(0).normal(120, 40, (50, 256, 256, 3)) * light
    assert alignment.alignment(images.clip(0, 255).astype(np.uint8)) < alignment.ALIGNED / 4


@pytest.mark.parametrize(
    ("shift", "recipe", "separates"),
    [(4, CONTRAST, False), (64, CONTRAST, True), (64, dataclasses.replace(CONTRAST, objective="paper"), False)],
)
def test_when_the_separation_is_learned(tmp_path: Path, shift: int, recipe: Recipe, separates: bool) -> None:
    """Parts of one surface, at almost the same place of it or at any."""
    rng = np.random.default_rng(0)
    surface = gaussian_filter(rng.uniform(0, 255, (256, 256, 3)), (6, 6, 0), mode="wrap")
    surface = (127 + 40 * (surface - surface.mean()) / surface.std()).clip(0, 255).astype(np.uint8)
    for number in range(20):
        part = np.roll(surface, rng.integers(-shift, shift + 1, 2), (0, 1))[:128, :128]
        Image.fromarray(part).save(tmp_path / f"{number:02}.png")
    extract(tmp_path, tmp_path / "parts.zarr", ImageOptions(size=(128, 128)))
    assert begin(Store.open(tmp_path / "parts.zarr"), recipe).trainer.separates == separates
