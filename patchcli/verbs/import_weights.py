"""Weights that others have trained → the store's encoder: Patch SVDD's, or those of a backbone of timm."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from patchcli import files
from patchcli.errors import InputError, StoreError
from patchcli.features import dense, pretrained
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.features.pretrained import PretrainedEncoder
from patchcli.observer import Observer
from patchcli.store import EncoderAttributes, Store
from patchcli.store.parts import Array
from patchcli.training import checkpoint
from patchcli.training.criterion import best_maps
from patchcli.verbs import state_dicts

MAP = "pretrained"  # the backbone's map


def import_weights(
    weights: Path | str | None = None,
    store: Path | str = "patchcli.zarr",
    overwrite: bool = False,
    observer: Observer | None = None,
    *,
    backbone: str | None = None,
    layers: Sequence[int] | None = None,
) -> str:
    """Take weights from a file as the encoder; its sha256.

    Without `backbone`, the file is the authors' state dict of the hierarchical encoder. With one, a model of timm such as
    "wide_resnet50_2" or "vit_small_patch14_dinov2", it is a state dict of that (safetensors or PyTorch); without a file, timm
    fetches the weights. `layers` are stages or blocks of the backbone, counted from 0 as timm does; by default those of stride
    8 and 16, or a transformer's last. No code of a file is run; names, shapes and numbers are checked. Raises InputError.
    """
    observer, path = observer or Observer(), None if weights is None else Path(weights)
    if backbone is None and (path is None or layers is not None):
        wrong = "expected `backbone` too" if path else "expected a file of weights, or `backbone`"
        raise InputError(wrong, parameter="layers" if path else "weights")
    encoder = None if backbone is None else PretrainedEncoder(backbone=backbone, layers=layers or ())
    if path is not None and (why := files.trouble(path)):
        raise InputError(f"{path}: {why}; expected weights such as the published <class>.pkl, or of a backbone")
    with Store.writing(store, observer) as opened:
        if not overwrite and opened.holds("encoder"):
            advice = "replace it with `overwrite`, or name another with `store`"
            raise StoreError("holds an encoder already", subject=store, advice=advice)
        file = None if path is None else path.name
        if encoder is None:
            assert path is not None
            opened.check_mean()
            arrays, D = _hierarchical(path)
            attributes = EncoderAttributes("hierarchical", D, "imported", file=file)
        else:
            assert backbone is not None
            height, width = opened.images.shape[1:3]
            dense.grids(encoder, height, width, {})
            encoder.eval().check(height, width)
            arrays = _pretrained(path, backbone, encoder, observer)
            options, chosen = {"backbone": backbone, "layers": encoder.layers}, ", ".join(map(str, encoder.layers))
            attributes = EncoderAttributes("pretrained", encoder.D, "imported", options=options, file=file)
            features = f"{encoder.D} features every {encoder.stride} pixels of {height}x{width}"
            observer.note(f"{backbone}, layers {chosen}: {features}")
            if max(height, width) != encoder.side:
                observer.detail(f"the backbone was trained with images of {encoder.side}x{encoder.side} pixels")
        observer.plan(str(path or backbone), f"the encoder of {store}", sum(values.nbytes for values in arrays.values()))
        if encoder is not None:
            attributes = replace(attributes, exponents=_maps(opened, encoder, observer))
            arrays |= {f"fixed.{name}": values.numpy() for name, values in encoder.fixed.state_dict().items()}
        return opened.write_encoder(arrays, attributes, {})


def _maps(store: Store, encoder: PretrainedEncoder, observer: Observer) -> dict[str, float]:
    """The exponents of the maps to use beside a backbone's."""
    if len(store.images) == 1:
        return {MAP: 1.0}
    exponents = best_maps(encoder, checkpoint.good_images(store), torch.device("cpu"))
    if len(exponents) > 1:
        observer.note("synthetic defects in the good images chose the product of the backbone's map and the fixed features'")
    return exponents


def _hierarchical(path: Path) -> tuple[dict[str, Array], int]:
    """The published weights of Patch SVDD, and D."""
    expected = f"{path}: expected a state dict of Patch SVDD's hierarchical encoder"
    state = state_dicts.read(path, expected)
    bias = state.get("conv2.bias")
    D = bias.shape[0] if bias is not None and bias.ndim and len(bias) else 64
    wanted = {name: tuple(values.shape) for name, values in HierarchicalEncoder(D).state_dict().items()}
    state_dicts.check_names(state, wanted, expected)
    return state_dicts.arrays(state, wanted, expected), D


def _pretrained(path: Path | None, backbone: str, encoder: PretrainedEncoder, observer: Observer) -> dict[str, Array]:
    """The weights of the encoder's layers, from a file or from timm; those of later layers and of the head stay behind."""
    expected = f"{path or 'weights'}: expected a state dict of {backbone}"
    state = pretrained.fetched(backbone) if path is None else state_dicts.read(path, expected)
    if state.keys() != encoder.whole.keys() and (converted := encoder.converted(state)):
        observer.note(f"{path} has other names than timm's {backbone}; timm converts them")
        state = converted
    elif not state.keys() & encoder.whole.keys() and (renamed := state_dicts.by_order(state, encoder.whole)):
        observer.note(f"{path} has other names than timm's {backbone}; its shapes fit in their order, and so it was taken")
        state = renamed
    state_dicts.check_names(state, encoder.whole, expected)
    mine = {name: values for name, values in encoder.state_dict().items() if not name.endswith(state_dicts.COUNTER)}
    own = {name: values.numpy() for name, values in mine.items() if name in ("mean", "std")}
    names = [name.removeprefix("backbone.") for name in mine if name.startswith("backbone.")]
    loaded = state_dicts.arrays(state, {name: encoder.whole[name] for name in names}, expected)
    arrays = own | {f"backbone.{name}": values for name, values in loaded.items()}
    encoder.load_state_dict({name: torch.from_numpy(values) for name, values in arrays.items()}, strict=False)
    return arrays
