"""What a training step looks at: pairs of patches for the position task and for SVDD' (Patch SVDD, Sect. 3.1, 3.2).

A batch is a list of views (images, or single patches) and, for each scale, pairs of places in them. Pairs never leave
the image and are never clipped to it: a clipped pair would carry a wrong label. Every draw comes from one explicit
generator, made anew for each step, so that a resumed run draws what an unbroken one would have drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchcli.encoder import Scale
from patchcli.errors import InputError

NOISE = 0.02  # σ of the random RGB shift and of the pixel noise, in standardised units (Sect. 4.1)
DIRECTIONS = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])  # label → (dy, dx)
POSITION_PAIRS = 256  # a dense image and scale
JITTER_PAIRS = 1024

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """n pairs of patches: `first` in views[view[0]], `second` in views[view[1]], of the same entry of both views."""

    view: tuple[int, int]
    entry: Ints  # (n,) index into the batch dimension of the views
    first: Ints  # (n, 2) top left (y, x) within the view, on the encoder's dense grid
    second: Ints  # (n, 2)
    label: Ints  # (n,) neighbour's position, 0 to 7; empty for jitter pairs


@dataclass(frozen=True)
class Batch:
    """One step's input."""

    views: list[Floats]  # each (B, 3, h, w)
    position: dict[str, Pairs]  # scale → pairs with labels
    jitter: dict[str, Pairs]  # scale → pairs at most K/32 pixels apart


def generator(seed: int, step: int, rank: int = 0) -> np.random.Generator:
    """The generator of one step of one process."""
    return np.random.default_rng(np.random.SeedSequence((seed, step, rank)))


def check_size(scales: Mapping[str, Scale], height: int, width: int) -> None:
    """Refuse images on which no neighbouring pair fits."""
    needed = max(2 * scale.K for scale in scales.values())
    if min(height, width) < needed:
        found = f"the store's images have {width}×{height}"
        raise InputError(f"training needs images of at least {needed}×{needed} pixels, {found}; extract with a larger --size")


def _augment(rng: np.random.Generator, images: Floats) -> Floats:
    """A random RGB shift an entry and noise a pixel, so that chromatic cues do not give a position away."""
    shift = rng.normal(0, NOISE, (len(images), 3, 1, 1))
    noise = rng.standard_normal(images.shape, dtype=np.float32) * np.float32(NOISE)
    return images + shift.astype(np.float32) + noise


def _offsets(rng: np.random.Generator, label: Ints, K: int, length: tuple[int, int]) -> Ints:
    """Offset (n, 2) of the neighbour in direction `label`: 3K/4 and up to K/4 more, as far as the image reaches."""
    room = [max(1, min(K // 4, side - K - 3 * K // 4 + 1)) for side in length]
    distance = 3 * K // 4 + rng.integers(0, room, (len(label), 2))
    return np.asarray(DIRECTIONS[label] * distance, np.int64)


def _jitters(J: int) -> Ints:
    """All (dy, dx) up to J pixels, not zero."""
    return np.array([(y, x) for y in range(-J, J + 1) for x in range(-J, J + 1) if (y, x) != (0, 0)])


def _places(rng: np.random.Generator, offset: Ints, K: int, size: tuple[int, int]) -> Ints:
    """First places (n, 2), uniform over those for which both patches of side K, `offset` apart, lie in the image."""
    low = np.maximum(0, -offset)
    high = np.array(size) - K - np.maximum(0, offset)
    return rng.integers(low, high + 1)


def patch_batch(rng: np.random.Generator, images: Floats, scales: Mapping[str, Scale], n: int) -> Batch:
    """The paper's sampler: n position pairs and n jitter pairs a scale, each patch cut from a random image.

    `images` (B, 3, H, W) are the standardised images that the step may draw from.
    """
    size = (images.shape[2], images.shape[3])
    batch = Batch([], {}, {})
    here = np.arange(n), np.zeros((n, 2), np.int64), np.zeros((n, 2), np.int64)
    for name, scale in scales.items():
        K = scale.K

        def cut(entry: Ints, at: Ints, K: int = K) -> Floats:
            return np.stack([images[e, :, y : y + K, x : x + K] for e, (y, x) in zip(entry, at, strict=True)])

        entry, label = rng.integers(0, len(images), n), rng.integers(0, 8, n)
        offset = _offsets(rng, label, K, size)
        first = _places(rng, offset, K, size)
        batch.views.extend(_augment(rng, cut(entry, at)) for at in (first, first + offset))
        batch.position[name] = Pairs((len(batch.views) - 2, len(batch.views) - 1), *here, label)

        entry = rng.integers(0, len(images), n)
        jitter = rng.choice(_jitters(K // 32), n)
        first = _places(rng, jitter, K, size)
        batch.views.extend(cut(entry, at) for at in (first, first + jitter))
        batch.jitter[name] = Pairs((len(batch.views) - 2, len(batch.views) - 1), *here, np.empty(0, np.int64))
    return batch


def dense_batch(rng: np.random.Generator, images: Floats, scales: Mapping[str, Scale], stride: int) -> Batch:
    """Every patch of whole images: two views of each image with independent colour and noise, read on the dense grid.

    Within a view only places on the grid of `stride` pixels can be read. The second view of an image is moved against
    the first by a jitter that is not zero, so odd offsets occur too; what a pair was to be apart is moved to the
    nearest offset that the two grids have (less than `stride` away, and never farther apart than the largest jitter).
    """
    B, _, H, W = images.shape
    J = min(scale.K for scale in scales.values()) // 32
    margin = max(J, stride - 1)
    size = np.array((H - margin, W - margin))
    phase = rng.choice(_jitters(J), B)  # (B, 2) origin of view 1 against view 0
    origin = np.maximum(0, -phase) + rng.integers(0, margin - np.abs(phase) + 1)
    views = [
        _augment(rng, np.stack([images[b, :, y : y + size[0], x : x + size[1]] for b, (y, x) in enumerate(corner)]))
        for corner in (origin, origin + phase)
    ]

    def read(name: str, entry: Ints, offset: Ints, label: Ints) -> Pairs:
        """Pairs about `offset` apart, the offset moved to the nearest one on the two views' grids."""
        K = scales[name].K
        wanted = (offset - phase[entry]) / stride
        steps = (np.sign(wanted) * np.ceil(np.abs(wanted) - 0.5)).astype(np.int64)  # in dense cells, halves inwards
        last = (size - K) // stride
        low, high = np.maximum(0, -steps), last - np.maximum(0, steps)
        first = rng.integers(low, np.maximum(high, low) + 1)
        fits = (high >= low).all(axis=1)
        first, steps, entry = first[fits], steps[fits], entry[fits]
        return Pairs((0, 1), entry, first * stride, (first + steps) * stride, label[fits] if len(label) else label)

    batch = Batch(views, {}, {})
    for name, scale in scales.items():
        entry = np.repeat(np.arange(B), POSITION_PAIRS)
        label = rng.integers(0, 8, len(entry))
        batch.position[name] = read(name, entry, _offsets(rng, label, scale.K, (int(size[0]), int(size[1]))), label)
        entry = np.repeat(np.arange(B), JITTER_PAIRS)
        jitter = rng.choice(_jitters(scale.K // 32), len(entry))
        batch.jitter[name] = read(name, entry, jitter, np.empty(0, np.int64))
    return batch
