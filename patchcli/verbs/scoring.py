"""One run of scoring, for `score`, `report`, `watch` and `demo`: samples → records, maps and tables."""

import contextlib
import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from patchcli import files
from patchcli.datasets import images, layouts
from patchcli.datasets.images import Pixels, Read
from patchcli.datasets.layouts import Sample
from patchcli.detection import regions
from patchcli.detection.detector import PIXELS, Detector
from patchcli.detection.records import Record, record_of
from patchcli.detection.regions import Found, RegionOptions
from patchcli.detection.stream import announced, readable, stream
from patchcli.errors import IncompleteError, InputError
from patchcli.observer import Observer
from patchcli.verbs.outputs import Outputs, check_apart
from patchcli.verbs.sources import Paths, all_samples, by_path, dataset, named
from patchcli.verbs.writer import MapWriter

NOTHING = "no image could be scored; expected png, jpg, bmp, tif or webp files"


class Scoring:
    """A run whose input was checked: iterate over it for (sample, record).

    `endless` paths may name nothing, and what was scored is not remembered; `read` gives an image file's pixels, as
    images.Reader does.
    """

    def __init__(
        self,
        detector: Detector,
        paths: Paths | None,
        outputs: Outputs,
        options: RegionOptions,
        *,
        batch: int,
        observer: Observer,
        calibrated: bool = False,
        mask_threshold: int | None = None,
        endless: bool = False,
        read: Read | None = None,
    ) -> None:
        self.detector, self.outputs, self.options = detector, outputs, options
        self.batch, self.observer, self.endless = batch, observer, endless
        self.read = read or detector.reader.read
        if outputs.submission and paths is not None:
            raise InputError("scores the private test images", parameter="submission", advice="leave `paths` out")
        self.samples, self.total, every = self._samples(paths)
        self._check_outputs(every)
        if detector.calibration is None and (calibrated or outputs.thresholded or options.given):
            assert detector.uncalibrated is not None
            raise detector.uncalibrated
        if outputs.overlay and endless and detector.calibration is None:
            raise InputError("there is no scale for the colours yet; run: `calibrate()`", parameter="overlay")
        self.writer = MapWriter(detector, outputs, every, self.read, mask_threshold, endless, observer)
        if observer.dry:
            self._plan()
        if isinstance(detector.uncalibrated, IncompleteError):
            observer.note("no verdicts: not calibrated; run: `calibrate()`")
        elif detector.uncalibrated is not None:
            observer.note(f"no verdicts: {detector.uncalibrated}")

    def _samples(self, paths: Paths | None) -> tuple[Iterator[Sample], int | None, list[Sample]]:
        """The samples to score and their number, None where it is not known; and all of the data set."""
        if paths is not None:
            every = all_samples(self.detector)
            return named(paths, by_path(every), self.observer), None, every
        data = dataset(self.detector)
        for line in data.problems:
            self.observer.problem(line)
        splits = layouts.PRIVATE if self.outputs.submission else ("test",)
        tests = [sample for sample in data.samples if sample.split in splits]
        if tests:
            return iter(tests), len(tests), data.samples
        if self.outputs.submission:
            wanted = f"expected those of MVTec AD 2: {' and '.join(layouts.PRIVATE)}"
            raise InputError("no private test images there", subject=self.detector.source.root, advice=wanted)
        wanted = "name images or folders to score, or - for a list on stdin"
        raise InputError("no test images there", subject=self.detector.source.root, advice=wanted)

    def _check_outputs(self, every: list[Sample]) -> None:
        """Refuse places among the data set's images."""
        if self.outputs.out is not None:
            check_apart("out", Path(self.outputs.out), "another folder, such as maps/", self.detector, every)
        if self.outputs.regions_out is not None:
            check_apart("regions_out", Path(self.outputs.regions_out), "another place", self.detector, every)

    def _plan(self) -> None:
        """Say what would be written, which ends a dry run."""
        samples = list(readable(self.samples, self.detector.roi, self.detector.reader, self.observer))
        if not samples and not self.endless:
            raise InputError(NOTHING)
        for sample, _ in samples:
            self.writer.check_place(sample)
        writes = self.outputs.described(len(samples))
        disk = sum(4 * height * width for _, (height, width) in samples) if self.outputs.out is not None else 0
        self.observer.plan(f"{len(samples)} images", writes, disk)

    def __iter__(self) -> Iterator[tuple[Sample, Record]]:
        in_bank = _InBank(self.detector, self.read)
        table: list[Found] = []
        done = 0
        waiting: deque[tuple[Sample, Record, Future[None] | None, int]] = deque()  # and the pixels of the map
        with self.writer:
            samples = announced(self.detector, self.samples, self.batch, self.outputs.memory, self.observer)
            for sample, result in stream(self.detector, samples, self.batch, self.observer, self.read):
                map_path = self.writer.place(sample)
                if map_path is None and self.outputs.out is not None:
                    continue
                areas = None
                if self.detector.calibration is not None:
                    threshold = self.detector.calibration.thresholds.pixel_threshold
                    areas = regions.find(result.map, threshold, self.options.min_area, self.options.mm_per_pixel)
                    if self.outputs.regions_out is not None:
                        table.append((sample.image, sample.id, result.size, areas))
                written = None if map_path is None else self.writer.submit(sample, result, map_path)
                picture = map_path.with_suffix(".png") if map_path is not None and self.outputs.overlay else None
                record = record_of(sample, result, self.detector, areas, map_path, picture)
                waiting.append((sample, record, written, result.size[0] * result.size[1]))
                while len(waiting) >= self.batch or (written and sum(pixels for *_, pixels in waiting) > PIXELS):
                    yield _finished(*waiting.popleft())  # a record is out when its map is there
                done += 1
                in_bank.look(sample, record.score)
                self.observer.progress("score", done, self.total, sample.image)
            while waiting:
                yield _finished(*waiting.popleft())
        if not done and not self.endless:
            raise InputError(NOTHING)
        in_bank.tell(self.observer)
        if self.outputs.regions_out is not None:
            regions.write(Path(self.outputs.regions_out), table)
        self.writer.draw_waiting()


