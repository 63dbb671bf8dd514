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
from PIL import Image, PngImagePlugin

from patchcli import decoding, images
from patchcli.errors import InputError
from patchcli.images import Reader

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

    pieces = [
        b"".join(line(row) for row in plane[top : top + rows]) for plane in planes for top in range(0, height, rows)
    ]
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
    stored = np.ascontiguousarray(np.moveaxis(samples, 2, 0)) if planar else samples if samples.shape[2] > 1 else samples[..., 0]
    tifffile.imwrite(
        tmp_path / "a.tif", stored.astype(f"u{depth // 8}"), byteorder=byteorder, compression=compression, metadata=None,
        photometric={"grey": "minisblack", "white": "miniswhite"}.get(kind, "rgb"),
        planarconfig=None if samples.shape[2] == 1 else "separate" if planar else "contig",
        extrasamples=["unassalpha"] if alpha else None, extratags=[(274, 3, 1, orientation, True)],
        **{"tile": (16, 16)} if tiled else {"rowsperstrip": 7},
    )  # fmt: skip
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
    image.save(tmp_path / "a.tif", compression=compression)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tags = tiff.pages.first.tags
        tags[256].overwrite(W)
        tags[258].overwrite((16,) * channels if channels > 1 else 16)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages.first.bitspersample == 16
    if orientation != 1:
        pytest.skip("Pillow writes no orientation beside a compression that libtiff writes")
    alpha = samples[..., 3] if channels == 4 else None
    agree(tmp_path / "a.tif", Reader(16), expected(samples[..., :3], 65535, 1, 65535, False, alpha))
