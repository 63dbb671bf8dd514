"""Images as Python has them (arrays, PIL images, paths) → pixels as the reader of files gives them."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from patchcli.datasets.images import SMALLEST, Pixels, Reader, full_scale
from patchcli.errors import InputError

ImageLike = NDArray[Any] | Image.Image | Path | str

_PNG = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")  # modes of PIL that a PNG file keeps


def is_one(images: ImageLike | Sequence[ImageLike]) -> bool:
    """Whether this is one image; an array of four dimensions is several."""
    return images.ndim < 4 if isinstance(images, np.ndarray) else isinstance(images, Image.Image | Path | str)


def as_several(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """The images as a list."""
    if not is_one(images) and not isinstance(images, Iterable):
        raise _refused("an array, a PIL image, a path, or several", type(images).__name__)
    several: list[Any] = [images] if is_one(images) else list(images)  # type: ignore[arg-type]
    if not several:
        raise InputError("none", parameter="images", expected="one image or more")
    return several


def to_pixels(image: ImageLike, reader: Reader, white: float | None = None) -> Pixels:
    """Pixels (H, W, 3), as `reader` gives them of files: uint8, or uint16 over all of 0 to 65535.

    `white` is the highest value that an array may have; see Detector. Raises InputError.
    """
    if isinstance(image, Path | str | Image.Image):
        if white is not None:
            expected = "arrays; files and PIL images say themselves what is white"
            raise InputError(type(image).__name__, parameter="full_scale", expected=expected)
        return _of_pil(image, reader) if isinstance(image, Image.Image) else reader.read(Path(image))
    if not isinstance(image, np.ndarray):
        raise _refused("an array, a PIL image or a path", f"{type(image).__name__}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise _refused("an array (height, width) or (height, width, 3)", f"the shape {image.shape}")
    if min(image.shape[:2]) < SMALLEST:
        raise _refused(f"at least {SMALLEST}x{SMALLEST} pixels, one patch", f"{image.shape[1]}x{image.shape[0]}")
    pixels = _scaled(image, reader, white)
    return pixels if pixels.ndim == 3 else np.broadcast_to(pixels[..., None], (*pixels.shape, 3))


def _of_pil(image: Image.Image, reader: Reader) -> Pixels:
    """A PIL image, through the loader of files, which decides about alpha, palettes and depth."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("CMYK", "YCbCr"):
        image = image.convert("RGB")
    if image.mode not in _PNG:
        raise _refused(f"a PIL image of mode {', '.join(_PNG)}", f"mode {image.mode}", "give an array instead")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0)
    buffer.seek(0)
    return reader.read(Path("images"), file=buffer)


def _scaled(values: NDArray[Any], reader: Reader, white: float | None) -> Pixels:
    """An array's values as pixels of the reader's depth."""
    kind = values.dtype.newbyteorder("=")
    if kind.kind == "f":
        kind = np.promote_types(kind, np.float32)
    values = values.astype(kind, copy=False)
    if kind == np.uint8:
        usual: float | None = 255
    elif kind == np.uint16:
        usual = full_scale(reader.bits)
    elif kind.kind == "f":
        usual = None
    else:
        raise _refused("an array of uint8, uint16 or floating point", f"{kind}")
    white = usual if white is None else white
    if white is None:
        raise InputError("none", parameter="full_scale", expected="the value of white in a floating point array, such as 1.0")
    if not 0 < white < np.inf:
        raise InputError(f"{white}", parameter="full_scale", expected="a number above 0")
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= white):  # NaN is neither
        raise _refused(f"values from 0 to {white:g}", f"{lowest:g} to {highest:g}", "state the value of white: `full_scale`")
    top = 255 if reader.bits == 8 else 65535
    if kind == reader.dtype and white == top:
        return values
    if kind.kind == "u" and float(white).is_integer() and white < 1 << 32:  # as files are scaled
        whole = int(white)
        return ((values.astype(np.uint64) * top + whole // 2) // whole).astype(reader.dtype)
    return np.rint(values * (top / white)).astype(reader.dtype)


def _refused(expected: str, found: str, advice: str | None = None) -> InputError:
    return InputError(found, parameter="images", expected=expected, advice=advice)
