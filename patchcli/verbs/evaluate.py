"""Test images, their labels and masks → tables of figures, from a fresh scoring or from maps on disk."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcli import files, runtime
from patchcli.datasets import images
from patchcli.datasets.layouts import Dataset, Sample
from patchcli.datasets.roi import Roi
from patchcli.detection import metrics
from patchcli.errors import InputError
from patchcli.features.registry import ENCODERS
from patchcli.observer import Observer
from patchcli.store import Store, stores_in
from patchcli.verbs import sources
from patchcli.verbs.data import mask_rule, read_mask
from patchcli.verbs.outputs import Maps, below, description
from patchcli.verbs.score import BATCH, calibration_of, make_scorer, scored

SCHEMA = "patchcli.eval/1"

# An image, its (height, width), and its maps by name, each (h, w) of any size.
Stream = Iterator[tuple[Sample, tuple[int, int], dict[str, NDArray[np.float32]]]]


@dataclass(frozen=True)
class Row:
    """One line of Table S2 (a class and a map) or, over several stores, of Table S1 (the product map of each class).

    Low and high are the ends of 95 % bootstrap intervals over images. A figure is None where it has nothing to stand on.
    """

    schema: str
    category: str
    map: str  # K=64, K=32, flat K=64 or product; "maps" where they were read from disk
    kind: str | None  # the kind of defect, against all good images; None: all kinds together
    image_auroc: float | None
    image_auroc_low: float | None
    image_auroc_high: float | None
    image_ap: float | None
    image_f1max_oracle: float | None  # at the threshold that is best for these very labels
    image_recall: float | None  # share of defective, and of good images, above the calibrated threshold of the score
    image_false_alarms: float | None
    pixel_auroc: float | None
    pixel_auroc_low: float | None
    pixel_auroc_high: float | None
    pixel_ap: float | None
    pixel_f1max_oracle: float | None
    aupro_30: float | None  # area under the PRO curve up to a false positive rate of 0.3
    aupro_05: float | None
    images: int
    defective: int
    note: str  # why a figure is missing, else empty
    encoder: str | None  # sha256 of the weights; None where there are several, or maps that do not tell


FIGURES = (
    "image_auroc", "image_auroc_low", "image_auroc_high", "image_ap", "image_f1max_oracle",
    "image_recall", "image_false_alarms",
    "pixel_auroc", "pixel_auroc_low", "pixel_auroc_high", "pixel_ap", "pixel_f1max_oracle", "aupro_30", "aupro_05",
)  # fmt: skip


@dataclass(frozen=True)
class _Judged:
    """What is kept in memory of a test image."""

    kind: str
    defective: bool
    masked: bool  # whether its pixels count
    scores: dict[str, float]  # of each map, its maximum


def evaluate(
    store: Path | str = "patchcli.zarr",
    *,
    maps: Path | str | None = None,
    roi: Path | str | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    search: str = "auto",
    memory: int | None = None,
    threads: int | None = None,
    mask_threshold: int | None = None,
    large: bool = False,
    observer: Observer | None = None,
) -> list[Row]:
    """Compare the test images' scores and maps with their labels and masks, at the masks' size.

    A store gives a row a map (Table S2), then one a kind of defect for the product; a folder of stores gives the
    product's row of each and their average (S1). Images without a usable mask are left out of the pixel figures.

    With `maps`, a folder as `score` writes it or another tool, nothing is scored and the store needs no encoder: maps
    are looked for at test/<kind>/<stem> with one of images.MAP_SUFFIXES (for a folder of stores, below the name of the
    class), brought to the image's size, and their maximum is the image's score. `out`, a .json file, gets all numbers.

    `roi` is a mask as `score` takes it: what is outside counts neither in scores nor as pixels, normal or defective.
    Values of masks above `mask_threshold` are defects; without it, see masks.Rule. `large` images are those of `score`.
    """
    observer = observer or Observer()
    runtime.set_threads(threads)
    folder = Path(store)
    target = None if out is None else files.target("--metrics", out, ".json")
    source = None if maps is None else Path(maps)
    interest = None if roi is None else Roi.read(roi, mask_threshold, large)
    how = interest, device, search, memory, mask_threshold, large, observer
    if not folder.is_dir() or (folder / "zarr.json").exists():
        rows = _evaluate_one(Store.open(store), source, *how)
    else:
        rows = []
        for path in stores_in(folder):
            opened = Store.open(path)
            below = None if source is None else source / opened.source.category
            rows.append(totals(_evaluate_one(opened, below, *how))[-1])
        rows.append(_average(rows))
    if target is not None:
        files.write_text(target, json.dumps(numbers(rows), indent=2) + "\n")
    return rows


def totals(rows: list[Row]) -> list[Row]:
    """The rows of all kinds of defects together; the product's is the last."""
    return [row for row in rows if row.kind is None]


