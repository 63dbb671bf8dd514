"""Connected areas of an anomaly map above a threshold: where the defects are, and how large."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchcli import files
from patchcli.errors import InputError

SUFFIXES = (".csv", ".json")  # what regions are written as


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
    from scipy.ndimage import label

    hot = anomaly_map > threshold
    down, across = np.flatnonzero(hot.any(axis=1)), np.flatnonzero(hot.any(axis=0))
    if not down.size:
        return []
    box = slice(down[0], down[-1] + 1), slice(across[0], across[-1] + 1)  # labels take four bytes a pixel
    labels, count = label(hot[box], np.ones((3, 3)))
    inside = np.nonzero(labels)
    of = labels[inside]
    at = (inside[0] + down[0]) * anomaly_map.shape[1] + inside[1] + across[0]
    values = anomaly_map.ravel()[at]
    order = np.lexsort((at, -values, of))  # region after region, each from its peak downwards
    at, of, values = at[order], of[order], values[order]
    first = np.searchsorted(of, np.arange(1, count + 1))
    y, x = np.divmod(at, anomaly_map.shape[1])
    top, left, bottom, right = (
        end.reduceat(side, first) for end, side in ((np.minimum, y), (np.minimum, x), (np.maximum, y), (np.maximum, x))
    )
    area = np.diff(first, append=len(at))
    mean = np.add.reduceat(values.astype(np.float64), first) / area
    ranked = np.argsort(-values[first], kind="stable")
    return [
        Region(
            x=int(left[n]),
            y=int(top[n]),
            width=int(right[n] - left[n] + 1),
            height=int(bottom[n] - top[n] + 1),
            area=int(area[n]),
            area_mm2=None if mm_per_pixel is None else int(area[n]) * mm_per_pixel**2,
            peak=float(values[first[n]]),
            peak_x=int(x[first[n]]),
            peak_y=int(y[first[n]]),
            mean=float(mean[n]),
        )
        for n in ranked[area[ranked] >= min_area]
    ]


@dataclass(frozen=True)
class RegionOptions:
    """Which regions are kept, and whether their areas are in mm² too. The verdict is of the score alone."""

    min_area: int = 1  # pixels; smaller regions are left out
    mm_per_pixel: float | None = None  # the side of an image's pixel

    def __post_init__(self) -> None:
        if not self.min_area >= 1:
            raise InputError(f"{self.min_area}", parameter="min_area", expected="1 pixel or more")
        side = self.mm_per_pixel
        if side is not None and not (side > 0 and 0 < side * side < math.inf):
            raise InputError(f"{side:g}", parameter="mm_per_pixel", expected="the size of a pixel in mm, above 0")

    @property
    def given(self) -> bool:
        """Whether somebody wants regions, which need a calibration."""
        return self != RegionOptions()


# An image as the user calls it, its id, its (height, width) and its regions.
Found = tuple[str, str, tuple[int, int], list[Region]]


def write(path: Path, rows: Sequence[Found]) -> None:
    """Write the regions of images, beside and renamed: as CSV, a row each, or in the form of COCO's annotations.

    In COCO's form (Lin et al., ECCV 2014; cocodataset.org, "Data format") `score` is the peak, and there are boxes only.
    """
    with files.replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, ["image", "id", *(field.name for field in fields(Region))], lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {"image": files.spreadsheet(image), "id": files.spreadsheet(id_), **asdict(region)}
                for image, id_, _, regions in rows
                for region in regions
            )
        else:
            json.dump(_coco(rows), file, ensure_ascii=False)
            file.write("\n")


def _coco(rows: Sequence[Found]) -> dict[str, list[dict[str, object]]]:
    of_image = [(number, region) for number, (*_, regions) in enumerate(rows, 1) for region in regions]
    return {
        "images": [
            {"id": number, "file_name": image, "width": width, "height": height}
            for number, (image, _, (height, width), _) in enumerate(rows, 1)
        ],
        "annotations": [
            {
                "id": number, "image_id": image, "category_id": 1, "iscrowd": 0,
                "bbox": [region.x, region.y, region.width, region.height], "area": region.area, "score": region.peak,
                "mean": region.mean, "area_mm2": region.area_mm2,
            }
            for number, (image, region) in enumerate(of_image, 1)
        ],
        "categories": [{"id": 1, "name": "anomaly"}],
    }  # fmt: skip
