"""The recipe: everything that determines the weights after a given number of steps."""

import math
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

import torch

from patchcli import runtime
from patchcli.errors import InputError
from patchcli.features import TRAINED
from patchcli.features.registry import ENCODERS
from patchcli.store.attributes import plain

SAMPLERS = ("dense", "patch")
OBJECTIVES = ("paper", "contrast")

# Where the recipes differ: λ, the steps over which it rises from 0, images (dense) or pairs (patch) per step, number format.
CONTRAST = {"lam": 0.0, "warmup": 0, "batch": 4, "precision": "auto"}
PAPER = {"lam": 0.5, "warmup": 100, "batch": 4, "precision": "float32"}
PUBLISHED = {"lam": 0.5, "warmup": 0, "batch": 64, "precision": "float32"}

_DEPENDS: Any = None  # a field that is not given: its value depends on encoder, sampler and objective


class RecipeOptions(TypedDict, total=False):
    """The fields of a Recipe that any recipe may change."""

    encoder: str
    D: int
    lam: float
    warmup: int
    lr: float
    batch: int
    seed: int
    precision: str


class RecipeFields(RecipeOptions, total=False):
    """All fields of a Recipe, each of which may be left out."""

    sampler: str
    objective: str


@dataclass(frozen=True)
class Recipe:
    """What determines the weights after a given number of steps; the store keeps it with them.

    The default objective, "contrast", replaces SVDD' with a contrastive loss, and adds the separation loss if the images are
    not aligned; "paper" has the losses of the paper alone, and by default its encoder. The sampler "dense" draws many patches
    from a part of each image, "patch" two pairs per scale, as the authors' code does. λ may rise from 0 over the first
    `warmup` steps: at its full weight from the start, SVDD' shrinks the features of a texture to a point before the position
    task has learned anything.

    Raises InputError for a value out of range, or values that contradict each other.
    """

    encoder: str = _DEPENDS  # "hybrid", or "hierarchical" with the losses of the paper
    sampler: str = "dense"
    objective: str = _DEPENDS  # "contrast", or "paper" with the sampler "patch"
    D: int = 64
    lam: float = _DEPENDS  # λ, the weight of SVDD'
    warmup: int = _DEPENDS
    lr: float = _DEPENDS  # Adam's learning rate: the encoder's own
    batch: int = _DEPENDS
    seed: int = 0
    precision: str = _DEPENDS  # of the forward pass; "auto": bfloat16 where the CPU has it

    @classmethod
    def paper(cls, **changes: Unpack[RecipeOptions]) -> "Recipe":
        """The losses of the paper, with the dense sampler."""
        return cls(objective="paper", **changes)

    @classmethod
    def published(cls, **changes: Unpack[RecipeOptions]) -> "Recipe":
        """As the authors' code trains: pairs of patches, and λ constant."""
        return cls(sampler="patch", objective="paper", **changes)

    def __post_init__(self) -> None:
        plain(self)
        self._check_choices()
        if self.objective is None:
            object.__setattr__(self, "objective", "paper" if self.sampler == "patch" else "contrast")
        if self.encoder is None:
            object.__setattr__(self, "encoder", "hierarchical" if self.objective == "paper" else "hybrid")
        if self.objective == "paper" and ENCODERS[self.encoder].unlearned:
            problem, advice = "the losses of the paper train encoders without fixed features", "expected hierarchical or flat"
            raise InputError(problem, parameter="encoder", subject=self.encoder, advice=advice)
        usual = PUBLISHED if self.sampler == "patch" else PAPER if self.objective == "paper" else CONTRAST
        for name, value in {**usual, "lr": ENCODERS[self.encoder].learning_rate}.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._check_numbers()

    def _check_choices(self) -> None:
        closed = (
            ("encoder", tuple(TRAINED)),
            ("sampler", SAMPLERS),
            ("objective", OBJECTIVES),
            ("precision", runtime.PRECISIONS),
        )
        for name, choices in closed:
            value = getattr(self, name)
            if value not in choices and not (name != "sampler" and value is None):
                raise InputError(repr(value), parameter=name, expected=" or ".join(choices))
        if self.sampler == "patch" and self.objective == "contrast":
            problem, advice = "its pairs have nothing to contrast with", 'expected `objective="paper"`'
            raise InputError(problem, parameter="sampler", subject="patch", advice=advice)

    def _check_numbers(self) -> None:
        for name, least in (("D", 1), ("batch", 1), ("seed", 0), ("warmup", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{getattr(self, name)}", parameter=name, expected=f"{least} or more")
        if self.seed >= 1 << 63:
            raise InputError(f"{self.seed}", parameter="seed", expected="less than 2^63")
        for name in ("lam", "lr"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{getattr(self, name)}", parameter=name, expected="a number of 0 or more")
        if self.objective == "contrast" and (self.lam or self.warmup):
            parameter, advice = "lam" if self.lam else "warmup", 'expected `objective="paper"` too'
            raise InputError("the contrast has no SVDD' to weigh", parameter=parameter, advice=advice)

    def on(self, device: torch.device) -> "Recipe":
        """The recipe with what "auto" is on this device. Raises InputError where the device lacks the precision."""
        return replace(self, precision=runtime.precision(self.precision, device))
