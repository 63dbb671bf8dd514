"""Connected areas of an anomaly map above a threshold: where the defects are, and how large."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """One area; coordinates are pixels of the map, x to the right and y down."""

    x: int  # the box's top left corner and size
    y: int
    width: int
    height: int
    area: int  # pixels above the threshold
    area_mm2: float | None  # None where no scale is given
    peak: float  # the area's highest map value, where it lies, and the mean over the area
    peak_x: int
    peak_y: int
    mean: float


def find(
    anomaly_map: NDArray[np.float32], threshold: float, min_area: int = 1, mm_per_pixel: float | None = None
) -> list[Region]:
    """The 8-connected regions of a map (H, W) strictly above the threshold, the one of the highest peak first.

    Those of fewer than `min_area` pixels are left out.
    """
    from scipy.ndimage import find_objects, label

    labels, _ = label(anomaly_map > threshold, np.ones((3, 3)))
    found = []
    for number, box in enumerate(find_objects(labels), 1):
        within = labels[box] == number
        area = int(within.sum())
        if area < min_area:
            continue
        values = anomaly_map[box]
        peak_y, peak_x = np.unravel_index(int(np.where(within, values, -np.inf).argmax()), within.shape)
        rows, columns = box
        region = Region(
            x=columns.start,
            y=rows.start,
            width=columns.stop - columns.start,
            height=rows.stop - rows.start,
            area=area,
            area_mm2=None if mm_per_pixel is None else area * mm_per_pixel**2,
            peak=float(values[peak_y, peak_x]),
            peak_x=columns.start + int(peak_x),
            peak_y=rows.start + int(peak_y),
            mean=float(values[within].mean(dtype=np.float64)),
        )
        found.append(region)
    return sorted(found, key=lambda region: -region.peak)
