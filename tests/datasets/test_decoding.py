"""Decoding: every file against a reference that is computed from the samples that were written, never from a decoder."""

import io
import itertools
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from patchcli.datasets import decoding, images
from patchcli.datasets.images import Reader
from patchcli.errors import InputError

H, W = 40, 50


# ---- the reference --------------------------------------------------------------------------------------------------


def place(orientation: int, y: int, x: int, height: int, width: int) -> tuple[int, int]:
    """Where row y, column x of what is stored is shown; TIFF 6.0, Orientation: where row 0 and column 0 are."""
    return {
        1: (y, x), 2: (y, width - 1 - x), 3: (height - 1 - y, width - 1 - x), 4: (height - 1 - y, x),
        5: (x, y), 6: (x, height - 1 - y), 7: (width - 1 - x, height - 1 - y), 8: (width - 1 - x, y),
    }[orientation]  # fmt: skip


def expected(
    stored: np.ndarray, full: int, orientation: int, top: int, white: bool = False, alpha: np.ndarray | None = None
) -> np.ndarray:
    """Pixels of stored samples (H, W, 1 or 3) of 0 to `full`, on a scale of 0 to `top`; float."""
    values = stored.astype(float)
    if white:
        values = full - values
    if alpha is not None and alpha.min() != alpha.max():
        values = np.floor(values * alpha[..., None] / full + 0.5)
    values = np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values
    height, width = values.shape[:2]
    upright = np.empty((width, height, 3) if orientation > 4 else (height, width, 3))
    for y, x in itertools.product(range(height), range(width)):
        upright[place(orientation, y, x, height, width)] = values[y, x]
    return upright * top / full


def agree(path: Path, reader: Reader, wanted: np.ndarray) -> None:
    pixels = reader.read(path)
    assert pixels.dtype == reader.dtype
    assert images.size(path) == pixels.shape[:2]
    assert pixels.shape == wanted.shape
    np.testing.assert_allclose(pixels, wanted, atol=0.5 + 1e-6)


# ---- writers --------------------------------------------------------------------------------------------------------


