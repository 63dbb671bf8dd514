"""What is found in one image."""

from dataclasses import dataclass
from functools import cached_property
from html import escape

import numpy as np
from numpy.typing import NDArray

from patchcli.datasets import images
from patchcli.datasets.images import Pixels
from patchcli.datasets.roi import Roi
from patchcli.detection import regions
from patchcli.detection.calibration import Calibration
from patchcli.detection.regions import Region
from patchcli.reporting.pictures import ColourScale, inline, overlay

THUMBNAIL = 512  # pixels a side of the picture that a notebook shows, at most

Box = tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class Nearest:
    """The normal patch that a patch was compared with."""

    image: str  # id of the training image
    box: Box  # in its original pixels


@dataclass(frozen=True)
class Evidence:
    """The most anomalous patch at the map's peak and the normal patch nearest to it; all in original pixels."""

    peak: tuple[int, int]  # (x, y) of the map's maximum, in the region of interest
    patch: Box
    nearest: Nearest


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The anomaly score of an image, its map, and the evidence; coordinates are pixels of the image, x right and y down."""

    scale_maps: dict[str, NDArray[np.float32]]  # (h, w), at the working size: of each scale, and "multi"
    size: tuple[int, int]  # of the image: (height, width)
    evidence: Evidence
    roi: Roi | None = None
    calibration: Calibration | None = None
    pixels: Pixels | None = None  # of the image, where it was given as an array or a path

    def inside(self, name: str = "multi") -> NDArray[np.float32]:
        """A scale map's values (n,) in the region of interest."""
        values = self.scale_maps[name]
        return values.ravel() if self.roi is None else self.roi.inside(values)

    @property
    def score(self) -> float:
        """The anomaly score: the maximum of the product map in the region of interest."""
        return float(self.inside().max())

    @property
    def scores(self) -> dict[str, float]:
        """The maximum of each scale's own map."""
        return {name: float(self.inside(name).max()) for name in self.scale_maps if name != "multi"}

    @cached_property
    def map(self) -> NDArray[np.float32]:
        """The anomaly map (H, W) at the image's own size, float32; 0 outside of the region of interest."""
        values = images.resize_map(self.scale_maps["multi"], *self.size)
        return values if self.roi is None else np.where(self.roi.at(*self.size), values, np.float32(0))

    @property
    def peak(self) -> tuple[int, int]:
        """(x, y) of the map's maximum."""
        return self.evidence.peak

    @property
    def patch(self) -> Box:
        """The most anomalous patch at the peak."""
        return self.evidence.patch

    @property
    def nearest(self) -> Nearest:
        """The normal patch that is nearest to it."""
        return self.evidence.nearest

    @property
    def verdict(self) -> str | None:
        """pass, review or reject; None without a calibration that holds, as the next two."""
        return None if self.calibration is None else self.calibration.verdict(self.score)

    @property
    def p_value(self) -> float | None:
        """How unusual the score is among good images'."""
        return None if self.calibration is None else self.calibration.p_value(self.score)

    @cached_property
    def regions(self) -> list[Region] | None:
        """Connected areas of the map above the pixel threshold, the highest peak first."""
        return None if self.calibration is None else regions.find(self.map, self.calibration.thresholds.pixel_threshold)

    @property
    def colours(self) -> ColourScale:
        """The calibration's scale of colours; else from the typical to the highest value of this map."""
        if self.calibration is not None:
            return ColourScale(self.calibration.thresholds.colour_low, self.calibration.thresholds.colour_high)
        return ColourScale(float(np.median(self.inside())), self.score)

    def __repr__(self) -> str:
        verdict = "" if self.verdict is None else f", verdict={self.verdict!r}"
        return f"Result(score={self.score:.6g}{verdict}, size={self.size}, peak={self.peak}, nearest={self.nearest})"

    def _repr_html_(self) -> str:
        """The map over the image, for notebooks."""
        height, width = self.size
        shrunk = min(1.0, THUMBNAIL / max(height, width))
        height, width = max(1, round(height * shrunk)), max(1, round(width * shrunk))
        pixels = np.full((height, width, 3), 128, np.uint8)
        if self.pixels is not None:
            pixels = images.shown(images.resize(np.ascontiguousarray(self.pixels), height, width))
        picture = inline(overlay(pixels, images.resize_map(self.map, height, width), None, self.colours), 1 << 20)
        text = f"score {self.score:.4g}" + ("" if self.verdict is None else f", {self.verdict}")
        return f'<figure><img src="{escape(picture)}" alt="anomaly map"><figcaption>{escape(text)}</figcaption></figure>'
