"""Store and images → one page: figures, scores, and the images with what was found in them."""

import datetime
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from patchcli import files
from patchcli.datasets import images
from patchcli.datasets.images import Pixels
from patchcli.datasets.layouts import Sample
from patchcli.detection import metrics
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.reporting import pictures
from patchcli.reporting.charts import Chart, bars
from patchcli.reporting.pictures import Card, ColourScale
from patchcli.store import Store, Thresholds
from patchcli.verbs.data import mask_rule, read_mask
from patchcli.verbs.evaluate import Row, evaluate, share_above
from patchcli.verbs.info import info
from patchcli.verbs.score import Record, colour_scale, score
from patchcli.verbs.sources import Paths, all_samples

LIMIT = 200  # images on the page
BYTES = 30_000_000  # of all pictures of the page, at most
BINS = 24
MISSING = "–"
COLUMNS = {
    "kind": "kind", "map": "map", "defective": "defective", "good": "good", "image_auroc": "image AUROC",
    "image_ap": "image AP", "image_recall": "defects rejected", "image_false_alarms": "good rejected",
    "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro_30": "AUPRO 0.3",
}  # fmt: skip


def write_report(
    store: Path | str = "patchcli.zarr",
    paths: Paths | None = None,
    *,
    out: Path | str = "report.html",
    limit: int = LIMIT,
    observer: Observer | None = None,
    **options: Any,
) -> Path:
    """Score images as `score` does (`options` are its own), and write the page; its path.

    Figures are there for the test images of a data set with labels; verdicts where the store is calibrated. Of more than
    `limit` images those with the highest scores are shown, and the page says so.
    """
    observer, out = observer or Observer(), files.target("--out", out, ".html")
    if limit < 1:
        raise InputError(f"--limit: expected 1 image or more, found {limit}")
    with tempfile.TemporaryDirectory() as folder:
        found = score_all(store, paths, out=folder, observer=observer, **options)
        opened, rows = Store.open(store), list[Row]()
        if paths is None:
            try:
                same = {name: options[name] for name in ("roi", "mask_threshold", "large") if name in options}
                rows = evaluate(store, maps=folder, observer=Observer(), **same)
            except InputError as error:
                observer.note(f"no figures: {error}")
        title = f"{opened.source.category}: {len(found)} images"
        files.write_text(out, page(store, found, title, [], rows, limit, observer, options.get("mask_threshold")))
    return out


def score_all(store: Path | str, paths: Paths | None = None, **options: Any) -> list[tuple[Sample, Record]]:
    """Everything that `score` scores, each record with its sample."""
    found: list[tuple[Sample, Record]] = []
    for _ in score(store, paths, each=lambda *one: found.append(one), **options):
        pass
    return found