def numbers(rows: list[Row]) -> dict[str, Any]:
    """The rows' numbers, nested: class → map → figures, and "kinds" → kind → figures. What is missing is left out.

    A class that comes twice (two stores of it) gets a number behind its name.
    """
    found: dict[str, Any] = {}
    category = ""
    for row in rows:
        present = {name: value for name in (*FIGURES, "images", "defective") if (value := getattr(row, name)) is not None}
        if row.kind is not None:
            found[category][row.map].setdefault("kinds", {})[row.kind] = present
            continue
        category, again = row.category, 1
        while row.map in found.get(category, {}):
            again += 1
            category = f"{row.category} {again}"
        found.setdefault(category, {})[row.map] = present
    return found


def _average(rows: list[Row]) -> Row:
    """The mean of the classes' figures; intervals are not averaged."""
    missing = sum(row.image_auroc is None or row.pixel_auroc is None for row in rows)
    means: dict[str, Any] = {}
    for name in FIGURES:
        present = [value for row in rows if (value := getattr(row, name)) is not None]
        means[name] = float(np.mean(present)) if present and not name.endswith(("_low", "_high")) else None
    return Row(
        schema=SCHEMA,
        category="average",
        map=rows[0].map if len({row.map for row in rows}) == 1 else "product",
        kind=None,
        **means,
        images=sum(row.images for row in rows),
        defective=sum(row.defective for row in rows),
        note=f"{missing} of {len(rows)} classes lack a figure" if missing else "",
        encoder=None,
    )


def _evaluate_one(
    store: Store,
    maps: Path | None,
    roi: Roi | None,
    device: str,
    search: str,
    memory: int | None,
    mask_threshold: int | None,
    large: bool,
    observer: Observer,
) -> list[Row]:
    """The rows of one class, maps read or made one image at a time, their pixels kept in temporary files (TMPDIR)."""
    dataset = sources.dataset(store)
    for line in dataset.problems:
        observer.problem(line)
    samples = dataset.split("test")
    if not samples:
        raise InputError(f"{dataset.root}: no test images there; expected test/good and test/<kind of defect>")
    encoders: set[str | None] = set()
    stream: Stream
    threshold = None
    if maps is None:
        attributes = store.encoder.attributes
        encoders.add(attributes.sha256)
        scales = ENCODERS[attributes.architecture].scales
        labels = {name: scale.label for name, scale in scales.items()}
        if len(scales) > 1:
            labels["multi"] = "product"
        scorer = make_scorer(store, runtime.device(device), search, memory, observer, roi, large)
        calibration = calibration_of(store, roi, "no recall at the threshold", observer)
        threshold = None if calibration is None else calibration.thresholds.threshold
        stream = ((sample, result.size, result.maps) for sample, result in scored(scorer, samples, BATCH, observer))
    else:
        labels = {"maps": "maps"}
        stream = _read(dataset, samples, maps, roi, encoders, observer)
    rule = mask_rule(dataset.samples, mask_threshold, large)
    judged: list[_Judged] = []
    with ExitStack() as stack:
        pixels = {name: metrics.Pixels(stack.enter_context(tempfile.TemporaryFile())) for name in labels}
        for sample, size, found in stream:
            mask = read_mask(sample, size, rule, observer) if sample.defective else np.zeros(size, bool)
            if mask is not None:
                counted = None if roi is None else roi.at(*size)
                for name in labels:
                    pixels[name].add(sample.kind, images.resize_map(found[name], *size), mask, counted)
            scores = {name: float((found[name] if roi is None else roi.inside(found[name])).max()) for name in labels}
            judged.append(_Judged(sample.kind, sample.defective, mask is not None, scores))
            observer.progress("eval", len(judged), len(samples), dataset.category)
        if not judged:
            what = "test image could be read" if maps is None else f"map of a test image could be used from {maps}"
            raise InputError(f"{dataset.root}: no {what}")
        encoder = encoders.pop() if len(encoders) == 1 else None
        kinds = dict.fromkeys(image.kind for image in judged if image.defective)
        *others, last = labels  # the last one's maximum is the score
        wanted = [(name, None, None) for name in others] + [(last, kind, threshold) for kind in (None, *kinds)]
        return [
            _row(dataset.category, labels[name], kind, judged, name, limit, pixels[name], encoder)
            for name, kind, limit in wanted
        ]


