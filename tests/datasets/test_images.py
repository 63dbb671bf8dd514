"""Finding, decoding, resizing and standardising image files."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from patchcli.datasets import images
from patchcli.errors import InputError

H, W = 40, 50


@pytest.fixture
def grey() -> np.ndarray:
    """A ramp (H, W) over all of uint8."""
    return np.linspace(0, 255, H * W).reshape(H, W).astype(np.uint8)


def assert_grey(pixels: np.ndarray, expected: np.ndarray) -> None:
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))


# ---- decode -------------------------------------------------------------------------------------------------------


def test_grey_is_replicated(tmp_path: Path, grey: np.ndarray) -> None:
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert_grey(images.Reader().read(tmp_path / "a.png"), grey)


def test_a_palette_is_resolved(tmp_path: Path) -> None:
    indices = np.zeros((H, W), np.uint8)
    indices[:, W // 2 :] = 1
    image = Image.fromarray(indices, "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png")
    pixels = images.Reader().read(tmp_path / "a.png")
    assert (pixels[:, : W // 2] == (10, 20, 30)).all()
    assert (pixels[:, W // 2 :] == (200, 100, 50)).all()


def test_a_transparent_palette_entry_is_black(tmp_path: Path) -> None:
    indices = np.zeros((H, W), np.uint8)
    indices[:, W // 2 :] = 1
    image = Image.fromarray(indices, "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=1)
    pixels = images.Reader().read(tmp_path / "a.png")
    assert (pixels[:, : W // 2] == (10, 20, 30)).all()
    assert (pixels[:, W // 2 :] == 0).all()


def test_transparent_pixels_lie_on_black(tmp_path: Path) -> None:
    rgba = np.full((H, W, 4), (200, 100, 50, 255), np.uint8)
    rgba[0, 0, 3] = 0
    rgba[0, 1, 3] = 128
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels = images.Reader().read(tmp_path / "a.png")
    assert pixels[0, 0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(pixels[0, 1], (100, 50, 25), atol=1)
    assert pixels[0, 2].tolist() == [200, 100, 50]


def test_grey_with_alpha_lies_on_black(tmp_path: Path, grey: np.ndarray) -> None:
    alpha = np.full((H, W), 255, np.uint8)
    alpha[H // 2 :] = 0
    Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha))).save(tmp_path / "a.png")
    assert_grey(images.Reader().read(tmp_path / "a.png"), np.where(alpha > 0, grey, 0))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda a: a), (2, np.fliplr), (3, lambda a: np.rot90(a, 2)), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)],
)
def test_exif_orientation_is_applied(tmp_path: Path, grey: np.ndarray, orientation: int, upright: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(grey).save(tmp_path / "a.png", exif=exif)
    assert_grey(images.Reader().read(tmp_path / "a.png"), upright(grey))


@pytest.mark.parametrize("name", ["a.webp", "a.bmp", "a.jpg", "a.JPEG", "a.tif", "a.tiff", "a.png"])
def test_formats(tmp_path: Path, name: str) -> None:
    y, x = np.mgrid[:H, :W]
    pixels = np.stack([x * 4, y * 5, x + y], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    np.testing.assert_allclose(images.Reader().read(tmp_path / name).astype(int), pixels, atol=16)  # JPEG and WebP lose some
    assert list(images.find(tmp_path, problem=pytest.fail)) == [tmp_path / name]


# ---- what decode refuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["broken.png", "broken.jpg", "broken.tif", "broken.bmp", "broken.webp"])
def test_a_truncated_file_is_named(tmp_path: Path, grey: np.ndarray, name: str) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=name):
        images.Reader().read(path)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(InputError, match=r"text\.png: cannot be decoded"):
        images.Reader().read(tmp_path / "text.png")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        images.Reader().read(tmp_path / "gone.png")


def test_floating_point_is_refused(tmp_path: Path, grey: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", grey / np.float32(255))
    with pytest.raises(InputError, match=r"a\.tif: expected an 8- or 16-bit image, found floating point"):
        images.Reader().read(tmp_path / "a.tif")


def test_32_bit_integers_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((H, W), 70_000, np.int32))
    with pytest.raises(InputError, match=r"a\.tif: expected an 8- or 16-bit image, found 32-bit integers"):
        images.Reader().read(tmp_path / "a.tif")


def test_an_image_smaller_than_a_patch_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    Image.new("RGB", (100, 31)).save(tmp_path / "b.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "c.png")
    with pytest.raises(InputError, match=r"a\.png: 20×20 pixels are smaller than a patch"):
        images.Reader().read(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"b\.png: 100×31 pixels"):
        images.Reader().read(tmp_path / "b.png")
    assert images.Reader().read(tmp_path / "c.png").shape == (32, 32, 3)


# ---- find ---------------------------------------------------------------------------------------------------------


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in images.find(root, problem=pytest.fail)]


def test_find_is_in_natural_order_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "img10.png", "img2.png", "img1.PNG", "sub10/1.jpg", "sub9/1.jpg", "sub9/0.jpg")
    assert found(tmp_path) == ["img1.PNG", "img2.png", "img10.png", "sub9/0.jpg", "sub9/1.jpg", "sub10/1.jpg"]


def test_find_passes_over_what_is_hidden_or_no_image(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "A.GIF", ".b.png", "._a.png", ".cache/c.png", "d.txt", "e", "f.png.part")
    (tmp_path / "folder.png").mkdir()
    assert found(tmp_path) == ["A.GIF", "a.png"]


def test_find_below_a_hidden_folder(tmp_path: Path) -> None:
    touch(tmp_path, ".data/a.png")
    assert found(tmp_path / ".data") == ["a.png"]


def test_find_takes_digits_that_are_no_decimals(tmp_path: Path) -> None:
    touch(tmp_path, "10²3.png", "9²3.png")
    assert found(tmp_path) == ["9²3.png", "10²3.png"]


# ---- size and scale -----------------------------------------------------------------------------------------------


def test_resize_takes_height_before_width_and_keeps_colours() -> None:
    pixels = np.zeros((H, W, 3), np.uint8)
    pixels[: H // 2], pixels[H // 2 :] = (10, 20, 30), (40, 50, 60)
    small = images.resize(pixels, 20, 64)
    assert small.shape == (20, 64, 3)
    assert small.dtype == np.uint8
    assert (small[0] == (10, 20, 30)).all()
    assert (small[-1] == (40, 50, 60)).all()


def test_resize_averages_what_it_shrinks() -> None:
    chequered = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = images.resize(np.repeat(chequered[..., None], 3, axis=2), 16, 16)
    assert np.abs(small.astype(int) - 127).max() <= 8


def test_resize_leaves_a_fitting_image_as_it_is(grey: np.ndarray) -> None:
    pixels = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(images.resize(pixels, H, W), pixels)


def test_resize_map_interpolates_linearly() -> None:
    values = np.tile(np.arange(8, dtype=np.float32), (4, 1))
    large = images.resize_map(values, 8, 16)
    assert large.shape == (8, 16)
    assert large.dtype == np.float32
    np.testing.assert_allclose(large[:, 1:-1], np.tile((np.arange(1, 15) + 0.5) / 2 - 0.5, (8, 1)), atol=1e-5)


def test_standardise_subtracts_the_mean_and_divides_by_255() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 5, 4, 3)).astype(np.uint8)
    mean = rng.uniform(0, 255, (5, 4, 3)).astype(np.float32)
    standard = images.standardise(pixels, mean)
    assert standard.shape == (2, 3, 5, 4)
    assert standard.dtype == np.float32
    for b, c, y, x in np.ndindex(standard.shape):
        assert standard[b, c, y, x] == pytest.approx((pixels[b, y, x, c] - mean[y, x, c]) / 255, abs=1e-6)


def test_a_written_png_is_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(np.uint8)
    images.write_png(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(images.Reader().read(tmp_path / "a.png"), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


# ---- size ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_size_is_that_of_the_decoded_image(tmp_path: Path, grey: np.ndarray, orientation: int | None) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(grey).save(tmp_path / "a.jpg", exif=exif)
    assert images.size(tmp_path / "a.jpg") == images.Reader().read(tmp_path / "a.jpg").shape[:2]


def test_size_of_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(InputError, match=r"a\.png: cannot be decoded"):
        images.size(tmp_path / "a.png")


# ---- maps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in ("a.tiff", "a.tif", "a.npy") for dtype in ("uint8", "uint16", "float32", "float64")]
    + [("a.png", "uint8"), ("a.png", "uint16")],
)
def test_maps_are_read_as_they_were_written(tmp_path: Path, grey: np.ndarray, name: str, dtype: str) -> None:
    values = grey.astype(dtype) * 3
    for shape in ((H, W), (1, H, W), (H, W, 1)):
        if name.endswith(".npy"):
            np.save(tmp_path / name, values.reshape(shape))
        elif name.endswith(".png"):
            Image.fromarray(values).save(tmp_path / name)
        else:
            tifffile.imwrite(tmp_path / name, values.reshape(shape), photometric="minisblack")
        read = images.read_map(tmp_path / name)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.zeros((H, W, 3)), "one number a pixel, found 40×50×3 of float64"),
        (np.zeros((0, W)), "one number a pixel, found 0×50"),
        (np.zeros((H, W), complex), "one number a pixel, found 40×50 of complex128"),
        (np.full((H, W), np.nan), "finite numbers"),
        (np.full((H, W), 1e300), "finite numbers"),
        (np.array([[None]]), "cannot be read"),
    ],
)
def test_what_is_no_map(tmp_path: Path, values: np.ndarray, found: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(InputError, match=found):
        images.read_map(tmp_path / "a.npy")


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "LA"])
def test_a_picture_of_a_map_is_no_map(tmp_path: Path, grey: np.ndarray, mode: str) -> None:
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="one number a pixel"):
        images.read_map(tmp_path / "a.png")
