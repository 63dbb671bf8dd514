"""The patches of a training step (supplement, Algorithm 1: lines 2 and 3, a patch and a jittered one; line 5, a neighbour).

A batch is a list of views (images, or single patches) and, for each scale, pairs of places in them. Pairs never leave
the image and are never clipped to it: a clipped pair would carry a wrong label. Every draw comes from an explicit
generator, made anew for each step and each entry of its batch, so that a resumed run draws the same as an uninterrupted
one, and processes that share a batch draw the same as one process alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from patchcli.datasets.images import pixels_of, standardise
from patchcli.errors import InputError
from patchcli.features.encoder import Scale
from patchcli.training import defects

NOISE = 0.02  # σ of the random RGB shift and of the pixel noise, in standardised units (Sect. 4.1)
DIRECTIONS = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])  # label → (dy, dx)
CROP = 128  # side of the part of an image that a dense step takes: more steps in the same time
POSITION_PAIRS = 256  # per image and scale, with the dense sampler
JITTER_PAIRS = 1024
DEFECTS = 2  # synthetic ones per image, for the separation
NORMAL_PLACES = 1024  # per image and scale: patches to compare the queries of other images with
QUERY_PLACES = 128  # per image and scale: good queries, and as many damaged ones
LEAST_SHARE = 0.02  # of a patch's pixels that a defect has changed in a damaged patch; in a good one, none

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
class Places:
    """n patches of one view."""

    entry: Ints  # (n,) index into the batch dimension of the view
    at: Ints  # (n, 2) top left (y, x) within the view, on the encoder's dense grid
    damaged: NDArray[np.bool_]  # (n,)


@dataclass(frozen=True)
class Batch:
    """One step's input."""

    views: list[Floats]  # each (B, 3, h, w)
    position: dict[str, Pairs]  # scale → pairs with labels
    jitter: dict[str, Pairs]  # scale → pairs a few pixels apart
    normal: dict[str, Places] = field(default_factory=dict)  # scale → of view 0; for the separation alone
    queries: dict[str, Places] = field(default_factory=dict)  # scale → of view 1, which has synthetic defects


def generator(seed: int, step: int, entry: int = -1) -> np.random.Generator:
    """The generator of one entry of a step's batch; without an entry, of the choice of images."""
    return np.random.default_rng(np.random.SeedSequence((seed, step, entry + 1)))


def check_size(scales: Mapping[str, Scale], height: int, width: int) -> None:
    """Refuse images on which no neighbouring pair fits."""
    needed = max((2 * scale.K for scale in scales.values()), default=0)
    if min(height, width) < needed:
        problem = f"training needs images of at least {needed}×{needed} pixels, found a working size of {width}×{height}"
        raise InputError(problem, advice="give a larger `size`")


def _augment(rng: np.random.Generator, image: Floats) -> Floats:
    """Shift the RGB values of an image (3, H, W) and add pixel noise, so that chromatic cues do not give a position away."""
    shift = rng.normal(0, NOISE, (3, 1, 1))
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(NOISE)
    return image + shift.astype(np.float32) + noise


