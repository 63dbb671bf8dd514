"""What a training step looks at. Images whose pixels hold their own coordinates tell where a patch was taken."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import LEARNING

from patchcli.datasets.images import standardise
from patchcli.errors import InputError
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.features.registry import ENCODERS
from patchcli.training import defects, sampling
from patchcli.training.sampling import DIRECTIONS, Batch, Pairs

SCALES = HierarchicalEncoder.scales
SAMPLERS = ["patch", "dense hierarchical", "dense flat", "dense hierarchical contrast"]


def coordinates(images: int, height: int, width: int) -> np.ndarray:
    """Images (B, 3, H, W) whose channels are y, x and the image's number."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([np.stack([y, x, np.full_like(y, number)]) for number in range(images)])


def sample(kind: str, seed: int, images: np.ndarray, step: int = 0) -> Batch:
    if kind == "patch":
        images = np.repeat(images, 32 // len(images) + 1, axis=0)  # an image a pair
        return sampling.patch_batch(generators(seed, step, len(images)), images, SCALES)
    encoder = ENCODERS[kind.split()[1]]
    return sampling.dense_batch(generators(seed, step, len(images)), images, encoder.scales, encoder.stride, jitter_of(kind))


def jitter_of(kind: str) -> Callable[[sampling.Scale], int]:
    return sampling.contrast_jitter if kind.endswith("contrast") else sampling.paper_jitter


def generators(seed: int, step: int, n: int) -> list[np.random.Generator]:
    return [sampling.generator(seed, step, entry) for entry in range(n)]


def stride_of(kind: str) -> int:
    return 1 if kind == "patch" else ENCODERS[kind.split()[1]].stride


def scales_of(kind: str) -> dict[str, sampling.Scale]:
    return SCALES if kind == "patch" else ENCODERS[kind.split()[1]].scales


def whence(batch: Batch, pairs: Pairs, which: int) -> np.ndarray:
    """(n, 3) y, x and image of the first or second patches; rounding takes the noise away."""
    y, x = (pairs.first, pairs.second)[which].T
    return np.rint(batch.views[pairs.view[which]][pairs.entry, :, y, x]).astype(int)


def drawn() -> st.SearchStrategy[tuple[str, Batch]]:
    """Batches of every sampler, over sizes and seeds."""

    @st.composite
    def batches(draw: st.DrawFn) -> tuple[str, Batch]:
        kind, seed = draw(st.sampled_from(SAMPLERS)), draw(st.integers(0, 2**31))
        size = draw(st.integers(128, 170)), draw(st.integers(128, 170))
        return kind, sample(kind, seed, coordinates(draw(st.integers(1, 3)), *size))

    return batches()


def each(kind: str, batch: Batch, task: str) -> Iterator[tuple[int, Pairs]]:
    """(K, pairs) of every scale."""
    for name, scale in scales_of(kind).items():
        yield scale.K, getattr(batch, task)[name]


# ---- where ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(drawn())
def test_every_patch_lies_in_its_view(case: tuple[str, Batch]) -> None:
    kind, batch = case
    for task in ("position", "jitter"):
        for K, pairs in each(kind, batch, task):
            assert len(pairs.entry) > 0
            for view, at in zip(pairs.view, (pairs.first, pairs.second), strict=True):
                assert at.min() >= 0
                assert (at + K <= batch.views[view].shape[2:]).all()
                assert (at % stride_of(kind) == 0).all()


@settings(max_examples=40)
@given(drawn())
def test_labels_are_the_true_directions(case: tuple[str, Batch]) -> None:
    kind, batch = case
    for K, pairs in each(kind, batch, "position"):
        first, second = whence(batch, pairs, 0), whence(batch, pairs, 1)
        assert (first[:, 2] == second[:, 2]).all()
        offset, direction = (second - first)[:, :2], DIRECTIONS[pairs.label]
        displaced = direction != 0
        assert (np.sign(offset)[displaced] == direction[displaced]).all()
        assert np.abs(offset[~displaced]).max(initial=0) <= K // 32
        assert np.abs(offset[displaced]).min() >= 3 * K / 4 - stride_of(kind) / 2
        assert np.abs(offset[displaced]).max() <= K - 1 + stride_of(kind) / 2


@settings(max_examples=40)
@given(drawn())
def test_jitter_is_small_and_never_zero(case: tuple[str, Batch]) -> None:
    kind, batch = case
    for K, pairs in each(kind, batch, "jitter"):
        first, second = whence(batch, pairs, 0), whence(batch, pairs, 1)
        assert (first[:, 2] == second[:, 2]).all()
        jitter = (second - first)[:, :2]
        assert np.abs(jitter).max(axis=1).min() >= 1
        assert np.abs(jitter).max() <= ({64: 4, 32: 1}[K] if kind.endswith("contrast") else K // 32)
        assert len(pairs.label) == 0


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("size", [(128, 128), (128, 300)])
def test_all_labels_occur_and_about_as_often(kind: str, size: tuple[int, int]) -> None:
    images, counts = coordinates(2, *size), {name: np.zeros(8) for name in scales_of(kind)}
    for step in range(8):
        for name, pairs in sample(kind, 0, images, step).position.items():
            counts[name] += np.bincount(pairs.label, minlength=8)
    for count in counts.values():
        assert count.min() > 0.5 * count.mean()


@pytest.mark.parametrize("kind", SAMPLERS)
def test_patches_come_from_everywhere(kind: str) -> None:
    images = coordinates(2, 140, 180)
    for task in ("position", "jitter"):
        starts: dict[int, list[np.ndarray]] = {}
        for step in range(20):
            batch = sample(kind, 0, images, step)
            for K, pairs in each(kind, batch, task):
                starts.setdefault(K, []).extend(whence(batch, pairs, which) for which in (0, 1))
        for K, parts in starts.items():
            at = np.concatenate(parts)
            margin = stride_of(kind) + 1
            assert (at.min(0) <= (margin, margin, 0)).all()
            assert (at.max(0) >= (140 - K - margin, 180 - K - margin, 1)).all()


# ---- colour and noise -----------------------------------------------------------------------------------------------


def assert_independently_augmented(one: np.ndarray, two: np.ndarray) -> None:
    """Views of a black image: an RGB shift an entry and noise a pixel, each of σ 0.02 and unlike the other view's."""
    shifts = [view.mean(axis=(2, 3)) for view in (one, two)]  # (B, 3)
    noises = [view - shift[:, :, None, None] for view, shift in zip((one, two), shifts, strict=True)]
    for parts, tolerance in ((shifts, 0.25), (noises, 0.02)):
        for part in parts:
            assert part.std() == pytest.approx(0.02, rel=tolerance)
        assert abs(np.corrcoef(parts[0].ravel(), parts[1].ravel())[0, 1]) < tolerance


def test_the_two_views_have_their_own_colour_and_noise() -> None:
    batch = sample("dense hierarchical", 0, np.zeros((40, 3, 128, 128), np.float32))
    assert_independently_augmented(*batch.views)


def test_the_two_patches_of_a_position_pair_have_their_own_colour_and_noise() -> None:
    batch = sampling.patch_batch(generators(0, 0, 40), np.zeros((40, 3, 128, 128), np.float32), SCALES)
    for pairs in batch.position.values():
        assert_independently_augmented(*(batch.views[view] for view in pairs.view))


def test_patches_of_a_jitter_pair_are_as_they_are() -> None:
    images = np.random.default_rng(0).normal(size=(8, 3, 128, 128)).astype(np.float32)
    batch = sampling.patch_batch(generators(0, 0, 8), images, SCALES)
    for pairs in batch.jitter.values():
        for view in pairs.view:
            assert np.isin(batch.views[view], images).all()


# ---- damaged patches ------------------------------------------------------------------------------------------------


def damaged(seed: int, images: np.ndarray, architecture: str, part: slice = slice(None)) -> Batch:
    encoder, mean = ENCODERS[architecture], np.full(images.shape[1:], 100, np.float32)
    rngs, standard = generators(seed, 0, len(images))[part], standardise(images[part], mean)
    return sampling.dense_batch(rngs, standard, encoder.scales, encoder.stride, sampling.contrast_jitter, mean)


def undamaged(_: np.random.Generator, pixels: np.ndarray, *__: object) -> tuple[np.ndarray, np.ndarray]:
    return pixels, np.zeros(pixels.shape[:2], bool)


@pytest.mark.parametrize("architecture", LEARNING)
@given(seed=st.integers(0, 2**32), height=st.integers(128, 150), width=st.integers(128, 150))
@settings(max_examples=15, deadline=None)
def test_damaged_patches_are_those_that_a_defect_shows_in(architecture: str, seed: int, height: int, width: int) -> None:
    images = np.random.default_rng(seed).integers(60, 200, (2, height, width, 3), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampling, "NOISE", 0.0)
        batch, encoder = damaged(seed, images, architecture), ENCODERS[architecture]
        patched.setattr(defects, "damage", undamaged)
        good = np.rint(damaged(seed, images, architecture).views[1] * 255 + 100).astype(int)
    bad = np.rint(batch.views[1] * 255 + 100).astype(int)
    for name, scale in encoder.scales.items():
        K, normal, queries = scale.K, batch.normal[name], batch.queries[name]
        assert not normal.damaged.any()
        assert len({(e, *at) for e, at in zip(normal.entry.tolist(), normal.at.tolist(), strict=True)}) == len(normal.entry)
        for places in (normal, queries):
            assert (places.at % encoder.stride == 0).all()
            assert (places.at >= 0).all()
            assert (places.at + K <= good.shape[2:]).all()
        for entry, (y, x), of_kind in zip(queries.entry, queries.at, queries.damaged, strict=True):
            one, two = (view[entry, :, y : y + K, x : x + K] for view in (good, bad))
            changed = (np.abs(one - two).max(axis=0) > 8).sum()  # VISIBLE of patchcli/training/defects.py
            assert changed >= 0.02 * K**2 if of_kind else changed == 0
        for entry, (y, x) in zip(batch.jitter[name].entry, batch.jitter[name].second, strict=True):
            one, two = (view[entry, :, y : y + K, x : x + K] for view in (good, bad))
            assert np.abs(one - two).max() <= 8
        for entry in range(2):
            counts = np.bincount(queries.damaged[queries.entry == entry], minlength=2)
            assert set(counts.tolist()) <= {0, sampling.QUERY_PLACES}


def test_the_views_of_a_damaged_batch_have_their_own_colour_and_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defects, "damage", undamaged)
    batch = damaged(0, np.full((40, 128, 128, 3), 100, np.uint8), "hierarchical")
    assert_independently_augmented(*batch.views)
    assert not any(queries.damaged.any() for queries in batch.queries.values())


def test_an_image_is_damaged_alike_in_whatever_batch() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 130, 140, 3), dtype=np.uint8)
    whole, half = (damaged(3, images, "hierarchical", part) for part in (slice(None), slice(2, 4)))
    for one, two in zip(whole.views, half.views, strict=True):
        np.testing.assert_array_equal(one[2:], two)
    for of in ("normal", "queries"):
        for name, places in getattr(whole, of).items():
            there, mine = places.entry >= 2, getattr(half, of)[name]
            np.testing.assert_array_equal(places.entry[there] - 2, mine.entry)
            np.testing.assert_array_equal(places.at[there], mine.at)
            np.testing.assert_array_equal(places.damaged[there], mine.damaged)


