"""Scores of good images that the bank does not hold, and the thresholds that follow from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from patchcli.store.attributes import to_stored
from patchcli.store.bank import Fingerprint, Thinning
from patchcli.store.parts import Array, Part


@dataclass(frozen=True)
class Thresholds:
    """The basis of verdicts, as stored and printed. Each threshold carries its own guarantee; they do not hold jointly."""

    schema: str
    source: str  # where the good images came from
    images: int
    false_alarms: float  # the guarantee: at most this share of good images has a higher score
    confidence: float
    threshold: float  # of an image's score
    pixel_threshold: float  # of a map at the image's size: at most the same share of good images has any pixel above it
    review_rate: float | None
    review_threshold: float | None
    colour_low: float  # map values drawn as nothing and as full heat, in all pictures
    colour_high: float
    promise: str
    encoder: str  # sha256 of the weights, as in the store
    roi: str | None = None  # sha256 of the region of interest, outside of which nothing counted


@dataclass(frozen=True)
class Calibrated:
    """The bank that the scores came from; None if there was none."""

    bank: Fingerprint | None
    thinning: Thinning | None


@dataclass(frozen=True)
class CalibrationAttributes:
    """The attributes beside the thresholds."""

    fingerprint: Calibrated


class StoredCalibration:
    """The calibration of a store."""

    def __init__(self, part: Part) -> None:
        self.fingerprint = part.read_attributes(CalibrationAttributes).fingerprint
        self.thresholds = part.read_attributes(Thresholds)
        self.scores: NDArray[np.float64] = part.read("scores")  # (n,), of the good images
        if len(self.scores) != self.thresholds.images or not np.isfinite(self.scores).all():
            raise part.damaged("scores do not fit the thresholds")


def write(part: Part, ids: list[str], arrays: Mapping[str, Array], thresholds: Thresholds, fingerprint: Calibrated) -> str:
    """Write ids (n,) of the good images, their figures (n,) by name, and the thresholds; the digest of the metadata."""
    part.write_texts("id", ids)
    part.write(arrays)
    bank = None if fingerprint.bank is None else to_stored(fingerprint.bank)
    return part.seal(asdict(thresholds) | {"fingerprint": asdict(fingerprint) | {"bank": bank}})
