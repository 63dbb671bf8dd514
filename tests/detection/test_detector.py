"""Scoring against a reading of the paper's Algorithm 2: every patch cut out and encoded by itself, and plain loops."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchcli.datasets import images
from patchcli.detection.detector import Detector
from patchcli.detection.result import Result
from patchcli.errors import IncompleteError
from patchcli.features import TRAINED
from patchcli.features.encoder import Encoder
from patchcli.store import EncoderAttributes, Store
from patchcli.verbs.embed import embed
from patchcli.verbs.extract import extract
from patchcli.verbs.extraction import ImageOptions
from patchcli.verbs.import_weights import import_weights

CPU = torch.device("cpu")
TAKEN = (120, 150)  # the training images' own height and width

MakeStore = Callable[..., tuple[Store, Encoder]]


@pytest.fixture
def make_store(tmp_path: Path, make_images: Callable[..., list[Path]], random_encoder: Callable[..., Encoder]) -> MakeStore:
    """make_store(architecture, size) gives a store of three images with a random encoder and its bank."""

    def make(
        architecture: str, size: tuple[int, int], bank: bool = True, strides: dict[str, int] | None = None
    ) -> tuple[Store, Encoder]:
        path, encoder = tmp_path / "store.zarr", random_encoder(architecture)
        make_images(tmp_path / "good", 3, TAKEN)
        extract(tmp_path / "good", path, ImageOptions(size=size))
        weights = {name: values.numpy() for name, values in encoder.state_dict().items()}
        attributes = EncoderAttributes(architecture, 8, "imported", strides=strides or {})
        with Store.writing(path) as store:
            store.write_encoder(weights, attributes, {})
        if bank:
            embed(path, device="cpu")
        return Store.open(path), encoder

    return make


def detector(store: Store) -> Detector:
    return Detector.open(store, device="cpu", search="pruned", memory=1 << 30)


@pytest.fixture
def queries(texture: Callable[..., np.ndarray]) -> list[np.ndarray]:
    """Two images of different sizes, like the training images but for a dark spot."""
    rng = np.random.default_rng(7)
    made = [texture(rng, 110, 140), texture(rng, 90, 200)]
    made[0][60:80, 30:55] = 20
    made[1][20:40, 150:180] = 20
    return made


# ---- Algorithm 2 --------------------------------------------------------------------------------------------------


def naive_starts(side: int, K: int, S: int) -> list[int]:
    starts = [0]
    while starts[-1] + K < side:
        starts.append(min(starts[-1] + S, side - K))
    return starts


@torch.inference_mode()
def naive_features(encoder: Encoder, picture: np.ndarray, mean: np.ndarray, scale: str, S: int) -> dict:
    """{(y, x): feature (D,)} of every patch of one image (H, W, 3), one every S pixels."""
    K = encoder.scales[scale].K
    standard = (picture.astype(np.float64) - mean) / 255
    places = [(y, x) for y in naive_starts(picture.shape[0], K, S) for x in naive_starts(picture.shape[1], K, S)]
    patches = np.stack([standard[y : y + K, x : x + K].transpose(2, 0, 1) for y, x in places])
    features = encoder(torch.from_numpy(patches).float(), scale).double().numpy()
    return dict(zip(places, features, strict=True))


def naive_canvas(query: np.ndarray, height: int, width: int, fits: bool) -> tuple[np.ndarray, int, int]:
    """The picture as the encoder sees it, and how much of it is the image's: with `fits`, the rest is its reflection."""
    if not fits:
        return images.resize(query, height, width), height, width
    share = min(height / query.shape[0], width / query.shape[1])
    own_height, own_width = round(query.shape[0] * share), round(query.shape[1] * share)
    rows = [y if y < own_height else 2 * own_height - 1 - y for y in range(height)]
    columns = [x if x < own_width else 2 * own_width - 1 - x for x in range(width)]
    return images.resize(query, own_height, own_width)[rows][:, columns], own_height, own_width


