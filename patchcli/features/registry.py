"""The encoders, by the name that recipes and stores give them."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from numpy.typing import NDArray

from patchcli.errors import InputError
from patchcli.features import CLASSES
from patchcli.features.encoder import Encoder

ENCODERS: dict[str, type[Encoder]] = {
    name: getattr(import_module(f"patchcli.features.{name}"), encoder) for name, encoder in CLASSES.items()
}


def build(architecture: str, D: int, **options: Any) -> Encoder:
    """An encoder, freshly initialised from torch's default generator; `options` are what its class takes beside D."""
    return ENCODERS[architecture](D, **options)


def restore(
    architecture: str, D: int, options: Mapping[str, Any], weights: Mapping[str, NDArray[Any]], device: torch.device
) -> Encoder:
    """An encoder with these weights, ready to embed. Raises InputError where it needs a library that is not installed."""
    with torch.random.fork_rng(devices=[]):  # its first weights are random
        encoder = build(architecture, D, **options)
    try:
        encoder.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    except RuntimeError as error:  # a library has changed since the store was made
        what = ", ".join(map(str, (architecture, *options.values())))
        problem = f"the weights of the store do not fit {what} ({error})".partition("\n")[0]
        raise InputError(problem, advice="install the versions that made the store, or make the encoder anew") from None
    return encoder.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def largest_patch() -> int:
    """The side of the largest patch of any encoder, in pixels: images have at least this size."""
    return max(scale.K for encoder in ENCODERS.values() for scale in encoder.scales.values())
