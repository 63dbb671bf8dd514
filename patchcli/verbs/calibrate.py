"""Good images that the bank does not hold → thresholds in the store, with what they promise."""

from pathlib import Path

import numpy as np

from patchcli.cluster import Cluster
from patchcli.detection import calibration
from patchcli.detection.calibration import CONFIDENCE, Promise
from patchcli.detection.detector import Detector, Setup, path_and_setup
from patchcli.detection.leave_one_out import check_whole
from patchcli.detection.stream import readable
from patchcli.observer import Observer
from patchcli.store import Store, Thresholds
from patchcli.verbs.goods import LOO, Figures, GoodImages, good_images
from patchcli.verbs.sources import Paths

SCHEMA = "patchcli.calibration/1"
HOTTEST = 2  # full heat in pictures, in pixel thresholds


def calibrate(
    detector: Detector | Path | str = "patchcli.zarr",
    source: Paths | None = None,
    *,
    false_alarms: float | None = None,
    confidence: float = CONFIDENCE,
    review: float | None = None,
    cluster: Cluster | None = None,
    setup: Setup | None = None,
    observer: Observer | None = None,
) -> Thresholds:
    """Set the thresholds that at most a share `false_alarms` of good images exceeds, with this confidence.

    By default it is the lowest of calibration.RATES that the images can promise, else the lowest that they can.
    `source` of good images: "holdout", those that `extract` or `train` reserved; "validation", the data set's split;
    "loo", leaving out each of the bank's images in turn, for which the promise holds approximately (the encoder knows the
    image, and one bank is not the other); or files and folders, one or many. By default, the first of the three that there
    is. `review` is the higher rate of a lower threshold. With a region of interest the thresholds hold for that region, else
    within any. A `cluster` scores the images on its workers. `setup` says how a store's detector is opened. Raises InputError
    for images that are too few, or not good.
    """
    observer = observer or Observer()
    promise = Promise(false_alarms, confidence, review)
    path, setup = path_and_setup(detector, setup)
    with Store.writing(path, observer) as store:
        goods = good_images(store, source, observer)
        promise.rate(store.bank().images if goods.samples is None else len(goods.samples))
        detector = Detector(store, setup, observer, calibrated=False)  # of the version that nobody changes meanwhile
        if goods.samples is None:
            check_whole(detector)
        elif observer.dry:
            usable = [sample for sample, _ in readable(goods.samples, detector.roi, detector.reader, observer)]
            promise.rate(len(usable))
            goods = GoodImages(usable, goods.name)
        count = detector.bank.images if goods.samples is None else len(goods.samples)
        observer.plan(f"{count} good images ({goods.name})", f"the calibration of {path}")
        figures = Figures.of(detector, goods, observer, cluster)
        thresholds = _thresholds(detector, goods, figures, promise, observer)
        store.write_calibration(figures.ids, {"scores": figures.scores, "peaks": figures.peaks}, thresholds)
        return thresholds


def _thresholds(detector: Detector, goods: GoodImages, figures: Figures, promise: Promise, observer: Observer) -> Thresholds:
    """What follows from the figures."""
    images, confidence, review = len(figures.ids), promise.confidence, promise.review
    rate = promise.rate(images)  # some may have been left out
    if rate > calibration.RATES[0] and promise.false_alarms is None:
        lowest = f"{100 * calibration.RATES[0]:g}% takes {calibration.least_images(calibration.RATES[0], confidence)}"
        observer.note(f"{images} good images can promise a false-alarm rate of {100 * rate:g}%; {lowest}")
    threshold = calibration.threshold(figures.scores, rate, confidence)
    pixel_threshold = calibration.threshold(figures.peaks, rate, confidence)
    about = "about " if goods.name == LOO else ""
    inside = "" if detector.roi is None else ", in the region of interest"
    return Thresholds(
        schema=SCHEMA,
        source=goods.name,
        images=images,
        false_alarms=rate,
        confidence=confidence,
        threshold=threshold,
        pixel_threshold=pixel_threshold,
        review_rate=review,
        review_threshold=None if review is None else calibration.threshold(figures.scores, review, confidence),
        colour_low=float(np.median(figures.typical)),
        colour_high=HOTTEST * pixel_threshold,
        promise=f"{about}at most {100 * rate:g}% of good images score above {threshold:.4g}, with {100 * confidence:g}% "
        f"confidence, from n = {images} ({goods.name}{inside})",
        encoder=detector.attributes.sha256,
        roi=None if detector.roi is None else detector.roi.sha256,
    )
