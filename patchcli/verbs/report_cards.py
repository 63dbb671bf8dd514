"""The cards of the page: an image, its map, and the two patches that were compared."""

from collections.abc import Sequence

import numpy as np
import tifffile
from numpy.typing import NDArray

from patchcli.datasets import images
from patchcli.datasets.images import Pixels
from patchcli.datasets.layouts import Sample
from patchcli.datasets.sample_masks import mask_rule, read_mask
from patchcli.detection.detector import Detector
from patchcli.detection.records import Record
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.reporting import pictures
from patchcli.reporting.page import Card
from patchcli.reporting.pictures import ColourScale
from patchcli.verbs.sources import all_samples

BYTES = 30_000_000  # of all pictures of the page, at most


def cards(
    detector: Detector,
    shown: Sequence[tuple[Sample, Record]],
    scale: ColourScale,
    observer: Observer,
    mask_threshold: int | None,
) -> list[Card]:
    """A card for each record; an image that is gone since it was scored is reported and left out."""
    numbers = {name: number for number, name in enumerate(detector.images.ids)}
    rule, reader = mask_rule(all_samples(detector), mask_threshold, True), detector.reader.lifted(True)  # they are scored
    drawn = []
    for done, (sample, record) in enumerate(shown, 1):
        try:
            pixels = reader.read(sample.path)
            mask = read_mask(sample, pixels.shape[:2], rule, observer)
            number = numbers[record.nearest_image]
            drawn.append(_card(detector, number, record, sample, pixels, mask, scale, BYTES // (4 * len(shown))))
        except InputError as error:
            observer.problem(str(error))
        observer.progress("report", done, len(shown))
    return drawn


def _card(
    detector: Detector,
    number: int,
    record: Record,
    sample: Sample,
    pixels: Pixels,
    mask: NDArray[np.bool_] | None,
    scale: ColourScale,
    limit: int,
) -> Card:
    """An image, its map and the two patches that were compared (the normal one of training image `number`), each picture of
    at most `limit` bytes."""
    values = tifffile.imread(str(record.map))
    outlined = pictures.overlay(pixels, np.full_like(values, scale.low), mask, scale)
    heat = pictures.overlay(pixels, values, None, scale)
    regions = record.regions or []
    boxes = [(region.x, region.y, region.width, region.height) for region in regions]
    patch = _patch(
        detector,
        detector.canvas.fit(pixels),
        values.shape,
        (record.patch_x, record.patch_y, record.patch_width, record.patch_height),
    )
    (stored,) = detector.images.read(number, number + 1)  # the file may be gone
    normal_box = record.nearest_x, record.nearest_y, record.nearest_width, record.nearest_height
    normal = _patch(detector, stored, detector.images.sizes[number], normal_box)
    drawn = {
        "image, mask in red" if mask is not None and mask.any() else "image": outlined,
        "map, regions and peak" if regions else "map and peak":
            pictures.marked(heat, boxes, (record.peak_x, record.peak_y)),
        "most anomalous patch": patch,
        "nearest normal patch": normal,
    }  # fmt: skip
    shown = [(what, pictures.inline(picture, limit)) for what, picture in drawn.items()]
    return Card(record.image, sample.kind or None, record.score, record.verdict, _facts(record), shown)


def _patch(
    detector: Detector, fitted: NDArray[np.uint8], size: Sequence[int], box: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """A patch in its surroundings at the working size, as it was compared; `size` (height, width) and `box` are original."""
    height, width = map(int, size)
    rows, columns = detector.canvas.covered(height, width)
    x, y, w, h = box
    left, right = (round(value * columns / width) for value in (x, x + w))
    top, bottom = (round(value * rows / height) for value in (y, y + h))
    inside = left, top, max(1, right - left), max(1, bottom - top)
    return pictures.surroundings(images.shown(fitted[:rows, :columns]), inside)


def _facts(record: Record) -> list[str]:
    """What stands beside the pictures."""
    regions = record.regions or []
    facts = [
        f"peak at {record.peak_x}, {record.peak_y}",
        f"most anomalous patch at {record.patch_x}, {record.patch_y}",
        f"nearest normal patch: {record.nearest_image} at {record.nearest_x}, {record.nearest_y}",
    ]
    if record.p_value is not None:
        facts.append(f"p-value {record.p_value:.3g}; rejected above {record.threshold:.4g}")
    for region in regions[:3]:
        size = f"{region.area} pixels" if region.area_mm2 is None else f"{region.area_mm2:.4g} mm²"
        facts.append(f"region of {size} at {region.x}, {region.y}, {region.width}x{region.height}, peak {region.peak:.4g}")
    if len(regions) > 3:
        facts.append(f"and {len(regions) - 3} smaller regions")
    return facts