def naive_scoring(store: Store, encoder: Encoder, query: np.ndarray, fits: bool) -> tuple[dict, dict]:
    """({map name: (H, W)}, {scale: {(y, x): (distance, image number, (y, x) of the nearest normal patch)}})."""
    training_images, mean = store.images.read(0, 3), store.images.mean
    picture, own_height, own_width = naive_canvas(query, *mean.shape[:2], fits)
    maps, neighbours = {}, {}
    for scale, K in {name: scale.K for name, scale in encoder.scales.items()}.items():
        S = store.encoder.attributes.strides.get(scale, {"big": 16, "small": 4}[scale])
        bank = [
            (number, place, feature)
            for number, image in enumerate(training_images)
            for place, feature in naive_features(encoder, image, mean, scale, S).items()
        ]
        vectors = np.stack([feature for *_, feature in bank])
        sums, counts, neighbours[scale] = np.zeros(mean.shape[:2]), np.zeros(mean.shape[:2]), {}
        for (y, x), feature in naive_features(encoder, picture, mean, scale, S).items():
            distances = np.sqrt(((vectors - feature) ** 2).sum(axis=1))
            nearest = int(distances.argmin())
            neighbours[scale][y, x] = distances[nearest], *bank[nearest][:2]
            sums[y : y + K, x : x + K] += distances[nearest]
            counts[y : y + K, x : x + K] += 1
        maps[scale] = sums / counts
    whole = {**maps, "multi": np.prod(list(maps.values()), axis=0)}
    return {name: values[:own_height, :own_width] for name, values in whole.items()}, neighbours


@pytest.mark.parametrize(
    ("architecture", "size", "strides"),
    [
        ("hierarchical", (80, 80), {}),
        ("hierarchical", (97, 84), {}),
        ("hierarchical", (97, 84), {"big": 8}),
        ("hierarchical", "fit:97x84", {}),
        ("hierarchical", "fit:84x140", {"big": 8, "small": 6}),
        ("flat", (97, 84), {}),
        ("flat", "fit:84x140", {"big": 8}),
    ],
)
def test_maps_scores_and_evidence_are_the_algorithms(
    make_store: MakeStore, queries: list[np.ndarray], architecture: str, size: tuple[int, int] | str, strides: dict[str, int]
) -> None:
    store, encoder = make_store(architecture, size, strides=strides)
    fits = isinstance(size, str)
    query = queries[0]
    (result,) = detector(store)([query])
    maps, neighbours = naive_scoring(store, encoder, query, fits)
    for stored, name in zip(store.images.read(0, 3), store.images.ids, strict=True):
        taken = images.Reader().read(Path(store.source.root) / name)
        np.testing.assert_array_equal(stored, naive_canvas(taken, *store.images.mean.shape[:2], fits)[0])

    assert result.scale_maps.keys() == maps.keys() == {*encoder.scales, "multi"}
    for name, values in maps.items():
        assert result.scale_maps[name].dtype == np.float32
        np.testing.assert_allclose(result.scale_maps[name], values, rtol=0, atol=1e-5)
        assert result.inside(name).max() == pytest.approx(values.max(), abs=1e-5)
    assert result.score == result.scale_maps["multi"].max()
    assert result.scores == {name: result.scale_maps[name].max() for name in encoder.scales}
    assert result.size == query.shape[:2]
    assert_evidence(result, store, neighbours["small" if "small" in neighbours else "big"], encoder)


