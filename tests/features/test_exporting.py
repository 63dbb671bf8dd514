"""Exported encoders: what a model looks like, what is refused, and backbones of one size. Every encoder: tests/verbs."""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from patchcli.errors import ExportError, InputError
from patchcli.features import exporting
from patchcli.features.encoder import Encoder
from patchcli.features.pretrained import PretrainedEncoder
from patchcli.features.registry import build

onnx = pytest.importorskip("onnx", reason="pip install '.[export]' brings it")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def flat(random_encoder: Callable[..., Encoder]) -> Encoder:
    return random_encoder("flat", 4)


@pytest.fixture(scope="module")
def model(flat: Encoder) -> Any:
    """The flat encoder as a ModelProto; read only."""
    with warnings.catch_warnings(action="error"):
        translated = exporting.translate(flat, ["big"])
    assert logging.root.manager.disable == 0
    return translated


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 90, 101, generator=torch.Generator().manual_seed(1)) - 0.5


def saved(path: Path, model: Any) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_the_model(model: Any) -> None:
    onnx.checker.check_model(model, full_check=True)
    (taken,), (given,) = model.graph.input, model.graph.output
    shapes = [[d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim] for each in (taken, given)]
    assert (taken.name, given.name) == ("images", "big")
    assert shapes == [["batch", 3, "height", "width"], ["batch", 4, "big_rows", "big_columns"]]
    assert not any(weights.data_location for weights in model.graph.initializer)  # all is in the file
    assert str(Path(exporting.__file__).parents[1]).encode() not in model.SerializeToString()


def test_it_agrees(flat: Encoder, model: Any, images: torch.Tensor, tmp_path: Path) -> None:
    agreement = exporting.compare(saved(tmp_path / "m.onnx", model), flat, ["big"], [images, images[:1, :, :64, :64]])
    assert 0 < agreement.relative < 2e-6 and 0 < agreement.rounding < 2e-6 and 0 < agreement.largest < 1e-5
    assert agreement.inputs == [[2, 3, 90, 101], [1, 3, 64, 64]]


@pytest.mark.parametrize(("scale", "refused"), [(-1.0, True), (1.002, True), (1 + 1e-6, False)])
def test_a_weight_that_has_changed(
    flat: Encoder, model: Any, images: torch.Tensor, tmp_path: Path, scale: float, refused: bool
) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weights = next(each for each in changed.graph.initializer if each.name.endswith("conv3.weight"))
    values = onnx.numpy_helper.to_array(weights).copy()
    values.flat[abs(values).argmax()] *= scale
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    path = saved(tmp_path / "m.onnx", changed)
    if not refused:
        exporting.compare(path, flat, ["big"], [images])
        return
    with pytest.raises(ExportError, match=r"differ by .* of their size \(big, images of 90×101 pixels\), more than 1e-05"):
        exporting.compare(path, flat, ["big"], [images])


def test_features_of_another_shape(flat: Encoder, model: Any, images: torch.Tensor, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", model)
    with pytest.raises(ExportError, match=r"features \(2, 4, 4, 5\) of big, PyTorch \(2, 5, 4, 5\)"):
        exporting.compare(path, build("flat", 5).eval(), ["big"], [images])


def test_what_onnx_runtime_cannot_run(flat: Encoder, images: torch.Tensor, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="ONNX Runtime cannot run the exported encoder") as caught:
        exporting.compare(tmp_path / "m.onnx", flat, ["big"], [images])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_an_encoder_that_cannot_be_exported(flat: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "LARGEST", 1000)
    with pytest.raises(ExportError, match=r"the encoder has 0\.0 GB of weights, and an ONNX file holds 2 GB"):
        exporting.translate(flat, ["big"])
    monkeypatch.undo()
    monkeypatch.setattr(type(flat), "dense", lambda *_: {"big": torch.tensor(1.0 if torch.randn(1).item() > 0 else 2.0)})
    with pytest.raises(ExportError, match="PyTorch cannot export this encoder") as caught:
        exporting.translate(flat, ["big"])
    assert "\n" not in str(caught.value)


def test_a_backbone_of_one_size(timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def translate(encoder: Encoder, scales: list[str], size: tuple[int, int] | None) -> Any:
        if size is None:
            raise ExportError("guards")
        return translated(encoder, scales, size)

    translated = exporting.translate
    monkeypatch.setattr(exporting, "translate", translate)
    encoder = PretrainedEncoder(backbone="test_resnet", layers=[1]).eval()
    agreement, any_size = exporting.write(tmp_path / "m.onnx", encoder, ["pretrained"], torch.rand(2, 3, 64, 96))
    assert not any_size and agreement.inputs == [[2, 3, 64, 96], [1, 3, 64, 96], [3, 3, 64, 96]]
    (taken,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").get_inputs()
    assert taken.shape == ["batch", 3, 64, 96]


def test_our_own_encoders_take_any_size_or_fail(flat: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def translate(encoder: Encoder, scales: list[str], size: tuple[int, int] | None) -> Any:
        assert size is None
        raise ExportError("guards")

    monkeypatch.setattr(exporting, "translate", translate)
    with pytest.raises(ExportError, match="guards"):
        exporting.write(tmp_path / "m.onnx", flat, ["big"], torch.rand(2, 3, 64, 96))


@pytest.mark.parametrize("name", ["onnxscript", "onnxruntime"])
def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"exporting needs {name}, .*pip install 'patchcli\[export\]'") as caught:
        exporting.check_installed()
    assert "\n" not in str(caught.value)
