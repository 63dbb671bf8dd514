"""Test images and their labels → AUROC tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchcli import layouts, metrics, runtime
from patchcli.encoder import ARCHITECTURES
from patchcli.errors import InputError
from patchcli.images import resize_map
from patchcli.layouts import Sample
from patchcli.observer import Observer
from patchcli.pipeline.data import read_mask
from patchcli.pipeline.score import BATCH, make_scorer, scored
from patchcli.scoring import Scored
from patchcli.store import Store, stores_in

SCHEMA = "patchcli.eval/1"


@dataclass(frozen=True)
class Row:
    """One line of Table S2 (a class and a map) or, over several stores, of Table S1 (the product map of each class)."""

    schema: str
    category: str
    map: str  # K=64, K=32, flat K=64 or product
    image_auroc: float | None
    pixel_auroc: float | None
    images: int
    defective: int
    note: str  # why a figure is missing, else empty
    encoder: str | None  # sha256 of the weights


def evaluate(
    store: Path | str = "patchcli.zarr",
    *,
    device: str = "auto",
    search: str = "auto",
    memory: int | None = None,
    threads: int | None = None,
    observer: Observer | None = None,
) -> list[Row]:
    """Score the test images and compare with their labels and masks, at the masks' size.

    A store gives a row a map (Table S2); a folder of stores gives the product's row of each and their average (S1).
    Images without a usable mask are left out of the pixel figures.
    """
    observer = observer or Observer()
    runtime.set_threads(threads)
    folder = Path(store)
    if not folder.is_dir() or (folder / "zarr.json").exists():
        return _evaluate_one(Store.open(store), device, search, memory, observer)
    rows = [_evaluate_one(Store.open(path), device, search, memory, observer)[-1] for path in stores_in(folder)]
    missing = sum(row.image_auroc is None or row.pixel_auroc is None for row in rows)
    average = Row(
        schema=SCHEMA,
        category="average",
        map="product",
        image_auroc=_mean([row.image_auroc for row in rows]),
        pixel_auroc=_mean([row.pixel_auroc for row in rows]),
        images=sum(row.images for row in rows),
        defective=sum(row.defective for row in rows),
        note=f"{missing} of {len(rows)} classes lack a figure" if missing else "",
        encoder=None,
    )
    return [*rows, average]


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _evaluate_one(store: Store, device: str, search: str, memory: int | None, observer: Observer) -> list[Row]:
    dataset = layouts.read(Path(store.dataset["root"]), store.dataset["layout"])
    for line in dataset.problems:
        observer.problem(line)
    samples = dataset.split("test")
    if not samples:
        raise InputError(f"{dataset.root}: no test images there; expected test/good and test/<kind of defect>")
    scorer = make_scorer(store, runtime.device(device), search, memory, observer)
    results: list[tuple[Sample, Scored]] = []
    for sample, result in scored(scorer, samples, BATCH, observer):
        results.append((sample, result))
        observer.progress("eval", len(results), len(samples), dataset.category)
    if not results:
        raise InputError(f"{dataset.root}: no test image could be read")
    return rows_of(store, dataset.category, results, observer)


def rows_of(store: Store, category: str, results: list[tuple[Sample, Scored]], observer: Observer) -> list[Row]:
    """The table of one class from its scored test images."""
    labels = [sample.defective for sample, _ in results]
    masks = {sample.id: read_mask(sample, result.size, observer) for sample, result in results if sample.defective}
    without = sum(mask is None for mask in masks.values())
    notes = []
    if len(set(labels)) < 2:
        notes.append(f"image AUROC needs good and defective images, found {'defective' if labels[0] else 'good'} ones only")
    if masks and without == len(masks):
        unusable = any(sample.masks for sample, _ in results)
        notes.append(f"pixel AUROC needs masks, found none {'usable ' * unusable}in ground_truth/")
    elif not masks:
        notes.append("pixel AUROC needs defective images with masks")
    elif without:
        notes.append(f"{without} of {len(masks)} defective images have no usable mask, left out of pixel AUROC")
    attributes = store.encoder_attributes
    scales = ARCHITECTURES[attributes["architecture"]].scales
    names = {name: scale.label for name, scale in scales.items()}
    if len(scales) > 1:
        names["multi"] = "product"
    rows = []
    for name, label in names.items():

        def pixels(name: str = name) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float32]]]:
            for sample, result in results:
                mask = masks[sample.id] if sample.defective else np.zeros(result.size, bool)
                if mask is not None:
                    yield mask, resize_map(result.maps[name], *result.size)

        image_auroc = metrics.auroc(labels, [result.score(name) for _, result in results])
        pixel_auroc = metrics.pixel_auroc(pixels)
        counts = len(results), sum(labels)
        rows.append(Row(SCHEMA, category, label, image_auroc, pixel_auroc, *counts, "; ".join(notes), attributes["sha256"]))
    return rows