def png_bytes(samples: np.ndarray, depth: int, chunks: list[tuple[bytes, bytes]] = [], filtered: int = 0) -> bytes:  # noqa: B006
    """A PNG file of samples (H, W, 1 to 4) with 8 or 16 bits; each line with the filter Sub where `filtered` is 1."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = samples.shape
    lines = samples.astype(">u2" if depth == 16 else "u1").reshape(height, -1).view(np.uint8)
    if filtered:
        back = channels * depth // 8
        lines = np.concatenate([lines[:, :back], lines[:, back:] - lines[:, :-back]], axis=1)
    raw = b"".join(bytes([filtered]) + line.tobytes() for line in lines)
    header = struct.pack(">IIBBBBB", width, height, depth, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[274] = orientation
    return tags.tobytes()[6:]


def packed_tiff(samples: np.ndarray, bits: int, orientation: int, white: bool, planar: bool, rows: int) -> bytes:
    """An uncompressed TIFF file of samples (H, W, 1 or 3) whose bits follow each other, rows begin at bytes."""
    height, width, channels = samples.shape
    planes = np.moveaxis(samples, 2, 0)[..., None] if planar else samples[None]

    def line(values: np.ndarray) -> bytes:
        text = "".join(f"{value:0{bits}b}" for value in values.ravel())
        return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8))

    pieces = [b"".join(line(row) for row in plane[top : top + rows]) for plane in planes for top in range(0, height, rows)]
    count, entries = len(pieces), 11
    start = 8 + 2 + 12 * entries + 4
    extra = struct.pack(f"<{channels}H", *[bits] * channels)
    lists = start + len(extra)
    data = lists + 8 * count
    offsets = [data + sum(map(len, pieces[:n])) for n in range(count)]

    def entry(tag: int, kind: int, number: int, value: int) -> bytes:
        return struct.pack("<HHII" if kind == 4 else "<HHIHxx", tag, kind, number, value)

    def many(tag: int, at: int, values: list[int]) -> bytes:
        return entry(tag, 4, count, values[0] if count == 1 else at)

    sizes = [len(piece) for piece in pieces]
    bits_entry = struct.pack("<HHII", 258, 3, channels, start) if channels > 2 else entry(258, 3, 1, bits)
    head = [
        entry(256, 4, 1, width), entry(257, 4, 1, height), bits_entry, entry(259, 3, 1, 1),
        entry(262, 3, 1, 2 if channels == 3 else 0 if white else 1), many(273, lists, offsets),
        entry(274, 3, 1, orientation), entry(277, 3, 1, channels), entry(278, 4, 1, rows), many(279, lists + 4 * count, sizes),
        entry(284, 3, 1, 2 if planar else 1),
    ]  # fmt: skip
    return b"".join([
        b"II*\0", struct.pack("<IH", 8, entries), *head, b"\0" * 4, extra, struct.pack(f"<{count}I", *offsets),
        struct.pack(f"<{count}I", *sizes), *pieces,
    ])  # fmt: skip


EVERY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ORIENTATIONS = st.integers(1, 8)
SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int, full: int, channels: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, full, (H, W, channels), endpoint=True)


# ---- TIFF -----------------------------------------------------------------------------------------------------------


@EVERY
@given(
    seed=SEEDS, depth=st.sampled_from([8, 16]), used=st.sampled_from([8, 10, 12, 14, 16]),
    kind=st.sampled_from(["grey", "white", "rgb", "planar"]), orientation=ORIENTATIONS, alpha=st.booleans(),
    byteorder=st.sampled_from("<>"), compression=st.sampled_from([None, "zlib"]), tiled=st.booleans(),
)  # fmt: skip
def test_tiff(tmp_path, seed, depth, used, kind, orientation, alpha, byteorder, compression, tiled) -> None:
    bits = 8 if depth == 8 else used
    full = 2**bits - 1
    colours = 1 if kind in ("grey", "white") else 3
    alpha = alpha and bits == depth and kind != "white"
    samples = drawn(seed, full, colours + alpha)
    planar = kind == "planar"
    stored = np.ascontiguousarray(np.moveaxis(samples, 2, 0)) if planar else samples.squeeze()
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored.astype(f"u{depth // 8}"),
        byteorder=byteorder,
        compression=compression,
        metadata=None,
        photometric={"grey": "minisblack", "white": "miniswhite"}.get(kind, "rgb"),
        planarconfig=None if samples.shape[2] == 1 else "separate" if planar else "contig",
        extrasamples=["unassalpha"] if alpha else None,
        extratags=[(274, 3, 1, orientation, True)],
        **{"tile": (16, 16)} if tiled else {"rowsperstrip": 7},
    )
    opacity = samples[..., colours] if alpha else None
    top = 255 if bits == 8 else 65535
    wanted = expected(samples[..., :colours], full, orientation, top, kind == "white", opacity)
    agree(tmp_path / "a.tif", Reader(bits), wanted)


@EVERY
@given(
    seed=SEEDS, bits=st.sampled_from([10, 12, 14]), orientation=ORIENTATIONS, rgb=st.booleans(), planar=st.booleans(),
    white=st.booleans(), rows=st.sampled_from([7, H]), reader=st.sampled_from([8, 12, 16]),
)  # fmt: skip
def test_packed_tiff_has_its_own_depth(tmp_path, seed, bits, orientation, rgb, planar, white, rows, reader) -> None:
    white, planar = white and not rgb, planar and rgb
    samples = drawn(seed, 2**bits - 1, 3 if rgb else 1)
    (tmp_path / "a.tif").write_bytes(packed_tiff(samples, bits, orientation, white, planar, rows))
    top = 255 if reader == 8 else 65535
    agree(tmp_path / "a.tif", Reader(reader), expected(samples, 2**bits - 1, orientation, top, white))
    assert images.Depth.of([(decoding.head(tmp_path / "a.tif"), lambda: pytest.fail("not needed"))]).bits == bits


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits"])
def test_compressed_16_bit_tiff(tmp_path: Path, compression: str, channels: int, orientation: int) -> None:
    """Written by Pillow in its bytes, as an image of 8 bits twice as wide, and declared to be of 16."""
    samples = drawn(orientation, 65535, channels)
    mode, width = {1: ("L", 2 * W), 3: ("RGB", 2 * W), 4: ("RGBA", 2 * W)}[channels]
    image = Image.frombytes(mode, (width, H), samples.astype("<u2").tobytes())
    image.save(tmp_path / "a.tif", compression=compression, tiffinfo={274: orientation})
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tags = tiff.pages.first.tags
        tags[256].overwrite(W)
        tags[258].overwrite((16,) * channels if channels > 1 else 16)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages.first.bitspersample == 16
    alpha = samples[..., 3] if channels == 4 else None
    agree(tmp_path / "a.tif", Reader(16), expected(samples[..., :3], 65535, orientation, 65535, False, alpha))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_inside_a_tiff(tmp_path: Path, orientation: int) -> None:
    """libtiff turns such files by itself where it is let."""
    y, x = np.mgrid[:H, :W]
    samples = np.stack([x * 4, y * 5, x + y], axis=-1).astype(np.uint8)
    Image.fromarray(samples).save(tmp_path / "a.tif", compression="jpeg", tiffinfo={274: orientation}, quality=95)
    wanted = expected(samples, 255, orientation, 255)
    pixels = images.Reader().read(tmp_path / "a.tif")
    assert images.size(tmp_path / "a.tif") == pixels.shape[:2] == wanted.shape[:2]
    assert np.abs(pixels - wanted).mean() < 8
    assert decoding.head(tmp_path / "a.tif").lossy


@pytest.mark.parametrize(
    ("dtype", "found"),
    [("float32", "floating point"), ("int16", "16-bit integers from -"), ("uint32", "32-bit integers from 0")],
)
def test_what_tiff_holds_and_pixels_cannot(tmp_path: Path, dtype: str, found: str) -> None:
    values = np.linspace(-9 if dtype == "int16" else 0, 2**20 if dtype == "uint32" else 9, H * W).reshape(H, W)
    tifffile.imwrite(tmp_path / "a.tif", values.astype(dtype))
    with pytest.raises(InputError, match=found):
        images.Reader().read(tmp_path / "a.tif")


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_tiff_is_named(tmp_path: Path, keep: float, packed: bool) -> None:
    samples = drawn(0, 4095, 1)
    tifffile.imwrite(tmp_path / "a.tif", samples[..., 0].astype(np.uint16), rowsperstrip=7)
    whole = packed_tiff(samples, 12, 1, False, False, 7) if packed else (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(InputError, match=r"a\.tif: cannot be decoded"):
        Reader(12).read(tmp_path / "a.tif")


# ---- PNG and JPEG ---------------------------------------------------------------------------------------------------


@EVERY
@given(
    seed=SEEDS, depth=st.sampled_from([8, 16]), used=st.sampled_from([8, 10, 12, 14, 16]), channels=st.integers(1, 4),
    orientation=ORIENTATIONS, filtered=st.integers(0, 1), named=st.booleans(),
)  # fmt: skip
def test_png(tmp_path, seed, depth, used, channels, orientation, filtered, named) -> None:
    bits = 8 if depth == 8 else used if channels in (1, 3) else 16
    samples = drawn(seed, 2**bits - 1, channels)
    chunks = [(b"eXIf", exif(orientation))] if orientation > 1 else []
    if named:
        chunks.append((b"tEXt", b"Comment\0" + b"x" * 5_000_000))  # Pillow refuses more than a megabyte
    (tmp_path / "a.png").write_bytes(png_bytes(samples, depth, chunks, filtered))
    colours = channels - (channels % 2 == 0)
    alpha = samples[..., -1] if channels % 2 == 0 else None
    wanted = expected(samples[..., :colours], 2**bits - 1, orientation, 255 if bits == 8 else 65535, False, alpha)
    agree(tmp_path / "a.png", Reader(bits), wanted)


@pytest.mark.parametrize("packed", [False, True])
def test_a_compressed_text_of_a_png(tmp_path: Path, packed: bool) -> None:
    text = zlib.compress(b"x" * 9_000_000) if packed else b"no stream"
    (tmp_path / "a.png").write_bytes(png_bytes(drawn(0, 255, 3), 8, [(b"zTXt", b"Comment\0\0" + text)]))
    np.testing.assert_array_equal(images.Reader().read(tmp_path / "a.png"), drawn(0, 255, 3))


@pytest.mark.parametrize(("samples", "key"), [(1, 700), (3, (700, 800, 900))])
def test_a_transparent_colour_of_a_16_bit_png(tmp_path: Path, samples: int, key: object) -> None:
    values = np.full((H, W, samples), 40_000)
    values[:9], values[9:20, :, 0] = key, 40_001
    (tmp_path / "a.png").write_bytes(png_bytes(values, 16, [(b"tRNS", np.array(key, ">u2").tobytes())]))
    pixels = Reader(16).read(tmp_path / "a.png")
    assert (pixels[:9] == 0).all()
    np.testing.assert_array_equal(pixels[9:], np.broadcast_to(values[9:], (H - 9, W, 3)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_of_a_jpeg(tmp_path: Path, orientation: int) -> None:
    y, x = np.mgrid[:H, :W]
    samples = np.stack([x * 4, y * 5, x + y], axis=-1).astype(np.uint8)
    tags = Image.Exif()
    tags[274] = orientation
    Image.fromarray(samples).save(tmp_path / "a.jpg", quality=95, exif=tags)
    wanted = expected(samples, 255, orientation, 255)
    assert images.size(tmp_path / "a.jpg") == wanted.shape[:2]
    assert np.abs(images.Reader().read(tmp_path / "a.jpg") - wanted).mean() < 8


# ---- alpha, pages, frames, limits -----------------------------------------------------------------------------------


def remarked(path: Path, reader: Reader = Reader()) -> list[str]:  # noqa: B008
    told: list[str] = []
    reader.read(path, lambda _, line: told.append(line))
    return told


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("opacity", [0, 1, 100])
def test_an_alpha_that_is_the_same_everywhere_is_ignored(tmp_path: Path, depth: int, opacity: int) -> None:
    samples = drawn(0, 2**depth - 1, 4)
    samples[..., 3] = opacity
    (tmp_path / "a.png").write_bytes(png_bytes(samples, depth))
    np.testing.assert_array_equal(Reader(depth).read(tmp_path / "a.png"), samples[..., :3])
    assert remarked(tmp_path / "a.png", Reader(depth)) == ["transparent everywhere; its alpha is ignored"] * (opacity == 0)


@pytest.mark.parametrize("depth", [8, 16])
def test_the_largest_page_of_a_tiff(tmp_path: Path, depth: int) -> None:
    pages = [np.full(size, number, f"u{depth // 8}") for number, size in enumerate([(32, 32), (60, 50), (60, 50), (40, 40)], 1)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for page in pages:
            tiff.write(page, photometric="minisblack", metadata=None)
    pixels = Reader(depth).read(tmp_path / "a.tif")
    assert pixels.shape == (60, 50, 3) == (*images.size(tmp_path / "a.tif"), 3)
    assert (pixels == 2).all()
    assert remarked(tmp_path / "a.tif", Reader(depth)) == ["4 pages; only page 2, the largest, is read"]


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif"])
def test_the_first_frame_of_an_animation(tmp_path: Path, name: str) -> None:
    first, *others = (Image.new("RGB", (W, H), colour) for colour in ("red", "lime", "blue"))
    options = {"lossless": True} if name == "a.webp" else {}
    first.save(tmp_path / name, save_all=True, append_images=others, duration=100, **options)
    (tmp_path / name).rename(tmp_path / "b.png")
    assert (images.Reader().read(tmp_path / "b.png") == (255, 0, 0)).all()
    assert remarked(tmp_path / "b.png") == ["an animation of 3 frames; the first is read"]


def test_an_image_over_the_limit_is_read_when_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LIMIT", H * W - 1)
    for name in ("a.png", "a.tif", "a.jpg"):
        Image.new("RGB", (W, H), "red").save(tmp_path / name)
        with pytest.raises(InputError, match="give `large`"):
            images.Reader().read(tmp_path / name)
        assert Reader(large=True).read(tmp_path / name).shape == (H, W, 3)


def test_pillows_own_limit_is_not_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for name in ("a.png", "a.tif", "a.jpg", "a.bmp", "b.tif"):
        Image.new("RGB", (W, H), "red").save(tmp_path / name, compression="tiff_lzw" if name == "b.tif" else None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert images.Reader().read(tmp_path / name).shape == (H, W, 3)


def test_names_that_libraries_take_for_something_else(tmp_path: Path) -> None:
    for name in ("[0].png", "a?b.tif", "http:x.png", "-.jpg", "a\nb.png", "%d.tif"):
        Image.new("RGB", (W, H), "red").save(io.BytesIO(), "png")
        Image.new("RGB", (W, H), "red").save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(tmp_path / name)
        assert images.Reader().read(tmp_path / name).shape == (H, W, 3)


# ---- depth ----------------------------------------------------------------------------------------------------------


def grey16(path: Path, highest: int, **tags: object) -> Path:
    values = np.linspace(0, highest, H * W).reshape(H, W).astype(np.uint16)
    tifffile.imwrite(path, values, metadata=None, **tags)
    return path


@pytest.mark.parametrize(
    ("highest", "bits"),
    [(0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16383, 14), (16384, 16), (65535, 16)],
)
def test_depth_is_what_the_values_need(tmp_path: Path, highest: int, bits: int) -> None:
    paths = [grey16(tmp_path / "a.tif", min(highest, 30)), grey16(tmp_path / "b.tif", highest)]
    found = images.Depth.of((decoding.head(path), lambda path=path: decoding.read(path).highest) for path in paths)
    assert (found.bits, found.stated, found.highest) == (bits, False, highest)


def test_depth_is_what_the_files_declare(tmp_path: Path) -> None:
    tiff = grey16(tmp_path / "a.tif", 300, extratags=[(281, 3, 1, 4095, True)])
    (tmp_path / "a.png").write_bytes(png_bytes(drawn(0, 300, 1), 16, [(b"sBIT", bytes([12]))]))
    (tmp_path / "b.png").write_bytes(png_bytes(drawn(0, 65535, 1), 16, [(b"sBIT", bytes([12]))]))
    for path, bits in ((tiff, 12), (tmp_path / "a.png", 12), (tmp_path / "b.png", 16)):
        assert decoding.head(path).declared == 12
        found = images.Depth.of([(decoding.head(path), lambda path=path: decoding.read(path).highest)])
        assert (found.bits, found.stated) == (bits, True)


def test_values_above_the_depth_are_refused_not_clipped(tmp_path: Path) -> None:
    path = grey16(tmp_path / "a.tif", 1024)
    with pytest.raises(InputError, match=r"a\.tif: expected values up to 1023 \(the good images have 10 bits\), found 1024"):
        Reader(10).read(path)
    assert Reader(12).read(path).max() == round(1024 * 65535 / 4095)


def test_8_bit_files_of_a_deep_data_set_are_scaled(tmp_path: Path) -> None:
    samples = drawn(0, 255, 3).astype(np.uint8)
    Image.fromarray(samples).save(tmp_path / "a.png")
    np.testing.assert_array_equal(Reader(12).read(tmp_path / "a.png"), samples.astype(np.uint16) * 257)


def test_deep_and_shallow_pixels_of_one_picture_are_one_to_all_that_follows() -> None:
    samples = drawn(0, 255, 3).astype(np.uint8)
    deep = samples.astype(np.uint16) * 257
    np.testing.assert_array_equal(images.shown(deep), samples)
    mean = np.full((H, W, 3), 100, np.float32)
    np.testing.assert_allclose(images.standardise(deep[None], mean), images.standardise(samples[None], mean), atol=1e-6)
    smooth = np.sin(np.arange(H * W).reshape(H, W, 1) / 300 + np.arange(3)) * 100 + 128
    small = images.resize((smooth * 257).astype(np.uint16), 33, 47)
    assert small.dtype == np.uint16
    assert np.abs(images.levels(small) - images.resize(smooth.astype(np.uint8), 33, 47)).mean() <= 1
    black = np.zeros((H, W, 3), np.uint16)
    black[:, W // 2 :] = 65535
    assert {*images.resize(black, 20, 20)[0, :, 0][[0, -1]]} == {0, 65535}
    for pixels in (samples, deep):
        standard = images.standardise(pixels[None], mean)[0]
        np.testing.assert_array_equal(images.pixels_of(standard, mean, pixels.dtype.name), pixels)


@pytest.mark.parametrize("to", [(20, 64), (64, 20), (400, 300), (7, 50), (40, 9)])
@pytest.mark.parametrize("strip", [64, 1000])
def test_resizing_in_strips_is_resizing(monkeypatch: pytest.MonkeyPatch, to: tuple[int, int], strip: int) -> None:
    """Pillow takes one of the two directions first, and rounds between them."""
    y, x = np.mgrid[:H, :W]
    samples = np.stack([x * 4, y * 5, x + y], axis=-1).astype(np.uint8)
    values = drawn(1, 255, 1)[..., 0].astype(np.float32)
    at_once = images.resize(samples, *to), images.resize_map(values, *to)
    monkeypatch.setattr(decoding, "STRIP", strip)
    assert np.abs(images.resize(samples, *to).astype(int) - at_once[0]).max() <= 1
    np.testing.assert_allclose(images.resize_map(values, *to), at_once[1], rtol=1e-5)
