"""Files of weights → arrays by name; nothing in them is executed."""

import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchcli.errors import InputError
from patchcli.store.parts import Array

Shapes = Mapping[str, tuple[int, ...]]
WRAPPERS = ("model", "state_dict")  # under which training scripts save a state dict, beside other things
COUNTER = "num_batches_tracked"  # of a batch norm in training, which not every file has


def read(path: Path, expected: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a PyTorch state dict, read with weights_only. Raises InputError."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: dict[str, Tensor] = load_file(path)
            return loaded
        with warnings.catch_warnings(action="ignore"):  # torch warns of other pickle protocols
            state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        advice = "install it: pip install 'patchcli[pretrained]'"
        raise InputError(f"{path}: safetensors is not installed", advice=advice) from None
    except Exception as error:  # torch.load raises many kinds for files that are no checkpoint
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise InputError(f"{expected}, found a pickle that holds more than tensors; it was not executed") from None
        kind = "safetensors" if path.suffix == ".safetensors" else "torch"
        raise InputError(f"{expected}, found a file that is no checkpoint of {kind}") from None
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(inner := state.get(wrapper), dict):
            state = inner
    if not isinstance(state, dict):
        raise InputError(f"{expected}, found {type(state).__name__}")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{expected}, found a dict whose values are not all tensors")
    return state


def arrays(state: Mapping[str, Tensor], wanted: Shapes, expected: str) -> dict[str, Array]:
    """The tensors that are wanted, as float32. Raises InputError unless they have these shapes and are finite."""
    for name, shape in wanted.items():
        if name not in state:
            raise InputError(f"{expected}; {name} is missing")
        if (actual := tuple(state[name].shape)) != shape:
            raise InputError(f"{expected}; {name} has the shape {actual}, not {shape}")
    found = {name: state[name].to(torch.float32).numpy() for name in wanted}
    if not all(np.isfinite(values).all() for values in found.values()):
        raise InputError(f"{expected} of finite numbers, found NaN or infinity")
    return found


def check_names(state: Iterable[str], known: Iterable[str], expected: str) -> None:
    """Raise InputError where the file has names that what it should hold has not."""
    for name in sorted(set(state) - set(known), key=str):
        raise InputError(f"{expected}, found the unknown name {name}")


def by_order(state: Mapping[str, Tensor], whole: Shapes) -> dict[str, Tensor] | None:
    """The tensors under the names of `whole`, if all shapes and kinds (weight, bias, running_mean, …) agree in order."""
    described = [(str(name).rpartition(".")[2], tuple(values.shape)) for name, values in state.items()]
    if described != [(name.rpartition(".")[2], shape) for name, shape in whole.items()]:
        return None
    return dict(zip(whole, state.values(), strict=True))
