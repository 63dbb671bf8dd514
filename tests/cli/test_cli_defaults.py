"""The command line repeats names and defaults of the library, which takes long to import; none may drift."""

import inspect
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest
import typer
from commands import leaves

import patchcli
from patchcli import cluster, runtime
from patchcli.bank import search
from patchcli.cli import extract, options, score, shell, train, usage
from patchcli.datasets import sizes
from patchcli.datasets.layouts import LAYOUTS
from patchcli.features import TRAINED, pretrained
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.training import loop
from patchcli.training import recipe as recipes
from patchcli.training.recipe import Recipe
from patchcli.verbs import outputs

LEAVES = leaves()
FUNCTIONS = {words: getattr(patchcli, function) for function, words in shell.COMMANDS.items()}


def test_choices_are_those_of_the_library() -> None:
    assert get_args(options.LayoutName) == tuple(LAYOUTS)
    assert get_args(options.DeviceName) == runtime.DEVICES
    assert get_args(options.SpreadName) == cluster.SPREAD
    assert set(get_args(options.SearchName)) == {"auto", *search.METHODS}
    assert get_args(train.EncoderName) == tuple(TRAINED)
    assert set(get_args(train.SamplerName)) == set(recipes.SAMPLERS)
    assert set(get_args(train.ObjectiveName)) == set(recipes.OBJECTIVES)
    assert set(get_args(options.PrecisionName)) == set(runtime.PRECISIONS)
    assert get_args(extract.ScaleName) == tuple(HierarchicalEncoder.scales)
    assert get_args(score.SubmissionName) == (outputs.MVTEC2,)


def test_every_closed_choice_is_completed() -> None:
    """What the help texts list as alternatives is a type, and the shell completes it."""
    for words, command in LEAVES.items():
        context = typer.Context(command)
        for parameter in command.params:
            choices = usage.choices(parameter)
            assert [item.value for item in parameter.shell_complete(context, "")] == list(choices)
            assert choices or parameter.metavar is None or "|" not in parameter.metavar, f"{words} {parameter.name}"


def test_the_table_of_the_shell_is_that_of_the_commands() -> None:
    assert FUNCTIONS.keys() == LEAVES.keys()
    only_here = {"form", "quiet", "verbose", "dry_run", "null", "exit_code"}
    for words, command in LEAVES.items():
        for parameter in command.params:
            if parameter.name in only_here:
                continue
            flag = parameter.metavar if parameter.param_type_name == "argument" else max(parameter.opts, key=len)
            assert shell.FLAGS[parameter.name] == flag, f"{words} {parameter.name}"
    flags = {flag for command in LEAVES.values() for parameter in command.params for flag in parameter.opts}
    assert {flag for flag in shell.FLAGS.values() if flag.startswith("-")} <= flags


BUNDLES = {
    "options": patchcli.ImageOptions, "images": patchcli.ImageOptions, "setup": patchcli.Setup,
    "regions": patchcli.RegionOptions, "outputs": patchcli.Outputs, "cluster": patchcli.Cluster,
}  # fmt: skip


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a verb's arguments, and of the fields of its options."""
    known: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in BUNDLES:
            known |= defaults(BUNDLES[name])
        elif parameter.default is not inspect.Parameter.empty:
            known["store" if name == "detector" else name] = parameter.default
    return known


@pytest.mark.parametrize("words", LEAVES)
def test_defaults_are_those_of_the_library(words: str) -> None:
    known = defaults(FUNCTIONS[words])
    if words == "extract":
        known |= defaults(patchcli.cut_patches)
    for parameter in LEAVES[words].params:
        if parameter.default is None or parameter.default is False:
            assert not known.get(parameter.name), f"{parameter.name}: the library's is {known[parameter.name]}"
        elif parameter.name != "store" or "store" in known:  # bank_remove and bank_add need it named
            assert str(parameter.default) == str(known[parameter.name]), parameter.name


PAPER, PATCH, FLAT = Recipe.paper(), Recipe(sampler="patch"), Recipe(encoder="flat")
# Defaults that help texts give in words: (flag, words) → whether the library does so.
PROSE: dict[tuple[str, str], Callable[[], bool]] = {
    (
        "--size",
        "the images' aspect ratio, and a shorter side of 256, or theirs if that is smaller, down to 128; "
        "with --objective paper: 256",
    ): lambda: (sizes.SIDE, sizes.LEAST) == (256, 128),
    ("--steps", "1000"): lambda: loop.STEPS == 1000,
    ("--encoder", "hybrid; with --objective paper: hierarchical"): lambda: (
        (Recipe().encoder, PAPER.encoder, PATCH.encoder) == ("hybrid", "hierarchical", "hierarchical")
    ),
    ("--sampler", "dense"): lambda: Recipe().sampler == "dense",
    ("--objective", "contrast; with --sampler patch: paper"): lambda: (
        (Recipe().objective, PATCH.objective) == ("contrast", "paper")
    ),
    ("--lambda", "0; with --objective paper: 0.5"): lambda: (Recipe().lam, PAPER.lam, PATCH.lam) == (0, 0.5, 0.5),
    ("--warmup", "0; with --objective paper: 100; with --sampler patch: 0"): lambda: (
        (Recipe().warmup, PAPER.warmup, PATCH.warmup) == (0, 100, 0)
    ),
    ("--dim", "64"): lambda: Recipe().D == 64,
    ("--lr", "0.001; with --encoder flat: 0.0003"): lambda: (Recipe().lr, FLAT.lr) == (0.001, 0.0003),
    ("--layers", "the stages of stride 8 and 16; of a transformer the last block"): lambda: (
        (pretrained.usual([2, 4, 8, 16, 32]), pretrained.usual([16] * 12)) == ([2, 3], [11])
    ),
    ("--workers", "in this one"): lambda: inspect.signature(patchcli.embed).parameters["cluster"].default is None,
    ("--batch", "4; with --sampler patch: 64"): lambda: (Recipe().batch, PAPER.batch, PATCH.batch) == (4, 4, 64),
    ("--precision", "auto; with --objective paper: float32"): lambda: (
        (Recipe().precision, PAPER.precision) == ("auto", "float32")
    ),
    ("--seed", "0"): lambda: Recipe().seed == 0,
    ("--memory", "half of the free memory"): lambda: runtime.memory(None) == pytest.approx(runtime.free_memory() / 2, rel=0.1),
}
# Tested where the behaviour is: what a pipe gets, the first layout that fits, and so on.
ELSEWHERE = {"--format", "--threads", "--layout", "--bits", "--mask-threshold", "--image", "--from", "--false-alarms", "--log"}


def in_words() -> set[tuple[str, str]]:
    """Flags and the defaults that their help texts give in words."""
    found = set()
    for command in LEAVES.values():
        for parameter in command.params:
            words = re.findall(r"\[default: (.*?)\]", parameter.help)
            assert not words or parameter.default is None, f"{parameter.name}: two defaults"
            if parameter.param_type_name == "option":
                found |= {(max(parameter.opts, key=len), each) for each in words}
    return {(flag, words) for flag, words in found if flag not in ELSEWHERE}


def test_defaults_in_words_are_those_of_the_library() -> None:
    assert in_words() == PROSE.keys()
    assert [default for default, holds in PROSE.items() if not holds()] == []
