"""Detection figures of pixels, from masks and maps; nothing here reaches training or thresholds.

The figures are exact, in memory that does not grow with the number of images (but for a line an image): the values of each
image go sorted into a file, and those of all images are then counted block by block of the 2³² that a float32 has, from
the highest down. Every distinct value is a threshold.

AUPRO is that of Bergmann et al., IJCV 2021, and of MVTec's evaluation code: the overlap with each 8-connected region of
the masks, averaged over the regions, against the false positive rate over the normal pixels of all images; integrated
up to a limit, linearly between thresholds, and divided by the limit.

The pixel AUROC of a bootstrap's resample (see metrics.py) is computed from a histogram of each image; for the images as
they are, that is off by 1 / (2 EDGES) at most.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchcli.detection import metrics
from patchcli.detection.metrics import Counts, Interval, draws, percentiles

AUPRO_LIMITS = (0.3, 0.05)
LOW_BITS = 20  # a block of values is all that share the higher bits
LEVELS, BLOCKS = 1 << LOW_BITS, 1 << (32 - LOW_BITS)
CHUNK = 1 << 20  # pixels that are sorted at a time
EDGES = 512  # of the bootstrap's bins


@dataclass(frozen=True)
class PixelFigures:
    """Figures over the pixels of many images; None where there are no defective or no normal pixels."""

    auroc: float | None = None
    auroc_interval: Interval | None = None
    ap: float | None = None
    f1_max: float | None = None  # an oracle's figure, as for images
    aupro: tuple[float, ...] | None = None  # at each of AUPRO_LIMITS


@dataclass(frozen=True, eq=False)
class SortedPixels:
    """The pixels of one image, sorted, which is all that figures need: 4 bytes for a normal pixel, 8 for a defective one."""

    normal: NDArray[np.uint32]  # keys in the order of the values, ascending
    defective: NDArray[np.uint32]
    areas: NDArray[np.uint32]  # for each defective pixel, the area of its region
    regions: int

    @classmethod
    def of(
        cls, values: NDArray[np.float32], mask: NDArray[np.bool_], counted: NDArray[np.bool_] | None = None
    ) -> "SortedPixels":
        """Those of a map and a mask, both (H, W), where `counted` (everywhere by default). Values must be finite."""
        from scipy.ndimage import label

        keys = _ordered(values)
        if counted is not None:
            mask = mask & counted
        regions, count = label(mask, np.ones((3, 3)))
        order = np.argsort(keys[mask])
        areas = np.bincount(regions[mask])[regions[mask]][order].astype(np.uint32)
        return cls(np.sort(keys[~mask if counted is None else counted & ~mask]), keys[mask][order], areas, count)


@dataclass(frozen=True)
class _Run:
    """One image in the file: where each block begins, sorted keys of normal and defective pixels, areas of the regions."""

    kind: str
    offset: int
    normal: int
    defective: int
    regions: int


class Pixels:
    """The pixels of many images, kept in `file` (about the size of the maps), and their figures."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._runs: list[_Run] = []
        self._occupied = np.zeros(BLOCKS, bool)

    def add(self, kind: str, image: SortedPixels) -> None:
        """Count an image; figures can be asked for by `kind`."""
        index = np.stack([_block_starts(image.normal), _block_starts(image.defective)], axis=1)  # (BLOCKS + 1, 2)
        self._occupied |= (np.diff(index, axis=0) > 0).any(axis=1)
        self._runs.append(_Run(kind, self._file.seek(0, 2), len(image.normal), len(image.defective), image.regions))
        for part in (index.astype(np.uint32), image.normal, image.defective, image.areas):
            self._file.write(part.tobytes())

    def figures(self, kinds: Collection[str] | None = None) -> PixelFigures:
        """The figures over the images of some kinds, or of all."""
        runs = [run for run in self._runs if kinds is None or run.kind in kinds]
        N, P, R = (sum(getattr(run, name) for run in runs) for name in ("normal", "defective", "regions"))
        if not N or not P:
            return PixelFigures()
        targets = np.arange(1, EDGES + 1) * (P / EDGES)  # counts of defective pixels at which a bin of the bootstrap ends
        edges: list[NDArray[np.uint32]] = []
        ap = f1 = auroc = 0.0
        aupro = [0.0] * len(AUPRO_LIMITS)
        fp, tp, overlap = np.zeros(1), np.zeros(1), np.zeros(1)
        for keys, above, upto, defective, overlaps in self._levels(runs):
            # From level to level, the curves go right at constant height, past the normal pixels between; then up.
            fp = np.append(fp[-1], np.stack([above, upto], axis=1).ravel()).astype(float)
            tp, overlap = (np.cumsum(np.append(sums[-1], gain)) for sums, gain in ((tp, defective), (overlap, overlaps)))
            auroc += _area(fp / N, np.repeat(tp, 2)[:-1] / P, 1)
            for number, limit in enumerate(AUPRO_LIMITS):
                aupro[number] += _area(fp / N, np.repeat(overlap, 2)[:-1] / R, limit) / limit
            ap += float((defective / P * tp[1:] / (tp[1:] + upto)).sum())
            f1 = max(f1, float((2 * tp[1:] / (tp[1:] + upto + P)).max()))
            reached = np.searchsorted(tp, targets[(targets > tp[0]) & (targets <= tp[-1])])
            edges.append(keys[np.unique(reached) - 1])
        rest, top = np.array([fp[-1] / N, 1]), np.ones(2)
        auroc += _area(rest, top, 1)
        interval = percentiles(self._resampled(runs, np.concatenate(edges)[::-1]))
        limited = tuple(area + _area(rest, top, limit) / limit for area, limit in zip(aupro, AUPRO_LIMITS, strict=True))
        return PixelFigures(auroc, interval, min(1.0, ap), f1, limited)  # as for images

    def _levels(self, runs: Sequence[_Run]) -> Iterator[tuple[NDArray[np.uint32], Counts, Counts, Counts, NDArray[np.float64]]]:
        """The distinct keys of defective pixels, descending, block by block.

        With each: all normal pixels above it, at or above it, its defective pixels, and the overlap that they add.
        """
        counts, overlaps, present, base = np.zeros(LEVELS, np.int64), np.zeros(LEVELS), np.zeros(LEVELS, bool), 0
        for block in np.flatnonzero(self._occupied)[::-1].tolist():
            index = np.array([self._read(run.offset + 8 * block, 4) for run in runs], np.int64)  # (runs, 4)
            normal = list(zip(runs, index[:, 0].tolist(), index[:, 2].tolist(), strict=True))
            for run, low, high in zip(runs, index[:, 1].tolist(), index[:, 3].tolist(), strict=True):
                if low < high:
                    at = self._entries(run, run.normal + low, run.normal + high).astype(np.intp) & (LEVELS - 1)
                    areas = self._entries(run, run.normal + run.defective + low, run.normal + run.defective + high)
                    np.add.at(counts, at, 1)
                    np.add.at(overlaps, at, 1 / areas)
                    present[at] = True
            if (index[:, 1] < index[:, 3]).any():
                at = np.flatnonzero(present)[::-1]
                keys = (at + (block << LOW_BITS)).astype(np.uint32)
                above, upto = np.full(len(at), base), np.full(len(at), base)
                for chunk in self._chunks(normal):
                    above += len(chunk) - np.searchsorted(chunk, keys, "right")
                    upto += len(chunk) - np.searchsorted(chunk, keys)
                yield keys, above, upto, counts[at], overlaps[at]
                counts[at], overlaps[at], present[at] = 0, 0, False
            base += sum(high - low for _, low, high in normal)

    def _chunks(self, slices: Sequence[tuple[_Run, int, int]]) -> Iterator[NDArray[np.uint32]]:
        """The entries in some slices of runs, sorted, up to CHUNK and one slice at a time."""
        parts: list[NDArray[np.uint32]] = []
        size = 0
        for run, low, high in slices:
            if low < high:
                parts.append(self._entries(run, low, high))
                size += high - low
            if size > CHUNK:
                yield np.sort(np.concatenate(parts))
                parts, size = [], 0
        if parts:
            yield np.sort(np.concatenate(parts))

    def _entries(self, run: _Run, low: int, high: int) -> NDArray[np.uint32]:
        """Entries of a run behind its index: keys of normal pixels, keys of defective ones, areas of their regions."""
        return self._read(run.offset + 8 * (BLOCKS + 1) + 4 * low, high - low)

    def _read(self, offset: int, count: int) -> NDArray[np.uint32]:
        self._file.seek(offset)
        return np.frombuffer(self._file.read(4 * count), np.uint32)

    def _resampled(self, runs: Sequence[_Run], edges: NDArray[np.uint32]) -> NDArray[np.float64]:
        """AUROC of each resample that has normal pixels (all, as a rule), from histograms of each image.

        Each edge, a quantile of the defective pixels, is a bin of its own, and so is what lies between two edges: ties are
        exact, and no more than 1/EDGES of the defective pixels share a bin without being tied.
        """
        positives = sum(run.defective > 0 for run in runs)
        drawn = draws(positives, len(runs) - positives)
        totals = np.zeros((2, metrics.RESAMPLES, 2 * len(edges) + 1))
        stream = iter(runs)
        while group := list(islice(stream, 64)):
            weights = np.stack([next(drawn[run.defective > 0]) for run in group], axis=1).astype(float)
            histograms = np.array([self._histograms(run, edges) for run in group])  # (images, 2, bins)
            totals += np.tensordot(weights, histograms, 1).transpose(1, 0, 2)
        normal, defective = totals
        below = np.cumsum(normal, axis=1) - normal / 2
        pairs = normal.sum(1) * defective.sum(1)
        area: NDArray[np.float64] = (below * defective).sum(1)[pairs > 0] / pairs[pairs > 0]
        return area

    def _histograms(self, run: _Run, edges: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Normal and defective pixels of an image below, at, between and above the edges, (2, bins)."""
        rows = []
        for low, high in ((0, run.normal), (run.normal, run.normal + run.defective)):
            keys = self._entries(run, low, high)
            ends = np.stack([np.searchsorted(keys, edges), np.searchsorted(keys, edges, "right")], axis=1).ravel()
            rows.append(np.diff(ends, prepend=0, append=len(keys)))
        return np.array(rows, float)


def _ordered(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Unsigned integers in the order of the values, equal where these are (-0 is 0)."""
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
    return bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))


def _block_starts(keys: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Where each block begins among sorted keys, and the end, (BLOCKS + 1,)."""
    starts = np.arange(BLOCKS, dtype=np.uint32) << LOW_BITS
    return np.append(np.searchsorted(keys, starts), len(keys))


def _area(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """Area under the piecewise linear curve up to x = limit; x must not descend."""
    if x[0] >= limit:
        return 0.0
    if x[-1] > limit:
        end = int(np.searchsorted(x, limit, "right"))  # the first point beyond
        share = (limit - x[end - 1]) / (x[end] - x[end - 1])
        x = np.append(x[:end], limit)
        y = np.append(y[:end], y[end - 1] + share * (y[end] - y[end - 1]))
    return float(np.trapezoid(y, x))
