"""Images and maps: find, read, resize, standardise. Pixels are RGB, uint8 or uint16, until they are standardised."""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from patchcli import files
from patchcli.datasets import decoding
from patchcli.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
STRAY = frozenset(
    {"@eadir", "#recycle", "@recycle", "#snapshot", "$recycle.bin", "lost+found", "__macosx", "thumbs", "thumbnails"}
)
MAP_SUFFIXES = (".tiff", ".tif", ".npy", ".png")  # what maps are read from, the first that is there
SMALLEST = 32  # pixels a side: one patch of the smaller scale
DISTORTION = 0.15  # by how much an aspect ratio may differ before it is worth a note
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras have

Pixels = NDArray[Any]  # uint8 or uint16
Highest = Callable[[], int]  # decodes a file for its highest value


def printable(path: Path) -> str:
    """The path with forward slashes; bytes of a name that are not UTF-8 as \\udcXX."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sort key by which img2 comes before img10."""
    return [(0, int(t)) if t.isdecimal() else (1, t) for t in re.split(r"(\d+)", path.as_posix())]


def passed_over(name: str) -> bool:
    """Whether files and folders of this name are nobody's images: hidden, thumbnails, the leavings of a NAS or archive."""
    return name.startswith(".") or name.casefold() in STRAY


def named_as_one(path: Path) -> bool:
    """Whether a path has the name of an image file."""
    return path.suffix.lower() in SUFFIXES and not passed_over(path.name)


def find(*folders: Path, problem: Callable[[str], object]) -> Iterator[Path]:
    """Image files below folders, at any depth, in natural order, by the names that are seen there.

    Links are followed; a folder that is there under several names is taken once, by a name without links where it has one.
    `problem` is told of broken links, of links to a folder that holds them, and of what is no regular file or cannot be read.
    """
    return iter(sorted(walk(*folders, problem=problem), key=natural_key))


def walk(*folders: Path, problem: Callable[[str], object]) -> Iterator[Path]:
    """As `find`, in no order."""
    unread = [folder for folder in folders if not folder.is_symlink()]
    linked = deque(folder for folder in folders if folder.is_symlink())
    tops = {files.real(folder) for folder in folders}
    visited: set[tuple[int, int]] = set()
    while unread or linked:
        folder = unread.pop() if unread else linked.popleft()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            entries = sorted(entry.name for entry in os.scandir(folder))
        except OSError as error:
            problem(f"{folder}: cannot be read ({error.strerror})")
            continue
        visited.add((status.st_dev, status.st_ino))
        for path in (folder / name for name in entries if not passed_over(name)):
            if files.is_folder(path):
                if not path.is_symlink():
                    unread.append(path)
                elif any(inside.is_relative_to(files.real(path)) for inside in (*tops, files.real(folder))):
                    problem(f"{path}: links to a folder that it lies in, and is not followed")
                else:
                    linked.append(path)
            elif named_as_one(path) or path.is_symlink():
                if why := files.trouble(path):
                    problem(f"{path}: {why}")
                elif named_as_one(path):
                    yield path


def full_scale(bits: int) -> int:
    """The highest value of so many bits."""
    return (1 << bits) - 1


Remark = Callable[[Path, str], None]  # what is to be said of an image
Read = Callable[[Path, Remark | None], Pixels]  # an image file → pixels (H, W, 3); raises InputError


@dataclass(frozen=True)
class Reader:
    """How the images of a data set become pixels; fixed at `extract`, so that all verbs mean the same by a value.

    Pixels are uint8 where `bits` is 8, else uint16 over all of 0 to 65535. A file that has up to 8 bits a sample, or packs
    9 to 15, is scaled by its own depth; of 16-bit files, which cameras fill to 10, 12 or 14, the depth is `bits`.
    """

    bits: int = 8
    large: bool = False  # also images of more than decoding.LIMIT pixels

    @property
    def dtype(self) -> str:
        """The type of pixels."""
        return "uint8" if self.bits == 8 else "uint16"

    def lifted(self, large: bool) -> "Reader":
        """The same, without the limit where it is not wanted."""
        return replace(self, large=self.large or large)

    def read(self, path: Path, remark: Remark | None = None, file: BinaryIO | None = None) -> Pixels:
        """Pixels (H, W, 3), which may be read-only, as a viewer shows them: upright, palette resolved, alpha on black.

        What of the file is not used, `remark` is told. `file` is the file, where the caller has opened it. Raises InputError
        where the file is missing, no image, truncated, smaller than a patch, or holds higher values than `bits` has.
        """
        samples = decoding.read(path, self.large, file=file)
        if remark is not None:
            for line in samples.remarks:
                remark(path, line)
        height, width = check_size(path, samples.head)
        own = min(samples.head.bits, self.bits) if samples.head.bits == 16 else samples.head.bits
        full, top = full_scale(own), full_scale(8 if self.bits == 8 else 16)
        if samples.head.bits == 16 and (highest := samples.highest) > full:
            raise InputError(too_high(path, highest, self.bits))
        values = _scaled(samples.values, full, top, samples.inverted)
        return values if values.ndim == 3 else np.broadcast_to(values[..., None], (height, width, 3))


