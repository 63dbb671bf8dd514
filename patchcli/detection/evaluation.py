"""Figures of detection: maps, labels and masks of test images → rows of Tables S2 and S1, one class after another."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcli.datasets.images import resize_map
from patchcli.datasets.layouts import Sample
from patchcli.datasets.roi import Roi
from patchcli.detection import metrics
from patchcli.detection.pixel_metrics import Pixels, SortedPixels

SCHEMA = "patchcli.eval/1"


@dataclass(frozen=True)
class Row:
    """One line of Table S2 (a class and a map) or, over several stores, of Table S1 (the product map of each class).

    Low and high are the ends of 95 % bootstrap intervals over images. A figure is None where it has nothing to stand on.
    """

    schema: str
    category: str
    map: str  # a scale's label, such as K=32 or fixed, or product; "maps" where they were read from disk
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
    encoder: str | None  # sha256 of the weights; None where there are several, or where the maps name none


FIGURES = (
    "image_auroc", "image_auroc_low", "image_auroc_high", "image_ap", "image_f1max_oracle",
    "image_recall", "image_false_alarms",
    "pixel_auroc", "pixel_auroc_low", "pixel_auroc_high", "pixel_ap", "pixel_f1max_oracle", "aupro_30", "aupro_05",
)  # fmt: skip


@dataclass(frozen=True)
class MappedImage:
    """A test image with its anomaly maps."""

    sample: Sample
    size: tuple[int, int]  # (height, width)
    maps: Mapping[str, NDArray[np.float32]]  # by name, each (h, w) of any size
    encoder: str | None  # that made them: sha256 of the weights, if known
    score: float | None = None  # the maximum at the working size, which a map from disk may know; None: the maximum of each

    def measure(self, mask: NDArray[np.bool_] | None, roi: Roi | None) -> "Measurement":
        """What the figures need, with the mask (H, W) of the defects; None: the image's pixels are left out."""
        inside = {name: values if roi is None else roi.inside(values) for name, values in self.maps.items()}
        scores = {name: float(values.max()) if self.score is None else self.score for name, values in inside.items()}
        pixels = None if mask is None else self._sorted(mask, None if roi is None else roi.at(*self.size))
        return Measurement(self.sample.kind, self.sample.defective, self.encoder, scores, pixels)

    def _sorted(self, mask: NDArray[np.bool_], counted: NDArray[np.bool_] | None) -> Iterator[tuple[str, SortedPixels]]:
        for name, values in self.maps.items():
            yield name, SortedPixels.of(resize_map(values, *self.size), mask, counted)


@dataclass(frozen=True)
class Measurement:
    """What the figures, which are exact, need of a test image: every pixel, about 4 bytes for each in each map."""

    kind: str
    defective: bool
    encoder: str | None
    scores: dict[str, float]  # the maximum of each map
    pixels: Iterable[tuple[str, SortedPixels]] | None  # by map, sorted one after another as they are taken; None: not counted

    def whole(self) -> "Measurement":
        """The same with the pixels of all maps in memory, to be sent."""
        return replace(self, pixels=None if self.pixels is None else tuple(self.pixels))


@dataclass(frozen=True)
class _Scores:
    """What stays in memory of a test image."""

    kind: str
    defective: bool
    has_mask: bool  # whether its pixels count
    scores: dict[str, float]  # the maximum of each map


class Evaluation:
    """The figures of one class, image by image. Pixels go to temporary files (TMPDIR), which are gone when the block ends.

    `labels` says what the rows call each map; the last map's maximum is the image's score.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels
        self._images: list[_Scores] = []
        self._encoders: set[str | None] = set()
        self._files = ExitStack()
        self._pixels = {name: Pixels(self._files.enter_context(tempfile.TemporaryFile())) for name in labels}  # noqa: SIM115

    def __enter__(self) -> "Evaluation":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def __len__(self) -> int:
        return len(self._images)

    def add(self, image: Measurement) -> None:
        """Count an image."""
        for name, pixels in image.pixels or ():
            self._pixels[name].add(image.kind, pixels)
        self._images.append(_Scores(image.kind, image.defective, image.pixels is not None, image.scores))
        self._encoders.add(image.encoder)

    def rows(self, category: str, threshold: float | None = None) -> list[Row]:
        """A row for each map, then for each kind of defect; `threshold` is that of the score."""
        *others, last = self._labels
        kinds = dict.fromkeys(image.kind for image in self._images if image.defective)
        of_scores = [self._row(category, last, kind, threshold) for kind in (None, *kinds)]
        return [*(self._row(category, name) for name in others), *of_scores]

    def _row(self, category: str, name: str, kind: str | None = None, threshold: float | None = None) -> Row:
        """The figures of a map, over all images or over the good ones and those with a kind of defect."""
        chosen = [image for image in self._images if kind is None or not image.defective or image.kind == kind]
        labels, scores = [image.defective for image in chosen], [image.scores[name] for image in chosen]
        pixels = self._pixels[name].figures(None if kind is None else {image.kind for image in chosen})
        low, high = metrics.auroc_interval(labels, scores) or (None, None)
        pixel_low, pixel_high = pixels.auroc_interval or (None, None)
        aupro_30, aupro_05 = pixels.aupro or (None, None)
        return Row(
            schema=SCHEMA,
            category=category,
            map=self._labels[name],
            kind=kind,
            image_auroc=metrics.auroc(labels, scores),
            image_auroc_low=low,
            image_auroc_high=high,
            image_ap=metrics.average_precision(labels, scores),
            image_f1max_oracle=metrics.f1_max(labels, scores),
            image_recall=share_above(threshold, scores, labels, True),
            image_false_alarms=share_above(threshold, scores, labels, False),
            pixel_auroc=pixels.auroc,
            pixel_auroc_low=pixel_low,
            pixel_auroc_high=pixel_high,
            pixel_ap=pixels.ap,
            pixel_f1max_oracle=pixels.f1_max,
            aupro_30=aupro_30,
            aupro_05=aupro_05,
            images=len(chosen),
            defective=sum(labels),
            note=_note(chosen),
            encoder=next(iter(self._encoders)) if len(self._encoders) == 1 else None,
        )


def share_above(threshold: float | None, scores: list[float], labels: list[bool], label: bool) -> float | None:
    """The share of the images with a label that score above the threshold; None without a threshold or such images."""
    chosen = [score for score, own in zip(scores, labels, strict=True) if own == label]
    return None if threshold is None or not chosen else sum(score > threshold for score in chosen) / len(chosen)


def _note(chosen: list[_Scores]) -> str:
    """Why figures of these images are missing, or come from fewer images."""
    labels = {image.defective for image in chosen}
    masks = [image.has_mask for image in chosen if image.defective]
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


def totals(rows: Sequence[Row]) -> list[Row]:
    """The rows of all kinds of defects together; the product's is the last."""
    return [row for row in rows if row.kind is None]


def average(rows: Sequence[Row]) -> Row:
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


def numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows' numbers, nested: class → map → figures, and "kinds" → kind → figures. Missing ones are left out.

    A class that comes twice (two stores of it) gets a number behind its name.
    """
    nested: dict[str, Any] = {}
    category = ""
    for row in rows:
        present = {name: value for name in (*FIGURES, "images", "defective") if (value := getattr(row, name)) is not None}
        if row.kind is not None:
            nested[category][row.map].setdefault("kinds", {})[row.kind] = present
            continue
        category, again = row.category, 1
        while row.map in nested.get(category, {}):
            again += 1
            category = f"{row.category} {again}"
        nested.setdefault(category, {})[row.map] = present
    return nested
