"""The losses against a reading of the paper: pair by pair, each patch cut out and encoded by itself, in float64."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from learning import LEARNING

from patchcli.datasets.images import standardise
from patchcli.features.encoder import Encoder
from patchcli.training import sampling
from patchcli.training.losses import PatchSVDDLoss, PositionClassifier, total
from patchcli.training.sampling import Batch, Pairs, Places
from patchcli.training.separation import nce, separation, spreading


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
    for scale in loss.encoder.learned:
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
        if loss.separates:
            losses[f"sep_{scale}"], losses[f"var_{scale}"] = naive_separation(loss, batch, scale)
        if not loss.contrast:
            losses[f"svdd_{scale}"] = np.mean(svdd)
        else:
            pairs, entries = batch.jitter[scale], []
            head = naive_head(loss, scale)
            for e in np.unique(pairs.entry):
                mine = np.flatnonzero(pairs.entry == e)
                seen = [[head(feature(pairs, n, which, scale)) for n in mine] for which in (0, 1)]
                unit = [[f / np.linalg.norm(f) for f in features] for features in seen]
                odds = np.exp(np.array([[one @ two / 0.1 for two in unit[1]] for one in unit[0]]))
                entries.append(np.mean(-np.log(np.diag(odds) / odds.sum(axis=1))))
            losses[f"nce_{scale}"] = np.sum(entries) / len(batch.views[0])
    return losses


def naive_head(loss: PatchSVDDLoss, scale: str) -> Callable[[np.ndarray], np.ndarray]:
    """One hidden layer, where there is a head."""
    if loss.heads is None:
        return lambda feature: feature
    (w1, b1), (w2, b2) = (
        (loss.heads[scale][layer].weight.detach().numpy(), loss.heads[scale][layer].bias.detach().numpy()) for layer in (0, 2)
    )
    return lambda feature: w2 @ leaky(w1 @ feature + b1) + b2


@torch.inference_mode()
def naive_separation(loss: PatchSVDDLoss, batch: Batch, scale: str) -> tuple[float, float]:
    """In groups of four: each patch cut out, its nearest normal patch of another image by brute force, and all pairs; and what
    the normal patches' spread lacks."""
    K, count, groups, spreads = loss.encoder.scales[scale].K, len(batch.views[0]), [], []

    def features(view: int, places: Places) -> np.ndarray:
        cut = [batch.views[view][e, :, y : y + K, x : x + K] for e, (y, x) in zip(places.entry, places.at, strict=True)]
        return loss.encoder(torch.from_numpy(np.stack(cut).astype(np.float64)), scale).numpy()

    normal, places = batch.normal[scale], batch.queries[scale]
    bank, queries = features(0, normal), features(1, places)
    for start in range(0, count, 4):
        group = bank[(normal.entry >= start) & (normal.entry < start + 4)]
        variance = ((group - group.mean(axis=0)) ** 2).sum(axis=1).mean()
        spreads.append(np.maximum(0, 1 - group.std(axis=0) / 0.1).mean() + (group.mean(axis=0) ** 2).mean())
        squares: dict[bool, list[float]] = {False: [], True: []}
        for query, entry, bad in zip(queries, places.entry, places.damaged, strict=True):
            if start <= entry < start + 4:
                others = [e for e in range(start, min(start + 4, count)) if e != entry] or [entry]
                nearest = ((bank[np.isin(normal.entry, others)] - query) ** 2).sum(axis=1).min()
                squares[bool(bad)].append(nearest / variance + 1e-3)
        groups.append(np.mean([np.log(1 + good / bad) for good in squares[False] for bad in squares[True]] or [0]))
    return float(np.mean(groups)), float(np.mean(spreads))


def make_loss(encoder: Encoder, contrast: bool = False, separation: bool = False) -> PatchSVDDLoss:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PatchSVDDLoss(encoder, 8, contrast, separation)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.3, (2, 3, 140, 141)).astype(np.float32)


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "POSITION_PAIRS", 6)
    monkeypatch.setattr(sampling, "JITTER_PAIRS", 5)


@pytest.fixture
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "NORMAL_PLACES", 9)
    monkeypatch.setattr(sampling, "QUERY_PLACES", 4)


def generators(seed: int, n: int) -> list[np.random.Generator]:
    return [sampling.generator(seed, 0, entry) for entry in range(n)]


