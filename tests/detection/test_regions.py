"""Connected areas against a flood fill, the two files they are written as, and the region of interest."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from patchcli.datasets.roi import Roi
from patchcli.detection import regions
from patchcli.errors import InputError


def flood(above: np.ndarray) -> list[set[tuple[int, int]]]:
    """The 8-connected sets of true pixels, by walking from each to its neighbours."""
    left = {(int(y), int(x)) for y, x in np.argwhere(above)}
    found = []
    while left:
        area, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            area.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge.extend(near)
        found.append(area)
    return found


MAPS = hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, 3, 0.5]))


@given(MAPS, st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.integers(1, 4))
def test_regions_are_those_of_a_flood_fill(values: np.ndarray, threshold: float, min_area: int) -> None:
    found = regions.find(values, threshold, min_area, mm_per_pixel=0.5)
    expected = [area for area in flood(values > threshold) if len(area) >= min_area]
    assert [r.peak for r in found] == sorted((float(max(values[p] for p in area)) for area in expected), reverse=True)
    told = {(r.x, r.y, r.width, r.height, r.area, r.area_mm2, r.peak, r.peak_x, r.peak_y, round(r.mean, 5)) for r in found}
    drawn = set()
    for area in expected:
        ys, xs = zip(*area, strict=True)
        inside = [float(values[p]) for p in area]
        box = min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1
        peak_y, peak_x = min(p for p in area if values[p] == max(inside))  # of equal ones the first, row by row
        drawn.add((*box, len(area), len(area) / 4, max(inside), peak_x, peak_y, round(float(np.mean(inside)), 5)))
    assert told == drawn
    assert len(told) == len(found)


def test_a_map_without_a_scale_has_no_mm() -> None:
    (region,) = regions.find(np.ones((2, 3), np.float32), 0.5)
    assert (region.area, region.area_mm2) == (6, None)


def test_the_files_hold_every_region(tmp_path: Path) -> None:
    values = np.zeros((8, 12), np.float32)
    values[1:3, 2:6], values[6, 10] = 2, 5
    areas = regions.find(values, 1, mm_per_pixel=2)
    found = [("x/a,b.png", "a,b.png", (8, 12), areas), ("x/good.png", "good.png", (8, 12), [])]
    regions.write(tmp_path / "new" / "r.csv", found)
    with (tmp_path / "new" / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["id"], row["area"], row["area_mm2"], row["peak"]) for row in rows] == [
        ("x/a,b.png", "a,b.png", "1", "4", "5.0"), ("x/a,b.png", "a,b.png", "8", "32", "2.0"),
    ]  # fmt: skip
    regions.write(tmp_path / "new" / "r.json", found)
    coco = json.loads((tmp_path / "new" / "r.json").read_text())
    assert [(image["id"], image["file_name"], image["width"], image["height"]) for image in coco["images"]] == [
        (1, "x/a,b.png", 12, 8), (2, "x/good.png", 12, 8),
    ]  # fmt: skip
    assert [(a["id"], a["image_id"], a["bbox"], a["area"]) for a in coco["annotations"]] == [
        (1, 1, [10, 6, 1, 1], 1), (2, 1, [2, 1, 4, 2], 8),
    ]  # fmt: skip
    assert {a["category_id"] for a in coco["annotations"]} == {c["id"] for c in coco["categories"]}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["r.csv", "r.json"]


def test_a_region_of_interest(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[10:, 15:] = 1
    Image.fromarray(mask).save(tmp_path / "roi.png")
    Image.fromarray(mask * 255).save(tmp_path / "roi.bmp")
    roi = Roi.read(tmp_path / "roi.png")
    assert roi.sha256 == Roi.read(tmp_path / "roi.bmp").sha256
    np.testing.assert_array_equal(roi.at(20, 30), mask > 0)
    np.testing.assert_array_equal(roi.at(40, 60), np.kron(mask, np.ones((2, 2))) > 0)
    np.testing.assert_array_equal(roi.at(10, 15), mask[1::2, 1::2] > 0)
    roi.check("b.png", 40, 60)
    with pytest.raises(InputError, match=r"b\.png: expected the aspect ratio of `roi`, 30x20, found 60x60 pixels"):
        roi.check("b.png", 60, 60)
    Image.fromarray(mask * 0).save(tmp_path / "none.png")
    with pytest.raises(InputError, match="the mask is empty; mark the region"):
        Roi.read(tmp_path / "none.png")
