"""Good images that the bank does not hold → thresholds in the store, with what they promise."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from patchcli import calibration, runtime
from patchcli.calibration import Thresholds
from patchcli.errors import InputError
from patchcli.layouts import Sample, digest
from patchcli.observer import Observer
from patchcli.pipeline.bank import check_whole, leave_one_out
from patchcli.pipeline.score import BATCH, all_samples, by_path, make_scorer, named, original_size, readable, scored
from patchcli.regions import Roi
from patchcli.scoring import Scored
from patchcli.store import Store

SCHEMA = "patchcli.calibration/1"
FALSE_ALARMS, CONFIDENCE = 0.01, 0.95
HOTTEST = 2  # full heat in pictures, in pixel thresholds


def calibrate(
    store: Path | str = "patchcli.zarr",
    source: str | Sequence[Path | str] | None = None,
    *,
    false_alarms: float = FALSE_ALARMS,
    confidence: float = CONFIDENCE,
    review: float | None = None,
    roi: Path | str | None = None,
    device: str = "auto",
    search: str = "auto",
    memory: int | None = None,
    threads: int | None = None,
    observer: Observer | None = None,
) -> Thresholds:
    """Set the thresholds that at most a share `false_alarms` of good images exceeds, with this confidence.

    `source` of good images: "holdout", those that `extract` or `train` set aside; "validation", the data set's split;
    "loo", leaving out each of the bank's images in turn, for which the promise holds approximately (the encoder knows the
    image, and one bank is not the other); or files and folders. Without it, the first of the three that there is.
    `review` is the higher rate of a lower threshold. `roi` is a mask as `score` takes it, which then needs the same one;
    thresholds without one hold within any. Raises InputError where the images are too few, of the bank, or test images.
    """
    observer = observer or Observer()
    runtime.set_threads(threads)
    interest = None if roi is None else Roi.read(roi)
    target = runtime.device(device)
    with Store.writing(store, observer) as opened:
        bank = opened.bank()
        samples, origin = _samples(opened, source, observer)
        calibration.check(bank.images if samples is None else len(samples), false_alarms, confidence)
        if review is not None and not false_alarms < review < 1:
            raise InputError(f"--review: expected a rate above that of --false-alarms, found {100 * review:g}%")
        if samples is None:
            check_whole(opened)
        scorer = make_scorer(opened, target, search, memory, observer, interest)
        if observer.dry and samples is not None:
            samples = [sample for sample, _ in readable(samples, interest, observer)]
            calibration.check(len(samples), false_alarms, confidence)
        count = bank.images if samples is None else len(samples)
        observer.plan(f"{count} good images ({origin})", f"the calibration of {store}")

        def results() -> Iterator[tuple[str, Scored]]:
            if samples is None:
                yield from leave_one_out(opened, scorer, "calibrate", observer)
                return
            for done, (sample, result) in enumerate(scored(scorer, samples, BATCH, observer), 1):
                yield sample.id, result
                observer.progress("calibrate", done, len(samples), sample.id)

        ids, figures = [], []
        for name, result in results():
            ids.append(name)
            figures.append((result.score(), float(original_size(result).max()), float(np.median(result.inside()))))
        calibration.check(len(ids), false_alarms, confidence)  # some may have been left out
        scores, peaks, typical = np.array(figures).T
        threshold, pixel_threshold = (calibration.threshold(values, false_alarms, confidence) for values in (scores, peaks))
        about = "about " if samples is None else ""
        promise = (
            f"{about}at most {100 * false_alarms:g}% of good images score above {threshold:.4g}, with {100 * confidence:g}% "
            f"confidence, from n = {len(ids)} ({origin}{'' if interest is None else ', in the region of interest'})"
        )
        found = Thresholds(
            schema=SCHEMA,
            source=origin,
            images=len(ids),
            false_alarms=false_alarms,
            confidence=confidence,
            threshold=threshold,
            pixel_threshold=pixel_threshold,
            review_rate=review,
            review_threshold=None if review is None else calibration.threshold(scores, review, confidence),
            colour_low=float(np.median(typical)),
            colour_high=HOTTEST * pixel_threshold,
            promise=promise,
            encoder=opened.encoder_attributes["sha256"],
            roi=None if interest is None else interest.sha256,
        )
        opened.write_calibration(ids, {"scores": scores, "peaks": peaks}, asdict(found))
        return found


def _samples(
    store: Store, source: str | Sequence[Path | str] | None, observer: Observer
) -> tuple[list[Sample] | None, str]:
    """The good images to score, None for those of the bank, and what to call them."""
    every, root, ids = all_samples(store), Path(store.dataset["root"]), set(store.image_ids)
    banked = [sample for sample in every if sample.id in ids]
    banked += [Sample(name, Path(name), "train", "good") for name in ids]  # added from outside of the data set
    tests = [sample for sample in every if sample.split.startswith("test")]
    groups = {
        "holdout": [s for s in every if s.id in store.held_out and digest(s.path) == store.held_out[s.id]],
        "validation": [s for s in every if s.split == "validation" and not s.defective],
    }
    origins = {"holdout": "good images held out of training and bank", "validation": "validation split"}
    if source is None:
        source = "holdout" if store.held_out else "validation" if groups["validation"] else "loo"
    if source == "loo":
        return None, "leave-one-out over the bank's own images"
    if isinstance(source, str):
        if source not in groups:
            raise InputError(f"--from: expected holdout, validation, loo or a list of paths, found {source!r}")
        found = groups[source]
        missing = "no validation split there" if source == "validation" else "no unchanged held-out images there"
        if not found:
            raise InputError(f"{root}: {missing}; expected --from loo, or good images: --from PATHS")
        used = _same(found, banked + tests)
        if used:
            observer.note(f"{len(used)} of {len(found)} images of the {origins[source]} are in the bank or tests, and not used")
        if source == "holdout" and len(found) < len(store.held_out):
            gone = len(store.held_out) - len(found)
            observer.note(f"{gone} of {len(store.held_out)} held-out images are gone or changed, and not used")
        return [sample for sample in found if sample.path not in used], origins[source]
    given = list({sample.path.resolve(): sample for sample in named(source, by_path(every), observer)}.values())
    for path, other in _same(given, tests).items():
        raise InputError(f"{path}: is {_as(path, other)}a test image of the data set, which no threshold may see")
    for path, other in _same(given, banked).items():
        raise InputError(f"{path}: is {_as(path, other)}in the bank; expected good images that are not (or --from loo)")
    return given, "images named with --from"


def _as(path: Path, other: Sample) -> str:
    return "" if path.resolve() == other.path.resolve() else f"a copy of {other.id}, "


def _same(samples: list[Sample], others: list[Sample]) -> dict[Path, Sample]:
    """Paths of the samples that are a file of the others, or have the content of one, with that one."""
    paths = {other.path.resolve(): other for other in others}
    found = {sample.path: paths[sample.path.resolve()] for sample in samples if sample.path.resolve() in paths}
    rest = [sample for sample in samples if sample.path not in found and sample.path.is_file()]
    sizes = {sample.path.stat().st_size for sample in rest}
    contents = {
        digest(other.path): other for other in others if other.path.is_file() and other.path.stat().st_size in sizes
    }
    if contents:
        found |= {sample.path: contents[key] for sample in rest if (key := digest(sample.path)) in contents}
    return found
