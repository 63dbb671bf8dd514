"""A detector takes arrays, PIL images and paths alike, and says what it found."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from smallworld import World, save

import patchcli
from patchcli.datasets import images
from patchcli.datasets.arrays import to_pixels
from patchcli.datasets.images import Reader
from patchcli.detection import regions
from patchcli.errors import InputError
from patchcli.store import Store

IMAGE = "test/hole/000.png"


@pytest.fixture(scope="module")
def calibrated(made: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Path(shutil.copytree(made.store, tmp_path_factory.mktemp("calibrated") / "s.zarr"))
    patchcli.calibrate(store, "loo", false_alarms=0.3)
    return store


@pytest.fixture(scope="module")
def detector(calibrated: Path) -> patchcli.Detector:
    return patchcli.Detector.open(calibrated, device="cpu")


@pytest.fixture(scope="module")
def record(calibrated: Path) -> patchcli.Record:
    return next(record for record in patchcli.score(calibrated) if record.id == IMAGE)


def test_a_result_says_what_a_record_says(detector: patchcli.Detector, record: patchcli.Record, made: World) -> None:
    result = detector(made.data / IMAGE)
    assert (result.score, result.verdict, result.p_value) == (record.score, record.verdict, record.p_value)
    assert result.scores == {"big": record.score_big, "small": record.score_small}
    assert record.score_fixed is None
    assert result.peak == (record.peak_x, record.peak_y)
    assert result.patch == (record.patch_x, record.patch_y, record.patch_width, record.patch_height)
    assert result.nearest.image == record.nearest_image
    assert result.nearest.box == (record.nearest_x, record.nearest_y, record.nearest_width, record.nearest_height)
    assert result.regions == record.regions != []
    assert result.size == images.size(made.data / IMAGE) == result.map.shape
    assert result.map.dtype == np.float32
    threshold = Store.open(detector.path).calibration.thresholds.pixel_threshold
    assert result.regions == regions.find(result.map, threshold)


def test_every_form_of_an_image_gives_the_same(detector: patchcli.Detector, made: World) -> None:
    path = made.data / IMAGE
    expected = detector(path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
        forms = [str(path), picture, pixels, pixels[:, :, [0, 1, 2]].copy()]
        results = [*detector(forms), *(detector(form) for form in forms), *detector(np.stack([pixels, pixels]))]
    results += [detector(pixels / 255, full_scale=1.0), detector(pixels.astype(np.uint16) * 257, full_scale=65535)]
    for result in results:
        np.testing.assert_array_equal(result.map, expected.map)
        assert result.nearest == expected.nearest


def test_a_grey_array_is_three_equal_channels(detector: patchcli.Detector, made: World) -> None:
    grey = np.asarray(Image.open(made.data / IMAGE).convert("L"))
    np.testing.assert_array_equal(detector(grey).map, detector(np.stack([grey] * 3, axis=2)).map)


def test_embed_gives_the_features_of_the_grid(detector: patchcli.Detector, made: World) -> None:
    one, two = detector.embed(made.data / IMAGE), detector.embed([made.data / IMAGE] * 2)
    for scale, grid in detector.grids.items():
        assert one[scale].shape == (1, *grid.shape, detector.attributes.D)
        np.testing.assert_allclose(two[scale], np.concatenate([one[scale]] * 2), atol=1e-6)


def test_without_a_calibration_there_is_no_verdict(made: World) -> None:
    result = patchcli.Detector.open(made.store)(made.data / IMAGE)
    assert (result.verdict, result.p_value, result.regions) == (None, None, None)
    assert result.score > 0


def test_outside_of_the_region_of_interest_the_map_is_zero(calibrated: Path, made: World, tmp_path: Path) -> None:
    mask = np.zeros(images.size(made.data / IMAGE), np.uint8)
    mask[:, :60] = 255
    inside = patchcli.Detector.open(calibrated, roi=save(tmp_path / "roi.png", mask))
    result = inside(made.data / IMAGE)
    assert not result.map[:, 60:].any()
    assert result.map[:, :60].any()
    with pytest.raises(InputError, match="aspect ratio"):
        inside(np.zeros((200, 100), np.uint8))


def test_a_mask_of_any_kind_marks_the_region_of_interest(detector: patchcli.Detector, made: World) -> None:
    mask = np.zeros(images.size(made.data / IMAGE), bool)
    mask[:, :60] = True
    found = [
        patchcli.Detector.open(detector.path, roi=patchcli.Roi(Path("drawn"), values))(made.data / IMAGE)
        for values in (mask, mask.astype(np.uint8), mask * 255, mask * 0.5)
    ]
    assert len({(result.score, result.peak) for result in found}) == 1
    np.testing.assert_array_equal([result.map for result in found], [found[0].map] * 4)
    with pytest.raises(InputError, match=r"`mask`: expected a mask \(height, width\), found the shape"):
        patchcli.Roi(Path("drawn"), np.stack([mask] * 3, axis=2))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((200, 200), np.int32), "int32"),
        (np.zeros((200, 200), bool), "bool"),
        (np.zeros((5, 200), np.uint8), "200x5"),
        (np.zeros((200, 200, 4), np.uint8), r"\(200, 200, 4\)"),
        (np.zeros(200, np.uint8), r"\(200,\)"),
        (np.full((200, 200), 300, np.uint16), "300 to 300"),
        (Image.new("F", (200, 200)), "mode F"),
        ([], "one image or more"),
        (5, "int"),
        ([None], "NoneType"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_what_is_no_image_is_refused_by_name(detector: patchcli.Detector, image: object, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        detector(image)  # type: ignore[call-overload]
    assert isinstance(image, str) or error.value.parameter == "images"


@pytest.mark.parametrize("values", [np.ones((64, 64)), np.ones((64, 64), np.float16)])
def test_floating_point_needs_the_value_of_white(detector: patchcli.Detector, values: np.ndarray) -> None:
    with pytest.raises(InputError) as error:
        detector(values)
    assert error.value.parameter == "full_scale"
    for white in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError):
            detector(values, full_scale=white)
    for wrong in (values * 2, -values, values * np.nan):
        with pytest.raises(InputError, match="values from 0 to 1"):
            detector(wrong, full_scale=1.0)


def test_files_and_pictures_say_themselves_what_is_white(detector: patchcli.Detector, made: World) -> None:
    with Image.open(made.data / IMAGE) as picture:
        for image in (picture, made.data / IMAGE, str(made.data / IMAGE)):
            with pytest.raises(InputError, match="`full_scale`: expected arrays"):
                detector(image, full_scale=127)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f8", ">u2", "<u2", "u1"])
@pytest.mark.parametrize("white", [1.0, 255.0, 40000.0, 1e6, 2.0**40])
def test_an_array_of_any_kind_is_scaled(bits: int, kind: str, white: float) -> None:
    """Whatever its precision, byte order and value of white."""
    share = np.linspace(0, 1, 50 * 60).reshape(50, 60)
    largest = np.iinfo(kind).max if kind[-2] == "u" else np.finfo(kind).max
    values = (share * min(white, float(largest))).astype(kind)
    top = 255 if bits == 8 else 65535
    expected = values.astype(np.float64) * top / white
    pixels = to_pixels(values, Reader(bits), white)
    assert pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.abs(pixels[..., 0] - expected).max() < 0.51  # float32 has 24 bits


@settings(max_examples=50)
@given(bits=st.sampled_from([8, 10, 12, 16]), seed=st.integers(0, 1000))
def test_an_array_is_scaled_as_its_file_would_be(tmp_path_factory: pytest.TempPathFactory, bits: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, (40, 50)).astype(np.uint16)
    path = save(tmp_path_factory.mktemp("deep") / "a.png", values)
    reader = Reader(bits)
    np.testing.assert_array_equal(to_pixels(values, reader), reader.read(path))
    with Image.open(path) as picture:
        np.testing.assert_array_equal(to_pixels(picture, reader), reader.read(path))


def test_a_notebook_shows_map_and_score(detector: patchcli.Detector, made: World) -> None:
    result = detector(made.data / IMAGE)
    shown = result._repr_html_()
    assert "data:image/webp;base64," in shown
    assert f"score {result.score:.4g}, {result.verdict}" in shown
    assert repr(result).startswith(f"Result(score={result.score:.6g}, verdict='reject'")