def _offsets(rng: np.random.Generator, label: Ints, K: int, length: tuple[int, int]) -> Ints:
    """Offset (n, 2) of the neighbour in direction `label`: 3K/4 and up to K/4 more, as far as the image reaches."""
    room = [max(1, min(K // 4, side - K - 3 * K // 4 + 1)) for side in length]
    distance = 3 * K // 4 + rng.integers(0, room, (len(label), 2))
    return np.asarray(DIRECTIONS[label] * distance, np.int64)


def _jitters(J: int) -> Ints:
    """All (dy, dx) up to J pixels, not zero."""
    return np.array([(y, x) for y in range(-J, J + 1) for x in range(-J, J + 1) if (y, x) != (0, 0)])


def _first(rng: np.random.Generator, offset: Ints, K: int, size: tuple[int, int]) -> Ints:
    """First places (n, 2), uniform over those for which both patches of side K, `offset` apart, lie in the image."""
    low = np.maximum(0, -offset)
    high = np.array(size) - K - np.maximum(0, offset)
    return rng.integers(low, high + 1)


def merge(batches: Sequence[Batch]) -> Batch:
    """One batch of all entries, each part having one entry."""

    def entries(parts: Sequence[Pairs] | Sequence[Places]) -> Ints:
        return np.repeat(np.arange(len(parts)), [len(part.entry) for part in parts])

    def joined(parts: Sequence[Pairs]) -> Pairs:
        first, second, label = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("first", "second", "label")
        )
        return Pairs(parts[0].view, entries(parts), first, second, label)

    def together(parts: Sequence[Places]) -> Places:
        at, damaged = (np.concatenate([getattr(part, name) for part in parts]) for name in ("at", "damaged"))
        return Places(entries(parts), at, damaged)

    return Batch(
        [np.stack(views) for views in zip(*(batch.views for batch in batches), strict=True)],
        {name: joined([batch.position[name] for batch in batches]) for name in batches[0].position},
        {name: joined([batch.jitter[name] for batch in batches]) for name in batches[0].jitter},
        {name: together([batch.normal[name] for batch in batches]) for name in batches[0].normal},
        {name: together([batch.queries[name] for batch in batches]) for name in batches[0].queries},
    )


def patch_batch(rngs: Sequence[np.random.Generator], images: Floats, scales: Mapping[str, Scale]) -> Batch:
    """The paper's sampler: from each standardised image (B, 3, H, W) a position pair and a jitter pair per scale, cut out."""
    return merge([_cut(rng, image, scales) for rng, image in zip(rngs, images, strict=True)])


def _cut(rng: np.random.Generator, image: Floats, scales: Mapping[str, Scale]) -> Batch:
    size = (image.shape[1], image.shape[2])
    batch = Batch([], {}, {})
    here = np.zeros(1, np.int64), np.zeros((1, 2), np.int64), np.zeros((1, 2), np.int64)
    for name, scale in scales.items():
        K = scale.K

        def cut(at: Ints, K: int = K) -> Floats:
            ((y, x),) = at
            return image[:, y : y + K, x : x + K]

        label = rng.integers(0, 8, 1)
        offset = _offsets(rng, label, K, size)
        first = _first(rng, offset, K, size)
        batch.views.extend(_augment(rng, cut(at)) for at in (first, first + offset))
        batch.position[name] = Pairs((len(batch.views) - 2, len(batch.views) - 1), *here, label)

        jitter = rng.choice(_jitters(paper_jitter(scale)), 1)
        first = _first(rng, jitter, K, size)
        batch.views.extend(cut(at) for at in (first, first + jitter))
        batch.jitter[name] = Pairs((len(batch.views) - 2, len(batch.views) - 1), *here, np.empty(0, np.int64))
    return batch


def paper_jitter(scale: Scale) -> int:
    """How far apart, in pixels and each direction, the patches of a pair may be for SVDD' (Sect. 3.1)."""
    return scale.K // 32


def contrast_jitter(scale: Scale) -> int:
    """The same for the contrast: as far as a patch is, on average, from the nearest place at the paper's stride."""
    return scale.S // 4


def dense_batch(
    rngs: Sequence[np.random.Generator],
    images: Floats,
    scales: Mapping[str, Scale],
    stride: int,
    jitter: Callable[[Scale], int] = paper_jitter,
    mean: Floats | None = None,
    dtype: str = "uint8",
) -> Batch:
    """Every patch of a random part of each image, CROP pixels a side: two views with independent colour and noise.

    A view has features only on the grid of `stride` pixels. The second view of an image is moved against the first by a
    jitter that is not zero, so odd offsets occur too; the offset of a pair is rounded to the nearest that the two grids
    have (less than `stride` away, and never more than the largest jitter). For the separation, `mean` (H, W, 3) is what
    was subtracted from the images: synthetic defects are drawn into the second view, as pixels of `dtype`, with pasted
    pieces from elsewhere in it, and no second patch of a jitter pair has any of them.
    """
    return merge([_look(rng, image, scales, stride, jitter, mean, dtype) for rng, image in zip(rngs, images, strict=True)])


def _look(
    rng: np.random.Generator,
    image: Floats,
    scales: Mapping[str, Scale],
    stride: int,
    jitter: Callable[[Scale], int],
    mean: Floats | None,
    dtype: str,
) -> Batch:
    _, H, W = image.shape
    J = min(map(paper_jitter, scales.values()))
    margin = max(J, stride - 1)
    size = np.minimum((H - margin, W - margin), CROP)
    phase = rng.choice(_jitters(J))  # origin of view 1 against view 0
    origin = np.maximum(0, -phase) + rng.integers(0, (H, W) - size - np.abs(phase) + 1)
    parts = [(slice(y, y + size[0]), slice(x, x + size[1])) for y, x in (origin, origin + phase)]
    looks = [image[:, rows, columns] for rows, columns in parts]
    if mean is not None:
        looks[1], mask = _damage(rng, looks[1], mean[parts[1]], dtype)
    views = [_augment(rng, look) for look in looks]

    def read(name: str, offset: Ints, label: Ints) -> Pairs:
        """Pairs about `offset` apart, the offset moved to the nearest one on the two views' grids."""
        K = scales[name].K
        wanted = (offset - phase) / stride
        steps = (np.sign(wanted) * np.ceil(np.abs(wanted) - 0.5)).astype(np.int64)  # in dense cells, halves inwards
        last = (size - K) // stride
        low, high = np.maximum(0, -steps), last - np.maximum(0, steps)
        first = rng.integers(low, np.maximum(high, low) + 1)
        fits = (high >= low).all(axis=1)
        first, steps = first[fits], steps[fits]
        entry = np.zeros(len(first), np.int64)
        return Pairs((0, 1), entry, first * stride, (first + steps) * stride, label[fits] if len(label) else label)

    batch = Batch(views, {}, {})
    for name, scale in scales.items():
        label = rng.integers(0, 8, POSITION_PAIRS)
        batch.position[name] = read(name, _offsets(rng, label, scale.K, (int(size[0]), int(size[1]))), label)
        batch.jitter[name] = read(name, rng.choice(_jitters(jitter(scale)), JITTER_PAIRS), np.empty(0, np.int64))
        if mean is not None:
            changed = _changed(mask, scale.K, stride)
            batch.jitter[name] = _undamaged(batch.jitter[name], changed, stride)
            batch.normal[name], batch.queries[name] = _places(rng, changed, stride, LEAST_SHARE * scale.K**2)
    return batch


def _damage(rng: np.random.Generator, image: Floats, mean: Floats, dtype: str) -> tuple[Floats, NDArray[np.bool_]]:
    """A standardised image (3, H, W) with synthetic defects, and the mask (H, W) of what they changed."""
    pixels = pixels_of(image, mean, dtype)
    damaged, mask = defects.damage(rng, pixels, pixels, DEFECTS)
    return standardise(damaged[None], mean)[0], mask


def _undamaged(pairs: Pairs, changed: Ints, stride: int) -> Pairs:
    """The pairs without a label whose second patch has no changed pixel."""
    undamaged = changed[tuple(pairs.second.T // stride)] == 0
    return Pairs(pairs.view, pairs.entry[undamaged], pairs.first[undamaged], pairs.second[undamaged], pairs.label)


def _places(rng: np.random.Generator, changed: Ints, stride: int, least: float) -> tuple[Places, Places]:
    """Normal places, any of the patches, and queries, good and damaged ones with repetition; `changed` counts pixels."""
    cells = np.indices(changed.shape).reshape(2, -1).T * stride
    normal = rng.permutation(cells)[:NORMAL_PLACES]
    kinds = [cells[changed.ravel() == 0], cells[changed.ravel() >= least]]
    drawn = [rng.choice(kind, QUERY_PLACES) if len(kind) else kind for kind in kinds]
    damaged = np.repeat([False, True], [len(kind) for kind in drawn])
    zeros = [np.zeros(len(which), np.int64) for which in (normal, damaged)]
    return Places(zeros[0], normal, np.zeros(len(normal), np.bool_)), Places(zeros[1], np.concatenate(drawn), damaged)


def _changed(mask: NDArray[np.bool_], K: int, stride: int) -> Ints:
    """How many pixels of `mask` are in each patch of side K, on the grid of `stride` pixels."""
    sums = np.pad(mask.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    changed: Ints = (sums[K:, K:] - sums[:-K, K:] - sums[K:, :-K] + sums[:-K, :-K])[::stride, ::stride]
    return changed
