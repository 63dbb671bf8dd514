"""Test images, their labels and masks → tables of figures, from a fresh scoring or from maps on disk."""

import json
from collections.abc import Mapping
from pathlib import Path

from patchcli import files, runtime
from patchcli.cluster import Cluster
from patchcli.datasets.copies import same_images
from patchcli.datasets.roi import Roi
from patchcli.datasets.sample_masks import mask_rule
from patchcli.detection.detector import Detector, Setup, path_and_setup, scale_names
from patchcli.detection.evaluation import Evaluation, Row, average, numbers, totals
from patchcli.errors import IncompleteError, InputError
from patchcli.observer import Observer
from patchcli.store import Store, located, stores_in
from patchcli.verbs import sources
from patchcli.verbs.measuring import measurements
from patchcli.verbs.outputs import Maps


def evaluate(
    detector: Detector | Path | str = "patchcli.zarr",
    *,
    maps: Path | str | None = None,
    metrics_out: Path | str | None = None,
    mask_threshold: int | None = None,
    cluster: Cluster | None = None,
    setup: Setup | None = None,
    observer: Observer | None = None,
) -> list[Row]:
    """Compare the test images' scores and maps with their labels and masks, at the masks' size.

    A detector or a store gives a row for each map (Table S2), then one for each kind of defect; a folder of stores gives
    the product's row of each and their average (S1). Images without a usable mask are left out of the pixel figures.

    With `maps`, a folder as `score` or another tool writes it, nothing is scored and a store needs no encoder: the maps are
    test/<kind>/<stem> with one of images.MAP_SUFFIXES (for a folder of stores, below the name of the class). They are
    brought to the image's size; an image's score is their maximum before that, or what `score` wrote into the map.
    `metrics_out`, a .json file, gets all numbers. Values of masks above `mask_threshold` are defects; without it, see
    masks.Rule. A `cluster` scores the images, or reads their maps, on its workers, with the same figures. `setup` says how
    the detector of a store is opened; what is outside its region of interest counts neither in scores nor as pixels.
    """
    observer = observer or Observer()
    target = None if metrics_out is None else files.target("metrics_out", metrics_out, ".json")
    path, setup = path_and_setup(detector, setup)
    folder = None if maps is None else Path(maps)
    if isinstance(detector, Detector):
        rows = _evaluate_class(detector, folder, mask_threshold, cluster, setup, observer)
    elif (stores := stores_in(located(path))) is None:
        rows = _evaluate_class(Store.open(path), folder, mask_threshold, cluster, setup, observer)
    else:
        rows = []
        for store in map(Store.open, stores):
            own = None if folder is None else folder / store.source.category
            rows.append(totals(_evaluate_class(store, own, mask_threshold, cluster, setup, observer))[-1])
        rows.append(average(rows))
    if target is not None:
        files.write_text(target, json.dumps(numbers(rows), indent=2) + "\n")
    return rows


def _evaluate_class(
    source: Detector | Store,
    folder: Path | None,
    mask_threshold: int | None,
    cluster: Cluster | None,
    setup: Setup,
    observer: Observer,
) -> list[Row]:
    """The rows of one class, its maps read or made one image at a time."""
    assert setup.roi is None or isinstance(setup.roi, Roi)
    dataset = sources.dataset(source)
    for line in dataset.problems:
        observer.problem(line)
    samples = dataset.split("test")
    if not samples:
        raise InputError("no test images there; expected test/good and test/<kind of defect>", subject=dataset.root)
    labels: Mapping[str, str] = {"maps": "maps"}
    threshold = None
    maps: Detector | Maps
    if folder is None:
        maps = source if isinstance(source, Detector) else Detector(source, setup, observer)
        labels, threshold = scale_names(maps), _threshold(maps, observer)
        ids = set(maps.images.ids)
        if inside := same_images(samples, [sample for sample in dataset.samples if sample.id in ids]):
            first = f"{len(inside)} of {len(samples)} test images are in the bank (first: {next(iter(inside))})"
            observer.note(f"{first}: they score 0, or nearly, which says nothing of the figures; see: `audit()`")
    else:
        runtime.set_threads(setup.threads)
        maps = Maps(folder, dataset)
    rule = mask_rule(dataset.samples, mask_threshold, setup.large)
    with Evaluation(labels) as evaluation:
        for image in measurements(maps, samples, rule, setup.roi, setup.threads, cluster, observer):
            evaluation.add(image)
            observer.progress("eval", len(evaluation), len(samples), dataset.category)
        if not len(evaluation):
            what = "test image could be read" if folder is None else f"map of a test image could be used from {folder}"
            raise InputError(f"no {what}", subject=dataset.root)
        return evaluation.rows(dataset.category, threshold)


def _threshold(detector: Detector, observer: Observer) -> float | None:
    """The calibrated threshold of the score; says so where there is one that does not hold."""
    if detector.uncalibrated is not None and not isinstance(detector.uncalibrated, IncompleteError):
        observer.note(f"no recall at the threshold: {detector.uncalibrated}")
    return None if detector.calibration is None else detector.calibration.thresholds.threshold
