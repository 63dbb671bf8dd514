"""The criterion: which images are held out, and that it likes encoders that see defects."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from patchcli.features.encoder import Encoder
from patchcli.training import criterion as heldout

CPU = torch.device("cpu")


@pytest.mark.parametrize(("count", "held"), [(2, 0), (4, 0), (5, 1), (39, 7), (40, 8), (1000, 8)])
def test_a_small_share_is_held_out_and_not_trained_on(count: int, held: int) -> None:
    out, trained_on = heldout.split(count)
    assert len(out) == held
    assert sorted([*out, *trained_on]) == list(range(count))


@pytest.fixture
def images(texture: Callable[..., np.ndarray]) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([texture(rng, 128, 140) for _ in range(6)])


@pytest.fixture
def held_out(images: np.ndarray) -> heldout.HeldOut:
    return heldout.HeldOut(images[:2], images[2:], images.mean(axis=0, dtype=np.float32))


def test_good_images_and_their_damaged_copies(held_out: heldout.HeldOut, images: np.ndarray) -> None:
    np.testing.assert_array_equal(held_out.queries[:2], images[:2])
    assert not held_out.masks[:2].any()
    assert len(held_out.queries) == len(held_out.masks) == 2 * (1 + heldout.COPIES)
    for number, (pixels, mask) in enumerate(zip(held_out.queries[2:], held_out.masks[2:], strict=True)):
        original = images[number // heldout.COPIES]
        assert np.abs(pixels[~mask].astype(int) - original[~mask]).max() <= 8


@pytest.mark.parametrize("architecture", ["hierarchical", "flat"])
def test_the_judgement_is_repeated_and_leaves_the_encoder_alone(
    held_out: heldout.HeldOut, random_encoder: Callable[..., Encoder], architecture: str
) -> None:
    encoder = random_encoder(architecture).train()
    first, second = held_out.judge(encoder, CPU), held_out.judge(encoder, CPU)
    assert first == second
    assert encoder.training
    assert 0.5 < first.criterion <= 1  # even random features see some of it
    assert 1 < first.rank <= 8
    assert first.spread > 0.01


def test_features_without_a_difference_are_judged_by_chance(
    held_out: heldout.HeldOut, random_encoder: Callable[..., Encoder]
) -> None:
    encoder = random_encoder("hierarchical")
    with torch.no_grad():
        for name, values in encoder.named_parameters():
            if name.endswith("weight"):
                values.zero_()
    judged = held_out.judge(encoder, CPU)
    assert judged.criterion == pytest.approx(0.5)
    assert judged.spread < 1e-6


def test_rank_and_spread() -> None:
    rng = np.random.default_rng(0)
    full = torch.from_numpy(rng.normal(size=(5000, 6)))
    line = torch.from_numpy(rng.normal(size=(100, 1)) * np.ones(6) + 100)
    assert heldout.shape(full) == (pytest.approx(6, rel=0.01), pytest.approx(1, rel=0.01))
    assert heldout.shape(line) == (pytest.approx(1, abs=1e-3), pytest.approx(0.01, rel=0.3))
    assert heldout.shape(torch.ones(10, 6))[1] == 0


def test_the_criterion_is_the_pixel_auroc(held_out: heldout.HeldOut, random_encoder: Callable[..., Encoder]) -> None:
    """With the features' part replaced: a map that is the mask, but for one pixel of a good image."""
    maps = held_out.masks.astype(np.float32)
    maps[1, 0, 0] = 2
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(heldout.maps, "multiply", lambda _: maps)
        judged = held_out.judge(random_encoder("flat"), CPU)
    assert judged.criterion == pytest.approx(roc_auc_score(held_out.masks.ravel(), maps.ravel()))


def test_of_large_images_the_middle_is_judged_by(texture: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    large = np.stack([texture(rng, 300, 400) for _ in range(3)])
    mean = large.mean(0, dtype=np.float64).astype(np.float32)
    held_out = heldout.HeldOut(large[:1], large[1:], mean)
    np.testing.assert_array_equal(held_out.queries[0], large[0, 22:278, 72:328])
    np.testing.assert_array_equal(held_out.bank, large[1:, 22:278, 72:328])
    np.testing.assert_array_equal(held_out.mean, mean[22:278, 72:328])
