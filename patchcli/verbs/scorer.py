"""Samples → what is said of them, and their maps: in this process, or as the task of a worker."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patchcli import files
from patchcli.datasets.images import Read
from patchcli.datasets.layouts import Sample
from patchcli.datasets.masks import Rule
from patchcli.detection import regions
from patchcli.detection.detector import PIXELS, Detector, Version
from patchcli.detection.records import Record, record_of
from patchcli.detection.regions import RegionOptions
from patchcli.detection.stream import stream
from patchcli.observer import Observer
from patchcli.verbs.outputs import Outputs, unwritable
from patchcli.verbs.writer import MapWriter


@dataclass(frozen=True)
class Placed:
    """A sample, and the place of its map on disk; None where it has none."""

    sample: Sample
    path: Path | None


@dataclass(frozen=True)
class Scored:
    """A sample whose map is written, and what is said of it."""

    placed: Placed
    record: Record
    size: tuple[int, int]  # original (height, width)
    typical: float | None  # the median of its map, where its overlay is to be drawn when all maps are there


class Scorer:
    """Scores samples with a detector; `read` gives an image file's pixels, `rule` says what masks mark in overlays."""

    def __init__(
        self,
        detector: Detector,
        outputs: Outputs,
        options: RegionOptions,
        rule: Rule,
        batch: int,
        observer: Observer,
        read: Read | None = None,
    ) -> None:
        self._detector, self._outputs, self._options = detector, outputs, options
        self._batch, self._observer, self._read = batch, observer, read or detector.reader.read
        self.writer = MapWriter(detector, outputs, self._read, rule, observer)

    def by(self, detector: Detector) -> "Scorer":
        """The same with another detector of the same store."""
        other = copy(self)
        other._detector = detector
        return other

    def __call__(self, placed: Iterable[Placed]) -> Iterator[Scored]:
        """What is said of each sample when its map is there; what cannot be read or written is reported and left out."""
        detector, ahead = self._detector, deque[Placed]()
        waiting: deque[tuple[Scored, Future[None] | None]] = deque()
        draws_later = self._outputs.overlay and detector.calibration is None

        def samples() -> Iterator[Sample]:
            for one in placed:
                ahead.append(one)
                yield one.sample

        with self.writer:
            for sample, result in stream(detector, samples(), self._batch, self._observer, self._read):
                while (one := ahead.popleft()).sample is not sample:  # those before it could not be read
                    pass
                if one.path is not None and (why := unwritable(one.path)):
                    shown = files.shown(Path(sample.image))
                    self._observer.problem(f"{shown}: its map cannot be written ({why})")
                    continue
                areas = None
                if detector.calibration is not None:
                    threshold = detector.calibration.thresholds.pixel_threshold
                    areas = regions.find(result.map, threshold, self._options.min_area, self._options.mm_per_pixel)
                written = None if one.path is None else self.writer.submit(sample, result, one.path)
                picture = one.path.with_suffix(".png") if one.path is not None and self._outputs.overlay else None
                record = record_of(sample, result, detector, areas, one.path, picture)
                typical = float(np.median(result.inside())) if draws_later else None
                waiting.append((Scored(one, record, result.size, typical), written))
                while len(waiting) >= self._batch or (written and self._pixels(waiting) > PIXELS):
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())

    @staticmethod
    def _pixels(waiting: Iterable[tuple[Scored, Future[None] | None]]) -> int:
        """The pixels of the maps that are being written."""
        return sum(scored.size[0] * scored.size[1] for scored, _ in waiting)


def _finished(scored: Scored, written: Future[None] | None) -> Scored:
    if written is not None:
        written.result()
    return scored


@dataclass(frozen=True)
class ScoreImages:
    """The task to score some samples with a version of a store."""

    version: Version
    outputs: Outputs
    options: RegionOptions
    rule: Rule
    batch: int

    def open(self, observer: Observer) -> Callable[[list[Placed]], list[Scored]]:
        """What scores several samples."""
        scorer = Scorer(self.version.open(observer), self.outputs, self.options, self.rule, self.batch, observer)
        return lambda placed: list(scorer(placed))
