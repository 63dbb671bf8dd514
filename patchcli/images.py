"""Image files, masks and maps: find, decode, resize, standardise. Pixels are uint8 RGB until they are standardised."""

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from patchcli import files
from patchcli.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
STRAY = frozenset(
    {"@eadir", "#recycle", "@recycle", "#snapshot", "$recycle.bin", "lost+found", "__macosx", "thumbs", "thumbnails"}
)
MAP_SUFFIXES = (".tiff", ".tif", ".npy", ".png")  # what maps are read from, the first that is there
SMALLEST = 32  # pixels a side: one patch of the smaller scale

_EXPECTED = "expected an 8- or 16-bit image"


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
    seen: set[tuple[int, int]] = set()
    while unread or linked:
        folder = unread.pop() if unread else linked.popleft()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            entries = sorted(entry.name for entry in os.scandir(folder))
        except OSError as error:
            problem(f"{folder}: cannot be read ({error.strerror})")
            continue
        seen.add((status.st_dev, status.st_ino))
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


def decode(path: Path) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) as a viewer shows them: EXIF orientation applied, palette resolved, alpha on black.

    Raises InputError where the file is missing, no image, truncated, or smaller than a patch.
    """
    files.check_regular(path)
    try:
        with Image.open(path) as image:
            pixels = np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except InputError as error:
        raise InputError(f"{path}: {error}; convert it to PNG") from None
    except Exception as error:  # Pillow's decoders raise whatever they meet: OSError, SyntaxError, struct.error, …
        raise InputError(f"{path}: cannot be decoded ({error}); replace or remove it") from None
    if min(pixels.shape[:2]) < SMALLEST:
        height, width = pixels.shape[:2]
        raise InputError(f"{path}: {width}×{height} pixels are smaller than a patch ({SMALLEST}×{SMALLEST})")
    return pixels


def size(path: Path) -> tuple[int, int]:
    """(height, width) that `decode` would give, read from the head of the file."""
    files.check_regular(path)
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
    files.check_regular(path)
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
    """Write (H, W, 3), or grey (H, W), uint8 as PNG, beside and renamed."""
    with files.replacing(path) as beside:
        Image.fromarray(pixels).save(beside, format="PNG")
