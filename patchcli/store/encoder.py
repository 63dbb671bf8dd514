"""The encoder's weights, and what training needs to continue."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from patchcli.store.parts import Array, Part

if TYPE_CHECKING:
    import torch

    from patchcli.features.encoder import Encoder

# Attributes that stores of earlier versions do not have, or that there is not always a value for.
OPTIONAL = {"options", "file", "repair", "kept_exponents", "exponents", "setbacks", "by_colour"}


@dataclass(frozen=True)
class EncoderAttributes:
    """The provenance of an encoder. Imported weights have nothing after `file`."""

    architecture: str  # a name of features.registry.ENCODERS
    D: int
    source: str  # trained, untrained, fitted (nothing to train) or imported
    sha256: str = ""  # of the weights; the store fills it in
    options: dict[str, Any] = field(default_factory=dict)  # that its class takes beside D: a pretrained backbone and its layers
    file: str | None = None  # that the weights were imported from
    steps: int | None = None
    chosen: int | None = None  # the step of the weights
    kept: int | None = None  # the step of the best candidate so far
    kept_exponents: dict[str, float] = field(default_factory=dict)
    exponents: dict[str, float] = field(default_factory=dict)  # of the maps in their product; empty: the product of all
    setbacks: int = 0  # how often training went back to an earlier point
    criterion: float | None = None
    judged: bool = True  # whether the criterion had images to judge with
    recipe: dict[str, Any] | None = None
    processes: int | None = None
    seconds: float | None = None
    losses: list[str] = field(default_factory=list)  # the columns of the loss history
    alignment: float | None = None
    by_colour: bool = False  # whether the mean colour is taken from images, not their per-pixel mean
    separation: bool = False
    strides: dict[str, int] = field(default_factory=dict)  # of the bank, where it is not the encoder's S
    checkpoint_sha256: str | None = None
    trouble: str | None = None  # why the encoder should not be embedded
    repair: str | None = None  # and the verb to call instead

    @property
    def note(self) -> str | None:
        """What a user should know of an encoder that nobody has judged."""
        told = self.judged or self.source in ("untrained", "fitted")
        return None if told else "never judged: too few good images for a criterion"


class StoredEncoder:
    """The encoder of a store."""

    def __init__(self, part: Part) -> None:
        self._part = part

    @cached_property
    def attributes(self) -> EncoderAttributes:
        """Its provenance. Raises DamagedError if that is incomplete."""
        attributes = self._part.read_attributes(EncoderAttributes)
        everything = {field.name for field in fields(EncoderAttributes)} - OPTIONAL
        required = {"sha256"} if attributes.source == "imported" else everything
        if missing := sorted(required - self._part.attributes.keys()):
            raise self._part.damaged(f"attributes.{missing[0]} is missing")
        return attributes

    @property
    def maps(self) -> set[str]:
        """The maps in use, each of one scale."""
        if self.attributes.exponents:
            return set(self.attributes.exponents)
        from patchcli.features.registry import ENCODERS

        return set(ENCODERS[self.attributes.architecture].scales)

    def weights(self) -> dict[str, Array]:
        """The weights by name. Raises DamagedError if they are not those that were written, or not finite."""
        weights = self._part.read_all()
        if not all(np.isfinite(values).all() for values in weights.values()):
            raise self._part.damaged("weights hold NaN or infinity")
        if digest_of(weights) != self.attributes.sha256:
            raise self._part.damaged("weights differ from their sha256")
        return weights

    def restore(self, device: "torch.device") -> "Encoder":
        """The encoder itself, ready to embed."""
        from patchcli.features.registry import restore

        attributes = self.attributes
        return restore(attributes.architecture, attributes.D, attributes.options, self.weights(), device)

    def training_state(self) -> dict[str, Array]:
        """What training needs to continue; empty for imported weights."""
        return self._part.read_all("training")


def write(part: Part, weights: Mapping[str, Array], attributes: EncoderAttributes, state: Mapping[str, Array]) -> str:
    """Write an encoder into an empty part: one array per weight, and the state of training; the digest of its metadata."""
    part.write(weights)
    part.write(state, "training")
    return part.seal(asdict(attributes))


def digest_of(weights: Mapping[str, Array]) -> str:
    """sha256 over names, shapes and little-endian float32 bytes of the weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = np.ascontiguousarray(weights[name], dtype="<f4")
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
