"""An encoder → an ONNX model with the same features, made by PyTorch's exporter and checked by ONNX Runtime."""

import contextlib
import copy
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchcli.errors import ExportError, InputError
from patchcli.features.encoder import Encoder

INPUT = "images"
TOLERANCE = 1e-5  # difference of features, relative to their size
LARGEST = 2**31 - 2**24  # bytes of weights that one ONNX file can hold
UNIT = 8  # pixels: sides of small images are multiples of it, or of a padded encoder's stride,
CELLS = 6  # of which they have at least so many


@dataclass(frozen=True)
class Agreement:
    """How well ONNX Runtime agrees with PyTorch on some images: the worst output counts.

    Differences are ‖a − b‖ / ‖b‖ over all features that an output has for a batch.
    """

    relative: float  # of ONNX Runtime from PyTorch, both in float32
    rounding: float  # of PyTorch in float32 from PyTorch in float64
    largest: float  # difference of a single number between ONNX Runtime and PyTorch
    inputs: list[list[int]]  # the shapes of the batches


class _Dense(nn.Module):
    """The features of some scales as a tuple, which has the order of the outputs."""

    def __init__(self, encoder: Encoder, scales: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.scales = encoder, scales

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        dense = self.encoder.dense(images, self.scales)
        return tuple(dense[scale] for scale in self.scales)


def write(path: Path, encoder: Encoder, scales: Sequence[str], images: Tensor) -> tuple[Agreement, bool]:
    """Write `encoder.dense` as an ONNX model with an output for each scale; how well it agrees, and whether it takes any size.

    It is compared with PyTorch on these images (B, 3, H, W), standardised, and on random ones. A backbone that cannot be
    exported for images of any size is exported for images of their size. Raises ExportError where the features differ.
    """
    try:
        return _write(path, encoder, scales, images, None), True
    except ExportError:
        if not encoder.padded:
            raise
    return _write(path, encoder, scales, images, (images.shape[2], images.shape[3])), False


def _write(path: Path, encoder: Encoder, scales: Sequence[str], images: Tensor, size: tuple[int, int] | None) -> Agreement:
    path.write_bytes(translate(encoder, scales, size).SerializeToString())
    return compare(path, encoder, scales, [images, *_random(encoder, size)])


def translate(encoder: Encoder, scales: Sequence[str], size: tuple[int, int] | None = None) -> Any:
    """The ONNX model (a ModelProto), for images of (height, width) or of any size. Raises ExportError."""
    if (weights := sum(values.nbytes for values in encoder.state_dict().values())) > LARGEST:
        raise ExportError(f"the encoder has {weights / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB")
    axes = {0: "batch"} | ({2: "height", 3: "width"} if size is None else {})
    try:
        with _silence(), torch.no_grad():
            program = torch.onnx.export(
                _Dense(encoder, scales),
                (torch.zeros(2, 3, *(size or _sides(encoder, 2, 4))),),
                dynamo=True,
                dynamic_shapes={INPUT: axes},
                input_names=[INPUT],
                output_names=list(scales),
                verbose=False,
            )
    except Exception as error:  # of whatever part of PyTorch
        reason = f"{error.__cause__ or error}".strip().partition("\n")[0]
        raise ExportError(f"PyTorch cannot export this encoder ({reason})") from None
    assert program is not None
    return _tidied(program.model_proto)


def _sides(encoder: Encoder, *more: int) -> tuple[int, ...]:
    """Sides of images that the encoder takes: the least, and so many units longer."""
    largest = max(scale.K for scale in encoder.scales.values())
    unit, least = (encoder.stride, CELLS) if encoder.padded else (UNIT, math.ceil(largest / UNIT))
    return tuple(unit * (least + count) for count in more)


def _tidied(model: Any) -> Any:
    """The model without paths of this machine (where in the source its nodes come from), its outputs' axes with short names."""
    for node in model.graph.node:
        node.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    for output in model.graph.output:
        output.ClearField("metadata_props")
        for axis, name in enumerate(("batch", "features", f"{output.name}_rows", f"{output.name}_columns")):
            dimension = output.type.tensor_type.shape.dim[axis]
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name
    return model


def _random(encoder: Encoder, size: tuple[int, int] | None) -> Iterator[Tensor]:
    """Random images (B, 3, H, W) of (height, width), or of sizes that the exporter has not seen."""
    generator = torch.Generator().manual_seed(0)
    (tall, narrow), (low, wide), odd = _sides(encoder, 5, 0), _sides(encoder, 1, 7), 0 if encoder.padded else 1
    sizes = [(tall + odd, narrow), (low, wide + odd)] if size is None else [size, size]
    for batch, sides in zip((1, 3), sizes, strict=True):
        yield torch.rand(batch, 3, *sides, generator=generator) - encoder.centred / 2


def compare(path: Path, encoder: Encoder, scales: Sequence[str], images: Iterable[Tensor]) -> Agreement:
    """Run a model and the encoder on batches of images (B, 3, H, W), standardised.

    Raises ExportError where they differ by more than TOLERANCE and by more than twice what PyTorch's own rounding makes.
    """
    session, exact = _session(path), copy.deepcopy(encoder).double()
    relative, rounding, largest, inputs = 0.0, 0.0, 0.0, []
    for batch in images:
        inputs.append(list(batch.shape))
        try:
            with torch.inference_mode():
                expected, true = encoder.dense(batch, scales), exact.dense(batch.double(), scales)
            found = session.run(list(scales), {INPUT: np.ascontiguousarray(batch)})
        except Exception as error:  # ONNX Runtime, and backbones that do not take a size, raise many kinds
            raise _failed(error) from None
        for scale, values in zip(scales, found, strict=True):
            ours = expected[scale].numpy()
            if values.shape != ours.shape:
                raise ExportError(f"ONNX Runtime gives features {values.shape} of {scale}, PyTorch {ours.shape}")
            difference, own = _relative(values, ours), _relative(ours, true[scale].numpy())
            if not difference <= max(TOLERANCE, 2 * own):
                off = f"{difference:.1e} of their size ({scale}, images of {'×'.join(map(str, batch.shape[2:]))} pixels)"
                raise ExportError(f"the features of ONNX Runtime and PyTorch differ by {off}, more than {TOLERANCE:g}")
            relative, rounding = max(relative, difference), max(rounding, own)
            largest = max(largest, float(np.abs(values - ours).max()))
    return Agreement(relative, rounding, largest, inputs)


def _relative(values: NDArray[Any], reference: NDArray[Any]) -> float:
    """‖values − reference‖ / ‖reference‖; 0 where both are zero."""
    off, size = (float(np.linalg.norm(each.astype(np.float64).ravel())) for each in (values - reference, reference))
    return off / max(size, float(np.finfo(np.float32).tiny))


def check_installed() -> None:
    """Raise InputError where a library that exporting needs is missing."""
    for name in ("onnxscript", "onnxruntime"):
        try:
            import_module(name)
        except ImportError as error:
            problem = f"exporting needs {name}, which cannot be imported ({f'{error}'.partition(chr(10))[0]})"
            raise InputError(problem, advice="install it: pip install 'patchcli[export]'") from None


def _session(path: Path) -> Any:
    """ONNX Runtime with a model, on the CPU. Raises ExportError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what it writes on standard error, errors too, which are raised
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _failed(error) from None


def _failed(error: Exception) -> ExportError:
    reason = f"{error}".strip().partition("\n")[0]
    return ExportError(f"ONNX Runtime cannot run the exported encoder ({reason})")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What PyTorch's exporter says on its way: warnings and log lines that mean nothing to a user."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
