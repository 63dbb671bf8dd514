"""export for every encoder: its features at other sizes, its description, and a score from these files alone."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from smallworld import SIZE, Told, World, dying, make_store, save, texture, tree, without, write_plain

import patchcli
from patchcli import files, runtime
from patchcli.errors import ExportError, InputError, StoreError
from patchcli.features import exporting, pretrained
from patchcli.features.encoder import Encoder
from patchcli.store import Store
from patchcli.verbs import export
from patchcli.verbs.exported import Exported
from patchcli.verbs.extraction import ImageOptions

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install '.[export]' brings it")
pytest.importorskip("onnxscript")

GUIDE = Path(__file__).parents[2] / "examples" / "export.md"
CPU = torch.device("cpu")
SIZES = {"hybrid": (129, 135), "flat": "fit:136x160", "test_resnet": (96, 128), "test_vit": (96, 128)}  # of the stores


@dataclass(frozen=True)
class Made:
    """A store and what was exported from it; read only."""

    store: Path
    folder: Path
    exported: Exported
    told: Told

    @property
    def encoder(self) -> Encoder:
        return Store.open(self.store).encoder.restore(CPU)


def store_of(name: str, folder: Path) -> Path:
    """A store with its bank: of an odd size, without small (hybrid); with margins, calibrated (flat); in float16 (test_vit).

    Of backbones the map is used alone: the images are too few to choose others.
    """
    path = folder / "s.zarr"
    patchcli.extract(write_plain(folder / "good", 4 if name.startswith("test_") else 5), path, ImageOptions(size=SIZES[name]))
    if name.startswith("test_"):
        torch.manual_seed(0)
        torch.save(dict(pretrained.create(name).state_dict()), folder / "w.pth")
        patchcli.import_weights(folder / "w.pth", path, backbone=name)
    else:
        patchcli.train(store=path, encoder=name, steps=0, D=8, precision="float32", observer=Told())
        with Store.writing(path) as store:
            chosen = {"big": 0.7, "fixed": 0.3} if name == "hybrid" else {}
            attributes = replace(store.encoder.attributes, exponents=chosen, by_colour=name == "flat")
            store.write_encoder(store.encoder.weights(), attributes, store.encoder.training_state())
    patchcli.embed(path, half=name == "test_vit", force=True)
    if name == "flat":
        patchcli.calibrate(path, false_alarms=0.4, confidence=0.5)
    return path


@pytest.fixture(scope="module", params=SIZES)
def made_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    if request.param.startswith("test_"):
        request.getfixturevalue("timm")
    folder, told = tmp_path_factory.mktemp(request.param), Told()
    (folder / "out").mkdir()
    with torch.random.fork_rng():
        store = store_of(request.param, folder)
    exported = patchcli.export(folder / "out" / "encoder.onnx", store, observer=told)
    return Made(store, folder / "out", exported, told)


@pytest.fixture(scope="module")
def quick(made: World) -> Callable[..., Exported]:
    """export(file, …) of the shared store, where the exporter's part is played by the fixed answer of another."""

    def export(file: Path, store: Path = made.store, **options: Any) -> Exported:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporting, "write", lambda path, *_: (path.write_bytes(b"onnx"), answer)[1])
            return patchcli.export(file, store, **options)

    answer = exporting.Agreement(1e-6, 1e-6, 1e-5, [[2, 3, 128, 128]]), True
    return export


