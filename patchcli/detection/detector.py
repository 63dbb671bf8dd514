"""The detector: encoder, bank and calibration of a store, read once, and what they find in images (Algorithm 2)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from patchcli import runtime
from patchcli.bank import pages, search
from patchcli.bank.search.base import Search
from patchcli.cluster import Cluster
from patchcli.datasets.arrays import ImageLike, as_several, is_one, to_pixels
from patchcli.datasets.images import Pixels
from patchcli.datasets.roi import Roi
from patchcli.detection import maps
from patchcli.detection.calibration import Calibration
from patchcli.detection.result import Evidence, Nearest, Result
from patchcli.errors import DamagedError, InputError, StoreError
from patchcli.features.dense import embed, grids
from patchcli.observer import Observer
from patchcli.store import Store

BATCH = 8  # images that are searched for together,
PIXELS = 8_000_000  # if they have no more than so many at the working size: features take 16 times the memory of a picture


@dataclass(frozen=True)
class Setup:
    """How a detector is opened. `memory` bounds what it holds of the bank, in bytes; None: half of what is free.

    Of a detector with a region of interest, nothing outside of it counts. `large` admits images of more than
    decoding.LIMIT pixels; `threads` bounds the CPU threads of this process.
    """

    device: str = "auto"  # auto, cpu or cuda
    search: str = "auto"  # auto or a name of bank.search.METHODS; all are exact
    precision: str = "auto"  # of the encoder's forward pass: that of the bank; another one is refused
    memory: int | None = None
    threads: int | None = None
    roi: Roi | Path | str | None = None  # a region of interest, or the mask image that it is read from
    large: bool = False

    def __post_init__(self) -> None:
        if self.roi is not None and not isinstance(self.roi, Roi):
            object.__setattr__(self, "roi", Roi.read(self.roi, large=self.large))


@dataclass(frozen=True)
class Features:
    """Embedded images: features (B, rows, columns, D) of each scale, and original sizes (height, width)."""

    scales: dict[str, torch.Tensor]
    sizes: list[tuple[int, int]]


@dataclass(frozen=True)
class Neighbours:
    """The nearest vectors of the bank: distances and ids, in the arrangement of the patches that were searched for."""

    distances: NDArray[np.float32]
    ids: NDArray[np.int64]


class Detector:
    """Scores images against one version of a store; open one with `Detector.open`."""

    def __init__(self, store: Store, setup: Setup, observer: Observer, calibrated: bool = True) -> None:
        runtime.set_threads(setup.threads)
        assert setup.roi is None or isinstance(setup.roi, Roi)
        self._store, self.setup, self.roi = store, setup, setup.roi
        self.path, self.source, self.revision = store.path, store.source, store.root.revision
        self.bank, self.images, self.attributes = store.bank(), store.images, store.encoder.attributes
        self.device, self.memory = runtime.device(setup.device), runtime.memory(setup.memory)
        self.canvas, self.reader = store.canvas, store.source.reader.lifted(setup.large)
        self.calibration, self.uncalibrated = _calibration(store, self.roi) if calibrated else (None, None)
        self._check_roi()
        self._check_precision(observer)
        self._announce(observer)
        self.encoder, self.mean = store.encoder.restore(self.device), store.mean
        of_bank = self.attributes.strides, self.attributes.exponents
        self.grids = grids(self.encoder, self.canvas.height, self.canvas.width, *of_bank)
        self.bank_sha256 = self.bank.identity
        self.distance_error = max(self.bank.attributes.radius.values())  # 0 unless the bank is thinned or float16
        self._budgets = pages.budgets(self.bank, self.grids, self.memory)  # big first: it is small
        self.pages = {scale: pages.read(self.bank, scale, budget) for scale, budget in self._budgets.items()}
        self._search = self._searches(self._chosen(observer))

    @classmethod
    def open(
        cls,
        store: Path | str | Store = "patchcli.zarr",
        *,
        device: str = "auto",
        search: str = "auto",
        precision: str = "auto",
        memory: int | None = None,
        threads: int | None = None,
        roi: Roi | Path | str | None = None,
        large: bool = False,
        observer: Observer | None = None,
    ) -> "Detector":
        """Read a store's encoder, bank and calibration; the other arguments are those of Setup.

        Raises StoreError where the store has no complete bank of its encoder.
        """
        setup = Setup(device, search, precision, memory, threads, roi, large)
        return cls(store if isinstance(store, Store) else Store.open(store), setup, observer or Observer())

    def _check_roi(self) -> None:
        if self.roi is not None and not self.roi.at(*self.canvas.covered(*self.roi.mask.shape)).any():
            size = f"{self.canvas.width}x{self.canvas.height} pixels"
            nothing = f"nothing of it is left at the store's working size of {size}"
            raise InputError(f"{nothing}; expected a larger area", parameter="roi", subject=self.roi.path)

    def _check_precision(self, observer: Observer) -> None:
        """Raise InputError if the bank was embedded with another precision than the one that is wanted."""
        wanted, stored = self.setup.precision, self.bank.precision
        if wanted != "auto" and runtime.precision(wanted, self.device) != stored:
            advice = f"run: `embed(precision={wanted})`, or leave `precision` out"
            raise InputError(f"the bank was embedded with {stored}", parameter="precision", subject=wanted, advice=advice)
        if stored == "bfloat16" and self.device.type == "cpu" and not runtime.cpu_has_bfloat16():
            observer.note(
                "the bank was embedded with bfloat16, which this CPU emulates slowly; `embed(precision=float32)` avoids this"
            )

    def _announce(self, observer: Observer) -> None:
        """Say what may be wrong with the encoder, and what memory the bank takes."""
        if self.attributes.trouble:  # embed was made to take it
            observer.note(f"the encoder may be of no use: {self.attributes.trouble}")
        needed, budget = pages.total_memory(self.bank), self.memory
        if needed <= budget:
            observer.detail(f"the bank takes {runtime.megabytes(needed)} of memory")
        else:
            numbers = f"the bank would take {runtime.megabytes(needed)} of memory, {runtime.megabytes(budget)} may be used"
            observer.note(f"{numbers}: parts of it are read anew for every batch, with the same maps")

    def _chosen(self, observer: Observer) -> dict[str, str]:
        """The search of each scale: the one that is named, or the exact one that works here."""
        method, instead = search.choose(self.setup.search, self.device, self.attributes.D)
        if instead:
            observer.note(instead)
        auto = self.setup.search == "auto"
        return {scale: search.suited(method, of_scale) if auto else method for scale, of_scale in self.pages.items()}

    def _searches(self, chosen: Mapping[str, str]) -> dict[str, Search]:
        budgets = self._budgets
        return {scale: search.method(name)(self.pages[scale], self.device, budgets[scale]) for scale, name in chosen.items()}

    def by(self, searches: Mapping[str, Search]) -> "Detector":
        """The same with another search for each scale."""
        other = copy.copy(self)
        other._search = dict(searches)
        return other

    def version(self, cluster: Cluster) -> "Version":
        """What opens the same on a worker of a cluster, with its share of CPU threads and memory."""
        threads, memory = cluster.threads(self.setup.threads), cluster.memory(self.setup.memory)
        return Version(self.path, self.revision, replace(self.setup, threads=threads, memory=memory))

    def on(self, device: torch.device, method: str) -> "Detector":
        """The same on a device and with one search for all scales; both share the pages of the bank that are in memory."""
        other = copy.copy(self)
        other.setup, other.device = replace(self.setup, device=device.type, search=method), device
        if device != self.device:
            other.encoder = self._store.encoder.restore(device)
        other._search = other._searches(dict.fromkeys(self.grids, method))
        return other

    # ---- arrays in, results out -------------------------------------------------------------------------------------

    @overload
    def __call__(self, images: ImageLike, *, full_scale: float | None = None) -> Result: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, images: Sequence[ImageLike], *, full_scale: float | None = None) -> list[Result]: ...

    def __call__(self, images: ImageLike | Sequence[ImageLike], *, full_scale: float | None = None) -> Result | list[Result]:
        """The result of an image; of several, or of an array (N, H, W, 3), a list of them.

        An image is an array (H, W) or (H, W, 3) in RGB, a PIL image, or the path of a file. Arrays are uint8, uint16 or
        floating point; `full_scale` is the value of white, which floating point arrays need (1.0 or 255, say) and uint16
        arrays may have; by default it is that of the store's bits. Raises InputError.
        """
        decoded = [self._pixels(image, full_scale) for image in as_several(images)]
        if is_one(images):
            return self._results(decoded)[0]
        size = self.at_once(BATCH)
        return [result for start in range(0, len(decoded), size) for result in self._results(decoded[start : start + size])]

    def embed(
        self, images: ImageLike | Sequence[ImageLike], *, full_scale: float | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """The features of each scale, (N, rows, columns, D) float32, at the bank's grid; N is 1 for one image."""
        features = self.embed_pixels([self._pixels(image, full_scale) for image in as_several(images)])
        return {scale: values.cpu().numpy() for scale, values in features.scales.items()}

    def _pixels(self, image: ImageLike, full_scale: float | None) -> Pixels:
        pixels = to_pixels(image, self.reader, full_scale)
        if self.roi is not None:
            self.roi.check("images", *pixels.shape[:2])
        return pixels

    def _results(self, images: list[Pixels]) -> list[Result]:
        results = self.compare(self.embed_pixels(images))
        for result, pixels in zip(results, images, strict=True):
            object.__setattr__(result, "pixels", pixels)
        return results

    # ---- Algorithm 2 ------------------------------------------------------------------------------------------------

    def at_once(self, batch: int) -> int:
        """How many images are searched for together, of a batch."""
        return max(1, min(batch, PIXELS // (self.canvas.height * self.canvas.width)))

    def embed_pixels(self, images: Sequence[Pixels]) -> Features:
        """Decoded images, each (h, w, 3) of any size, at the working size through the encoder."""
        pixels = np.stack([self.canvas.fit(image) for image in images])
        return self.embed_fitted(pixels, [(image.shape[0], image.shape[1]) for image in images])

    def embed_fitted(self, pixels: Pixels, sizes: list[tuple[int, int]]) -> Features:
        """Images (B, H, W, 3) that have the working size, with their original sizes."""
        return Features(embed(self.encoder, pixels, self.mean, self.grids, self.device, self.bank.precision), sizes)

    def compare(self, features: Features, without: int | None = None) -> list[Result]:
        """The results of embedded images; as if the bank did not hold training image number `without`."""
        return self.results(self.nearest(features.scales, without), features.sizes)

    def nearest(self, features: Mapping[str, torch.Tensor], without: int | None = None) -> dict[str, Neighbours]:
        """Lines 2 to 6: the nearest normal patches to features (..., D) of each scale, in the same arrangement (...)."""
        found = {}
        for scale, grid in self.grids.items():
            skip = (0, 0) if without is None else (without * grid.patches, (without + 1) * grid.patches)
            *arranged, D = features[scale].shape
            distances, ids = self._search[scale](features[scale].to(self.device).reshape(-1, D), skip)
            found[scale] = Neighbours(distances.cpu().numpy().reshape(arranged), ids.cpu().numpy().reshape(arranged))
        return found

    def pixel_maps(self, found: Mapping[str, Neighbours]) -> dict[str, NDArray[np.float32]]:
        """Lines 7 to 11: from the patches of images (B, rows, columns) to pixels (B, H, W): the scales' maps, and "multi"."""
        scales = self.encoder.scales
        with runtime.one_blas_thread():
            pixel_maps = {scale: maps.spread(found[scale].distances, grid, scales[scale]) for scale, grid in self.grids.items()}
        return pixel_maps | {"multi": maps.multiply(pixel_maps, self.attributes.exponents)}

    def results(self, found: Mapping[str, Neighbours], sizes: Sequence[tuple[int, int]]) -> list[Result]:
        """The results of images from the neighbours of their patches; sizes are the original (height, width)."""
        pixel_maps = self.pixel_maps(found)
        finest = min(self.grids, key=lambda scale: self.grids[scale].S)
        results = []
        for b, size in enumerate(sizes):
            height, width = self.canvas.covered(*size)
            covered = {name: values[b, :height, :width] for name, values in pixel_maps.items()}
            of_image = Neighbours(found[finest].distances[b], found[finest].ids[b])
            evidence = self._evidence(covered["multi"], size, of_image, finest)
            results.append(Result(covered, size, evidence, self.roi, self.calibration))
        return results

    def _evidence(self, multi: NDArray[np.float32], size: tuple[int, int], found: Neighbours, scale: str) -> Evidence:
        """The patch of the finest scale that covers the peak and is farthest from the normal ones."""
        grid = self.grids[scale]
        inside = multi if self.roi is None else np.where(self.roi.at(*multi.shape), multi, -1)
        y, x = np.unravel_index(int(inside.argmax()), multi.shape)
        rows = [r for r, top in enumerate(grid.ys) if top <= y < top + grid.K]
        columns = [c for c, left in enumerate(grid.xs) if left <= x < left + grid.K]
        worst = int(found.distances[np.ix_(rows, columns)].argmax())
        row, column = rows[worst // len(columns)], columns[worst % len(columns)]
        number, top, left = grid.locate(int(found.ids[row, column]))
        normal_box = self._original((top, left), grid.K, self.images.sizes[number])
        height, width = multi.shape
        peak = (int((x + 0.5) * size[1] / width), int((y + 0.5) * size[0] / height))
        patch = self._original((grid.ys[row], grid.xs[column]), grid.K, size)
        return Evidence(peak, patch, Nearest(self.images.ids[number], normal_box))

    def _original(self, at: tuple[int, int], K: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """x, y, width and height, in original pixels, of the patch at (top, left) of the canvas.

        Of a patch beyond what the image covers: where its reflection lies.
        """
        spans = []
        for start, whole, covered in zip(at, size, self.canvas.covered(*size), strict=True):
            start = start if start < covered else max(0, 2 * covered - start - K)
            first = round(start * whole / covered)
            spans.append((first, max(1, min(round(K * whole / covered), whole - first))))
        (y, height), (x, width) = spans
        return x, y, width, height


@dataclass(frozen=True)
class Version:
    """A version of a store and the setup of its detector: what a worker needs to open one."""

    store: Path | str
    revision: str
    setup: Setup

    def open(self, observer: Observer, calibrated: bool = True) -> Detector:
        """The detector. Raises StoreError where the store has changed meanwhile."""
        return Detector(Store.open(self.store, self.revision), self.setup, observer, calibrated)


def _calibration(store: Store, roi: Roi | None) -> tuple[Calibration | None, StoreError | None]:
    """The store's calibration, or why it has none that holds. Raises DamagedError where it is damaged."""
    try:
        calibration = Calibration(store.calibration.thresholds, store.calibration.scores)
        calibration.check_roi(roi.sha256 if roi else None)
    except DamagedError:
        raise
    except StoreError as error:
        return None, error.with_traceback(None)  # whose frames would keep the store open
    return calibration, None


def path_and_setup(detector: Detector | Path | str, setup: Setup | None) -> tuple[Path | str, Setup]:
    """A detector's store and setup; or the store that is named, with that setup."""
    if not isinstance(detector, Detector):
        return detector, setup or Setup()
    if setup is not None:
        raise InputError("a detector has a setup already; give the path of a store instead", parameter="setup")
    return detector.path, detector.setup


def opened(detector: Detector | Path | str, setup: Setup | None, observer: Observer) -> Detector:
    """The detector, or one of the store that is named, with that setup."""
    path, setup = path_and_setup(detector, setup)
    return detector if isinstance(detector, Detector) else Detector(Store.open(path), setup, observer)


def scale_names(detector: Detector) -> Mapping[str, str]:
    """What the tables call each map: the labels of the scales, and "product" where there are several."""
    labels = {name: scale.label for name, scale in detector.encoder.scales.items() if name in detector.grids}
    return labels | ({"multi": "product"} if len(labels) > 1 else {})
