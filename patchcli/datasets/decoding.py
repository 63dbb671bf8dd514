"""Image files → their samples, upright: the one place that decides bit depth, colour, layout, alpha, page and orientation.

Pillow decodes what has up to 8 bits a sample; of deeper colour it would keep the high byte alone. Deeper TIFF is read by
tifffile. Files are opened here, by file object, so a name may be anything. Libraries' warnings and logs are silenced.
"""

import contextlib
import io
import logging
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import BmpImagePlugin, ExifTags, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL import WebPImagePlugin as WebP

from patchcli import files
from patchcli.errors import InputError

LIMIT = 178_000_000  # pixels; a larger picture may be a trap of a few bytes, so it is read only when told to
LONG = 1 << 18  # bytes of a text in a PNG file
STRIP = 1 << 22  # pixels that are converted at a time, so that a large picture is in memory once

warnings.filterwarnings("ignore", module=r"PIL\.")
for _library in ("PIL", "tifffile"):
    logging.getLogger(_library).addHandler(logging.NullHandler())  # or the last resort writes to standard error

Array = NDArray[Any]

_EXPECTED = "expected an 8- or 16-bit image"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TURNS: dict[int, Callable[[Array], Array]] = {  # EXIF's and TIFF's orientation: stored (H, W, …) → upright
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@dataclass(frozen=True)
class Head:
    """What a file says before its pixels."""

    height: int  # upright
    width: int
    bits: int  # of a sample: 8 (for 1 to 8), 9 to 15 where they are packed, or 16, of which fewer may be in use
    declared: int | None  # how many of 16 bits are in use, where the file says so
    orientation: int  # 1 to 8, of EXIF or TIFF
    lossy: bool
    remark: str | None  # what of the file is not read


@dataclass(frozen=True)
class Samples:
    """A file's content: upright, palette resolved, transparent parts on black."""

    head: Head
    values: Array  # (H, W) or (H, W, 3), uint8 or uint16; of labels any integers
    inverted: bool  # 16-bit values where 0 is white
    remarks: list[str]

    @property
    def highest(self) -> int:
        """The highest value as it is stored."""
        return int(self.values.max())


def head(path: Path) -> Head:
    """Size, depth and orientation, from the head of a file. Raises InputError where it is no image."""
    with _opened(path) as file:
        return file.head


def read(path: Path, large: bool = False, labels: bool = False, file: BinaryIO | None = None) -> Samples:
    """Decode a file, or what is open of it as `file`. With `labels`, of a palette its labels, and integers of any width.

    Raises InputError where it cannot be decoded, or has more than LIMIT pixels and is not said to be `large`.
    """
    with _opened(path, file) as opened:
        head = opened.head
        if head.height * head.width > LIMIT and not large:
            size = f"{head.width}×{head.height} pixels are more than {LIMIT / 1e6:.0f} megapixels"
            raise InputError(size, subject=path, advice="if that is right, give `large`")
        values, inverted, remark = opened.samples(labels)
        remarks = [remark for remark in (head.remark, remark) if remark]
        return Samples(head, values, inverted, remarks)


class _Pillow:
    """A file that Pillow decodes."""

    def __init__(self, file: BinaryIO, kind: str) -> None:
        self._kind, self._file, self._open = kind, file, _FORMATS[kind]
        bits, declared, oriented = 8, None, True
        lossy = kind == "JPEG"
        if kind == "PNG":
            chunks = list(_chunks(file))
            names = {name for name, *_ in chunks}
            oriented = not names.isdisjoint({b"eXIf", *_TEXTS})  # else Pillow decodes everything to find an orientation
            if names & set(_TEXTS):
                self._file = _without_long_texts(file, chunks)
            bits, self._colour = _at(file, 24, 2)
            if b"sBIT" in names:
                start, length = next((start, length) for name, start, length in chunks if name == b"sBIT")
                declared = max(_at(file, start + 8, length)[: 1 if self._colour in (0, 4) else 3])
            bits = 16 if bits == 16 else 8
            declared = declared if bits == 16 and declared and declared < 16 else None
        elif kind == "WEBP":
            lossy = b"VP8L" not in _webp_chunks(file)
        self._image = self._new()
        frames = getattr(self._image, "n_frames", 1) if kind in ("PNG", "WEBP", "GIF") else 1
        orientation = self._image.getexif().get(ExifTags.Base.Orientation, 1) if oriented else 1
        orientation = orientation if orientation in _TURNS else 1
        width, height = self._image.size
        if orientation > 4:
            height, width = width, height
        remark = f"an animation of {frames} frames; the first is read" if frames > 1 else None
        self.head = Head(height, width, bits, declared, orientation, lossy, remark)

    def _new(self) -> ImageFile.ImageFile:
        self._file.seek(0)
        return self._open(self._file)

    def samples(self, labels: bool) -> tuple[Array, bool, str | None]:
        colours, alpha = self._deep() if self.head.bits > 8 else _shallow(self._image, labels)
        values, remark = _on_black(colours, alpha)
        return _upright(values, self.head.orientation), False, remark

    def _deep(self) -> tuple[Array, Array | None]:
        """16-bit PNG: (colours, alpha). Pillow keeps one byte of a colour sample, so the two are decoded one by one."""

        def decoded(form: str) -> Array:
            image = self._new()
            image.tile = [tile._replace(args=form) for tile in image.tile]  # how the bytes of a line are taken apart
            return _array(image)

        if self._colour == 4:  # grey and alpha: as the four bytes of an RGBA pixel
            both = decoded("RGBA").view(">u2").astype(np.uint16)
            return both[..., 0], both[..., 1]
        if self._colour == 6:
            values = _joined(decoded("RGBA;16B"), decoded("RGBA;16L"))
            return values[..., :3], values[..., 3]
        values = _joined(decoded("RGB;16B"), decoded("RGB;16L")) if self._colour == 2 else _array(self._image)
        key = self._image.info.get("transparency")
        if key is None:
            return values, None
        opaque = (values != np.array(key)).reshape(*values.shape[:2], -1).any(axis=2)
        return values, opaque * np.uint16(65535)


class _Tiff:
    """A TIFF file: the largest of its pages, the first of those."""

    def __init__(self, file: BinaryIO, _: str) -> None:
        self._file = file
        with tifffile.TiffFile(file) as tiff:
            pages: list[Any] = list(tiff.pages)
            self._number = max(range(len(pages)), key=lambda n: (pages[n].imagewidth * pages[n].imagelength, -n))
            page = self._page = pages[self._number]
        orientation = page.tags.valueof(274, 1)
        orientation = orientation if orientation in _TURNS else 1
        height, width = page.imagelength, page.imagewidth
        if orientation > 4:
            height, width = width, height
        self._plain = page.bitspersample <= 8 and page.sampleformat in (1, 4)
        bits = 8 if self._plain else min(page.bitspersample, 16)
        most = np.max(page.tags.valueof(281, 0))  # MaxSampleValue
        declared = next((n for n in range(8, 16) if most == 2**n - 1), None) if bits == 16 else None
        lossy = page.compression in (6, 7, 34892, 33003, 33005, 34712, 50001, 50002)  # JPEG, JPEG 2000, WebP, JPEG XL
        several = f"{len(pages)} pages; only page {self._number + 1}, the largest, is read"
        self.head = Head(height, width, bits, declared, orientation, lossy, several if len(pages) > 1 else None)

    def samples(self, labels: bool) -> tuple[Array, bool, str | None]:
        if self._plain:
            image = self._image()
            image.load()
            values, remark = _on_black(*_shallow(image, labels))  # upright: Pillow turns TIFF by itself
            return values, False, remark
        page = self._page
        if page.sampleformat == 3:
            raise InputError(f"{_EXPECTED}, found floating point values; convert it to PNG")
        white = page.photometric == 0
        if page.photometric not in (0, 1, 2) and not labels:
            raise InputError(f"{_EXPECTED} in grey or RGB, found {page.photometric!r}; convert it to PNG")
        values = self._values()  # (H, W, samples)
        if values.dtype != np.uint16 and not labels:
            low, high = values.min(), values.max()
            if low < 0 or high > 65535:
                wrong = f"found {page.bitspersample}-bit integers from {low} to {high}"
                raise InputError(f"{_EXPECTED}, {wrong}; convert it to PNG")
            values = values.astype(np.uint16)
        colours = 3 if page.photometric == 2 else 1
        alpha = values[..., colours] if 2 in page.extrasamples[:1] else None  # 1: colours that lie on black already
        kept = values[..., :3] if colours == 3 else values[..., 0]
        if white and self.head.bits < 16:
            kept = (2**self.head.bits - 1 - kept).astype(np.uint16)
        placed, remark = _on_black(kept, alpha, 2**self.head.bits - 1)
        return _upright(placed, self.head.orientation), white and self.head.bits == 16, remark

    def _image(self) -> ImageFile.ImageFile:
        self._file.seek(0)
        image = TiffImagePlugin.TiffImageFile(self._file)
        image.seek(self._number)
        size = self._page.imagewidth, self._page.imagelength
        image.im = Image.core.new(image.mode, size)  # type: ignore[attr-defined]  # or Pillow applies its own limit
        return image

    def _values(self) -> Array:
        page, size = self._page, self._file.seek(0, io.SEEK_END)
        ends = [at + count for at, count in zip(page.dataoffsets, page.databytecounts, strict=True) if count]
        if len(ends) < len(page.dataoffsets) or max(ends) > size:
            raise ValueError("the file is truncated")
        if page.compression == 1 and page.bitspersample not in (16, 32, 64) and not page.is_tiled:
            return _unpacked(page, self._file)
        try:
            values = page.asarray(squeeze=False)  # (planes, 1, H, W, samples)
        except (ValueError, KeyError) as error:
            if "imagecodecs" not in str(error):
                raise
            return self._by_pillow(error)
        return np.moveaxis(values[:, 0, :, :, 0], 0, -1) if values.shape[0] > 1 else values[0, 0]

    def _by_pillow(self, error: Exception) -> Array:
        """Samples of 16 bits in a compression that tifffile lacks, such as LZW, which Pillow knows."""
        page, image = self._page, self._image()
        forms = {"I;16": ["I;16N"], "RGB": ["RGB;16B", "RGB;16L"], "RGBA": ["RGBA;16B", "RGBA;16L"]}.get(image.mode, [])
        if not forms or page.bitspersample != 16 or page.planarconfig != 1 or page.samplesperpixel != len(image.getbands()):
            raise InputError(f"{_EXPECTED}, found {error}; convert it to PNG")
        parts = []
        for form in forms:
            image = self._image()
            image.tile = [tile._replace(args=(form, *tile.args[1:])) for tile in image.tile]  # type: ignore[index]
            parts.append(_array(image))
        high, low = parts[-1], parts[0]  # libtiff gives the machine's byte order
        if len(parts) == 2:
            values = _joined(high, low) if sys.byteorder == "little" else _joined(low, high)
        else:
            values = parts[0][..., None]
        back = {6: 8, 8: 6}.get(self.head.orientation, self.head.orientation)
        return _upright(values, back)  # Pillow has turned them


def _unpacked(page: Any, file: BinaryIO) -> Array:
    """Uncompressed samples of 9 to 15 bits, rows padded to bytes: (H, W, samples) uint16."""
    bits, samples = page.bitspersample, page.samplesperpixel
    planes, within = (samples, 1) if page.planarconfig == 2 else (1, samples)
    row = -(-page.imagewidth * within * bits // 8)
    weights = (1 << np.arange(bits)[::-1]).astype(np.uint16)
    out = np.empty((planes, page.imagelength, page.imagewidth * within), np.uint16)
    lines = out.reshape(-1, out.shape[-1])
    at = 0
    for plane in range(planes):
        per_plane = len(page.dataoffsets) // planes
        for start, count in list(zip(page.dataoffsets, page.databytecounts, strict=True))[plane * per_plane :][:per_plane]:
            file.seek(start)
            data = np.frombuffer(file.read(count), np.uint8)
            if page.fillorder == 2:
                data = np.packbits(np.unpackbits(data, bitorder="little"))
            for line in data[: len(data) // row * row].reshape(-1, row):
                if at == (plane + 1) * page.imagelength:
                    break
                lines[at] = np.unpackbits(line)[: out.shape[-1] * bits].reshape(-1, bits) @ weights
                at += 1
    return np.moveaxis(out, 0, -1) if planes > 1 else out.reshape(page.imagelength, page.imagewidth, samples)


def _shallow(image: Image.Image, labels: bool) -> tuple[Array, Array | None]:
    """(colours, alpha) of up to 8 bits a sample; grey stays (H, W), and so do a palette's indices that are labels."""
    mode = image.mode
    if mode == "RGBa":  # its colours lie on black already
        return _array(image)[..., :3], None
    if mode == "P" and labels:
        return _labels(image), None
    if "A" in mode or "a" in mode or "transparency" in image.info:
        rgba = _array(image, "RGBA")
        return rgba[..., :3], rgba[..., 3]
    return _array(image, "L" if mode in ("1", "L") else "RGB"), None


def _labels(image: Image.Image) -> Array:
    """A palette image (H, W) as labels: grey values where all its colours are greys; else indices, or 0 where only black is."""
    indices = _array(image)
    colours = np.zeros((256, 3), np.uint8)
    palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    colours[: len(palette)] = palette
    used = np.unique(indices)
    greys = colours[used].max(axis=1)
    all_grey = (colours[used] == greys[:, None]).all() and len(set(greys.tolist())) == len(used)
    black_is_another = colours[0].any() and not greys.all()
    values: Array = colours.max(axis=1)[indices] if all_grey or black_is_another else indices
    return values


def _array(image: Image.Image, mode: str | None = None) -> Array:
    """An image's values, in another mode where one is given; strip by strip, since Pillow's way copies them twice."""
    image.load()
    (width, height), out = image.size, None  # after load, which turns TIFF
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        part = image.crop((0, top, width, min(height, top + rows)))
        values = np.asarray(part if mode in (None, part.mode) else part.convert(mode))
        if out is None:
            out = np.empty((height, *values.shape[1:]), values.dtype)
        out[top : top + rows] = values
    assert out is not None
    return out


def _joined(high: Array, low: Array) -> Array:
    """16-bit values of their bytes."""
    values = high.astype(np.uint16)
    values <<= 8
    values |= low
    return values


def _on_black(colours: Array, alpha: Array | None, full: int | None = None) -> tuple[Array, str | None]:
    """Colours under their alpha on black, and a remark. An alpha that is the same everywhere says nothing and is ignored."""
    if alpha is None:
        return colours, None
    lowest, highest = int(alpha.min()), int(alpha.max())
    if lowest == highest:
        return colours, "transparent everywhere; its alpha is ignored" if highest == 0 else None
    full = full or int(np.iinfo(alpha.dtype).max)
    out = np.empty(colours.shape, colours.dtype)
    rows = max(1, STRIP // colours.shape[1])
    for top in range(0, len(out), rows):
        share = alpha[top : top + rows].astype(np.uint32)
        share = share[..., None] if colours.ndim == 3 else share
        out[top : top + rows] = (colours[top : top + rows] * share + full // 2) // full
    return out, None


def _upright(values: Array, orientation: int) -> Array:
    return np.ascontiguousarray(_TURNS[orientation](values)) if orientation in _TURNS else values


_FORMATS: dict[str, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WEBP": WebP.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
_STARTS = {
    b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"RIFF": "WEBP", b"GIF8": "GIF",
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF",
}  # fmt: skip


@contextlib.contextmanager
def _opened(path: Path, given: BinaryIO | None = None) -> Iterator[_Pillow | _Tiff]:
    """A file whose head is read. What goes wrong then, or in the block, is an InputError that names the file."""
    if given is None:
        files.check_regular(path)
    try:
        with path.open("rb") if given is None else contextlib.nullcontext(given) as file:
            start = _at(file, 0, 16)
            file.seek(0)
            kind = next((kind for begin, kind in _STARTS.items() if start.startswith(begin)), None)
            if kind is None:
                raise ValueError("it is no PNG, JPEG, TIFF, BMP, WebP or GIF file")
            yield _Tiff(file, kind) if kind == "TIFF" else _Pillow(file, kind)
    except InputError as error:
        raise InputError(f"{path}: {error}" if not str(error).startswith(f"{path}: ") else str(error)) from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they meet: OSError, SyntaxError, struct.error, …
        raise InputError(f"{path}: cannot be decoded ({error}); replace or remove it") from None


def _at(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Of a PNG file, each chunk's name, where it begins (at its length), and the length of its data."""
    at = 8
    while len(start := _at(file, at, 8)) == 8:
        length = int.from_bytes(start[:4])
        yield start[4:], at, length
        at += 12 + length


def _without_long_texts(file: BinaryIO, chunks: list[tuple[bytes, int, int]]) -> BinaryIO:
    """The PNG file but for texts that Pillow refuses for their length; the orientation in XMP is a short one."""

    def is_long(name: bytes, start: int, length: int) -> bool:
        return name in _TEXTS and (length >= LONG or _text_length(name, _at(file, start + 8, length)) >= LONG)

    kept = [chunk for chunk in chunks if not is_long(*chunk)]
    if len(kept) == len(chunks):
        return file
    return io.BytesIO(b"".join([_at(file, 0, 8), *(_at(file, start, 12 + length) for _, start, length in kept)]))


def _text_length(name: bytes, data: bytes) -> int:
    """How long a text chunk's text is, up to LONG."""
    _, _, rest = data.partition(b"\0")
    if name == b"tEXt" or (name == b"iTXt" and rest[:1] == b"\0"):
        return len(data)
    packed = rest[1:] if name == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    try:
        return len(zlib.decompressobj().decompress(packed, LONG))
    except zlib.error:
        return LONG


def _webp_chunks(file: BinaryIO) -> list[bytes]:
    """The names of a WebP file's chunks, those of animated frames' images too."""
    at, names = 12, list[bytes]()
    while len(start := _at(file, at, 8)) == 8:
        names.append(start[:4])
        length = int.from_bytes(start[4:], "little")
        at += 24 if start[:4] == b"ANMF" else 8 + length + length % 2
    return names
