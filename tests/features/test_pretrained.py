"""Pretrained backbones against timm's own ways to their features, and what they ask of images and names."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from patchcli.errors import InputError
from patchcli.features import dense as embedding
from patchcli.features import pretrained
from patchcli.features.pretrained import PretrainedEncoder
from patchcli.features.registry import build, restore

CPU = torch.device("cpu")
TRANSFORMERS = ["test_vit", "test_vit3", "vit_tiny_patch16_224", "test_vit.r160_in1k"]  # with and without registers, 224 pixels


@pytest.fixture
def made(timm: Any) -> Callable[..., PretrainedEncoder]:
    """made(backbone, layers): an encoder with random weights, ready to embed."""

    def make(backbone: str, *layers: int) -> PretrainedEncoder:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = PretrainedEncoder(backbone=backbone, layers=layers).eval()
            for name, values in encoder.state_dict().items():
                if name.endswith("running_mean"):
                    torch.nn.init.normal_(values, 0, 0.1)
        return encoder

    return make


def normalised(timm: Any, encoder: PretrainedEncoder, images: torch.Tensor) -> torch.Tensor:
    """Levels from 0 to 1 as timm says that the backbone takes them."""
    data = timm.data.resolve_data_config(model=encoder.backbone)
    mean, std = (torch.tensor(data[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (images - mean) / std


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_all_patches_lie_on_one_grid_at_any_size(made: Callable[..., PretrainedEncoder], backbone: str) -> None:
    """In the bank and where the criterion judges; the fixed features alone are closer in small images."""
    encoder = made(backbone)
    for scale in encoder.scales.values():
        assert scale.stride(64, 64) == scale.stride(256, 256) == scale.S
        assert scale.S % encoder.stride == 0


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_convnext"])
@torch.inference_mode()
def test_stages_are_those_of_timm_averaged_and_brought_to_the_finer_grid(
    timm: Any, made: Callable[..., PretrainedEncoder], backbone: str
) -> None:
    encoder = made(backbone)
    assert encoder.stride == 8
    listing = timm.create_model(backbone, features_only=True, out_indices=encoder.layers).eval()  # timm's other way
    whole = {name.replace(".", "_"): values for name, values in encoder.backbone.state_dict().items()}
    named = {name: whole[name.replace(".", "_")] for name in listing.state_dict() if name.replace(".", "_") in whole}
    listing.load_state_dict(named, strict=False)
    images = torch.rand(2, 3, 96, 128)
    fine, coarse = listing(normalised(timm, encoder, images))
    assert (fine.shape[2:], coarse.shape[2:]) == ((12, 16), (6, 8))
    means = []
    for stage in (fine, coarse):
        nine = F.unfold(stage, 3, padding=1).unflatten(1, (stage.shape[1], 9))  # zeros beyond the border
        means.append(nine.mean(2).unflatten(2, stage.shape[2:]))
    expected = torch.cat([means[0], F.interpolate(means[1], scale_factor=2, mode="bilinear", align_corners=False)], 1)
    assert expected.shape[1] == encoder.D
    torch.testing.assert_close(encoder.dense(images)["pretrained"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
@torch.inference_mode()
def test_the_border_of_a_good_image_is_not_what_is_farthest(made: Callable[..., PretrainedEncoder], backbone: str) -> None:
    images = torch.rand(9, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    features = made(backbone).dense(images)["pretrained"].permute(0, 2, 3, 1)
    distances = torch.cdist(features[0].flatten(0, 1), features[1:].flatten(0, 2)).amin(1).unflatten(0, (16, 16))
    inside = distances[1:-1, 1:-1].clone()
    distances[1:-1, 1:-1] = 0
    assert distances.max() < inside.max()


@pytest.mark.parametrize("backbone", TRANSFORMERS)
@torch.inference_mode()
def test_tokens_are_those_of_timm_of_length_1(timm: Any, made: Callable[..., PretrainedEncoder], backbone: str) -> None:
    encoder = made(backbone)
    whole = timm.create_model(backbone, dynamic_img_size=True).eval()
    whole.load_state_dict(encoder.backbone.state_dict(), strict=False)
    images = torch.rand(2, 3, 96, 128)  # neither the size it was made for, nor square
    tokens = whole.forward_features(normalised(timm, encoder, images))[:, whole.num_prefix_tokens :]
    expected = (tokens / tokens.norm(dim=2, keepdim=True)).transpose(1, 2).unflatten(2, (6, 8))
    found = encoder.dense(images)["pretrained"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2, 6, 8))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_the_backbone_sees_pixels_as_they_are(made: Callable[..., PretrainedEncoder], backbone: str) -> None:
    encoder = made(backbone)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 64, 96, 3)).astype(np.uint8)
    mean = rng.uniform(0, 255, (64, 96, 3)).astype(np.float32)  # which is not taken from them
    found = embedding.embed(encoder, pixels, mean, embedding.grids(encoder, 64, 96, {}), CPU)["pretrained"]
    with torch.inference_mode():
        levels = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
        expected = encoder.dense(levels)["pretrained"].permute(0, 2, 3, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [64, 72, 88])  # 72 and 88 are no multiples of the coarser stride, 16
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
@torch.inference_mode()
def test_a_change_of_the_image_shows_most_where_it_is(
    made: Callable[..., PretrainedEncoder], backbone: str, width: int
) -> None:
    encoder = made(backbone)
    images = torch.rand(1, 3, 64, width, generator=torch.Generator().manual_seed(0)) / 4
    before = encoder.dense(images)["pretrained"]
    assert before.shape[2:] == (8, width // 8)
    for row, column in ((0, 0), (3, 4), (7, width // 8 - 1), (2, width // 8 - 2)):
        changed = images.clone()
        changed[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 0.7
        moved = (encoder.dense(changed)["pretrained"] - before).norm(dim=1)[0]
        most = np.unravel_index(int(moved.argmax()), moved.shape)
        assert abs(most[0] - row) <= 1 and abs(most[1] - column) <= 1, (row, column, most)


def test_images_are_not_cut_into_tiles(made: Callable[..., PretrainedEncoder], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = made("test_resnet")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 96, 160, 3)).astype(np.uint8)
    grids, mean = embedding.grids(encoder, 96, 160, {}), np.zeros((96, 160, 3), np.float32)
    whole = embedding.embed(encoder, pixels, mean, grids, CPU)["pretrained"]
    monkeypatch.setattr(embedding, "TILE", 64)
    torch.testing.assert_close(embedding.embed(encoder, pixels, mean, grids, CPU)["pretrained"], whole, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("backbone", "size", "says"),
    [
        ("test_resnet", (64, 100), r"`size`: expected .* multiples of 8, .* found 64x100 pixels; .*`size=64x96`"),
        ("test_vit", (250, 250), r"`size`: expected .* multiples of 16, .* found 250x250 pixels; .*`size=256x256`"),
        ("test_resnet", (4, 64), r"images of 64×4 pixels are smaller than a patch \(46×46\)"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit(made: Callable[..., PretrainedEncoder], backbone: str, size: tuple[int, int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        embedding.grids(made(backbone), *size, {})


def test_backbones_that_do_not_take_a_size(made: Callable[..., PretrainedEncoder]) -> None:
    encoder = made("test_maxvit", 1)
    encoder.check(160, 160)
    with pytest.raises(InputError, match=r"`backbone`: it does not take images of 256x256 pixels .*`size=160`"):
        encoder.check(256, 256)
    with pytest.raises(InputError, match=r"`backbone`: expected layers on grids of \[\(16, 16\), \(8, 8\)\], found"):
        made("inception_v3").check(128, 128)  # whose convolutions are not padded


@pytest.mark.parametrize(
    ("backbone", "layers", "says"),
    [
        ("test_resnet", (2, 5), r"`layers`: expected numbers from 0 to 4, of test_resnet, found 5"),
        ("test_vit", (-1,), r"`layers`: expected numbers from 0 to 5, of test_vit, found -1"),
        ("wide_resnet5_2", (), r"`backbone`: expected a model of timm, such as .*wide_resnet50_2.*found 'wide_resnet5_2'"),
        ("test_resnet.mine", (), r"`backbone` test_resnet\.mine: .*tag"),
        ("hf-hub:somebody/something", (), r"`backbone`: expected a model of timm"),
    ],
)  # fmt: skip
def test_names_that_do_not_exist(timm: Any, backbone: str, layers: tuple[int, ...], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        PretrainedEncoder(backbone=backbone, layers=layers)
    assert "\n" not in str(caught.value)


@torch.inference_mode()
def test_what_is_restored_has_the_same_features(made: Callable[..., PretrainedEncoder]) -> None:
    encoder = made("test_vit", 1, 3)
    assert encoder.D == 128
    weights = {name: values.numpy() for name, values in encoder.state_dict().items()}
    again = restore("pretrained", 128, {"backbone": "test_vit", "layers": [1, 3]}, weights, CPU)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(again.dense(images)["pretrained"], encoder.dense(images)["pretrained"])
    del weights["backbone.cls_token"]
    with pytest.raises(InputError, match=r"the weights of the store do not fit pretrained, test_vit, \[1, 3\]"):
        restore("pretrained", 128, {"backbone": "test_vit", "layers": [1, 3]}, weights, CPU)


def test_without_timm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        InputError, match=r"need timm, which cannot be imported .*pip install 'patchcli\[pretrained\]'"
    ) as caught:
        build("pretrained", 0, backbone="test_resnet")
    assert "\n" not in str(caught.value)


def test_a_torchvision_without_operators_will_do(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one for CUDA beside a torch for the CPU; one that is whole is left alone."""
    asked: list[str] = []

    def importing(name: str) -> Any:
        asked.append(name)
        if name == "torchvision" and not hasattr(torch.ops.torchvision_of_a_test, "nms"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return name

    library = torch.library.Library
    monkeypatch.setattr(pretrained, "import_module", importing)
    monkeypatch.setattr(torch.library, "Library", lambda name, kind: library("torchvision_of_a_test", kind))
    monkeypatch.setattr(pretrained, "_OPERATORS", [])
    assert pretrained.timm() == "timm"
    assert hasattr(torch.ops.torchvision_of_a_test, "nms") and hasattr(torch.ops.torchvision_of_a_test, "qnms")
    assert pretrained.timm() == "timm"
    assert len(pretrained._OPERATORS) == 1
    assert asked == ["torchvision", "timm"] * 2
