"""Which good images `calibrate` scores."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchcli import files
from patchcli.cluster import Cluster
from patchcli.datasets.copies import copy_of, same_images
from patchcli.datasets.layouts import Sample, digest
from patchcli.detection.detector import Detector
from patchcli.detection.leave_one_out import score_good
from patchcli.detection.result import Result
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.store import Store
from patchcli.verbs.sources import Paths, all_samples, by_path, named, note_gone

NOTHING = 1e-6  # of the highest score: what an image scores at most that the bank holds
LOO = "leave-one-out over the bank's own images"


@dataclass(frozen=True)
class GoodImages:
    """Good images that the bank does not hold."""

    samples: list[Sample] | None  # None: those of the bank, each left out in turn
    name: str  # what to call them


@dataclass(frozen=True)
class Figures:
    """Of n good images: the maximum of the product map, of the map at the image's size, and the typical map value."""

    ids: list[str]
    scores: NDArray[np.float64]
    peaks: NDArray[np.float64]
    typical: NDArray[np.float64]

    @classmethod
    def of(cls, detector: Detector, goods: GoodImages, observer: Observer, cluster: Cluster | None) -> "Figures":
        """Score the good images; those that say nothing new do not count."""
        images = range(detector.bank.images) if goods.samples is None else goods.samples
        rows = _distinct(list(score_good(detector, images, _row, "calibrate", observer, cluster)), observer)
        numbers = np.array([(row.score, row.peak, row.typical) for row in rows]).reshape(-1, 3)
        return cls([row.name for row in rows], *numbers.T)


class _Row(NamedTuple):
    name: str
    score: float
    peak: float
    typical: float
    map: str  # a digest


def _row(name: str, result: Result) -> _Row:
    found = hashlib.sha256(result.map.tobytes()).hexdigest()
    return _Row(name, result.score, float(result.map.max()), float(np.median(result.inside())), found)


def _distinct(rows: list[_Row], observer: Observer) -> list[_Row]:
    """Without copies: images that the bank holds, whose map is 0, and all but one of images that have the same map."""
    least = NOTHING * max((row.score for row in rows), default=0.0)
    kept = list({row.map: row for row in reversed(rows) if row.score > least}.values())[::-1]
    if len(kept) < len(rows):
        copies = f"{len(rows) - len(kept)} of {len(rows)} good images are copies of others, or in the bank"
        observer.note(f"{copies}; they say nothing new and do not count")
    return kept


def good_images(store: Store, source: Paths | None, observer: Observer) -> GoodImages:
    """The good images of a source, as `calibrate` takes it. Raises InputError."""
    every, ids = all_samples(store), set(store.images.ids)
    banked = [sample for sample in every if sample.id in ids]
    banked += [Sample(name, Path(name), "train", "good") for name in ids]  # added from outside of the data set
    tests = [sample for sample in every if sample.split.startswith("test")]
    reserved = store.source.holdout
    validation = [sample for sample in every if sample.split == "validation" and not sample.defective]
    if source is None:
        source = "holdout" if reserved else "validation" if validation else "loo"
    if source == "loo":
        return GoodImages(None, LOO)
    if source == "validation":
        return GoodImages(_unused(store, validation, banked + tests, "validation split", observer), "validation split")
    if source == "holdout":
        name = "good images held out of training and bank"
        there = [s for s in every if s.id in reserved and digest(s.path) == reserved[s.id]]
        samples = _unused(store, there, banked + tests, name, observer)
        if len(there) < len(reserved):
            gone = len(reserved) - len(there)
            observer.note(f"{gone} of {len(reserved)} held-out images are gone or changed, and not used")
        return GoodImages(samples, name)
    if isinstance(source, str) and files.trouble(Path(source)) == "no such file":
        raise InputError(
            f"{source!r}, which is no file or folder", parameter="source", expected="holdout, validation, loo or paths"
        )
    note_gone(store, every, observer)
    given = list({files.real(sample.path): sample for sample in named(source, by_path(every), observer)}.values())
    for path, other in same_images(given, tests).items():
        raise InputError(f"is {copy_of(path, other)}a test image of the data set, which no threshold may see", subject=path)
    for path, other in same_images(given, banked).items():
        advice = "expected good images that are not (or `source=loo`)"
        raise InputError(f"is {copy_of(path, other)}in the bank", subject=path, advice=advice)
    return GoodImages(given, "named images")


def _unused(store: Store, samples: list[Sample], others: list[Sample], name: str, observer: Observer) -> list[Sample]:
    """The samples that are none of the others."""
    if not samples:
        missing = "no validation split there" if name.startswith("validation") else "no unchanged held-out images there"
        raise InputError(missing, subject=store.source.root, advice="expected `source=loo`, or good images: `source=PATHS`")
    used = same_images(samples, others)
    if used:
        observer.note(f"{len(used)} of {len(samples)} images of the {name} are in the bank or tests, and not used")
    return [sample for sample in samples if sample.path not in used]
