"""The encoders: dense equals per patch; the classifier's last layer has unit columns."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcli.features import TRAINED
from patchcli.features.encoder import Encoder
from patchcli.features.registry import build
from patchcli.training.losses import PositionClassifier

SIZES = [(64, 64), (96, 96), (97, 110), (101, 99)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("architecture", TRAINED)
@torch.inference_mode()
def test_dense_is_forward_of_the_patch_at_each_place(
    random_encoder: Callable[..., Encoder], architecture: str, size: tuple[int, int]
) -> None:
    encoder = random_encoder(architecture).double()  # so that what is equal is so but for 1e-12
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 4
    dense = encoder.dense(images)
    assert dense.keys() == encoder.scales.keys()
    for name, scale in encoder.scales.items():
        rows, columns = ((side - scale.K) // encoder.stride + 1 for side in size)
        assert dense[name].shape == (2, 8, rows, columns)
        places = [(i, j) for i in range(rows) for j in range(columns)][:: 1 if rows * columns < 20 else 17]
        corners = [(encoder.stride * i, encoder.stride * j) for i, j in places]
        patches = torch.cat([images[:, :, y : y + scale.K, x : x + scale.K] for y, x in corners])
        alone = encoder(patches, name).view(len(places), 2, 8)
        together = torch.stack([dense[name][:, :, i, j] for i, j in places])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@torch.inference_mode()
def test_dense_leaves_out_a_scale_that_does_not_fit(random_encoder: Callable[..., Encoder]) -> None:
    assert random_encoder("hierarchical").dense(torch.zeros(1, 3, 63, 80)).keys() == {"small"}


@pytest.mark.parametrize("architecture", TRAINED)
@torch.inference_mode()
def test_dense_gives_what_is_wanted_bit_for_bit(random_encoder: Callable[..., Encoder], architecture: str) -> None:
    encoder, images = random_encoder(architecture), torch.rand(1, 3, 70, 80) - 0.5
    whole = encoder.dense(images)
    for name in encoder.scales:
        part = encoder.dense(images, [name])
        assert part.keys() == {name}
        assert torch.equal(part[name], whole[name])


@settings(max_examples=30)
@given(st.data(), st.sampled_from(sorted(TRAINED)), st.integers(64, 130), st.integers(64, 130))
@torch.inference_mode()
def test_sparse_is_dense_at_the_places(data: st.DataObject, architecture: str, height: int, width: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, images = build(architecture, 4).double().eval(), torch.rand(1, 3, height, width, dtype=torch.float64) - 0.5
    dense = encoder.dense(images)
    names = data.draw(st.sets(st.sampled_from(sorted(encoder.scales)), min_size=1))
    some = {
        name: [
            data.draw(st.lists(st.integers(0, side - 1), min_size=1, max_size=4, unique=True).map(sorted))
            for side in dense[name].shape[2:]
        ]
        for name in names
    }
    sparse = encoder.sparse(images, {name: (rows, columns) for name, (rows, columns) in some.items()})
    assert sparse.keys() == names
    for name, (rows, columns) in some.items():
        torch.testing.assert_close(sparse[name], dense[name][:, :, rows][..., columns], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("wanted", "unused"), [("fixed", "enc"), ("small", "conv2"), ("big", "fixed"), ("small", "fixed")])
@torch.inference_mode()
def test_dense_leaves_out_layers_that_are_not_needed(random_encoder: Callable[..., Encoder], wanted: str, unused: str) -> None:
    encoder = random_encoder("hybrid")
    setattr(encoder, unused, None)  # to call it would raise
    assert encoder.dense(torch.zeros(1, 3, 64, 64), [wanted]).keys() == {wanted}


@torch.inference_mode()
def test_a_big_feature_depends_on_all_four_quadrants(random_encoder: Callable[..., Encoder]) -> None:
    encoder = random_encoder("hierarchical")
    features = []
    for y, x in [(-1, -1), (0, 0), (0, 32), (32, 0), (32, 32)]:
        patch = torch.zeros(1, 3, 64, 64)
        if y >= 0:
            patch[:, :, y : y + 32, x : x + 32] = 0.5
        features.append(encoder(patch, "big"))
    assert torch.pdist(torch.cat(features)).min() > 1e-3


@pytest.mark.parametrize("architecture", TRAINED)
@torch.inference_mode()
def test_an_untrained_encoder_tells_patches_apart(architecture: str) -> None:
    torch.manual_seed(0)
    encoder = build(architecture, 16)
    for name, scale in encoder.scales.items():
        features = encoder(torch.randn(50, 3, scale.K, scale.K) / 4, name)
        assert features.shape == (50, 16)
        assert features.abs().max() <= (1 if scale.learned else 20)  # a tanh, or logarithms
        assert features.std(0).mean() > 1e-3


def test_the_hierarchical_encoder_has_the_papers_layers() -> None:
    shapes = {name: tuple(values.shape) for name, values in build("hierarchical", 64).state_dict().items()}
    channels = [3, 32, 64, 128, 128, 64, 32, 32, 64]
    expected = {f"enc.conv{i + 1}.weight": (channels[i + 1], channels[i], 3, 3) for i in range(8)}
    expected |= {"conv1.weight": (128, 64, 2, 2), "conv2.weight": (64, 128, 1, 1)}
    expected |= {name.replace("weight", "bias"): shape[:1] for name, shape in expected.items()}
    assert shapes == expected


@torch.inference_mode()
def test_the_classifier_ignores_the_length_of_its_last_columns() -> None:
    torch.manual_seed(0)
    classifier = PositionClassifier(8)
    h1, h2 = torch.randn(2, 5, 8)
    before = classifier(h1, h2)
    assert before.shape == (5, 8)
    classifier.fc3.weight *= torch.rand(1, 128) + 0.5
    torch.testing.assert_close(classifier(h1, h2), before)
    classifier.fc3.weight *= torch.rand(8, 1) + 0.5  # rows do matter
    assert (classifier(h1, h2) - before).abs().max() > 1e-3


@torch.inference_mode()
def test_the_classifier_sees_the_difference_only() -> None:
    torch.manual_seed(0)
    classifier = PositionClassifier(8)
    h1, h2, shift = torch.randn(3, 5, 8)
    torch.testing.assert_close(classifier(h1 + shift, h2 + shift), classifier(h1, h2), rtol=0, atol=1e-5)
    assert (classifier(h2, h1) - classifier(h1, h2)).abs().max() > 1e-3
