"""Training images, each scored as if the bank did not hold it, and other good images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from patchcli.cluster import Cluster
from patchcli.datasets.layouts import Sample
from patchcli.detection import shards
from patchcli.detection.detector import BATCH, Detector, Version
from patchcli.detection.result import Result
from patchcli.detection.stream import stream
from patchcli.errors import StoreError
from patchcli.observer import Observer

Kept = TypeVar("Kept")
Good = int | Sample  # the number of a training image, to be left out of the bank, or another good image


Keep = Callable[[str, Result], Kept]  # of an image's id and result, what is kept of them; a function that can be pickled


def check_whole(detector: Detector) -> None:
    """Raise StoreError for a bank of one image, or a thinned one, whose vectors may have covered what it left out."""
    if len(detector.images.ids) < 2:
        raise StoreError("leaving an image out needs at least 2 images", subject=detector.path, advice="add some: `bank_add()`")
    if detector.bank.attributes.thinning.selects:
        thinned = "leaving an image out needs the whole bank, this one is thinned"
        advice = "make it whole with `embed(overwrite)`, or calibrate with other good images: `calibrate(source)`"
        raise StoreError(thinned, subject=detector.path, advice=advice)


def score_good(
    detector: Detector, goods: Sequence[Good], keep: Keep[Kept], task: str, observer: Observer, cluster: Cluster | None = None
) -> Iterator[Kept]:
    """What is kept of the results of good images, here or on a cluster; what cannot be read is reported and left out."""
    here, of_workers = partial(_kept, keep=keep, observer=observer, goods=goods), partial(ScoreGood, keep=keep)
    found = shards.spread(detector, cluster, here, of_workers, goods, BATCH, observer)
    for done, (name, kept) in enumerate(found, 1):
        yield kept
        observer.progress(task, done, len(goods), name)


def _kept(detector: Detector, keep: Keep[Kept], observer: Observer, goods: Iterable[Good]) -> Iterator[tuple[str, Kept]]:
    """What is kept, with the id, of training images or of others."""
    samples = []
    for good in goods:
        if isinstance(good, Sample):
            samples.append(good)
            continue
        name, size = detector.images.ids[good], detector.images.sizes[good]
        if detector.roi is not None:
            detector.roi.check(name, *size)
        features = detector.embed_fitted(detector.images.read(good, good + 1), [size])
        (result,) = detector.compare(features, without=good)
        yield name, keep(name, result)
    for sample, result in stream(detector, samples, BATCH, observer):
        yield sample.id, keep(sample.id, result)


@dataclass(frozen=True)
class ScoreGood(Generic[Kept]):
    """The task to score some good images with a version of a store."""

    version: Version
    keep: Keep[Kept]

    def open(self, observer: Observer) -> Callable[[list[Good]], list[tuple[str, Kept]]]:
        """What scores several good images."""
        detector = self.version.open(observer, calibrated=False)
        return lambda goods: list(_kept(detector, self.keep, observer, goods))