def page(
    store: Path | str,
    found: Sequence[tuple[Sample, Record]],
    title: str,
    lines: Sequence[str],
    rows: Sequence[Row],
    limit: int,
    observer: Observer,
    mask_threshold: int | None = None,
) -> str:
    """The page of samples and records whose maps are on disk; `rows` are of these images."""
    opened = Store.open(store)
    judged = any(record.verdict is not None for _, record in found)
    thresholds = opened.calibration.thresholds if judged else None
    ranked = sorted(found, key=lambda one: -one[1].score)
    shown = ranked[:limit]
    text = [*lines]
    if thresholds is None:
        text.append("There are no verdicts: the store is not calibrated. Run patchcli calibrate for thresholds with a promise.")
    else:
        text.append(f"The threshold: {thresholds.promise}.")
    count = f"Of {len(ranked)} images the {limit} with the highest scores are" if len(ranked) > limit else "All images are"
    text.append(f"{count} shown, the most anomalous first.")

    maps = (tifffile.imread(str(record.map)) for _, record in shown)
    scale = colour_scale(thresholds, ((float(np.median(values)), float(values.max())) for values in maps))
    legend = pictures.colour_bar(scale, {} if thresholds is None else {"pixel threshold": thresholds.pixel_threshold})
    numbers = {name: number for number, name in enumerate(opened.images.ids)}
    rule, reader = mask_rule(all_samples(opened), mask_threshold, True), opened.source.reader.lifted(True)  # they are scored
    cards = []
    for done, (sample, record) in enumerate(shown, 1):
        try:
            pixels = reader.read(sample.path)
            mask = read_mask(sample, pixels.shape[:2], rule, observer)
            number = numbers[record.nearest_image]
            cards.append(_card(opened, number, record, sample, pixels, mask, scale, BYTES // (4 * len(shown))))
        except InputError as error:  # it is gone since it was scored
            observer.problem(str(error))
        observer.progress("report", done, len(shown))
    threshold = None if thresholds is None else thresholds.threshold
    rows = [_at_threshold(row, found, threshold) for row in rows]
    cells = [{name: _cell(row, name) for name in COLUMNS} for row in rows]
    empty = {name for name in COLUMNS if all(cell[name] == MISSING for cell in cells)}
    if len({row.map for row in rows}) == 1:
        empty.add("map")
    table = [{COLUMNS[name]: value for name, value in cell.items() if name not in empty} for cell in cells]
    return pictures.page(title, text, _charts(found, thresholds, rows), table, cards, legend, _facts(store))


def _card(
    store: Store,
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
    left, top = record.patch_x, record.patch_y
    facts = [
        f"peak at {record.peak_x}, {record.peak_y}",
        f"most anomalous patch at {left}, {top}",
        f"nearest normal patch: {record.nearest_image} at {record.nearest_x}, {record.nearest_y}",
    ]
    if record.p_value is not None:
        facts.append(f"p-value {record.p_value:.3g}; rejected above {record.threshold:.4g}")
    for region in regions[:3]:
        size = f"{region.area} pixels" if region.area_mm2 is None else f"{region.area_mm2:.4g} mm²"
        facts.append(f"region of {size} at {region.x}, {region.y}, {region.width}x{region.height}, peak {region.peak:.4g}")
    if len(regions) > 3:
        facts.append(f"and {len(regions) - 3} smaller regions")
    patch = _patch(store, store.canvas.fit(pixels), values.shape, (left, top, record.patch_width, record.patch_height))
    (stored,) = store.images.read(number, number + 1)  # the file may be gone
    normal_box = record.nearest_x, record.nearest_y, record.nearest_width, record.nearest_height
    normal = _patch(store, stored, store.images.sizes[number], normal_box)
    drawn = {
        "image, mask in red" if mask is not None and mask.any() else "image": outlined,
        "map, regions and peak" if regions else "map and peak":
            pictures.marked(heat, boxes, (record.peak_x, record.peak_y)),
        "most anomalous patch": patch,
        "nearest normal patch": normal,
    }  # fmt: skip
    shown = [(what, pictures.inline(picture, limit)) for what, picture in drawn.items()]
    return Card(record.image, sample.kind or None, record.score, record.verdict, facts, shown)


def _patch(store: Store, fitted: NDArray[np.uint8], size: Sequence[int], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """A patch in its surroundings at the working size, as it was compared; `size` (height, width) and `box` are original."""
    height, width = map(int, size)
    rows, columns = store.canvas.covered(height, width)
    x, y, w, h = box
    left, right = (round(value * columns / width) for value in (x, x + w))
    top, bottom = (round(value * rows / height) for value in (y, y + h))
    inside = left, top, max(1, right - left), max(1, bottom - top)
    return pictures.surroundings(images.shown(fitted[:rows, :columns]), inside)


def _charts(found: Sequence[tuple[Sample, Record]], thresholds: Thresholds | None, rows: Sequence[Row]) -> list[Chart]:
    """How the scores are spread, with the thresholds, and the ROC curve where there are labels of both kinds."""
    labels = [sample.kind for sample, _ in found]
    scores = [record.score for _, record in found]
    groups = {
        "good": [s for s, kind in zip(scores, labels, strict=True) if kind == "good"],
        "defective": [s for s, kind in zip(scores, labels, strict=True) if kind not in ("", "good", "unlabelled")],
        "unlabelled": [s for s, kind in zip(scores, labels, strict=True) if kind in ("", "unlabelled")],
    }
    low, high = min(scores), max(scores)
    wide = 0 < 10 * low < high
    edges = (np.geomspace if wide else np.linspace)(low, high if high > low else low + 1, BINS + 1).tolist()
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)  # but for rounding
    marks = {} if thresholds is None else {"reject above": thresholds.threshold}
    if thresholds is not None and thresholds.review_threshold is not None:
        marks = {"review above": thresholds.review_threshold} | marks
    charts = [Chart("Images by anomaly score", {n: bars(g, edges) for n, g in groups.items() if g}, marks, wide)]
    judged = [(kind != "good", s) for s, kind in zip(scores, labels, strict=True) if kind not in ("", "unlabelled")]
    truth, values = [bad for bad, _ in judged], [s for _, s in judged]
    if len(set(truth)) == 2:
        from sklearn.metrics import roc_curve

        false, true, _ = roc_curve(truth, values)
        area = f"{metrics.auroc(truth, values):.3f}"
        line = list(zip(false.tolist(), true.tolist(), strict=True))
        row = next((row for row in reversed(rows) if row.kind is None), None)
        if row is not None and row.image_auroc_low is not None:
            area += f", 95 % {row.image_auroc_low:.3f} to {row.image_auroc_high:.3f}"
        title = f"ROC of the images: share of defects found over share of false alarms (AUROC {area})"
        charts.append(Chart(title, {"ROC": line, "chance": [(0, 0), (1, 1)]}))
    return charts


def _at_threshold(row: Row, found: Sequence[tuple[Sample, Record]], threshold: float | None) -> Row:
    """The row of maps on disk, with the shares of images that are rejected."""
    judged = [one for one in found if not one[0].defective or row.kind in (None, one[0].kind)]
    scores, labels = [record.score for _, record in judged], [sample.defective for sample, _ in judged]
    recall, alarms = (share_above(threshold, scores, labels, label) for label in (True, False))
    return replace(row, image_recall=recall, image_false_alarms=alarms)


def _cell(row: Row, name: str) -> str:
    if name == "kind":
        return row.kind or "all"
    value = row.images - row.defective if name == "good" else getattr(row, name)
    if value is None:
        return MISSING
    low, high = (getattr(row, f"{name}_{end}", None) for end in ("low", "high"))
    interval = "" if low is None or high is None else f" ({low:.3f}–{high:.3f})"
    return f"{value:.3f}{interval}" if isinstance(value, float) else str(value)


def _facts(store: Path | str) -> dict[str, str]:
    found = info(store)
    return {
        "data set": f"{found['root']} ({found['layout']})",
        "learned from": f"{found['images']} good images, {found['width']}x{found['height']} pixels",
        "identity of these": str(found["manifest"]),
        "encoder": f"{found['encoder_source']}, {found['encoder_steps']} steps, sha256 {found['encoder_sha256']}",
        "recipe": ", ".join(f"{name} {value}" for name, value in (found["recipe"] or {}).items()) or "–",
        "bank": ", ".join(f"{count:,} {scale}" for scale, count in (found["bank_vectors"] or {}).items()) + " vectors",
        "distances off by at most": f"{found['distance_error']:.3g}",
        "calibration": str(found["calibration"] or "–"),
        "store": str(found["store"]),
        "versions": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        "page written": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