def _finished(sample: Sample, record: Record, written: Future[None] | None, _: int) -> tuple[Sample, Record]:
    if written is not None:
        written.result()
    return sample, record


class _InBank:
    """Which of the scored images are in the bank: by id, and of those that score 0 by their pixels."""

    def __init__(self, detector: Detector, read: Read) -> None:
        self._detector, self._read = detector, read
        self._root, self._ids = Path(detector.source.root), set(detector.images.ids)
        self._names: list[str] = []
        self._zero: dict[bytes, list[str]] = {}  # digest of the pixels → images

    def look(self, sample: Sample, score: float) -> None:
        """Take note of an image that was scored."""
        full = files.real(sample.path)
        inside = images.printable(full.relative_to(self._root)) if full.is_relative_to(self._root) else sample.id
        if {sample.id, inside} & self._ids:
            self._names.append(sample.image)
        elif score == 0:
            with contextlib.suppress(InputError):  # gone by now
                pixels = self._detector.canvas.fit(self._read(sample.path, None))
                self._zero.setdefault(_digest(pixels), []).append(sample.image)

    def tell(self, observer: Observer) -> None:
        """Say how many there were."""
        for number in range(len(self._detector.images)) if self._zero else ():
            self._names += self._zero.pop(_digest(self._detector.images.read(number, number + 1)[0]), [])
        if self._names:
            first = f"{len(self._names)} of these images are in the bank (first: {self._names[0]})"
            observer.note(f"{first}: they score 0, or nearly, which says nothing; see: `audit()`")


def _digest(pixels: Pixels) -> bytes:
    return hashlib.sha256(pixels.tobytes()).digest()
