"""The fixed features against a naive reading of one patch, and their whitening."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from patchcli.features.encoder import Encoder
from patchcli.features.fixed import FLOORS, FixedEncoder
from patchcli.features.hybrid import HybridEncoder

Array = NDArray[np.float64]


def naive_gabor(grey: Array, y: float, x: float, wavelength: float, side: int, angle: float) -> float:
    """The energy of one orientation where the filter's middle is at (y, x), sum by sum."""
    offsets = np.arange(side) - (side - 1) / 2
    envelope = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (0.45 * wavelength) ** 2))
    envelope /= envelope.sum()
    phase = 2 * np.pi / wavelength * (offsets * np.cos(angle) + offsets[:, None] * np.sin(angle))
    even, odd = envelope * np.cos(phase), envelope * np.sin(phase)
    even -= envelope * even.sum()
    top, left = round(y - (side - 1) / 2), round(x - (side - 1) / 2)
    part = grey[top : top + side, left : left + side]
    return float((part * even).sum() ** 2 + (part * odd).sum() ** 2)


def naive_description(patch: Array, floor: float) -> list[float]:
    """Of a patch (3, 46, 46): energies in windows around its middle, and colours, from the sums that define them."""
    grey, halved = patch.mean(0), patch.reshape(3, 23, 2, 23, 2).mean((2, 4))

    def window(values: Callable[[int, int], float | Array], sigma: float, reach: int) -> float | Array:
        offsets = range(-reach, reach + 1)
        weights = np.array([[math.exp(-(i * i + j * j) / (2 * sigma**2)) for j in offsets] for i in offsets])
        return sum(values(i, j) * weights[i + reach, j + reach] / weights.sum() for i in offsets for j in offsets)  # type: ignore[return-value]

    out: list[float] = []
    for finer, wavelength, side in ((True, 3, 10), (True, 6, 14), (False, 6, 15), (False, 12, 19)):
        margin = 11 - ((side - 2) // 4 if finer else side // 2)
        for sigma in (1.0, 2.5):
            for n in range(6):
                angle = n * np.pi / 6

                def energy(
                    i: int, j: int, finer: bool = finer, w: float = wavelength, side: int = side, a: float = angle
                ) -> float:
                    if finer:
                        return naive_gabor(grey, 22.5 + 2 * i, 22.5 + 2 * j, w, side, a)
                    return naive_gabor(halved.mean(0), 11 + i, 11 + j, w, side, a)

                amplitude = window(energy, sigma, min(math.ceil(2.5 * sigma), margin))
                out.append(math.log(math.sqrt(amplitude) + floor))
    for sigma in (1.0, 3.0):
        out += np.asarray(window(lambda i, j: halved[:, 11 + i, 11 + j], sigma, math.ceil(2.5 * sigma))).tolist()
    return out


@pytest.mark.parametrize("floor", [0.005, 0.001])
def test_a_feature_is_the_naive_description(floor: float) -> None:
    patch = np.random.default_rng(0).normal(0, 0.002, (3, 46, 46))
    encoder = FixedEncoder(54).double()
    encoder.floor.fill_(floor)
    feature = encoder(torch.from_numpy(patch)[None], "fixed")[0]
    np.testing.assert_allclose(feature.numpy(), naive_description(patch, floor), atol=1e-6)


def test_weights_of_an_earlier_version_have_the_floor_of_then() -> None:
    encoder, hybrid = FixedEncoder(8), HybridEncoder(8)
    for each, name in ((encoder, "floor"), (hybrid, "fixed.floor")):
        state = {key: values for key, values in each.state_dict().items() if key != name}
        each.load_state_dict(state)
        assert each.state_dict()[name] == torch.tensor(0.005)


@pytest.mark.parametrize(("side", "S"), [(159, 4), (160, 8)])
def test_small_images_have_more_patches(side: int, S: int) -> None:
    assert FixedEncoder.scales["fixed"].stride(side, 300) == FixedEncoder.scales["fixed"].stride(300, side) == S


@pytest.fixture
def images(texture: Callable[..., np.ndarray]) -> torch.Tensor:
    rng = np.random.default_rng(0)
    pixels = np.stack([texture(rng, 90, 100) for _ in range(4)])
    return torch.from_numpy(pixels / 255 - 0.5).float().permute(0, 3, 1, 2)


@pytest.mark.parametrize("D", [8, 64])
@torch.inference_mode()
def test_the_good_patches_are_whitened(images: torch.Tensor, D: int) -> None:
    encoder = FixedEncoder(D)
    encoder.fit(images, FLOORS[0])
    features = encoder.dense(images)["fixed"].permute(0, 2, 3, 1).flatten(0, 2).double()
    covariance = torch.cov(features.T)
    used = min(D, 54)
    variances = covariance.diagonal()[:used]
    torch.testing.assert_close(covariance[:used, :used], variances.diag(), atol=0.02, rtol=0)
    full = variances > 0.98
    assert full.all() if D == 8 else 20 < full.sum() < 54
    assert (variances < 1.02).all()
    assert not features[:, used:].any()
    torch.testing.assert_close(features.mean(0), torch.zeros(D).double(), atol=1e-3, rtol=0)


@torch.inference_mode()
def test_images_of_one_colour_have_features_without_a_difference() -> None:
    encoder = FixedEncoder(16)
    encoder.fit(torch.zeros(2, 3, 64, 64), FLOORS[0])
    features = encoder.dense(torch.zeros(1, 3, 64, 64))["fixed"]
    assert features.isfinite().all()
    assert not features.any()


@torch.inference_mode()
def test_what_never_varies_counts(images: torch.Tensor) -> None:
    """The colour of a grey part does; so does anything, where good images are of one colour."""
    encoder, grey = FixedEncoder(64), images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    encoder.fit(grey[:3], FLOORS[0])
    bank = encoder.dense(grey[:3])["fixed"].permute(0, 2, 3, 1).reshape(-1, 64)
    tinted = grey[3:] + torch.tensor([60, -30, -30])[:, None, None] / 255
    good, bad = (torch.cdist(encoder(x[:, :, 22:68, 22:68], "fixed"), bank).min() for x in (grey[3:], tinted))
    assert bad > 1.5 * good
    encoder.fit(torch.zeros(2, 3, 64, 64), FLOORS[0])
    assert encoder.dense(grey)["fixed"].abs().amax() > 1
    assert encoder.dense(grey)["fixed"].isfinite().all()


@torch.inference_mode()
def test_a_defect_is_far_from_good_patches(images: torch.Tensor) -> None:
    encoder = FixedEncoder(64)
    encoder.fit(images[:3], FLOORS[0])
    damaged = images[3].clone()
    damaged[:, 30:60, 30:60] = images[3].mean((1, 2))[:, None, None]
    bank = encoder.dense(images[:3])["fixed"].permute(0, 2, 3, 1).reshape(-1, 64)
    good, bad = (torch.cdist(encoder(x[None, :, 22:68, 22:68], "fixed"), bank).min() for x in (images[3], damaged))
    assert bad > 2 * good


@torch.inference_mode()
def test_the_hybrid_has_both(random_encoder: Callable[..., Encoder], images: torch.Tensor) -> None:
    hybrid, fixed = HybridEncoder(8).eval(), FixedEncoder(8)
    hybrid.fit(images, FLOORS[1])
    fixed.fit(images, FLOORS[1])
    dense = hybrid.dense(images)
    assert list(dense) == list(hybrid.scales) == ["big", "small", "fixed"]
    assert torch.equal(dense["fixed"], fixed.dense(images)["fixed"])
    assert list(hybrid.learned) == ["big", "small"]
    assert hybrid.train().dense(images).keys() == {"big", "small"}  # while it learns