def check_size(path: Path, head: decoding.Head) -> tuple[int, int]:
    """(height, width); raises InputError where an image is smaller than a patch."""
    if min(head.height, head.width) < SMALLEST:
        raise InputError(f"{path}: {head.width}×{head.height} pixels are smaller than a patch ({SMALLEST}×{SMALLEST})")
    return head.height, head.width


def too_high(path: Path, highest: int, bits: int) -> str:
    """What to say of a 16-bit file with values that the data set's depth does not have."""
    expected = f"expected values up to {full_scale(bits)} (the good images have {bits} bits), found {highest}"
    return f"{path}: {expected}; where that is right, extract again with `bits`"


def _scaled(values: NDArray[Any], full: int, top: int, inverted: bool) -> Pixels:
    """Values of 0 to `full` → 0 to `top`, or `top` to 0: uint8 where that is 255, else uint16."""
    dtype = np.uint8 if top == 255 else np.uint16
    if full == top and not inverted:
        return values.astype(dtype, copy=False)
    scaled = np.empty(values.shape, dtype)
    for rows in strips(*values.shape[:2]):
        part = values[rows].astype(np.uint32)
        scaled[rows] = ((full - part if inverted else part) * top + full // 2) // full
    return scaled


def strips(height: int, width: int, pixels: int | None = None) -> Iterator[slice]:
    """The rows of a picture, about so many pixels at a time: what is made of a large one takes little memory by itself."""
    rows = max(1, (pixels or decoding.STRIP) // width)
    return (slice(top, min(height, top + rows)) for top in range(0, height, rows))


@dataclass(frozen=True)
class Depth:
    """Up to how many bits of a sample the files of a data set use."""

    bits: int
    stated: bool  # by the files, all of them
    highest: int  # value of a 16-bit file; 0 without one

    @classmethod
    def of(cls, heads: Iterable[tuple[decoding.Head, Highest]]) -> "Depth":
        """The least of DEPTHS that holds what heads declare and, of 16-bit files, the highest values, which are asked for.

        A file of 16 bits that declares fewer in use, and has higher values, is scaled up; so it has 16.
        """
        bits, highest, stated = 8, 0, True
        for head, values_up_to in heads:
            if head.bits < 16:
                bits = max(bits, head.bits)
                continue
            stated &= head.declared is not None
            bits = max(bits, head.declared or 8)
            if highest <= full_scale(DEPTHS[-2]):
                highest = max(highest, values_up_to())
        return cls(next(depth for depth in DEPTHS if full_scale(depth) >= max(highest, full_scale(bits))), stated, highest)


def check_bits(bits: int) -> None:
    """Raise InputError where pixels cannot have so many bits."""
    if not 8 <= bits <= 16:
        raise InputError(f"{bits}", parameter="bits", expected="8 to 16")


def levels(pixels: Pixels) -> NDArray[Any]:
    """Pixels on the scale of 8 bits, 0 to 255: themselves, or floating point values of uint16."""
    scaled: NDArray[Any] = pixels if pixels.dtype == np.uint8 else pixels / np.float32(257)
    return scaled


def shown(pixels: Pixels) -> NDArray[np.uint8]:
    """Pixels for a picture, 8 bits."""
    return pixels if pixels.dtype == np.uint8 else np.rint(levels(pixels)).astype(np.uint8)


def size(path: Path) -> tuple[int, int]:
    """(height, width) of an image as it is decoded, read from the head of the file."""
    head = decoding.head(path)
    return head.height, head.width


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Pixels (height, width, 3), bicubic with antialiasing; unchanged where the size already fits."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.dtype == np.uint8:
        return _resampled(pixels, height, width, Image.Resampling.BICUBIC)
    channels = [_resampled(pixels[..., c].astype(np.float32), height, width, Image.Resampling.BICUBIC) for c in range(3)]
    resized: Pixels = np.rint(np.stack(channels, axis=-1)).clip(0, 65535).astype(np.uint16)
    return resized


def _resampled(values: NDArray[Any], height: int, width: int, how: Image.Resampling) -> NDArray[Any]:
    """Values (h, w, …) at another size; of large ones a part at a time, across, then down."""
    if max(values.shape[0], height) * max(values.shape[1], width) <= decoding.STRIP:
        return np.asarray(Image.fromarray(values).resize((width, height), how))
    if values.shape[1] != width:
        rows = [Image.fromarray(np.ascontiguousarray(values[part])) for part in strips(*values.shape[:2])]
        values = np.concatenate([np.asarray(part.resize((width, part.height), how)) for part in rows])
    if values.shape[0] == height:
        return values
    out = np.empty((height, *values.shape[1:]), values.dtype)
    for columns in strips(width, max(height, values.shape[0])):
        part = Image.fromarray(np.ascontiguousarray(values[:, columns]))
        out[:, columns] = np.asarray(part.resize((part.width, height), how))
    return out


def unlike(aspect: float, other: float) -> bool:
    """Whether two aspect ratios differ visibly."""
    return max(aspect / other, other / aspect) > 1 + DISTORTION


@dataclass(frozen=True)
class Canvas:
    """The working size of images, and how they come to it: stretched, or with their aspect ratio."""

    height: int
    width: int
    keeps_aspect: bool = False

    def covered(self, height: int, width: int) -> tuple[int, int]:
        """What of the canvas, from its top left corner, an image of this size takes: (height, width)."""
        if not self.keeps_aspect:
            return self.height, self.width
        scale = min(self.height / height, self.width / width)
        return min(self.height, max(1, round(height * scale))), min(self.width, max(1, round(width * scale)))

    def distorts(self, height: int, width: int) -> bool:
        """Whether an image of this size is stretched to an aspect ratio that is visibly another."""
        return not self.keeps_aspect and unlike(width / height, self.width / self.height)

    def fit(self, pixels: Pixels) -> Pixels:
        """Pixels (h, w, 3) → (height, width, 3); what an image does not cover is filled with its reflection."""
        height, width = self.covered(*pixels.shape[:2])
        margins = (0, self.height - height), (0, self.width - width), (0, 0)
        return np.pad(resize(pixels, height, width), margins, mode="symmetric")


def resize_map(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """A map (h, w) brought to (height, width), bilinear."""
    return _resampled(values, height, width, Image.Resampling.BILINEAR)


def resize_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """A mask (h, w) brought to (height, width): the nearest pixel's value."""
    if mask.shape == (height, width):
        return mask
    rows, columns = ((np.arange(n) + 0.5) * old / n for n, old in zip((height, width), mask.shape, strict=True))
    resized: NDArray[np.bool_] = mask[rows.astype(int)][:, columns.astype(int)]
    return resized


def mean_colour(mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Everywhere the colour that a per-pixel mean (H, W, 3) has on average; where images are not aligned, the rest of it
    is only what is left of their own detail."""
    return np.ascontiguousarray(np.broadcast_to(mean.mean(axis=(0, 1)), mean.shape))


def standardise(pixels: Pixels, mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, H, W, 3) → (B, 3, H, W) float32: levels minus the per-pixel training mean, divided by 255 (supp. S3)."""
    scaled = (levels(pixels).astype(np.float32) - mean) / np.float32(255)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def pixels_of(image: NDArray[np.float32], mean: NDArray[np.float32], dtype: str) -> Pixels:
    """The pixels (H, W, 3) that a standardised image (3, H, W) was."""
    values = image.transpose(1, 2, 0) * 255 + mean
    if dtype == "uint8":
        return values.round().clip(0, 255).astype(np.uint8)
    return (values * 257).round().clip(0, 65535).astype(np.uint16)


def read_map(path: Path) -> NDArray[np.float32]:
    """Anomaly map (h, w): TIFF or .npy of any real numbers, PNG in 8- or 16-bit grey. 1 as third dimension is dropped.

    Raises InputError where the file cannot be read or holds no finite number a pixel.
    """
    files.check_regular(path)
    try:
        if path.suffix == ".npy":
            values: NDArray[Any] = np.load(path, allow_pickle=False)
        elif path.suffix == ".png":
            with Image.open(path) as image:
                values = np.asarray(image.convert("RGB") if image.mode == "P" else image)
        else:
            values = tifffile.imread(path)
    except Exception as error:
        raise InputError(f"{path}: map cannot be read ({error})") from None
    if values.ndim > 2:
        values = values.squeeze()
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        shape = "×".join(map(str, values.shape))
        raise InputError(f"{path}: expected a map of one number a pixel, found {shape} of {values.dtype}")
    with np.errstate(over="ignore"):
        narrowed = values.astype(np.float32)
    if not np.isfinite(narrowed).all():
        raise InputError(f"{path}: expected a map of finite numbers, found some that are not")
    return narrowed


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write (H, W, 3), or grey (H, W), uint8 as PNG, beside and renamed.

    Compression level 2 takes a third of the time of Pillow's default, 6, for files that are a quarter larger.
    """
    with files.replacing(path) as beside:
        Image.fromarray(pixels).save(beside, format="PNG", compress_level=2)
