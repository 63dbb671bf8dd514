"""The command line repeats names and defaults of the library, which takes long to import; none may drift."""

import inspect
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest
import typer
from commands import leaves

import patchcli
from patchcli import runtime
from patchcli.bank import search
from patchcli.cli import extract, options, score, shell, train, usage
from patchcli.datasets.layouts import LAYOUTS
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.features.registry import ENCODERS
from patchcli.training import trainer
from patchcli.training.trainer import Recipe
from patchcli.verbs import extract as extract_verb
from patchcli.verbs import score as score_verb
from patchcli.verbs import train as train_verb

LEAVES = leaves()
FUNCTIONS = {words: getattr(patchcli, function) for function, words in shell.COMMANDS.items()}


def test_choices_are_those_of_the_library() -> None:
    assert get_args(options.LayoutName) == tuple(LAYOUTS)
    assert get_args(options.DeviceName) == runtime.DEVICES
    assert set(get_args(options.SearchName)) == {"auto", *search.METHODS}
    assert get_args(train.EncoderName) == tuple(ENCODERS)
    assert set(get_args(train.SamplerName)) == set(trainer.SAMPLERS)
    assert set(get_args(train.ObjectiveName)) == set(trainer.OBJECTIVES)
    assert set(get_args(train.PrecisionName)) == set(trainer.PRECISIONS)
    assert get_args(extract.ScaleName) == tuple(HierarchicalEncoder.scales)
    assert get_args(score.SubmissionName) == (score_verb.MVTEC2,)


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


# Verbs that hand arguments on, or have a store without a default, and others with those arguments.
LIKE = {
    patchcli.watch: patchcli.score, patchcli.write_report: patchcli.score,
    patchcli.bank_remove: patchcli.audit, patchcli.bank_add: patchcli.audit,
}  # fmt: skip


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a verb's arguments."""
    parameters = inspect.signature(function).parameters.values()
    own = {parameter.name: parameter.default for parameter in parameters if parameter.default is not inspect.Parameter.empty}
    return (defaults(LIKE[function]) if function in LIKE else {}) | own


@pytest.mark.parametrize("words", LEAVES)
def test_defaults_are_those_of_the_library(words: str) -> None:
    known = defaults(FUNCTIONS[words])
    if words == "extract":
        known |= defaults(extract_verb.cut_patches)
    for parameter in LEAVES[words].params:
        if parameter.default in (None, False):
            assert not known.get(parameter.name), f"{parameter.name}: the library's is {known[parameter.name]}"
        else:
            assert str(parameter.default) == str(known[parameter.name]), parameter.name


# Defaults that help texts give in words: (flag, words) → whether the library does so.
PROSE: dict[tuple[str, str], Callable[[], bool]] = {
    ("--size", "256"): lambda: extract_verb.SIDE == 256,
    ("--steps", "1000"): lambda: train_verb.STEPS == 1000,
    ("--encoder", "hierarchical"): lambda: Recipe().encoder == "hierarchical",
    ("--sampler", "dense"): lambda: Recipe().sampler == "dense",
    ("--objective", "contrast; with --sampler patch: paper"): lambda: (
        Recipe().objective == "contrast" and train_verb._PATCH["objective"] == "paper"
    ),
    ("--lambda", "0; with --objective paper: 0.5"): lambda: Recipe().lam == 0 and train_verb._PAPER["lam"] == 0.5,
    ("--warmup", "0; with --objective paper: 100; with --sampler patch: 0"): lambda: (
        Recipe().warmup == 0 and train_verb._PAPER["warmup"] == 100 and "warmup" not in train_verb._PATCH
    ),
    ("--dim", "64"): lambda: Recipe().D == 64,
    ("--lr", "0.001; with --encoder flat: 0.0003"): lambda: Recipe().lr == 0.001 and train_verb._FLAT["lr"] == 0.0003,
    ("--batch", "4; with --sampler patch: 64"): lambda: Recipe().batch == 4 and train_verb._PATCH["batch"] == 64,
    ("--precision", "float32"): lambda: Recipe().precision == "float32",
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
