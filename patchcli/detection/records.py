"""What is said of one scored image."""

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from patchcli.datasets.layouts import Sample
from patchcli.detection.detector import Detector
from patchcli.detection.regions import Region
from patchcli.detection.result import Result

SCHEMA = "patchcli.score/1"


@dataclass(frozen=True)
class Record:
    """What is said of one scored image; coordinates are original pixels, x to the right and y down."""

    schema: str
    image: str  # the path as given, where one was given, so that it can be opened; else the id
    id: str  # of an image of the data set: its path below the root; of another, the path as given
    score: float  # maximum of the product map; higher is more anomalous
    score_big: float | None  # maximum of the K=64 map; None where that map is not used
    score_small: float | None  # the same of the K=32 map
    score_fixed: float | None  # and of the map of fixed features
    score_pretrained: float | None  # and of that of a pretrained backbone's
    verdict: str | None  # pass, review or reject; None, as the next three, without a calibration that holds
    threshold: float | None  # a higher score is rejected
    p_value: float | None  # how unusual the score is among good images'
    regions: list[Region] | None  # connected areas of the map above the pixel threshold, the highest peak first
    peak_x: int
    peak_y: int
    nearest_image: str  # training image with the normal patch that is nearest to the patch at the peak
    nearest_x: int  # that patch's top left corner and size
    nearest_y: int
    nearest_width: int
    nearest_height: int
    patch_x: int  # the patch that it is nearest to: of those that cover the peak, the farthest from normal
    patch_y: int
    patch_width: int
    patch_height: int
    map: str | None  # float32 TIFF at the image's original size
    overlay: str | None  # PNG, on the calibration's scale; else on the run's, written when all images are scored
    distance_error: float  # by how much a patch's distance may be off at most: 0 unless the bank is thinned or float16
    encoder: str  # sha256 of the weights, as in the store
    bank: str  # sha256 of what the bank was made from: encoder, images and thinning
    time: str = field(compare=False)  # when the image was scored, ISO 8601 with the offset from UTC


def record_of(
    sample: Sample, result: Result, detector: Detector, regions: list[Region] | None, map: Path | None, overlay: Path | None
) -> Record:
    """The record of a result, with its regions and the files that were written of it."""
    patch, (nearest_x, nearest_y, nearest_width, nearest_height) = result.patch, result.nearest.box
    return Record(
        schema=SCHEMA,
        image=sample.image,
        id=sample.id,
        score=result.score,
        score_big=result.scores.get("big"),
        score_small=result.scores.get("small"),
        score_fixed=result.scores.get("fixed"),
        score_pretrained=result.scores.get("pretrained"),
        verdict=result.verdict,
        threshold=None if result.calibration is None else result.calibration.thresholds.threshold,
        p_value=result.p_value,
        regions=regions,
        peak_x=result.peak[0],
        peak_y=result.peak[1],
        nearest_image=result.nearest.image,
        nearest_x=nearest_x,
        nearest_y=nearest_y,
        nearest_width=nearest_width,
        nearest_height=nearest_height,
        patch_x=patch[0],
        patch_y=patch[1],
        patch_width=patch[2],
        patch_height=patch[3],
        map=map.as_posix() if map else None,
        overlay=overlay.as_posix() if overlay else None,
        distance_error=detector.distance_error,
        encoder=detector.attributes.sha256,
        bank=detector.bank_sha256,
        time=datetime.datetime.now().astimezone().isoformat(timespec="milliseconds"),
    )
