"""Samples → results, one after another: the next images are decoded and embedded while these are searched for."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from patchcli import runtime
from patchcli.bank import pages
from patchcli.datasets import images
from patchcli.datasets.images import Canvas, Pixels, Read, Reader
from patchcli.datasets.layouts import Sample
from patchcli.datasets.roi import Roi
from patchcli.detection.detector import Detector, Features
from patchcli.detection.result import Result
from patchcli.errors import InputError
from patchcli.observer import Observer, Remarks

# What scoring takes of memory beside the bank, in bytes, as measured (peak RSS with images of 1, 10 and 30 megapixels).
PROGRAM = 500_000_000
FEATURES = 48  # a pixel of the working size, of each image that is searched for at once
DECODED = 4  # a pixel of the largest image


@dataclass(frozen=True)
class _Decoded:
    """An image at the working size of a canvas, so that of large ones only one is in memory at a time."""

    sample: Sample
    size: tuple[int, int]  # original (height, width)
    pixels: Pixels
    remarks: list[tuple[Path, str]]


def _decoded(
    samples: Iterable[Sample], roi: Roi | None, read: Read, canvas: Canvas | None = None
) -> Iterator[_Decoded | InputError]:
    for sample in samples:
        remarks: list[tuple[Path, str]] = []
        try:
            pixels = read(sample.path, lambda *one, into=remarks: into.append(one))
            size = pixels.shape[0], pixels.shape[1]
            if roi is not None:
                roi.check(sample.path, *size)
            yield _Decoded(sample, size, canvas.fit(pixels) if canvas else pixels[:0], remarks)
        except InputError as error:
            yield error


def readable(
    samples: Iterable[Sample], roi: Roi | None, reader: Reader, observer: Observer
) -> Iterator[tuple[Sample, tuple[int, int]]]:
    """The samples that `stream` would score, with (height, width); what cannot be read is reported and left out."""
    for one in _decoded(samples, roi, reader.read):
        if isinstance(one, InputError):
            observer.problem(str(one))
        else:
            yield one.sample, one.size


def stream(
    detector: Detector, samples: Iterable[Sample], batch: int, observer: Observer, read: Read | None = None
) -> Iterator[tuple[Sample, Result]]:
    """Decode and score samples, `batch` at a time; what cannot be read is reported and left out.

    With a batch of 1, each image is answered before the next is read.
    """
    batch = detector.at_once(batch)
    remarks, aspects = observer.remarks(), [width / height for height, width in detector.images.sizes]
    known = min(aspects), max(aspects)
    groups = _embedded(detector, samples, batch, read or detector.reader.read)
    for group, features in groups if batch == 1 else runtime.ahead(groups):
        if isinstance(features, InputError):
            observer.problem(str(features))
            continue
        for one, result in zip(group, detector.compare(features), strict=True):
            for remark in one.remarks:
                remarks(*remark)
            _remark_stretched(detector, one, known, remarks)
            yield one.sample, result
    remarks.close()


def _embedded(
    detector: Detector, samples: Iterable[Sample], batch: int, read: Read
) -> Iterator[tuple[list[_Decoded], Features | InputError]]:
    group: list[_Decoded] = []

    def together() -> tuple[list[_Decoded], Features]:
        return group, detector.embed_fitted(np.stack([one.pixels for one in group]), [one.size for one in group])

    for one in _decoded(samples, detector.roi, read, detector.canvas):
        if isinstance(one, InputError):
            yield [], one
            continue
        group.append(one)
        if len(group) == batch:
            yield together()
            group = []
    if group:
        yield together()


def _remark_stretched(detector: Detector, one: _Decoded, known: tuple[float, float], remarks: Remarks) -> None:
    """Say so where an image has an aspect ratio (width / height) that no good image has; theirs lie within `known`."""
    aspect = one.size[1] / one.size[0]
    nearest = min(max(aspect, known[0]), known[1])
    if not detector.canvas.keeps_aspect and images.unlike(aspect, nearest):
        remarks(one.sample.path, 'stretched, and no good image has its aspect ratio; extract with `size="fit:HxW"` to keep it')


def announced(detector: Detector, samples: Iterable[Sample], batch: int, written: int, observer: Observer) -> Iterator[Sample]:
    """The same samples; says beforehand what memory they need, including `written` bytes a pixel of the largest."""
    samples, said, batch = iter(samples), 0, detector.at_once(batch)
    while group := list(islice(samples, batch)):
        sizes = []
        for sample in group:
            with contextlib.suppress(InputError):
                sizes.append(images.size(sample.path))
        if sizes:
            height, width = max(sizes, key=lambda size: size[0] * size[1])
            working = FEATURES * len(sizes) * detector.canvas.height * detector.canvas.width
            own = working + (DECODED + written) * height * width
            if own > 1.25 * said:
                said = own
                _announce(detector, own, height, width, observer)
        yield from group


def _announce(detector: Detector, own: int, height: int, width: int, observer: Observer) -> None:
    whole = PROGRAM + min(detector.memory, pages.total_memory(detector.bank)) + own
    need = f"images of up to {width}x{height} pixels need about {runtime.megabytes(whole)} of memory in all"
    if own > (free := runtime.free_memory()):
        advice = f"{runtime.megabytes(free)} are free; score smaller images"
        observer.note(f"{need}, {runtime.megabytes(own)} of it for themselves; {advice}")
    else:
        observer.detail(need)