# ---- chance ---------------------------------------------------------------------------------------------------------


def assert_same(one: Batch, two: Batch) -> None:
    for a, b in zip(one.views, two.views, strict=True):
        np.testing.assert_array_equal(a, b)
    for task in ("position", "jitter"):
        for name, pairs in getattr(one, task).items():
            other = getattr(two, task)[name]
            for field in ("entry", "first", "second", "label"):
                np.testing.assert_array_equal(getattr(pairs, field), getattr(other, field))


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_step_is_drawn_from_its_generator_alone(kind: str) -> None:
    images = coordinates(2, 128, 140)
    assert_same(sample(kind, 3, images, step=5), sample(kind, 3, images, step=5))
    with pytest.raises(AssertionError):
        assert_same(sample(kind, 3, images, step=5), sample(kind, 3, images, step=6))


@pytest.mark.parametrize("kind", SAMPLERS)
def test_an_entry_is_drawn_alike_in_whatever_batch(kind: str) -> None:
    """Processes that share a batch draw what one process would have drawn."""
    encoder = ENCODERS[kind.split()[1] if kind != "patch" else "hierarchical"]
    images = coordinates(4, 128, 140)

    def drawn(part: slice) -> Batch:
        rngs = generators(3, 5, 4)[part]
        if kind == "patch":
            return sampling.patch_batch(rngs, images[part], SCALES)
        return sampling.dense_batch(rngs, images[part], encoder.scales, encoder.stride, jitter_of(kind))

    whole, parts = drawn(slice(4)), [drawn(slice(2)), drawn(slice(2, 4))]
    for view, *halves in zip(whole.views, *(part.views for part in parts), strict=True):
        np.testing.assert_array_equal(view, np.concatenate(halves))
    for task in ("position", "jitter"):
        for name, pairs in getattr(whole, task).items():
            halves = [getattr(part, task)[name] for part in parts]
            np.testing.assert_array_equal(pairs.entry, np.concatenate([halves[0].entry, halves[1].entry + 2]))
            for field in ("first", "second", "label"):
                np.testing.assert_array_equal(getattr(pairs, field), np.concatenate([getattr(h, field) for h in halves]))


def test_the_generator_depends_on_seed_step_and_entry() -> None:
    keys = [(0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    draws = {sampling.generator(*key).integers(2**63) for key in keys}
    assert len(draws) == len(keys)
    assert sampling.generator(7, 8, 9).integers(2**63) == sampling.generator(7, 8, 9).integers(2**63)


@pytest.mark.parametrize("architecture", LEARNING)
def test_images_without_room_for_neighbours_are_refused(architecture: str) -> None:
    scales = ENCODERS[architecture].learned
    sampling.check_size(scales, 128, 128)
    for size in ((127, 200), (200, 127)):
        with pytest.raises(InputError, match="training needs images of at least 128×128 pixels"):
            sampling.check_size(scales, *size)
