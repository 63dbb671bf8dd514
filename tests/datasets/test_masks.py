"""Masks: what is a defect, by one rule for a data set."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from patchcli.datasets.masks import HALF, Rule
from patchcli.datasets.roi import Roi
from patchcli.errors import InputError

H, W = 60, 80


def written(path: Path, values: np.ndarray) -> Path:
    if path.suffix == ".tif":
        tifffile.imwrite(path, values, metadata=None)
    else:
        Image.fromarray(values).save(path)
    return path


def disc(radius: float = 15, supersampled: int = 8) -> np.ndarray:
    """Share of each pixel (H, W) that is inside a circle."""
    n = supersampled
    y, x = (np.indices((H * n, W * n)) + 0.5) / n
    inside = np.hypot(y - H / 2, x - W / 2) < radius
    return inside.reshape(H, n, W, n).mean((1, 3))


def read(*paths: Path, **options: object) -> list[np.ndarray]:
    rule = Rule.of(paths, **options)
    return [rule.read(path) for path in paths]


EVERY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@EVERY
@given(
    labels=st.lists(st.integers(1, 255), min_size=1, max_size=6, unique=True), suffix=st.sampled_from([".png", ".tif", ".bmp"]),
    void=st.booleans(),
)  # fmt: skip
def test_labels_of_a_data_set(tmp_path: Path, labels: list[int], suffix: str, void: bool) -> None:
    """All but 0 is a defect, whichever of the labels a file has, and however bright the others are."""
    paths, truth = [], []
    for number, label in enumerate(labels):
        values = np.zeros((H, W), np.uint8)
        values[10:20, 10 + number : 30] = label
        values[30:40, 5:9] = labels[0]
        if void:
            values[8:10, 8:32] = 255
        paths.append(written(tmp_path / f"{number}{suffix}", values))
        truth.append(values > 0)
    for mask, wanted in zip(read(*paths), truth, strict=True):
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize("high", [1, 2, 100, 128, 254, 255])
def test_masks_of_two_values(tmp_path: Path, high: int) -> None:
    """Single pixels too: there is nothing to tell edges by, and nothing that would be one."""
    values = np.eye(H, W, dtype=np.uint8) * high
    (mask,) = read(written(tmp_path / "m.png", values))
    np.testing.assert_array_equal(mask, values > 0)


@pytest.mark.parametrize("supersampled", [2, 8])
def test_antialiased_edges_count_above_half(tmp_path: Path, supersampled: int) -> None:
    share = disc(supersampled=supersampled)
    values = (share * 255).round().astype(np.uint8)
    assert len(np.unique(values)) > 3
    (mask,) = read(written(tmp_path / "m.png", values))
    np.testing.assert_array_equal(mask, values > HALF)


def test_the_masks_of_mvtec_ad(tmp_path: Path) -> None:
    """0 and 255, and here and there an edge: as `grey > 128`."""
    edged = (disc() * 255).round().astype(np.uint8)
    hard = np.where(disc(9) > 0.5, 255, 0).astype(np.uint8)
    for values in ([hard], [hard, edged], [edged]):
        paths = [written(tmp_path / f"{n}.png", one) for n, one in enumerate(values)]
        for mask, one in zip(read(*paths), values, strict=True):
            np.testing.assert_array_equal(mask, one > 128)


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_compression_noise_is_no_defect(tmp_path: Path, quality: int, suffix: str) -> None:
    """The last: a JPEG that was saved as PNG."""
    truth = disc() > 0.5
    Image.fromarray(np.where(truth, 255, 0).astype(np.uint8)).save(tmp_path / "m.jpg", quality=quality)
    if suffix == ".webp":
        Image.fromarray(np.where(truth, 255, 0).astype(np.uint8)).save(tmp_path / "m.webp", quality=quality)
    elif suffix == ".png":
        Image.open(tmp_path / "m.jpg").save(tmp_path / "m.png")
    (mask,) = read(tmp_path / f"m{suffix}")
    assert (mask != truth).sum() <= 0.03 * truth.sum()
    roi = Roi.read(tmp_path / f"m{suffix}").mask
    np.testing.assert_array_equal(roi, mask)


def test_a_lossless_webp_may_hold_labels(tmp_path: Path) -> None:
    values = np.zeros((H, W, 3), np.uint8)
    values[9:20, 9:20] = 3
    Image.fromarray(values).save(tmp_path / "m.webp", lossless=True)
    (mask,) = read(tmp_path / "m.webp")
    np.testing.assert_array_equal(mask, values[..., 0] > 0)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "uint32"])
@pytest.mark.parametrize("label", [1, 300, 65535])
def test_labels_of_more_than_8_bits(tmp_path: Path, dtype: str, label: int) -> None:
    values = np.zeros((H, W), dtype)
    values[9:20, 9:20], values[30:40, 9:20] = label, 2
    (mask,) = read(written(tmp_path / "m.tif", values))
    np.testing.assert_array_equal(mask, values > 0)


@pytest.mark.parametrize(
    ("palette", "good"),
    [
        ([0, 0, 0, 128, 0, 0, 0, 128, 0], 0),  # as VOC has it
        ([0, 0, 0] * 3, 0),  # labels without colours
        ([255, 255, 255, 0, 0, 0, 90, 90, 90], 1),  # greys in another order
        ([255, 0, 0, 0, 0, 0, 0, 255, 0], 1),
        ([20, 20, 60, 200, 100, 50, 90, 90, 0], 0),
    ],
)
def test_a_palette(tmp_path: Path, palette: list[int], good: int) -> None:
    indices = np.zeros((H, W), np.uint8)
    indices[:, 20:40], indices[:, 40:] = 1, 2
    image = Image.fromarray(indices)
    image.putpalette(palette)
    assert image.mode == "P"
    image.save(tmp_path / "m.png")
    (mask,) = read(tmp_path / "m.png")
    np.testing.assert_array_equal(mask, indices != good)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_lies_as_its_image_does(tmp_path: Path, orientation: int) -> None:
    values = np.zeros((H, W), np.uint8)
    values[:9, :20] = 255
    tags = Image.Exif()
    tags[274] = orientation
    Image.fromarray(values).save(tmp_path / "m.png", exif=tags)
    tifffile.imwrite(tmp_path / "m.tif", values, metadata=None, extratags=[(274, 3, 1, orientation, True)])
    top, left = {1: (1, 1), 2: (1, 0), 3: (0, 0), 4: (0, 1), 5: (1, 1), 6: (1, 0), 7: (0, 0), 8: (0, 1)}[orientation]
    for name in ("m.png", "m.tif"):
        for mask in (*read(tmp_path / name), Roi.read(tmp_path / name).mask):
            assert mask.shape == ((W, H) if orientation > 4 else (H, W))
            assert mask[0 if top else -1, 0 if left else -1]
            assert mask.sum() == 9 * 20


def test_a_threshold_that_is_stated_is_that_of_all_files(tmp_path: Path) -> None:
    values = np.tile(np.arange(80, dtype=np.uint8), (H, 1))
    for name in ("m.png", "m.bmp"):
        for threshold in (0, 3, 70):
            (mask,) = read(written(tmp_path / name, values), stated=threshold)
            np.testing.assert_array_equal(mask, values > threshold)
    assert Rule.of([], 5).read(tmp_path / "m.png", labels=True).sum() == (values > 5).sum()
    with pytest.raises(InputError, match="`mask_threshold`: expected 0 or more, found -1"):
        Rule.of([], -1)


def test_labels_that_are_known_to_be_some(tmp_path: Path) -> None:
    values = np.tile(np.arange(80, dtype=np.uint8), (H, 1))
    np.testing.assert_array_equal(Rule(HALF).read(written(tmp_path / "m.png", values), labels=True), values > 0)


def test_a_mask_without_a_good_pixel_is_named(tmp_path: Path) -> None:
    values = np.full((H, W), 127, np.uint8)
    values[9:20, 9:20] = 200
    with pytest.raises(InputError, match=r"m\.png: expected 0 where .* from 127 to 200; give `mask_threshold`"):
        read(written(tmp_path / "m.png", values))
    assert read(tmp_path / "m.png", stated=128)[0].sum() == 121
    assert read(written(tmp_path / "all.png", values * 0 + 255))[0].all()


def test_a_one_bit_mask_and_an_empty_one(tmp_path: Path) -> None:
    defect = np.eye(40, dtype=bool)
    np.testing.assert_array_equal(read(written(tmp_path / "m.png", defect))[0], defect)
    assert not read(written(tmp_path / "m.png", np.zeros((H, W), np.uint8)))[0].any()


def test_an_unreadable_mask_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_text("not an image")
    with pytest.raises(InputError, match=r"m\.png: mask cannot be decoded"):
        read(tmp_path / "m.png")
