"""Dense embedding against cutting every patch out of the image."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from patchcli.datasets.images import standardise
from patchcli.errors import InputError
from patchcli.features import TRAINED
from patchcli.features import dense as embedding
from patchcli.features.encoder import Encoder, Places
from patchcli.features.grid import PatchGrid
from patchcli.features.registry import build
from patchcli.store import Store
from patchcli.verbs.extract import extract
from patchcli.verbs.import_weights import import_weights

CPU = torch.device("cpu")


@torch.inference_mode()
def cut_and_embed(encoder: Encoder, pixels: np.ndarray, mean: np.ndarray, grid: PatchGrid, scale: str) -> torch.Tensor:
    """Features (B, rows, columns, D), every patch cut out and put through the encoder by itself."""
    images = torch.from_numpy(embedding.standardise(pixels, mean))
    rows = [
        torch.stack([encoder(images[:, :, y : y + grid.K, x : x + grid.K], scale) for x in grid.xs], dim=1) for y in grid.ys
    ]
    return torch.stack(rows, dim=1)


def random_images(n: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and a mean."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, height, width, 3)).astype(np.uint8)
    return pixels, rng.uniform(100, 150, (height, width, 3)).astype(np.float32)


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are embedded in float64, so that what is equal is so but for 1e-12."""
    monkeypatch.setattr(embedding, "standardise", lambda *given: standardise(*given).astype(np.float64))


def assert_dense_equals_cut(encoder: Encoder, pixels: np.ndarray, mean: np.ndarray, atol: float) -> None:
    grids = embedding.grids(encoder, *pixels.shape[1:3], {})
    features = embedding.embed(encoder, pixels, mean, grids, CPU)
    assert features.keys() == encoder.scales.keys()
    for scale, grid in grids.items():
        expected = cut_and_embed(encoder, pixels, mean, grid, scale)
        assert expected.shape[:3] == (len(pixels), *grid.shape)
        torch.testing.assert_close(features[scale], expected, rtol=0, atol=atol)


@pytest.mark.parametrize("size", [(64, 64), (65, 71), (96, 96), (97, 110), (101, 99)])
@pytest.mark.parametrize("architecture", TRAINED)
def test_dense_equals_cut(
    random_encoder: Callable[..., Encoder], float64: None, architecture: str, size: tuple[int, int]
) -> None:
    assert_dense_equals_cut(random_encoder(architecture).double(), *random_images(1, *size), atol=1e-12)


@pytest.mark.parametrize("architecture", TRAINED)
def test_dense_equals_cut_in_float32(random_encoder: Callable[..., Encoder], architecture: str) -> None:
    assert_dense_equals_cut(random_encoder(architecture), *random_images(1, 65, 71), atol=1e-5)