# ---- every encoder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 96, 160), (4, 81, 113)], ids=str)
def test_any_number_and_size(made_of: Made, shape: tuple[int, int, int]) -> None:
    encoder, (batch, height, width) = made_of.encoder, shape
    if encoder.padded:
        height, width = (-(-side // encoder.stride) * encoder.stride for side in (height, width))
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(2)) - encoder.centred / 2
    session = onnxruntime.InferenceSession(made_of.folder / "encoder.onnx")
    outputs = [scale.output for scale in made_of.exported.scales]
    assert [output.name for output in session.get_outputs()] == outputs
    with torch.inference_mode():
        expected = encoder.dense(images, outputs)
    for name, values in zip(outputs, session.run(None, {"images": images.numpy()}), strict=True):
        np.testing.assert_allclose(values, expected[name].numpy(), rtol=0, atol=2e-3 if name == "fixed" else 1e-5)
    assert made_of.exported.input.any_size


def test_the_documented_score_is_that_of_score(
    made_of: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not GUIDE.exists():
        pytest.skip("installed without examples/")
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert "import patchcli" not in code and "torch" not in code
    shutil.copytree(made_of.folder, tmp_path, dirs_exist_ok=True)
    pixels = texture(np.random.default_rng(7), *SIZE)
    pixels[:9, 140:] = 10  # a defect at the edge
    save(tmp_path / "photo.png", pixels)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    (record,) = patchcli.score(made_of.store, "photo.png")
    score, threshold = re.fullmatch(r"score (\S+), threshold (\S+)\n", capsys.readouterr().out).groups()  # type: ignore[union-attr]
    assert float(score) == pytest.approx(record.score, rel=3e-5)
    assert threshold == str(record.threshold)


def test_the_description(made_of: Made) -> None:
    exported, store = made_of.exported, Store.open(made_of.store)
    assert json.loads((made_of.folder / "encoder.json").read_text()) == asdict(exported)
    assert exported.model_sha256 == hashlib.sha256((made_of.folder / "encoder.onnx").read_bytes()).hexdigest()
    assert exported.encoder == store.encoder.attributes.sha256
    detector = patchcli.Detector.open(made_of.store, device="cpu")
    assert exported.bank == detector.bank_sha256 and exported.distance_error == detector.distance_error
    used = {scale.output: (scale.K, scale.S, scale.rows, scale.columns) for scale in exported.scales}
    assert used == {name: (grid.K, grid.S, *grid.shape) for name, grid in detector.grids.items()}
    assert (exported.input.height, exported.input.width) == (detector.canvas.height, detector.canvas.width)
    assert exported.check.inputs[0] == [2, 3, exported.input.height, exported.input.width]
    assert len({tuple(shape[2:]) for shape in exported.check.inputs}) == 3
    assert 0 < exported.check.relative <= max(exporting.TOLERANCE, 2 * exported.check.rounding)
    assert made_of.told.problems == []


def test_the_mean(made_of: Made) -> None:
    mean, encoder = Store.open(made_of.store).mean, made_of.encoder
    taken = exported.mean if (exported := made_of.exported.input).mean_file is None else None
    if not encoder.centred:
        assert taken == [0, 0, 0]
    elif made_of.exported.architecture == "flat":
        assert taken == mean[5, 5].tolist()
    else:
        values = np.fromfile(made_of.folder / "encoder.mean.f32", "<f4").reshape(mean.shape)
        np.testing.assert_array_equal(values, mean)
    names = {"encoder.onnx", "encoder.json"} | ({"encoder.mean.f32"} if taken is None else set())
    assert {path.name for path in made_of.folder.iterdir()} == names


def test_the_files_of_the_vectors(made_of: Made) -> None:
    bank = Store.open(made_of.store).bank()
    for scale in made_of.exported.scales:
        place, vectors = scale.bank, []
        assert place is not None and place.dtype == ("float16" if bank.attributes.thinning.half else "float32")
        for page, count in enumerate(place.pages):
            content = (made_of.store / place.array.format(page=page) / place.chunk).read_bytes()
            assert len(content) == count * scale.D * np.dtype(place.dtype).itemsize + 4  # with the checksum
            vectors.append(np.frombuffer(content[:-4], place.dtype).reshape(count, scale.D))
            np.testing.assert_array_equal(vectors[-1], bank.read_page(scale.output, page)["vectors"])
        assert sum(map(len, vectors)) == bank.vectors(scale.output)


# ---- the files ----------------------------------------------------------------------------------------------------------


def test_without_bank_or_calibration(quick: Callable[..., Exported], world: World, tmp_path: Path) -> None:
    exported = quick(tmp_path / "e.onnx", world.store)
    assert exported.bank is not None and exported.threshold is None
    patchcli.calibrate(world.store, false_alarms=0.3)
    exported = quick(tmp_path / "e.onnx", world.store, overwrite=True)
    assert exported.threshold == next(patchcli.score(world.store)).threshold
    without(world.store, "bank")
    exported = quick(tmp_path / "e.onnx", world.store, overwrite=True)
    assert (exported.bank, exported.distance_error, exported.threshold) == (None, None, None)
    assert [(scale.output, scale.bank) for scale in exported.scales] == [("big", None), ("small", None)]
    without(world.store, "encoder")
    with pytest.raises(StoreError, match=r"holds no encoder yet.*`train\(\)`"):
        quick(tmp_path / "e.onnx", world.store, overwrite=True)


def test_an_encoder_of_no_use_is_named(quick: Callable[..., Exported], world: World, tmp_path: Path) -> None:
    with Store.writing(world.store) as store:
        attributes = replace(store.encoder.attributes, trouble="the features have collapsed")
        store.write_encoder(store.encoder.weights(), attributes, store.encoder.training_state())
    told = Told()
    quick(tmp_path / "e.onnx", world.store, observer=told)
    assert told.notes == ["the encoder may be of no use: the features have collapsed"]


def test_it_replaces_only_when_told(quick: Callable[..., Exported], tmp_path: Path) -> None:
    quick(tmp_path / "e.onnx")
    before = tree(tmp_path)
    for name in sorted(before):
        for other in set(before) - {name}:
            (tmp_path / other).rename(tmp_path / f"{other}.away")
        with pytest.raises(InputError, match=rf"`file` .*{name}: exists already; replace it with `overwrite`"):
            quick(tmp_path / "e.onnx")
        for other in set(before) - {name}:
            (tmp_path / f"{other}.away").rename(tmp_path / other)
    assert tree(tmp_path) == before
    (tmp_path / "e.json").write_text("{}")
    quick(tmp_path / "e.onnx", overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "error", [ExportError("differ"), KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr
)
def test_nothing_is_left_of_a_failure(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def write(path: Path, *_: Any) -> Any:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(exporting, "write", write)
    with pytest.raises(type(error)):
        patchcli.export(tmp_path / "e.onnx", made.store)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_among_the_renames(
    quick: Callable[..., Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", dying)
        quick(tmp_path / "e.onnx")
    assert list(tmp_path.iterdir()) == []
    replaced, replace_it = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (replaced.append(target.name), replace_it(self, target))[1])
    quick(tmp_path / "e.onnx")
    assert replaced[-1] == "e.json"  # whoever finds it finds the others


def test_what_a_kill_left_is_swept(quick: Callable[..., Exported], tmp_path: Path) -> None:
    (tmp_path / f".{files._here()}-4194305-0123456789ab.part").write_bytes(b"half")
    quick(tmp_path / "e.onnx")
    assert not list(tmp_path.glob(".*.part"))


def test_two_versions_of_a_bank(quick: Callable[..., Exported], world: World, tmp_path: Path) -> None:
    first = quick(tmp_path / "e.onnx", world.store)
    patchcli.bank_remove(world.store, ["train/good/003.png"])
    second = quick(tmp_path / "e.onnx", world.store, overwrite=True)
    for before, after in zip(first.scales, second.scales, strict=True):
        assert before.bank is not None and after.bank is not None
        assert before.bank.array != after.bank.array
        assert sum(after.bank.pages) == sum(before.bank.pages) * 9 // 10
    assert first.bank != second.bank and first.encoder == second.encoder


def test_images_that_are_compared_are_those_that_scoring_embeds(made: World) -> None:
    """Minus their mean, over 255, the first two of the store."""
    store = Store.open(made.store)
    images = export._images(store, store.encoder.restore(CPU)).numpy()
    first = np.asarray(Image.fromarray(store.images.read(0, 1)[0]), np.float32)
    np.testing.assert_allclose(images[0], ((first - store.mean) / 255).transpose(2, 0, 1), atol=1e-6)
    assert images.shape == (2, 3, 128, 128)


def test_a_bank_of_bfloat16_is_named(
    quick: Callable[..., Exported], made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: True)
    store = make_store(made.data, tmp_path / "it.zarr", D=8, precision="bfloat16")
    for precision in ("bfloat16", "float32"):
        told = Told()
        patchcli.embed(store, precision=precision)
        exported = quick(tmp_path / "encoder.onnx", store, overwrite=True, observer=told)
        assert exported.bank_precision == precision
        assert len([note for note in told.notes if "bfloat16" in note]) == (precision == "bfloat16")