def _read(
    dataset: Dataset, samples: list[Sample], folder: Path, roi: Roi | None, encoders: set[str | None], observer: Observer
) -> Stream:
    """Maps on disk with the size of their images; what is missing or unusable is reported and left out."""
    places = Maps(folder, dataset)
    for sample in samples:
        path = places.of(sample)
        if path is None:
            expected = f"{below(folder, sample.id).with_suffix('')} with one of {', '.join(images.MAP_SUFFIXES)}"
            observer.problem(f"{sample.id}: no map; expected {expected}")
            continue
        try:
            found = sample, images.size(sample.path), {"maps": images.read_map(path)}
            if roi is not None:
                roi.check(sample.path, *found[1])
                roi.check(path, *found[2]["maps"].shape)
        except InputError as error:
            observer.problem(str(error))
            continue
        encoders.add(description(path).get("encoder"))
        yield found


def _row(
    category: str,
    label: str,
    kind: str | None,
    judged: list[_Judged],
    name: str,
    threshold: float | None,
    pixels: metrics.Pixels,
    encoder: str | None,
) -> Row:
    """The figures of one map, over all images or over the good ones and those with a kind of defect."""
    chosen = [image for image in judged if kind is None or not image.defective or image.kind == kind]
    labels, scores = [image.defective for image in chosen], [image.scores[name] for image in chosen]
    found = pixels.figures(None if kind is None else {image.kind for image in chosen})
    low, high = metrics.auroc_interval(labels, scores) or (None, None)
    pixel_low, pixel_high = found.auroc_interval or (None, None)
    aupro_30, aupro_05 = found.aupro or (None, None)
    return Row(
        schema=SCHEMA,
        category=category,
        map=label,
        kind=kind,
        image_auroc=metrics.auroc(labels, scores),
        image_auroc_low=low,
        image_auroc_high=high,
        image_ap=metrics.average_precision(labels, scores),
        image_f1max_oracle=metrics.f1_max(labels, scores),
        image_recall=share_above(threshold, scores, labels, True),
        image_false_alarms=share_above(threshold, scores, labels, False),
        pixel_auroc=found.auroc,
        pixel_auroc_low=pixel_low,
        pixel_auroc_high=pixel_high,
        pixel_ap=found.ap,
        pixel_f1max_oracle=found.f1_max,
        aupro_30=aupro_30,
        aupro_05=aupro_05,
        images=len(chosen),
        defective=sum(labels),
        note=_note(chosen),
        encoder=encoder,
    )


def share_above(threshold: float | None, scores: list[float], labels: list[bool], label: bool) -> float | None:
    """The share of the images with a label that score above the threshold."""
    chosen = [score for score, own in zip(scores, labels, strict=True) if own == label]
    return None if threshold is None or not chosen else sum(score > threshold for score in chosen) / len(chosen)


def _note(chosen: list[_Judged]) -> str:
    """Why figures of these images are missing, or stand on fewer images."""
    labels = {image.defective for image in chosen}
    masks = [image.masked for image in chosen if image.defective]
    notes = []
    if len(labels) < 2:
        only = "defective" if True in labels else "good"
        notes.append(f"image AUROC needs good and defective images, found {only} ones only")
    if not masks:
        notes.append("pixel AUROC needs defective images with masks")
    elif not any(masks):
        notes.append("pixel AUROC needs masks, found no usable one in ground_truth/")
    elif not all(masks):
        without = masks.count(False)
        notes.append(f"{without} of {len(masks)} defective images have no usable mask, left out of pixel AUROC")
    return "; ".join(notes)