@settings(max_examples=10)
@given(
    st.sampled_from(sorted(TRAINED)), st.integers(64, 130), st.integers(64, 130), st.sampled_from([16, 40, 64, 100])
)  # fmt: skip
def test_tiles_change_nothing(architecture: str, height: int, width: int, tile: int) -> None:
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patched:
        torch.manual_seed(0)
        encoder = build(architecture, 4).double().eval()
        patched.setattr(embedding, "standardise", lambda *given: standardise(*given).astype(np.float64))
        pixels, mean = random_images(1, height, width)
        grids = embedding.grids(encoder, height, width, {})
        whole = embedding.embed(encoder, pixels, mean, grids, CPU)
        patched.setattr(embedding, "TILE", tile)
        tiled = embedding.embed(encoder, pixels, mean, grids, CPU)
    for scale in grids:
        torch.testing.assert_close(tiled[scale], whole[scale], rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(st.data(), st.sampled_from(sorted(TRAINED)), st.integers(64, 150), st.integers(64, 150), st.sampled_from([32, 64, 960]))
def test_every_stride_has_the_features_of_its_patches(
    data: st.DataObject, architecture: str, height: int, width: int, tile: int
) -> None:
    """A few patches of each scale, among them the first and the last, cut out and put through the encoder."""
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patched, torch.inference_mode():
        torch.manual_seed(0)
        encoder = build(architecture, 4).double().eval()
        patched.setattr(embedding, "standardise", lambda *given: standardise(*given).astype(np.float64))
        patched.setattr(embedding, "TILE", tile)
        pixels, mean = random_images(1, height, width)
        strides = data.draw(st.fixed_dictionaries({name: st.integers(1, 40) for name in encoder.scales}))
        used = data.draw(st.sets(st.sampled_from(sorted(encoder.scales)), min_size=1))
        grids = embedding.grids(encoder, height, width, strides, dict.fromkeys(used, 1.0))
        features = embedding.embed(encoder, pixels, mean, grids, CPU)
        assert features.keys() == used
        images = torch.from_numpy(embedding.standardise(pixels, mean))
        for scale, grid in grids.items():
            for place in {0, *data.draw(st.sets(st.integers(0, grid.patches - 1), max_size=6)), grid.patches - 1}:
                _, y, x = grid.locate(place)
                expected = encoder(images[:, :, y : y + grid.K, x : x + grid.K], scale)
                assert features[scale].shape == (1, *grid.shape, 4)
                torch.testing.assert_close(features[scale].flatten(1, 2)[:, place], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("architecture", ["hierarchical", "hybrid"])
def test_layers_are_computed_only_where_a_patch_needs_them(random_encoder: Callable[..., Encoder], architecture: str) -> None:
    """K=32 every 4 pixels: the last convolution every 4 pixels; K=64 every 16: the layers that join quadrants, every 16."""
    encoder, side = random_encoder(architecture), 160
    grids = embedding.grids(encoder, side, side, {}, {"big": 1.0, "small": 1.0})
    with FlopCounterMode(display=False) as counter:
        embedding.embed(encoder, *random_images(1, side, side), grids, CPU)
    (*hidden, last), sides = encoder.enc.children(), [(side - 1) // 2 - 2 * i for i in range(7)]
    expected = sum(conv.weight.numel() * n**2 for conv, n in zip(hidden, sides, strict=True))
    expected += last.weight.numel() * grids["small"].patches
    expected += (encoder.conv1.weight.numel() + encoder.conv2.weight.numel()) * grids["big"].patches
    assert counter.get_total_flops() == 2 * expected


@pytest.mark.parametrize("name", ["hybrid", "hierarchical", "fixed"])
def test_bfloat16_rounds_the_learned_features_alone(random_encoder: Callable[..., Encoder], name: str) -> None:
    """bfloat16 has 8 bits, so that nine convolutions in a row are off by a few times 2⁻⁸ of the features' size."""
    encoder = random_encoder(name)
    pixels, mean = random_images(3, 97, 90)  # the last patches are off the dense grid
    grids = embedding.grids(encoder, 97, 90, {})
    exact, rounded = (embedding.embed(encoder, pixels, mean, grids, CPU, precision) for precision in ("float32", "bfloat16"))
    for scale, of_scale in encoder.scales.items():
        assert rounded[scale].dtype == torch.float32
        if of_scale.learned:
            off = (rounded[scale] - exact[scale]).square().mean().sqrt() / exact[scale].square().mean().sqrt()
            assert 1e-4 < off < 0.03
        else:
            assert torch.equal(rounded[scale], exact[scale])


def test_dense_equals_cut_at_the_usual_size(random_encoder: Callable[..., Encoder], float64: None) -> None:
    encoder = random_encoder("hierarchical").double()
    grids = embedding.grids(encoder, 256, 256, {})
    assert {scale: grid.shape for scale, grid in grids.items()} == {"big": (13, 13), "small": (57, 57)}
    pixels, mean = random_images(1, 256, 256)
    sparse = {scale: PatchGrid(256, 256, grid.K, 3 * grid.S) for scale, grid in grids.items()}
    features = embedding.embed(encoder, pixels, mean, sparse, CPU)
    for scale, grid in sparse.items():
        expected = cut_and_embed(encoder, pixels, mean, grid, scale)
        torch.testing.assert_close(features[scale], expected, rtol=0, atol=1e-12)


def test_many_images_are_as_one_by_one(random_encoder: Callable[..., Encoder], float64: None) -> None:
    encoder = random_encoder("hierarchical").double()
    pixels, mean = random_images(2 * embedding.CPU_IMAGES + 1, 67, 80)
    grids = embedding.grids(encoder, 67, 80, {})
    together = embedding.embed(encoder, pixels, mean, grids, CPU)
    for number in range(len(pixels)):
        alone = embedding.embed(encoder, pixels[number : number + 1], mean, grids, CPU)
        for scale in grids:
            torch.testing.assert_close(together[scale][number], alone[scale][0], rtol=0, atol=1e-12)


def test_no_tf32(random_encoder: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, seen = random_encoder("hierarchical"), []
    sparse = encoder.sparse

    def spy(images: torch.Tensor, places: Mapping[str, Places]) -> dict[str, torch.Tensor]:
        seen.append(torch.backends.cudnn.allow_tf32)
        return sparse(images, places)

    monkeypatch.setattr(encoder, "sparse", spy)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    embedding.embed(encoder, *random_images(1, 64, 64), embedding.grids(encoder, 64, 64, {}), CPU)
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or PATCHCLI_TEST_GPU is not set")
@pytest.mark.parametrize("architecture", TRAINED)
def test_a_gpu_has_the_features_of_a_cpu(random_encoder: Callable[..., Encoder], architecture: str) -> None:
    encoder, images = random_encoder(architecture), random_images(3, 101, 99)
    grids = embedding.grids(encoder, 101, 99, {})
    expected = embedding.embed(encoder, *images, grids, CPU)
    for scale, features in embedding.embed(encoder.cuda(), *images, grids, torch.device("cuda")).items():
        torch.testing.assert_close(features.cpu(), expected[scale], rtol=0, atol=1e-5)


def test_images_smaller_than_a_patch_are_refused(random_encoder: Callable[..., Encoder]) -> None:
    with pytest.raises(InputError, match=r"100×63 pixels are smaller than a patch \(64×64\)"):
        embedding.grids(random_encoder("hierarchical"), 63, 100, {})


def test_published_weights_dense_equals_cut(test_data: Path, tmp_path: Path) -> None:
    good = test_data / "hazelnut_subset" / "train" / "good"
    chosen = sorted(good.glob("*.png"))[:2]
    for path in chosen:
        (tmp_path / "good").mkdir(exist_ok=True)
        Image.open(path).save(tmp_path / "good" / path.name)
    extract(tmp_path / "good", tmp_path / "hazelnut.zarr")
    import_weights(test_data / "hazelnut_published_encoder.pkl", tmp_path / "hazelnut.zarr")
    store = Store.open(tmp_path / "hazelnut.zarr")
    part = slice(60, 171), slice(70, 185)  # 111×115 pixels, which no stride divides
    pixels, mean = store.images.read(0, 1)[:, *part], store.images.mean[part]
    assert_dense_equals_cut(store.encoder.restore(CPU), pixels, mean, atol=1e-6)
