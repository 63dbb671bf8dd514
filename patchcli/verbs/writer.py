"""The maps of a run, with overlays or as a benchmark's server takes them; written in a thread of its own."""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import tifffile
from numpy.typing import NDArray

from patchcli import files
from patchcli.datasets import images
from patchcli.datasets.images import Read
from patchcli.datasets.layouts import Sample
from patchcli.datasets.masks import Rule
from patchcli.datasets.sample_masks import read_mask
from patchcli.detection.detector import Detector
from patchcli.detection.result import Result
from patchcli.observer import Observer
from patchcli.reporting.pictures import ColourScale, overlay
from patchcli.verbs.outputs import Outputs, below


class MapWriter:
    """Writes what `outputs` asks for; a context within which maps are submitted."""

    def __init__(self, detector: Detector, outputs: Outputs, read: Read, rule: Rule, observer: Observer) -> None:
        self._detector, self._outputs, self._read, self._rule, self._observer = detector, outputs, read, rule, observer
        self._thread: ThreadPoolExecutor | None = None

    def __enter__(self) -> "MapWriter":
        self._thread = ThreadPoolExecutor(1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._thread is not None
        self._thread.shutdown()

    def submit(self, sample: Sample, result: Result, path: Path) -> Future[None]:
        """Write the map soon."""
        assert self._thread is not None
        return self._thread.submit(self._write, sample, path, result.map, result.score, result.colours)

    def _write(self, sample: Sample, path: Path, values: NDArray[np.float32], score: float, colours: ColourScale) -> None:
        calibration = self._detector.calibration
        if self._outputs.submission and self._outputs.folder is not None and calibration is not None:
            folder = self._outputs.folder / "anomaly_images_thresholded" / self._detector.source.category
            above = below(folder, sample.id).with_suffix(".png")
            _submit(path, above, values, calibration.thresholds.pixel_threshold)
            return
        write_map(path, values, {"image": sample.image, "id": sample.id, "score": score, **self._provenance()})
        if self._outputs.overlay and calibration is not None:
            self._draw(sample, path, values, colours)

    def _provenance(self) -> dict[str, str | float]:
        detector = self._detector
        provenance: dict[str, str | float] = {
            "encoder": detector.attributes.sha256,
            "bank": detector.bank_sha256,
            "distance_error": detector.distance_error,
        }
        if detector.calibration is not None:
            provenance["pixel_threshold"] = detector.calibration.thresholds.pixel_threshold
        if detector.roi is not None:
            provenance["roi"] = detector.roi.sha256
        return provenance

    def _draw(self, sample: Sample, path: Path, values: NDArray[np.float32], colours: ColourScale) -> None:
        mask = read_mask(sample, values.shape, self._rule, self._observer)
        images.write_png(path.with_suffix(".png"), overlay(self._read(sample.path, None), values, mask, colours))

    def draw(self, maps: Sequence[tuple[Sample, Path, float]]) -> None:
        """Without a calibration, draw overlays when all maps are there, on one scale; each with the map's typical value."""
        if not maps:
            return
        colours = run_scale((typical, float(tifffile.imread(path).max())) for _, path, typical in maps)
        for count, (sample, path, _) in enumerate(maps, 1):
            self._draw(sample, path, tifffile.imread(path), colours)
            self._observer.progress("overlay", count, len(maps))


def run_scale(extents: Iterable[tuple[float, float]]) -> ColourScale:
    """The scale of colours from the typical to the highest value of a run's maps, whose (median, maximum) these are."""
    typical, highest = zip(*extents, strict=True)
    return ColourScale(float(np.median(typical)), max(highest))


def write_map(path: Path, values: NDArray[np.float32], provenance: dict[str, str | float]) -> None:
    """Write a map (H, W) as float32 TIFF, beside and renamed; the provenance is its description."""
    with files.replacing(path) as beside:
        tifffile.imwrite(beside, values, description=json.dumps(provenance), metadata=None)


def _submit(path: Path, above: Path, values: NDArray[np.float32], threshold: float) -> None:
    """Write a map, and what is above the threshold, as MVTec AD 2's server takes them (its public code, 2025)."""
    with files.replacing(path) as beside:
        tifffile.imwrite(beside, np.minimum(values / max(threshold, 1e-30), np.finfo(np.float16).max).astype(np.float16))
    images.write_png(above, np.where(values > threshold, 255, 0).astype(np.uint8))