def values_of(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("architecture", LEARNING)
@pytest.mark.parametrize("contrast", [False, True])
def test_dense_losses_are_the_naive_ones(
    random_encoder: Callable[..., Encoder], images: np.ndarray, few_pairs: None, contrast: bool, architecture: str
) -> None:
    loss = make_loss(random_encoder(architecture), contrast)
    batch = sampling.dense_batch(generators(0, len(images)), images, loss.encoder.learned, loss.encoder.stride)
    assert values_of(loss(batch)) == pytest.approx(naive_losses(loss, batch), abs=1e-5)


@pytest.mark.parametrize("architecture", LEARNING)
def test_patch_losses_are_the_papers(random_encoder: Callable[..., Encoder], images: np.ndarray, architecture: str) -> None:
    loss = make_loss(random_encoder(architecture))
    batch = sampling.patch_batch(generators(0, 6), np.repeat(images, 3, axis=0), loss.encoder.learned)
    assert values_of(loss(batch)) == pytest.approx(naive_losses(loss, batch), abs=1e-5)


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


@pytest.mark.parametrize("architecture", LEARNING)
def test_whole_images_and_their_patches_give_the_same_losses(
    random_encoder: Callable[..., Encoder], images: np.ndarray, few_pairs: None, architecture: str
) -> None:
    loss = make_loss(random_encoder(architecture))
    batch = sampling.dense_batch(generators(1, len(images)), images, loss.encoder.learned, loss.encoder.stride)
    patches = as_patches(batch, loss.encoder.learned)
    assert values_of(loss(patches)) == pytest.approx(values_of(loss(batch)), abs=1e-5)


def test_the_total_weighs_svdd_by_lambda() -> None:
    values = {"svdd_big": 1.0, "nce_big": 10000.0, "ssl_big": 10.0, "svdd_small": 100.0, "ssl_small": 1000.0}
    losses = {name: torch.tensor(value) for name, value in values.items()}
    assert total(losses, 0.5).item() == 0.5 * 101 + 11010
    assert total(losses, 0).item() == 11010
    assert total(losses | {"sep_big": torch.tensor(2.0)}, 0.5).item() == pytest.approx(0.5 * 101 + 0.05 * 11010 + 2)


def test_the_contrast_is_solved_by_partners_that_are_unlike_the_rest() -> None:
    apart, entry = torch.eye(4).repeat(2, 1), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert nce(apart, apart, entry, 2).item() == pytest.approx(np.log(1 + 3 * np.exp(-10)), rel=0.01)
    point = torch.ones(8, 4)
    assert nce(point, point, entry, 2).item() == pytest.approx(np.log(4))  # a collapse does not solve it


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7])
def test_the_losses_of_a_separation_are_the_naive_ones(
    random_encoder: Callable[..., Encoder], few_pairs: None, few_places: None, count: int
) -> None:
    loss = make_loss(random_encoder("hierarchical"), contrast=True, separation=True)
    expected = naive_losses(loss, batch := separating(loss, 3, count))
    assert values_of(loss(batch)) == pytest.approx(expected, rel=1e-3)
    assert expected["sep_small"] > 0.1


def separating(loss: PatchSVDDLoss, seed: int, count: int) -> Batch:
    """A batch of noise with damaged patches."""
    pixels, mean = np.random.default_rng(1).integers(0, 256, (count, 150, 140, 3), dtype=np.uint8), np.full((150, 140, 3), 120)
    images, scales = standardise(pixels, mean.astype(np.float32)), loss.encoder.learned
    rngs = generators(seed, count)
    return sampling.dense_batch(rngs, images, scales, loss.encoder.stride, sampling.contrast_jitter, mean.astype(np.float32))


def test_the_separation_asks_for_an_order_and_for_no_scale() -> None:
    normal, image = torch.tensor([[0.0, 0, 1], [0, 0, -1]]).repeat(2, 1), torch.tensor([0, 0, 1, 1])
    entry, damaged = torch.tensor([0, 0, 1, 1]), torch.tensor([False, True, False, True])
    for scale in (1.0, 10.0):
        bank, apart = normal * scale, torch.tensor([[0.1, 0, 1], [10, 0, 1], [0.1, 0, 1], [10, 0, 1]]) * scale
        assert separation(bank, image, apart, entry, damaged, 2).item() == pytest.approx(np.log(1 + 1.1e-4), rel=0.05)
        assert separation(bank, image, apart, entry, ~damaged, 2).item() == pytest.approx(np.log(1 + 1 / 1.1e-4), rel=0.05)
    point = torch.zeros(4, 3, requires_grad=True)
    assert separation(normal, image, point, entry, damaged, 2).item() == pytest.approx(
        np.log(2)
    )  # a collapse does not solve it
    for of_one_kind in (torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)):
        nothing = separation(normal, image, point, entry, of_one_kind, 2)
        nothing.backward()
        assert nothing.item() == 0
        assert point.grad is not None
        assert not point.grad.any()


def test_features_that_shrink_to_a_point_solve_nothing() -> None:
    """The spread loss is largest there, with a gradient that leads away; it asks nothing of features that vary enough."""
    rng = torch.Generator().manual_seed(0)
    image = torch.arange(4).repeat_interleave(50)
    point = (1e-3 * torch.randn(200, 3, generator=rng)).requires_grad_()
    before = spreading(point, image, 4)
    assert before.item() == pytest.approx(1, abs=0.02)
    before.backward()
    assert point.grad is not None
    assert spreading((point - 0.1 * point.grad).detach(), image, 4).item() < before.item()
    enough = torch.randn(200, 3, generator=rng)
    assert spreading(enough - enough.mean(0), torch.zeros_like(image), 1).item() == pytest.approx(0, abs=1e-6)
    assert spreading(enough - enough.mean(0) + 0.5, torch.zeros_like(image), 1).item() == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(("contrast", "separation"), [(False, False), (True, False), (True, True)])
def test_every_parameter_learns(
    random_encoder: Callable[..., Encoder], images: np.ndarray, few_pairs: None, contrast: bool, separation: bool
) -> None:
    loss = make_loss(random_encoder("hierarchical"), contrast, separation)
    batch = sampling.dense_batch(generators(0, len(images)), images, loss.encoder.learned, loss.encoder.stride)
    if separation:
        batch = separating(loss, 0, 4)
    total(loss(batch), 1.0).backward()
    for name, parameter in loss.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_equal_patches_have_a_finite_gradient(random_encoder: Callable[..., Encoder]) -> None:
    loss = make_loss(random_encoder("hierarchical"))
    black = np.zeros((3, 3, 128, 128), np.float32)
    batch = sampling.patch_batch(generators(0, 3), black, loss.encoder.learned)
    losses = loss(batch)
    assert losses["svdd_small"].item() == 0
    total(losses, 1.0).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in loss.parameters())
