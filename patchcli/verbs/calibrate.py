"""Good images that the bank does not hold → thresholds in the store, with what they promise."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from patchcli import files, runtime
from patchcli.datasets.layouts import Sample, digest
from patchcli.datasets.roi import Roi
from patchcli.detection import calibration
from patchcli.detection.detector import Scored
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.store import Store, Thresholds
from patchcli.verbs.bank import check_whole, copy_of, leave_one_out, same_images
from patchcli.verbs.score import BATCH, make_scorer, original_size, readable, scored
from patchcli.verbs.sources import Paths, all_samples, by_path, named

SCHEMA = "patchcli.calibration/1"
CONFIDENCE = 0.95
HOTTEST = 2  # full heat in pictures, in pixel thresholds


def calibrate(
    store: Path | str = "patchcli.zarr",
    source: Paths | None = None,
    *,
    false_alarms: float | None = None,
    confidence: float = CONFIDENCE,
    review: float | None = None,
    roi: Path | str | None = None,
    device: str = "auto",
    search: str = "auto",
    memory: int | None = None,
    threads: int | None = None,
    mask_threshold: int | None = None,
    large: bool = False,
    observer: Observer | None = None,
) -> Thresholds:
    """Set the thresholds that at most a share `false_alarms` of good images exceeds, with this confidence.

    Without one, it is the lowest of calibration.RATES that the images can promise, else the lowest that they can.
    `source` of good images: "holdout", those that `extract` or `train` set aside; "validation", the data set's split;
    "loo", leaving out each of the bank's images in turn, for which the promise holds approximately (the encoder knows the
    image, and one bank is not the other); or files and folders, one or many. Without it, the first of the three that there
    is.
    `review` is the higher rate of a lower threshold. `roi` is a mask as `score` takes it, which then needs the same one;
    thresholds without one hold within any; `mask_threshold` and `large` are those of `score`. Raises InputError where the
    images are too few, of the bank, or test images.
    """
    observer = observer or Observer()
    runtime.set_threads(threads)
    interest = None if roi is None else Roi.read(roi, mask_threshold, large)
    target = runtime.device(device)
    with Store.writing(store, observer) as opened:
        bank = opened.bank()
        samples, origin = _samples(opened, source, observer)

        def promised(images: int) -> float:
            """The rate that so many images are to promise; raises InputError where they cannot."""
            rate = calibration.best_rate(images, confidence) if false_alarms is None else false_alarms
            calibration.check(images, rate, confidence)
            if review is not None and not rate < review < 1:
                expected = f"expected a rate above that of --false-alarms ({100 * rate:g}%)"
                raise InputError(f"--review: {expected}, found {100 * review:g}%")
            return rate

        promised(bank.images if samples is None else len(samples))
        if samples is None:
            check_whole(opened)
        scorer = make_scorer(opened, target, search, memory, observer, interest, large)
        if observer.dry and samples is not None:
            samples = [sample for sample, _ in readable(samples, interest, scorer.reader, observer)]
            promised(len(samples))
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
        rate = promised(len(ids))  # some may have been left out
        if rate > calibration.RATES[0] and false_alarms is None:
            lowest = f"{100 * calibration.RATES[0]:g}% takes {calibration.least_images(calibration.RATES[0], confidence)}"
            observer.note(f"{len(ids)} good images can promise a false-alarm rate of {100 * rate:g}%; {lowest}")
        scores, peaks, typical = np.array(figures).T
        threshold, pixel_threshold = (calibration.threshold(values, rate, confidence) for values in (scores, peaks))
        about = "about " if samples is None else ""
        promise = (
            f"{about}at most {100 * rate:g}% of good images score above {threshold:.4g}, with {100 * confidence:g}% "
            f"confidence, from n = {len(ids)} ({origin}{'' if interest is None else ', in the region of interest'})"
        )
        found = Thresholds(
            schema=SCHEMA,
            source=origin,
            images=len(ids),
            false_alarms=rate,
            confidence=confidence,
            threshold=threshold,
            pixel_threshold=pixel_threshold,
            review_rate=review,
            review_threshold=None if review is None else calibration.threshold(scores, review, confidence),
            colour_low=float(np.median(typical)),
            colour_high=HOTTEST * pixel_threshold,
            promise=promise,
            encoder=opened.encoder.attributes.sha256,
            roi=None if interest is None else interest.sha256,
        )
        opened.write_calibration(ids, {"scores": scores, "peaks": peaks}, found)
        return found


def _samples(store: Store, source: Paths | None, observer: Observer) -> tuple[list[Sample] | None, str]:
    """The good images to score, None for those of the bank, and what to call them."""
    every, root, ids = all_samples(store), Path(store.source.root), set(store.images.ids)
    banked = [sample for sample in every if sample.id in ids]
    banked += [Sample(name, Path(name), "train", "good") for name in ids]  # added from outside of the data set
    tests = [sample for sample in every if sample.split.startswith("test")]
    groups = {
        "holdout": [s for s in every if s.id in store.source.holdout and digest(s.path) == store.source.holdout[s.id]],
        "validation": [s for s in every if s.split == "validation" and not s.defective],
    }
    origins = {"holdout": "good images held out of training and bank", "validation": "validation split"}
    if source is None:
        source = "holdout" if store.source.holdout else "validation" if groups["validation"] else "loo"
    if source == "loo":
        return None, "leave-one-out over the bank's own images"
    if isinstance(source, str) and source in groups:
        found = groups[source]
        missing = "no validation split there" if source == "validation" else "no unchanged held-out images there"
        if not found:
            raise InputError(f"{root}: {missing}; expected --from loo, or good images: --from PATHS")
        used = same_images(found, banked + tests)
        if used:
            observer.note(f"{len(used)} of {len(found)} images of the {origins[source]} are in the bank or tests, and not used")
        if source == "holdout" and len(found) < len(store.source.holdout):
            gone = len(store.source.holdout) - len(found)
            observer.note(f"{gone} of {len(store.source.holdout)} held-out images are gone or changed, and not used")
        return [sample for sample in found if sample.path not in used], origins[source]
    if isinstance(source, str) and files.trouble(Path(source)) == "no such file":
        raise InputError(f"--from: expected holdout, validation, loo or paths, found {source!r}, which is no file or folder")
    given = list({files.real(sample.path): sample for sample in named(source, by_path(every), observer)}.values())
    for path, other in same_images(given, tests).items():
        raise InputError(f"{path}: is {copy_of(path, other)}a test image of the data set, which no threshold may see")
    for path, other in same_images(given, banked).items():
        raise InputError(f"{path}: is {copy_of(path, other)}in the bank; expected good images that are not (or --from loo)")
    return given, "images named with --from"
