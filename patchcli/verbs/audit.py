"""Bad images among the good ones of a bank."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from patchcli.cluster import Cluster
from patchcli.detection.detector import Detector, Setup, opened
from patchcli.detection.leave_one_out import check_whole, score_good
from patchcli.detection.result import Result
from patchcli.observer import Observer

SCHEMA = "patchcli.audit/1"


@dataclass(frozen=True)
class Audited:
    """A training image, scored against the bank without itself; coordinates are original pixels."""

    schema: str
    image: str  # its id, as no path was given
    id: str
    score: float  # maximum of the product map
    deviation: float  # (score - median) / (1.4826 · median absolute deviation) over all training images
    peak_x: int
    peak_y: int
    nearest_image: str  # the other training image that comes closest at the peak
    nearest_x: int
    nearest_y: int
    nearest_width: int
    nearest_height: int


def audit(
    detector: Detector | Path | str = "patchcli.zarr",
    *,
    cluster: Cluster | None = None,
    setup: Setup | None = None,
    observer: Observer | None = None,
) -> list[Audited]:
    """Score every training image as if the bank did not hold it; the most anomalous first, with the evidence.

    A `cluster` scores them on its workers. `setup` says how the detector of a store is opened. Raises StoreError for a
    thinned bank.
    """
    observer = observer or Observer()
    detector = opened(detector, setup, observer)
    check_whole(detector)
    records = list(score_good(detector, range(detector.bank.images), _record, "audit", observer, cluster))
    scores = np.array([record.score for record in records])
    median = float(np.median(scores))
    spread = 1.4826 * float(np.median(np.abs(scores - median)))
    records = [replace(record, deviation=(record.score - median) / max(spread, 1e-30)) for record in records]
    return sorted(records, key=lambda record: -record.score)


def _record(name: str, result: Result) -> Audited:
    """What is said of an image, but for the deviation, which depends on all."""
    peak_x, peak_y = result.peak
    x, y, width, height = result.nearest.box
    return Audited(
        schema=SCHEMA,
        image=name,
        id=name,
        score=result.score,
        deviation=0.0,
        peak_x=peak_x,
        peak_y=peak_y,
        nearest_image=result.nearest.image,
        nearest_x=x,
        nearest_y=y,
        nearest_width=width,
        nearest_height=height,
    )
