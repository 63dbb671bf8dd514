"""Recipes: what is refused, and what a field that is left out becomes."""

import math
from typing import Any

import pytest
import torch
from learning import CPU

from patchcli import runtime
from patchcli.errors import InputError
from patchcli.features import TRAINED
from patchcli.features.registry import ENCODERS
from patchcli.training.recipe import Recipe


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"encoder": "deep"}, "`encoder`: expected hybrid or hierarchical or flat or fixed, found 'deep'"),
        ({"objective": "svdd"}, "`objective`: expected paper or contrast, found 'svdd'"),
        (
            {"sampler": "patch", "objective": "contrast"},
            '`sampler` patch: its pairs have nothing to contrast with; expected `objective="paper"`',
        ),
        ({"sampler": "all"}, "`sampler`: expected dense or patch, found 'all'"),
        ({"precision": "float16"}, "`precision`: expected auto or float32 or bfloat16, found 'float16'"),
        ({"D": 0}, "`D`: expected 1 or more, found 0"),
        ({"batch": 0}, "`batch`: expected 1 or more, found 0"),
        ({"seed": -1}, "`seed`: expected 0 or more, found -1"),
        ({"lam": 0.5}, '`lam`: the contrast has no SVDD\' to weigh; expected `objective="paper"` too'),
        ({"warmup": 5}, '`warmup`: the contrast has no SVDD\' to weigh; expected `objective="paper"` too'),
        ({"lam": -0.5}, "`lam`: expected a number of 0 or more, found -0.5"),
        ({"lr": math.nan}, "`lr`: expected a number of 0 or more, found nan"),
        ({"lr": math.inf}, "`lr`: expected a number of 0 or more, found inf"),
    ],
)
def test_a_recipe_refuses(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        Recipe(**wrong)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("recipe", "values"),
    [
        (Recipe(), ("dense", "contrast", 0, 0, 4)),
        (Recipe(objective="paper"), ("dense", "paper", 0.5, 100, 4)),
        (Recipe.paper(), ("dense", "paper", 0.5, 100, 4)),
        (Recipe(sampler="patch"), ("patch", "paper", 0.5, 0, 64)),
        (Recipe.published(), ("patch", "paper", 0.5, 0, 64)),
        (Recipe(objective="paper", lam=0), ("dense", "paper", 0, 100, 4)),
        (Recipe.paper(lam=0.1, warmup=0, batch=2), ("dense", "paper", 0.1, 0, 2)),
        (Recipe.published(lam=1e-3, batch=8), ("patch", "paper", 1e-3, 0, 8)),
    ],
)
def test_what_is_left_out_follows_from_the_objective_and_the_sampler(recipe: Recipe, values: tuple[Any, ...]) -> None:
    assert (recipe.sampler, recipe.objective, recipe.lam, recipe.warmup, recipe.batch) == values


@pytest.mark.parametrize("make", [Recipe, Recipe.paper, Recipe.published])
def test_the_learning_rate_is_the_encoders_own(make: Any) -> None:
    for name, encoder in ((name, ENCODERS[name]) for name in TRAINED):
        if make is Recipe or name in ("hierarchical", "flat"):
            assert make(encoder=name).lr == encoder.learning_rate
    assert make(encoder="flat", lr=0.1).lr == 0.1


def test_bfloat16_is_refused_where_it_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: False)
    with pytest.raises(InputError, match="`precision` bfloat16: this CPU has no bfloat16 instructions"):
        Recipe(precision="bfloat16").on(CPU)


@pytest.mark.parametrize(
    ("has", "device", "precision"), [(True, "cpu", "bfloat16"), (False, "cpu", "float32"), (True, "cuda", "float32")]
)
def test_the_precision_is_what_the_cpu_has(monkeypatch: pytest.MonkeyPatch, has: bool, device: str, precision: str) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: has)
    assert Recipe(seed=3).on(torch.device(device)) == Recipe(seed=3, precision=precision)
    assert Recipe.paper().on(torch.device(device)) == Recipe.paper(precision="float32")


@pytest.mark.parametrize("encoder", ["hybrid", "fixed"])
@pytest.mark.parametrize("make", [Recipe.paper, Recipe.published])
def test_the_papers_losses_are_for_the_papers_encoders(make: Any, encoder: str) -> None:
    """They choose no maps; the fixed features would be used alone after a whole training."""
    with pytest.raises(InputError, match=f"`encoder` {encoder}: the losses of the paper .*; expected hierarchical or flat"):
        make(encoder=encoder)
