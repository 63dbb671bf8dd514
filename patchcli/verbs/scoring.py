"""One run of scoring, for `score`, `report`, `watch` and `demo`: samples → records, maps and tables."""

import contextlib
import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from patchcli import files
from patchcli.cluster import Cluster, check_part
from patchcli.datasets import images, layouts
from patchcli.datasets.images import Pixels, Read
from patchcli.datasets.layouts import Sample
from patchcli.datasets.sample_masks import mask_rule
from patchcli.detection import regions, shards
from patchcli.detection.detector import Detector
from patchcli.detection.records import Record
from patchcli.detection.regions import Found, RegionOptions
from patchcli.detection.stream import announced, readable
from patchcli.errors import IncompleteError, InputError
from patchcli.observer import Observer
from patchcli.verbs.outputs import Outputs, Places, check_apart
from patchcli.verbs.scorer import Placed, Scored, ScoreImages, Scorer
from patchcli.verbs.sources import Paths, all_samples, by_path, dataset, named

NOTHING = "no image could be scored; expected png, jpg, bmp, tif, webp or gif files"


class Scoring:
    """A run whose input was checked: iterate over it for (sample, record).

    `endless` paths may name nothing, and what was scored is not remembered; `read` gives an image file's pixels, as
    images.Reader does. Of a `part` of the samples, their maps lie where those of a whole run do.
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
        part: tuple[int, int] = (1, 1),
        cluster: Cluster | None = None,
    ) -> None:
        self.detector, self.outputs, self.options = detector, outputs, options
        self.batch, self.observer, self.endless, self.cluster = batch, observer, endless, cluster
        self.read = read or detector.reader.read
        if batch < 1 or batch != int(batch):
            raise InputError(f"{batch}", parameter="batch", expected="a number of images, 1 or more")
        check_part(part)
        if outputs.submission and paths is not None:
            raise InputError("scores the private test images", parameter="submission", advice="leave `paths` out")
        self.samples, self.total, every = self._samples(paths)
        self._check_outputs(every, part)
        self._check_calibrated(calibrated, part)
        self.places = self._placing(every)
        self.skipped = self._take(part)
        rule = mask_rule(every if outputs.overlay else (), mask_threshold, detector.setup.large)
        self.rule, self.scorer = rule, Scorer(detector, outputs, options, rule, batch, observer, self.read)
        if observer.dry:
            self._plan()
        if isinstance(detector.uncalibrated, IncompleteError):
            observer.note("no verdicts: not calibrated; run: `calibrate()`")
        elif detector.uncalibrated is not None:
            observer.note(f"no verdicts: {detector.uncalibrated}")

    def _check_calibrated(self, needed: bool, part: tuple[int, int]) -> None:
        """Raise an error where there is no calibration, and what is wanted depends on one."""
        detector, outputs = self.detector, self.outputs
        if detector.calibration is None and (needed or outputs.thresholded or self.options.given):
            assert detector.uncalibrated is not None
            raise detector.uncalibrated
        if outputs.overlay and (self.endless or part != (1, 1)) and detector.calibration is None:
            raise InputError("there is no scale for the colours yet; run: `calibrate()`", parameter="overlay")

    def _placing(self, every: list[Sample]) -> Places | None:
        """The places of maps; None where none are written."""
        folder = self.outputs.folder
        if folder is not None and self.outputs.submission:
            return Places(folder / "anomaly_images" / self.detector.source.category, every, suffixes=())
        suffixes = (".tiff", ".png") if self.outputs.overlay else (".tiff",)
        return None if folder is None else Places(folder, every, self.endless, suffixes)

    def _take(self, part: tuple[int, int]) -> list[Sample]:
        """Take one part of the samples; those before it, which have places too."""
        number, count = part
        if count == 1:
            return []
        samples = list(self.samples)
        first, last = len(samples) * (number - 1) // count, len(samples) * number // count
        self.samples, self.total = iter(samples[first:last]), last - first
        return samples[:first]

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
        wanted = "name images or folders to score"
        raise InputError("no test images there", subject=self.detector.source.root, advice=wanted)

    def _check_outputs(self, every: list[Sample], part: tuple[int, int]) -> None:
        """Refuse places among the data set's images, and from a part of the samples what is one file for all."""
        if self.outputs.regions_out is not None and part != (1, 1):
            raise InputError("has one file for all images; records have the regions too", parameter="regions_out")
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
            self._placed(sample)
        writes = self.outputs.described(len(samples))
        disk = sum(4 * height * width for _, (height, width) in samples) if self.outputs.out is not None else 0
        self.observer.plan(f"{len(samples)} images", writes, disk)

    def _placed(self, sample: Sample) -> Placed:
        return Placed(sample, None if self.places is None else self.places.of(sample))

    def _scored(self) -> Iterator[Scored]:
        """What is said of each sample, by this process or by workers."""
        for sample in self.skipped:
            self._placed(sample)

        def here(own: Detector) -> Iterator[Scored]:
            samples = announced(own, self.samples, self.batch, self.outputs.memory, self.observer)
            return self.scorer.by(own)(map(self._placed, samples))

        task = partial(ScoreImages, outputs=self.outputs, options=self.options, rule=self.rule, batch=self.batch)
        placed = map(self._placed, self.samples)
        yield from shards.spread(self.detector, self.cluster, here, task, placed, self.batch, self.observer)

    def __iter__(self) -> Iterator[tuple[Sample, Record]]:
        in_bank = _InBank(self.detector, self.read)
        table: list[Found] = []
        maps: list[tuple[Sample, Path, float]] = []  # whose overlays are drawn at the end
        done = 0
        if self.outputs.folder is not None:
            files.sweep(self.outputs.folder, "**/.*.part")
        for scored in self._scored():
            sample, record = scored.placed.sample, scored.record
            done += 1
            if self.outputs.regions_out is not None:
                table.append((sample.image, sample.id, scored.size, record.regions or []))
            if scored.typical is not None and scored.placed.path is not None:
                maps.append((sample, scored.placed.path, scored.typical))
            in_bank.look(sample, record.score)
            self.observer.progress("score", done, self.total, sample.image)
            yield sample, record
        if not done and not self.endless and self.total != 0:  # of few images, a part may have none
            raise InputError(NOTHING)
        in_bank.tell(self.observer)
        if self.outputs.regions_out is not None:
            regions.write(Path(self.outputs.regions_out), table)
        self.scorer.writer.draw(maps)


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
