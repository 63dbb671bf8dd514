"""The criterion: which images validate, and that it prefers encoders that see defects."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from patchcli.detection.maps import spread
from patchcli.features.dense import embed
from patchcli.features.encoder import Encoder
from patchcli.features.fixed import FixedEncoder
from patchcli.features.grid import PatchGrid
from patchcli.training import criterion
from patchcli.training import images as good
from patchcli.training.criterion import Validation

CPU = torch.device("cpu")


@pytest.mark.parametrize(("count", "expected"), [(2, 0), (4, 0), (5, 1), (39, 7), (40, 8), (1000, 8)])
def test_a_small_share_validates_and_is_not_trained_on(count: int, expected: int) -> None:
    validation, training = good.split(count)
    assert len(validation) == expected
    assert sorted([*validation, *training]) == list(range(count))


@pytest.fixture
def images(texture: Callable[..., np.ndarray]) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([texture(rng, 128, 140) for _ in range(6)])


@pytest.fixture
def validation(images: np.ndarray) -> Validation:
    return Validation(images[:2], images[2:], images.mean(axis=0, dtype=np.float32))


def test_good_images_and_their_damaged_copies(validation: Validation, images: np.ndarray) -> None:
    np.testing.assert_array_equal(validation.queries[:2], images[:2])
    assert not validation.masks[:2].any()
    assert len(validation.queries) == len(validation.masks) == 2 * (1 + criterion.COPIES)
    for number, (pixels, mask) in enumerate(zip(validation.queries[2:], validation.masks[2:], strict=True)):
        original = images[number // criterion.COPIES]
        assert np.abs(pixels[~mask].astype(int) - original[~mask]).max() <= 8


@pytest.mark.parametrize("architecture", ["hierarchical", "flat"])
def test_the_judgement_is_repeated_and_leaves_the_encoder_alone(
    validation: Validation, random_encoder: Callable[..., Encoder], architecture: str
) -> None:
    encoder = random_encoder(architecture).train()
    first, second = validation.judge(encoder, CPU), validation.judge(encoder, CPU)
    assert first == second
    assert encoder.training
    assert 0.2 < first.criterion < 1  # of random features: some defects are faint
    assert 1 < first.rank <= 8
    assert first.spread > 0.01


def test_features_without_a_difference_are_judged_by_chance(
    validation: Validation, random_encoder: Callable[..., Encoder]
) -> None:
    encoder = random_encoder("hierarchical")
    with torch.no_grad():
        for name, values in encoder.named_parameters():
            if name.endswith("weight"):
                values.zero_()
    judged = validation.judge(encoder, CPU)
    assert judged.criterion == pytest.approx(0.5)
    assert judged.spread < 1e-6


def test_rank_and_spread() -> None:
    rng = np.random.default_rng(0)
    full = torch.from_numpy(rng.normal(size=(5000, 6)))
    line = torch.from_numpy(rng.normal(size=(100, 1)) * np.ones(6) + 100)
    assert criterion.shape(full) == (pytest.approx(6, rel=0.01), pytest.approx(1, rel=0.01))
    assert criterion.shape(line) == (pytest.approx(1, abs=1e-3), pytest.approx(0.01, rel=0.3))
    assert criterion.shape(torch.ones(10, 6))[1] == 0


def test_the_criterion_is_the_pixel_auroc(validation: Validation, random_encoder: Callable[..., Encoder]) -> None:
    """With the features' part replaced: a map that is the mask, but for one pixel of a good image."""
    maps = validation.masks.astype(np.float32)
    maps[1, 0, 0] = 2
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(criterion.maps, "multiply", lambda *_: maps)
        judged = validation.judge(random_encoder("flat"), CPU)
    assert judged.criterion == pytest.approx(roc_auc_score(validation.masks.ravel(), maps.ravel()))


