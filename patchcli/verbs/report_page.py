"""The page of scored images."""

import datetime
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import tifffile

from patchcli.datasets.layouts import Sample
from patchcli.detection import metrics
from patchcli.detection.detector import Detector
from patchcli.detection.evaluation import Row, share_above
from patchcli.detection.records import Record
from patchcli.observer import Observer
from patchcli.reporting import page as pages
from patchcli.reporting.charts import Chart, bars
from patchcli.reporting.pictures import ColourScale
from patchcli.store import Thresholds
from patchcli.verbs.info import info
from patchcli.verbs.report_cards import cards
from patchcli.verbs.writer import run_scale

BINS = 24
MISSING = "–"
COLUMNS = {
    "kind": "kind", "map": "map", "defective": "defective", "good": "good", "image_auroc": "image AUROC",
    "image_ap": "image AP", "image_recall": "defects rejected", "image_false_alarms": "good rejected",
    "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro_30": "AUPRO 0.3",
}  # fmt: skip


def page(
    detector: Detector,
    scored: Sequence[tuple[Sample, Record]],
    title: str,
    lines: Sequence[str],
    rows: Sequence[Row],
    limit: int,
    observer: Observer,
    mask_threshold: int | None = None,
) -> str:
    """The page of samples and records whose maps are on disk; `rows` are of these images."""
    calibration = detector.calibration
    thresholds = None if calibration is None else calibration.thresholds
    ranked = sorted(scored, key=lambda one: -one[1].score)
    shown = ranked[:limit]
    text = [*lines]
    if thresholds is None:
        text.append("There are no verdicts, since the store is not calibrated.")
    else:
        text.append(f"The threshold: {thresholds.promise}.")
    count = f"Of {len(ranked)} images the {limit} with the highest scores are" if len(ranked) > limit else "All images are"
    text.append(f"{count} shown, the most anomalous first.")
    scale = _scale(shown, thresholds)
    legend = pages.colour_bar(scale, {} if thresholds is None else {"pixel threshold": thresholds.pixel_threshold})
    threshold = None if thresholds is None else thresholds.threshold
    rows = [_at_threshold(row, scored, threshold) for row in rows]
    drawn = cards(detector, shown, scale, observer, mask_threshold)
    return pages.page(title, text, _charts(scored, thresholds, rows), _table(rows), drawn, legend, _facts(detector))


def _scale(shown: Sequence[tuple[Sample, Record]], thresholds: Thresholds | None) -> ColourScale:
    """The calibration's scale of colours, else one for these maps."""
    if thresholds is not None:
        return ColourScale(thresholds.colour_low, thresholds.colour_high)
    maps = (tifffile.imread(str(record.map)) for _, record in shown)
    return run_scale((float(np.median(values)), float(values.max())) for values in maps)


def _table(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The figures; columns without any are left out."""
    cells = [{name: _cell(row, name) for name in COLUMNS} for row in rows]
    empty = {name for name in COLUMNS if all(cell[name] == MISSING for cell in cells)}
    if len({row.map for row in rows}) == 1:
        empty.add("map")
    return [{COLUMNS[name]: value for name, value in cell.items() if name not in empty} for cell in cells]


def _charts(scored: Sequence[tuple[Sample, Record]], thresholds: Thresholds | None, rows: Sequence[Row]) -> list[Chart]:
    """How the scores are spread, with the thresholds, and the ROC curve where there are labels of both kinds."""
    labels = [sample.kind for sample, _ in scored]
    scores = [record.score for _, record in scored]
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
    return [*charts, *_roc(labels, scores, rows)]


def _roc(labels: Sequence[str], scores: Sequence[float], rows: Sequence[Row]) -> list[Chart]:
    """The ROC curve, where there are good and defective images."""
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
        return [Chart(title, {"ROC": line, "chance": [(0, 0), (1, 1)]})]
    return []


def _at_threshold(row: Row, scored: Sequence[tuple[Sample, Record]], threshold: float | None) -> Row:
    """The row of maps on disk, with the shares of images that are rejected."""
    judged = [one for one in scored if not one[0].defective or row.kind in (None, one[0].kind)]
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


def _facts(detector: Detector) -> dict[str, str]:
    store = info(detector.path)
    return {
        "data set": f"{store.root} ({store.layout})",
        "learned from": f"{store.images} good images, {store.width}x{store.height} pixels",
        "identity of these": store.manifest,
        "encoder": f"{store.encoder_source}, {store.encoder_steps} steps, sha256 {store.encoder_sha256}",
        "recipe": ", ".join(f"{name} {value}" for name, value in (store.recipe or {}).items()) or MISSING,
        "bank": ", ".join(f"{count:,} {scale}" for scale, count in (store.bank_vectors or {}).items()) + " vectors",
        "distances off by at most": f"{store.distance_error:.3g}",
        "calibration": store.calibration or MISSING,
        "store": store.store,
        "versions": ", ".join(f"{name} {version}" for name, version in store.versions.items()),
        "page written": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
