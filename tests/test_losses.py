"""The losses against a reading of the paper: pair by pair, each patch cut out and encoded by itself, in float64."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from patchcli import sampling
from patchcli.encoder import ARCHITECTURES, Encoder, PositionClassifier
from patchcli.losses import PatchSVDDLoss, nce, total
from patchcli.sampling import Batch, Pairs


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.1 * x)


def naive_logits(classifier: PositionClassifier, difference: np.ndarray) -> np.ndarray:
    """Two hidden layers, then one whose weight has unit columns (8 rows, 128 columns)."""
    (w1, b1), (w2, b2), (w3, b3) = (
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in (classifier.fc1, classifier.fc2, classifier.fc3)
    )
    hidden = leaky(w2 @ leaky(w1 @ difference + b1) + b2)
    return w3 / np.sqrt((w3**2).sum(axis=0, keepdims=True)) @ hidden + b3


def naive_losses(loss: PatchSVDDLoss, batch: Batch) -> dict[str, float]:
    loss = copy.deepcopy(loss).double()

    @torch.inference_mode()
    def feature(pairs: Pairs, n: int, which: int, scale: str) -> np.ndarray:
        K, (y, x) = loss.encoder.scales[scale].K, (pairs.first, pairs.second)[which][n]
        patch = batch.views[pairs.view[which]][pairs.entry[n], :, y : y + K, x : x + K]
        return loss.encoder(torch.from_numpy(patch[None].astype(np.float64)), scale)[0].numpy()

    losses = {}
    for scale in loss.encoder.scales:
        svdd, ssl = [], []
        for pairs, values in ((batch.jitter[scale], svdd), (batch.position[scale], ssl)):
            for n in range(len(pairs.entry)):
                difference = feature(pairs, n, 0, scale) - feature(pairs, n, 1, scale)
                if values is svdd:
                    values.append(np.sqrt((difference**2).sum()))
                else:
                    odds = np.exp(naive_logits(loss.classifiers[scale], difference))
                    values.append(-np.log(odds[pairs.label[n]] / odds.sum()))
        losses[f"ssl_{scale}"] = np.mean(ssl)
        if not loss.contrast:
            losses[f"svdd_{scale}"] = np.mean(svdd)
        else:
            pairs, entries = batch.jitter[scale], []
            for e in np.unique(pairs.entry):
                unit = [
                    [f / np.linalg.norm(f) for f in (feature(pairs, n, which, scale) for n in np.flatnonzero(pairs.entry == e))]
                    for which in (0, 1)
                ]
                odds = np.exp(np.array([[one @ two / 0.1 for two in unit[1]] for one in unit[0]]))
                entries.append(np.mean(-np.log(np.diag(odds) / odds.sum(axis=1))))
            losses[f"nce_{scale}"] = np.mean(entries)
    return losses


def make_loss(encoder: Encoder, contrast: bool = False) -> PatchSVDDLoss:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PatchSVDDLoss(encoder, 8, contrast)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.3, (2, 3, 140, 141)).astype(np.float32)


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "POSITION_PAIRS", 6)
    monkeypatch.setattr(sampling, "JITTER_PAIRS", 5)


def generators(seed: int, n: int) -> list[np.random.Generator]:
    return [sampling.generator(seed, 0, entry) for entry in range(n)]


def found(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("contrast", [False, True])
def test_dense_losses_are_the_naive_ones(
    random_encoder: Callable[..., Encoder], images: np.ndarray, few_pairs: None, contrast: bool, architecture: str
) -> None:
    loss = make_loss(random_encoder(architecture), contrast)
    batch = sampling.dense_batch(generators(0, len(images)), images, loss.encoder.scales, loss.encoder.stride)
    assert found(loss(batch)) == pytest.approx(naive_losses(loss, batch), abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_patch_losses_are_the_papers(random_encoder: Callable[..., Encoder], images: np.ndarray, architecture: str) -> None:
    loss = make_loss(random_encoder(architecture))
    batch = sampling.patch_batch(generators(0, 6), np.repeat(images, 3, axis=0), loss.encoder.scales)
    assert found(loss(batch)) == pytest.approx(naive_losses(loss, batch), abs=1e-5)


def as_patches(batch: Batch, scales: dict[str, sampling.Scale]) -> Batch:
    """The same pairs, each patch in a view of its own."""
    out = Batch([], {}, {})
    for task in ("position", "jitter"):
        for name, scale in scales.items():
            pairs: Pairs = getattr(batch, task)[name]
            for view, at in zip(pairs.view, (pairs.first, pairs.second), strict=True):
                whole = [batch.views[view][entry] for entry in pairs.entry]
                cut = [v[:, y : y + scale.K, x : x + scale.K] for v, (y, x) in zip(whole, at, strict=True)]
                out.views.append(np.stack(cut))
            n, corner = len(pairs.entry), np.zeros_like(pairs.first)
            views = len(out.views) - 2, len(out.views) - 1
            getattr(out, task)[name] = Pairs(views, np.arange(n), corner, corner, pairs.label)
    return out


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_whole_images_and_their_patches_give_the_same_losses(
    random_encoder: Callable[..., Encoder], images: np.ndarray, few_pairs: None, architecture: str
) -> None:
    loss = make_loss(random_encoder(architecture))
    batch = sampling.dense_batch(generators(1, len(images)), images, loss.encoder.scales, loss.encoder.stride)
    patches = as_patches(batch, loss.encoder.scales)
    assert found(loss(patches)) == pytest.approx(found(loss(batch)), abs=1e-5)


def test_the_total_weighs_svdd_by_lambda() -> None:
    values = {"svdd_big": 1.0, "nce_big": 10000.0, "ssl_big": 10.0, "svdd_small": 100.0, "ssl_small": 1000.0}
    losses = {name: torch.tensor(value) for name, value in values.items()}
    assert total(losses, 0.5).item() == 0.5 * 101 + 11010
    assert total(losses, 0).item() == 11010


def test_the_contrast_is_solved_by_partners_that_are_unlike_the_rest() -> None:
    apart, entry = torch.eye(4).repeat(2, 1), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert nce(apart, apart, entry).item() == pytest.approx(np.log(1 + 3 * np.exp(-10)), rel=0.01)
    point = torch.ones(8, 4)
    assert nce(point, point, entry).item() == pytest.approx(np.log(4))  # a collapse does not solve it


def test_every_parameter_learns(random_encoder: Callable[..., Encoder], images: np.ndarray, few_pairs: None) -> None:
    loss = make_loss(random_encoder("hierarchical"))
    batch = sampling.dense_batch(generators(0, len(images)), images, loss.encoder.scales, loss.encoder.stride)
    total(loss(batch), 1.0).backward()
    for name, parameter in loss.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_equal_patches_have_a_finite_gradient(random_encoder: Callable[..., Encoder]) -> None:
    loss = make_loss(random_encoder("hierarchical"))
    black = np.zeros((3, 3, 128, 128), np.float32)
    batch = sampling.patch_batch(generators(0, 3), black, loss.encoder.scales)
    losses = loss(batch)
    assert losses["svdd_small"].item() == 0
    total(losses, 1.0).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in loss.parameters())
