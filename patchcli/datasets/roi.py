"""Regions of interest: where images are looked at."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchcli.datasets import images, masks
from patchcli.errors import InputError

ASPECT = 0.01  # by how much a mask's aspect ratio may differ from an image's


@dataclass(frozen=True, eq=False)
class Roi:
    """A region of interest: where images are looked at. Outside of it maps are 0, and nothing there counts."""

    path: Path
    mask: NDArray[np.bool_]  # (h, w), of the images' size or of another with their aspect ratio; what is not 0 counts

    def __post_init__(self) -> None:
        mask = np.asarray(self.mask)
        if mask.ndim != 2:
            raise InputError(f"the shape {mask.shape}", parameter="mask", expected="a mask (height, width)")
        object.__setattr__(self, "mask", mask != 0)

    @classmethod
    def read(cls, path: Path | str, mask_threshold: int | None = None, large: bool = False) -> "Roi":
        """The pixels of an image that count, by the rule of masks. Raises InputError where it has none or is no image."""
        mask = masks.Rule.of([Path(path)], mask_threshold, large).read(Path(path))
        if not mask.any():
            empty = "the mask is empty; mark the region with non-zero pixels"
            raise InputError(empty, parameter="roi", subject=path)
        return cls(Path(path), mask)

    @property
    def sha256(self) -> str:
        """Of size and pixels, whatever the file's format."""
        return hashlib.sha256(f"{self.mask.shape}".encode() + np.packbits(self.mask).tobytes()).hexdigest()

    def at(self, height: int, width: int) -> NDArray[np.bool_]:
        """The mask at another size."""
        return images.resize_mask(self.mask, height, width)

    def inside(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The values (n,) of a map (h, w) that count."""
        return values[self.at(*values.shape)]

    def check(self, image: object, height: int, width: int) -> None:
        """Raise InputError where an image of this size has another aspect ratio, or is too small for any of the mask."""
        own_height, own_width = self.mask.shape
        if abs(own_width * height / (own_height * width) - 1) > ASPECT:
            expected = f"the aspect ratio of `roi`, {own_width}x{own_height}"
            raise InputError(f"{width}x{height} pixels", subject=image, expected=expected)
        if not self.at(height, width).any():
            nothing = f"nothing of it at {width}x{height} pixels"
            expected = f"a size at which `roi` {self.path} has pixels"
            raise InputError(nothing, subject=image, expected=expected)
