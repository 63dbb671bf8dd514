"""The published weights of Patch SVDD → the store's encoder."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import torch

from patchcli import files
from patchcli.errors import InputError, StoreError
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.observer import Observer
from patchcli.store import EncoderAttributes, Store


def import_weights(
    weights: Path | str, store: Path | str = "patchcli.zarr", overwrite: bool = False, observer: Observer | None = None
) -> str:
    """Take the hierarchical encoder of a PyTorch state dict (the authors' pickle); its sha256.

    Read with weights_only, so that a pickle that would run code is refused; names, shapes and numbers are checked.
    """
    path = Path(weights)
    expected = f"{path}: expected a state dict of Patch SVDD's hierarchical encoder"
    if why := files.trouble(path):
        raise InputError(f"{path}: {why}; expected weights such as the published <class>.pkl")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of other pickle protocols
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for files that are no checkpoint
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise InputError(f"{expected}, found a pickle that holds more than tensors; it was not executed") from None
        raise InputError(f"{expected}, found a file that is no checkpoint of torch") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{expected}, found {type(state).__name__} of other things than tensors")
    bias = state.get("conv2.bias")
    D = bias.shape[0] if bias is not None and bias.ndim and len(bias) else 64
    wanted = {name: tuple(values.shape) for name, values in HierarchicalEncoder(D).state_dict().items()}
    for name in sorted(wanted.keys() ^ state.keys(), key=str):
        raise InputError(f"{expected}; {name} is {'missing' if name in wanted else 'none of its names'}")
    for name, shape in wanted.items():
        actual = tuple(state[name].shape)
        if actual != shape:
            raise InputError(f"{expected}; {name} has the shape {actual}, not {shape}")
    arrays = {name: values.to(torch.float32).numpy() for name, values in state.items()}
    if not all(np.isfinite(values).all() for values in arrays.values()):
        raise InputError(f"{expected} of finite numbers, found NaN or infinity")
    observer = observer or Observer()
    with Store.writing(store, observer) as opened:
        if not overwrite and opened.holds("encoder"):
            advice = "replace it with `overwrite`, or name another with `store`"
            raise StoreError("holds an encoder already", subject=store, advice=advice)
        observer.plan(str(path), f"the encoder of {store}", sum(values.nbytes for values in arrays.values()))
        attributes = EncoderAttributes("hierarchical", D, "imported", file=path.name)
        return opened.write_encoder(arrays, attributes, {})
