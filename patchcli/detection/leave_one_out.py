"""Training images, each scored as if the bank did not hold it, and other good images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from patchcli.cluster import Cluster
from patchcli.datasets.layouts import Sample
from patchcli.detection.detector import BATCH, Detector, Setup
from patchcli.detection.result import Nearest, Result
from patchcli.detection.stream import stream
from patchcli.errors import StoreError
from patchcli.observer import Observer
from patchcli.store import Store

Good = int | Sample  # the number of a training image, to be left out of the bank, or another good image


@dataclass(frozen=True)
class Brief:
    """What is kept of a result."""

    id: str
    score: float  # maximum of the product map
    highest: float  # maximum of the map at the image's size
    typical: float  # median of the map
    peak: tuple[int, int]
    nearest: Nearest

    @classmethod
    def of(cls, name: str, result: Result) -> "Brief":
        """The result of an image with this id."""
        typical = float(np.median(result.inside()))
        return cls(name, result.score, float(result.map.max()), typical, result.peak, result.nearest)


def check_whole(detector: Detector) -> None:
    """Raise StoreError for a bank of one image, or a thinned one, whose vectors may have covered what it left out."""
    if len(detector.images.ids) < 2:
        raise StoreError("leaving an image out needs at least 2 images", subject=detector.path, advice="add some: `bank_add()`")
    if detector.bank.attributes.thinning.selects:
        thinned = "leaving an image out needs the whole bank, this one is thinned"
        raise StoreError(thinned, subject=detector.path, run="embed(overwrite)")


def score_good(
    detector: Detector, goods: Sequence[Good], task: str, observer: Observer, cluster: Cluster | None = None
) -> Iterator[Brief]:
    """The results of good images, here or on a cluster; what cannot be read is reported and left out."""
    for done, one in enumerate(_everywhere(detector, goods, observer, cluster), 1):
        yield one
        observer.progress(task, done, len(goods), one.id)


def _everywhere(detector: Detector, goods: Sequence[Good], observer: Observer, cluster: Cluster | None) -> Iterator[Brief]:
    if cluster is None:
        yield from _briefs(detector, observer, goods)
        return
    rest, threads = iter(goods), detector.setup.threads
    setup = replace(detector.setup, threads=cluster.threads(threads))
    task = ScoreGood(detector.path, detector.revision, setup)
    with cluster.started(threads, observer) as run:
        for several in run(task, iter(lambda: list(islice(rest, BATCH)), [])):
            yield from several


def _briefs(detector: Detector, observer: Observer, goods: Iterable[Good]) -> Iterator[Brief]:
    """The results, of training images or of others."""
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
        yield Brief.of(name, result)
    yield from (Brief.of(sample.id, result) for sample, result in stream(detector, samples, BATCH, observer))


@dataclass(frozen=True)
class ScoreGood:
    """The task to score some good images with a version of a store."""

    store: Path | str
    revision: str
    setup: Setup

    def open(self, observer: Observer) -> Callable[[list[Good]], list[Brief]]:
        """What scores several good images."""
        detector = Detector(Store.open(self.store, self.revision), self.setup, observer, calibrated=False)
        briefs = partial(_briefs, detector, observer)
        return lambda goods: list(briefs(goods))