def assert_evidence(result: Result, store: Store, neighbours: dict, encoder: Encoder) -> None:
    """The peak is the map's maximum; the patch is the farthest over it; its neighbour is named in original pixels."""
    multi = result.scale_maps["multi"]
    height, width = multi.shape
    top, left = np.argwhere(multi == multi.max())[0]
    x, y = result.peak  # in original pixels
    assert abs((y + 0.5) * height / result.size[0] - (top + 0.5)) <= 1
    assert abs((x + 0.5) * width / result.size[1] - (left + 0.5)) <= 1

    K = min(scale.K for scale in encoder.scales.values())
    over = {(y, x): found for (y, x), found in neighbours.items() if y <= top < y + K and x <= left < x + K}
    (y, x), (_, number, (normal_y, normal_x)) = max(over.items(), key=lambda item: item[1][0])
    assert result.nearest.image == f"{number:03}.png"
    across, down = naive_span(x, K, width, result.size[1]), naive_span(y, K, height, result.size[0])
    assert result.patch == (across[0], down[0], across[1], down[1])
    covered = store.canvas.covered(*TAKEN)
    across, down = naive_span(normal_x, K, covered[1], TAKEN[1]), naive_span(normal_y, K, covered[0], TAKEN[0])
    assert result.nearest.box == (across[0], down[0], across[1], down[1])


def naive_span(start: int, K: int, covered: int, original: int) -> tuple[int, int]:
    """First pixel and length, in an original image, of a patch's side on the canvas: of a reflection, where it is seen."""
    if start >= covered:
        start = max(0, 2 * covered - start - K)
    scale = original / covered
    return round(start * scale), min(round(K * scale), original - round(start * scale))


# ---- what follows from it -----------------------------------------------------------------------------------------


def test_a_training_image_scores_zero_and_is_its_own_neighbour(make_store: MakeStore, tmp_path: Path) -> None:
    store, _ = make_store("hierarchical", TAKEN)
    pictures = [images.Reader().read(tmp_path / "good" / name) for name in store.images.ids]
    for name, result in zip(store.images.ids, detector(store)(pictures), strict=True):
        assert result.scores["small"] < 1e-5
        assert result.nearest.image == name


def test_images_together_are_as_one_by_one(make_store: MakeStore, queries: list[np.ndarray]) -> None:
    score = detector(make_store("hierarchical", (80, 84))[0])
    together = score(queries)
    for query, result in zip(queries, together, strict=True):
        alone = score(query)
        assert alone.size == result.size
        assert alone.evidence == result.evidence
        for name in alone.scale_maps:
            np.testing.assert_allclose(result.scale_maps[name], alone.scale_maps[name], rtol=0, atol=1e-5)


def test_without_a_bank_there_is_no_detector(make_store: MakeStore) -> None:
    store, _ = make_store("hierarchical", (80, 80), bank=False)
    with pytest.raises(IncompleteError, match=r"run: `embed\(\)`"):
        Detector.open(store)


@pytest.mark.parametrize("architecture", TRAINED)
def test_a_stored_encoder_is_loaded_as_it_was(make_store: MakeStore, architecture: str) -> None:
    store, encoder = make_store(architecture, (80, 80), bank=False)
    loaded = store.encoder.restore(CPU).state_dict()
    assert loaded.keys() == encoder.state_dict().keys()
    assert all(torch.equal(values, loaded[name]) for name, values in encoder.state_dict().items())


# ---- published weights ----------------------------------------------------------------------------------------------


def test_published_weights_give_the_reference_scores(test_data: Path, tmp_path: Path) -> None:
    reference = json.loads((test_data / "hazelnut_reference.json").read_text())
    extract(test_data / "hazelnut_subset", tmp_path / "hazelnut.zarr")
    import_weights(test_data / "hazelnut_published_encoder.pkl", tmp_path / "hazelnut.zarr")
    embed(tmp_path / "hazelnut.zarr", device="cpu")
    chosen = [reference["images"].index(name) for name in ("test/print/000.png", "test/good/000.png")]
    pictures = [np.asarray(Image.open(test_data / "hazelnut_subset" / reference["images"][number])) for number in chosen]
    results = Detector.open(tmp_path / "hazelnut.zarr", device="cpu", search="pruned")(pictures)
    for name in ("big", "small", "multi"):
        expected = [reference[name]["image_scores"][number] for number in chosen]
        assert [result.inside(name).max() for result in results] == pytest.approx(expected, abs=2e-6)
