"""Test images → what the figures need of each, from a fresh scoring or from maps on disk: here, or as the task of a worker."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from patchcli.cluster import Cluster
from patchcli.datasets import images
from patchcli.datasets.layouts import Sample
from patchcli.datasets.masks import Rule
from patchcli.datasets.roi import Roi
from patchcli.datasets.sample_masks import read_mask
from patchcli.detection import shards
from patchcli.detection.detector import BATCH, PIXELS, Detector, Version, scale_names
from patchcli.detection.evaluation import MappedImage, Measurement
from patchcli.detection.stream import stream
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.verbs.outputs import Maps, below, description
from patchcli.verbs.scorer import Placed


class Measurer:
    """Measures test images, with the maps that a detector makes, or with those below a folder.

    `rule` says what masks mark; what is outside of the region of interest does not count.
    """

    def __init__(self, source: Detector | Path, rule: Rule, roi: Roi | None, observer: Observer) -> None:
        self._source, self._rule, self._roi, self._observer = source, rule, roi, observer

    def __call__(self, placed: Iterable[Placed]) -> Iterator[Measurement]:
        """What the figures need of each sample, one after another; what cannot be read is reported and left out."""
        source = self._source
        for image in self._read(source, placed) if isinstance(source, Path) else self._scored(source, placed):
            good = np.zeros(image.size, bool)
            mask = read_mask(image.sample, image.size, self._rule, self._observer) if image.sample.defective else good
            yield image.measure(mask, self._roi)

    def _scored(self, detector: Detector, placed: Iterable[Placed]) -> Iterator[MappedImage]:
        names, sha256 = scale_names(detector), detector.attributes.sha256
        for sample, result in stream(detector, (one.sample for one in placed), BATCH, self._observer):
            yield MappedImage(sample, result.size, {name: result.scale_maps[name] for name in names}, sha256)

    def _read(self, folder: Path, placed: Iterable[Placed]) -> Iterator[MappedImage]:
        """Samples with their maps on disk; what is missing or unusable is reported and left out."""
        for sample, path in ((one.sample, one.path) for one in placed):
            if path is None:
                expected = f"{below(folder, sample.id).with_suffix('')} with one of {', '.join(images.MAP_SUFFIXES)}"
                self._observer.problem(f"{sample.id}: no map; expected {expected}")
                continue
            try:
                size, values = images.size(sample.path), images.read_map(path)
                if self._roi is not None:
                    self._roi.check(sample.path, *size)
                    self._roi.check(path, *values.shape)
            except InputError as error:
                self._observer.problem(str(error))
                continue
            said = description(path)
            score = said.get("score") if said.get("roi") == (self._roi.sha256 if self._roi else None) else None
            yield MappedImage(sample, size, {"maps": values}, said.get("encoder"), score)


@dataclass(frozen=True)
class MeasureImages:
    """The task to measure some test images.

    The figures are exact, so every pixel's score comes back, but sorted: what is left to do with them here is little.
    """

    source: Version | Path
    rule: Rule
    roi: Roi | None

    def open(self, observer: Observer) -> Callable[[list[Placed]], list[Measurement]]:
        """What measures several test images."""
        source = self.source if isinstance(self.source, Path) else self.source.open(observer, calibrated=False)
        measurer = Measurer(source, self.rule, self.roi, observer)
        return lambda placed: [image.whole() for image in measurer(placed)]


def measurements(
    source: Detector | Maps,
    samples: Sequence[Sample],
    rule: Rule,
    roi: Roi | None,
    threads: int | None,
    cluster: Cluster | None,
    observer: Observer,
) -> Iterator[Measurement]:
    """What the figures need of test images, with the maps of a detector or those on disk; here or on a cluster."""
    placed = (Placed(sample, source.of(sample) if isinstance(source, Maps) else None) for sample in samples)

    def here(own: Detector | Path) -> Iterator[Measurement]:
        return Measurer(own, rule, roi, observer)(placed)

    task = partial(MeasureImages, rule=rule, roi=roi)
    if isinstance(source, Detector):
        return shards.spread(source, cluster, here, task, placed, _several(samples), observer)
    if cluster is None:
        return here(source.folder)
    return cluster.one_by_one(task(source.folder), placed, _several(samples), threads, observer)


def _several(samples: Iterable[Sample]) -> int:
    """How many images a task gets at once: fewer of large ones, since all of their pixels come back."""
    pixels = 1
    for sample in samples:
        with contextlib.suppress(InputError):
            height, width = images.size(sample.path)
            pixels = max(pixels, height * width)
    return max(1, min(BATCH, PIXELS // pixels))
