"""Bank × images → patch distances → anomaly maps → scores, with the evidence (Patch SVDD, Algorithm 2)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from patchcli.bank import pages as paged
from patchcli.bank import search as neighbours
from patchcli.datasets.images import Pixels
from patchcli.datasets.roi import Roi
from patchcli.detection import maps
from patchcli.errors import InputError
from patchcli.features.dense import embed, grids
from patchcli.store import Store


@dataclass(frozen=True)
class Evidence:
    """The most anomalous patch at the map's peak and the normal patch nearest to it; all in original pixels."""

    peak: tuple[int, int]  # (x, y) of the map's maximum, in the region of interest
    box: tuple[int, int, int, int]  # x, y, width, height of the patch
    normal_image: str  # id of the training image that holds the nearest patch
    normal_box: tuple[int, int, int, int]  # of that patch, there


@dataclass(frozen=True)
class Scored:
    """The result for one image; maps are (h, w) float32, what the image covers of the store's working size."""

    maps: dict[str, NDArray[np.float32]]  # big, small (where the encoder has it), multi
    size: tuple[int, int]  # original (height, width)
    evidence: Evidence
    roi: Roi | None = None

    def inside(self, name: str = "multi") -> NDArray[np.float32]:
        """A map's values (n,) in the region of interest."""
        values = self.maps[name]
        return values.ravel() if self.roi is None else self.roi.inside(values)

    def score(self, name: str = "multi") -> float:
        """The image's anomaly score: the maximum of a map in the region of interest."""
        return float(self.inside(name).max())


@dataclass(frozen=True)
class Embedded:
    """Images on their way to the search: features (B, rows, columns, D) of each scale, and original sizes."""

    features: dict[str, torch.Tensor]
    sizes: list[tuple[int, int]]  # (height, width)


class Scorer:
    """Everything that is loaded once to score images against one store."""

    def __init__(
        self, store: Store, device: torch.device, method: str, memory: int, roi: Roi | None = None, large: bool = False
    ) -> None:
        self.bank = bank = store.bank()
        self.encoder = store.encoder.restore(device)
        self.mean, self.canvas, self.reader = store.images.mean, store.canvas, store.source.reader.lifted(large)
        self.roi = roi
        if roi is not None and not roi.at(*self.canvas.covered(*roi.mask.shape)).any():
            found = f"nothing of it is left at the store's working size of {self.canvas.width}x{self.canvas.height} pixels"
            raise InputError(f"--roi {roi.path}: {found}; expected a larger area")
        self.grids = grids(self.encoder, self.canvas.height, self.canvas.width, store.encoder.attributes.strides)
        self.ids, self.sizes = store.images.ids, store.images.sizes
        self.device, self.memory = device, memory
        self.bound = bank.attributes.radius  # by how much a distance may be off, 0 for a whole bank
        self.search, left = {}, memory
        for scale in self.grids:  # big first: it is small
            self.search[scale] = neighbours.searcher(method, paged.read(bank, scale, left), device, left)
            left = max(0, left - paged.memory(bank, scale))

    def embed(self, images: list[Pixels]) -> Embedded:
        """Decoded images, each (h, w, 3) of any size, at the store's working size through the encoder."""
        pixels = np.stack([self.canvas.fit(image) for image in images])
        return self.embed_stored(pixels, [(image.shape[0], image.shape[1]) for image in images])

    def embed_stored(self, pixels: Pixels, sizes: list[tuple[int, int]]) -> Embedded:
        """Images (B, H, W, 3) that have the working size, with their original sizes."""
        return Embedded(embed(self.encoder, pixels, self.mean, self.grids, self.device), sizes)

    def score(self, images: list[Pixels]) -> list[Scored]:
        """Score decoded images together."""
        return self.compare(self.embed(images))

    def compare(self, embedded: Embedded, without: int | None = None) -> list[Scored]:
        """Maps and evidence of embedded images; as if the bank did not hold training image number `without`."""
        count = len(embedded.sizes)
        distances, nearest = {}, {}
        pixel_maps: dict[str, NDArray[np.float32]] = {}
        for scale, grid in self.grids.items():
            queries = embedded.features[scale].reshape(-1, embedded.features[scale].shape[-1])
            skip = (0, 0) if without is None else (without * grid.patches, (without + 1) * grid.patches)
            d, i = self.search[scale](queries, skip)
            distances[scale] = d.cpu().numpy().reshape(count, *grid.shape)
            nearest[scale] = i.cpu().numpy().reshape(count, *grid.shape)
            pixel_maps[scale] = maps.spread(distances[scale], grid)
        pixel_maps["multi"] = maps.multiply(pixel_maps)
        finest = min(self.grids, key=lambda scale: self.grids[scale].S)
        results = []
        for b, size in enumerate(embedded.sizes):
            height, width = self.canvas.covered(*size)
            covered = {name: values[b, :height, :width] for name, values in pixel_maps.items()}
            evidence = self._evidence(covered["multi"], size, distances[finest][b], nearest[finest][b], finest)
            results.append(Scored(covered, size, evidence, self.roi))
        return results

    def _evidence(
        self,
        multi: NDArray[np.float32],
        size: tuple[int, int],
        distances: NDArray[np.float32],
        nearest: NDArray[np.int64],
        scale: str,
    ) -> Evidence:
        """The patch of the finest scale that covers the peak and is farthest from the normal ones."""
        grid = self.grids[scale]
        looked_at = multi if self.roi is None else np.where(self.roi.at(*multi.shape), multi, -1)
        y, x = np.unravel_index(int(looked_at.argmax()), multi.shape)
        rows = [r for r, top in enumerate(grid.ys) if top <= y < top + grid.K]
        columns = [c for c, left in enumerate(grid.xs) if left <= x < left + grid.K]
        worst = int(distances[np.ix_(rows, columns)].argmax())
        row, column = rows[worst // len(columns)], columns[worst % len(columns)]
        number, top, left = grid.locate(int(nearest[row, column]))
        normal_box = self._original((top, left), grid.K, (int(self.sizes[number][0]), int(self.sizes[number][1])))
        height, width = multi.shape
        peak = (int((x + 0.5) * size[1] / width), int((y + 0.5) * size[0] / height))
        return Evidence(peak, self._original((grid.ys[row], grid.xs[column]), grid.K, size), self.ids[number], normal_box)

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
