"""Image files, masks and maps: find, decode, resize, standardise. Pixels are uint8 RGB until they are standardised."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from patchcli import files
from patchcli.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAP_SUFFIXES = (".tiff", ".tif", ".npy", ".png")  # what maps are read from, the first that is there
SMALLEST = 32  # pixels a side: one patch of the smaller scale

_EXPECTED = "expected an 8- or 16-bit image"


def printable(path: Path) -> str:
    """The path with forward slashes; bytes of a name that are not UTF-8 as \\udcXX."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sort key by which img2 comes before img10."""
    return [(0, int(t)) if t.isdecimal() else (1, t) for t in re.split(r"(\d+)", path.as_posix())]


def find(folder: Path) -> Iterator[Path]:
    """Image files below `folder`, at any depth, in natural order; hidden files and folders are passed over."""
    found = (
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    return iter(sorted(found, key=natural_key))


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of any Pillow mode; 16-bit grey keeps its high byte, transparent pixels lie on black."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{_EXPECTED}, found 32-bit integers")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise InputError(f"{_EXPECTED}, found floating point values")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def decode(path: Path, file: BinaryIO | None = None) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) as a viewer shows them: EXIF orientation applied, palette resolved, alpha on black.

    `file` is the file at that path, where the caller has opened it. Raises InputError where it is missing, no image,
    truncated, or smaller than a patch.
    """
    try:
        with Image.open(file or path) as image:
            pixels = np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except InputError as error:
        raise InputError(f"{path}: {error}; convert it to PNG") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # Pillow's decoders raise whatever they meet: OSError, SyntaxError, struct.error, …
        raise InputError(f"{path}: cannot be decoded ({error}); replace or remove it") from None
    if min(pixels.shape[:2]) < SMALLEST:
        height, width = pixels.shape[:2]
        raise InputError(f"{path}: {width}×{height} pixels are smaller than a patch ({SMALLEST}×{SMALLEST})")
    return pixels


def size(path: Path) -> tuple[int, int]:
    """(height, width) that `decode` would give, read from the head of the file."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception as error:
        raise InputError(f"{path}: cannot be decoded ({error}); replace or remove it") from None
    return (width, height) if turned else (height, width)


def resize(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Pixels (height, width, 3), bicubic with antialiasing; unchanged where the size already fits."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


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

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) → (height, width, 3); what an image does not cover is filled with its reflection."""
        height, width = self.covered(*pixels.shape[:2])
        margins = (0, self.height - height), (0, self.width - width), (0, 0)
        return np.pad(resize(pixels, height, width), margins, mode="symmetric")


def resize_map(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """A map (h, w) brought to (height, width), bilinear."""
    if values.shape == (height, width):
        return values
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def resize_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """A mask (h, w) brought to (height, width): the nearest pixel's value."""
    if mask.shape == (height, width):
        return mask
    rows, columns = ((np.arange(n) + 0.5) * old / n for n, old in zip((height, width), mask.shape, strict=True))
    resized: NDArray[np.bool_] = mask[rows.astype(int)][:, columns.astype(int)]
    return resized


def standardise(pixels: NDArray[np.uint8], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32: minus the per-pixel training mean, divided by 255 (supp. S3)."""
    scaled = (pixels.astype(np.float32) - mean) / np.float32(255)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def read_mask(path: Path, nonzero: bool = False) -> NDArray[np.bool_]:
    """Defect mask (H, W): grey above 128 of 255, or above 0 where no pixel is so bright (masks written as 0 and 1).

    With `nonzero`, masks of label values: all but 0 is defect. Raises InputError where it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            deep = image.mode.startswith("I")
            as_stored = deep or (nonzero and len(image.getbands()) == 1)  # label values, not the palette's colours
            values: NDArray[Any] = np.asarray(image) if as_stored else np.asarray(_to_rgb(image)).max(axis=2)
    except Exception as error:
        raise InputError(f"{path}: mask cannot be decoded ({error})") from None
    if nonzero:
        return values > 0
    half = 128 << 8 if deep else 128
    return values > (half if values.max() > half else 0)


def read_map(path: Path) -> NDArray[np.float32]:
    """Anomaly map (h, w): TIFF or .npy of any real numbers, PNG in 8- or 16-bit grey. 1 as third dimension is dropped.

    Raises InputError where the file cannot be read or holds no finite number a pixel.
    """
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
    """Write (H, W, 3), or grey (H, W), uint8 as PNG, beside and renamed."""
    with files.replacing(path) as beside:
        Image.fromarray(pixels).save(beside, format="PNG")