def test_of_large_images_the_middle_is_judged_by(texture: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    large = np.stack([texture(rng, 300, 400) for _ in range(3)])
    mean = large.mean(0, dtype=np.float64).astype(np.float32)
    validation = Validation(large[:1], large[1:], mean)
    np.testing.assert_array_equal(validation.queries[0], large[0, 22:278, 72:328])
    np.testing.assert_array_equal(validation.bank, large[1:, 22:278, 72:328])
    np.testing.assert_array_equal(validation.mean, mean[22:278, 72:328])


def test_the_maps_that_find_the_defects_are_chosen(validation: Validation) -> None:
    """Of a map that is the mask, one that is noise and one that is its opposite, the first; exponents undo unlike spreads."""
    rng = np.random.default_rng(0)
    noise = np.exp(rng.normal(size=(2, *validation.masks.shape))).astype(np.float32)
    found = np.where(validation.masks, 100, noise[0]).astype(np.float32)
    against = np.where(validation.masks, 1e-6, noise[1]).astype(np.float32)
    assert validation.best_maps({"big": found, "small": against}) == {"big": 1.0}
    halves = rng.random(validation.masks.shape) < 0.5  # each map finds half of the pixels, and varies otherwise
    one = np.where(validation.masks & halves, 1e4, noise[0]).astype(np.float32)
    other = np.where(validation.masks & ~halves, 1e12, noise[1] ** 3).astype(np.float32)
    chosen = validation.best_maps({"big": one, "small": other})
    assert chosen["big"] / chosen["small"] == pytest.approx(3, rel=0.05)
    assert sum(chosen.values()) == pytest.approx(1)


def test_exponents_only_where_there_is_a_choice(validation: Validation, random_encoder: Callable[..., Encoder]) -> None:
    assert validation.judge(random_encoder("hierarchical"), CPU).exponents == {}
    exponents = validation.judge(random_encoder("hybrid"), CPU).exponents
    assert exponents
    assert exponents.keys() <= {"big", "small", "fixed"}


def test_maps_are_left_out_only_where_that_is_better_by_more_than_chance(validation: Validation) -> None:
    """Within one standard error, by the jackknife over the two validation images, all maps are used."""
    rng = np.random.default_rng(0)
    noise = np.exp(rng.normal(size=(2, *validation.masks.shape))).astype(np.float32)
    seen = np.where(validation.masks, 6, 1) * noise[0]
    copies = [slice(2 + of * criterion.COPIES, 2 + (of + 1) * criterion.COPIES) for of in (0, 1)]
    uneven = noise[1].copy()  # of the two images' defects, it hides the one's and shows the other's
    uneven[copies[0]] = np.where(validation.masks, 0.1, noise[1])[copies[0]]
    uneven[copies[1]] = np.where(validation.masks, 1e3, noise[1])[copies[1]]
    assert validation.best_maps({"big": seen, "small": uneven}).keys() == {"big", "small"}
    useless = np.where(validation.masks, 1e-3, noise[1])
    assert validation.best_maps({"big": seen, "small": useless}).keys() == {"big"}


def test_the_figures_of_a_choice_are_scikit_learns_leaving_out_each_image(validation: Validation) -> None:
    found = np.random.default_rng(0).gamma(1 + validation.masks).astype(np.float32)
    of = np.array([0, 1, *[0] * criterion.COPIES, *[1] * criterion.COPIES])
    wanted = []
    for kept in (of >= 0, of != 0, of != 1):
        masks, maps = validation.masks[kept], found[kept]
        images = roc_auc_score(masks.any(axis=(1, 2)), maps.max(axis=(1, 2)))
        wanted.append((roc_auc_score(masks.ravel(), maps.ravel()) + images) / 2)
    np.testing.assert_allclose(validation.figures(found), wanted, atol=1e-3)
    assert np.ptp(wanted) > 0.01


@pytest.mark.parametrize(
    ("floors", "count", "expected"),
    [((0.005, 100.0), 12, 0.005), ((100.0, 0.005), 12, 0.005), ((100.0, 0.005), 4, 100.0)],
)
def test_the_floor_that_finds_the_defects_is_chosen(
    texture: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    floors: tuple[float, float],
    count: int,
    expected: float,
) -> None:
    """A floor above all energies leaves the colours alone. With fewer than five images nothing can be compared."""
    rng = np.random.default_rng(0)
    pixels = np.stack([texture(rng, 96, 100) for _ in range(count)])
    few = good.GoodImages(count, pixels.mean(0, np.float64).astype(np.float32), "uint8", lambda *span: pixels[slice(*span)])
    monkeypatch.setattr(criterion, "FLOORS", floors)
    monkeypatch.setattr(criterion, "MANY_COPIES", 8)
    encoder = FixedEncoder(32)
    criterion.fit(encoder, few, CPU)
    assert encoder.floor == torch.tensor(expected)
    wanted = FixedEncoder(32)
    few.fit(wanted, CPU, expected)
    assert all(torch.equal(values, wanted.state_dict()[name]) for name, values in encoder.state_dict().items())


@torch.inference_mode()
def test_maps_are_those_of_a_search_for_every_patch(validation: Validation, random_encoder: Callable[..., Encoder]) -> None:
    """Also where a defect leaves a copy as it was, whose distances are not computed again."""
    encoder = random_encoder("hybrid")
    of_scale, _ = validation.maps(encoder, encoder.scales, CPU)
    height, width = validation.mean.shape[:2]
    for name, scale in encoder.scales.items():
        grid = PatchGrid(height, width, scale.K, scale.judged or scale.stride(height, width))
        bank, queries = (
            embed(encoder, pixels, mean=validation.mean, grids={name: grid}, device=CPU)[name]
            for pixels in (validation.bank, validation.queries)
        )
        distances = torch.cdist(queries.flatten(0, 2), bank.flatten(0, 2)).amin(1)
        wanted = spread(distances.view(queries.shape[:3]).numpy(), grid, scale)
        np.testing.assert_allclose(of_scale[name], wanted, rtol=1e-3, atol=1e-3 * wanted.max())
