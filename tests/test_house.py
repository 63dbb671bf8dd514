"""The house as a stranger finds it: public names, the trace of the paper's steps, lengths, and the language of messages."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import patchcli

ROOT = Path(patchcli.__file__).parent
SOURCES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
FUNCTION, VERB = 60, 120  # lines at most


def parsed(name: str) -> ast.Module:
    return ast.parse(SOURCES[name].read_text(encoding="utf-8"), name)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_the_package_names_what_type_checkers_see() -> None:
    (block,) = (node for node in parsed("__init__.py").body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(seen) == patchcli.__all__
    for name, module in seen.items():
        assert getattr(patchcli, name) is getattr(importlib.import_module(str(module)), name)


def test_every_error_is_public() -> None:
    names = {name for name, kind in vars(importlib.import_module("patchcli.errors")).items() if isinstance(kind, type)}
    assert names - {"Ended"} <= set(patchcli.__all__)


def test_the_steps_of_the_paper_are_where_the_package_says() -> None:
    traces = re.findall(r"Algorithm \d, \S+ .* ([a-z_.]+(?:\.[A-Za-z_]+)*)$", patchcli.__doc__ or "", re.MULTILINE)
    assert len(traces) == 11
    for trace in traces:
        module, *names = re.split(r"\.(?=[A-Z])|(?<=[a-z])\.(?=[a-z_]+$)", trace)
        place = importlib.import_module(f"patchcli.{module}")
        for name in names:
            place = getattr(place, name)
        assert callable(place) or isinstance(place, property)


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "bank/search/kernels.py"])
def test_functions_fit_a_screen(name: str) -> None:
    for function in functions(parsed(name)):
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= FUNCTION, f"{name}: {function.name} has {lines} lines"


@pytest.mark.parametrize("verb", [name for name in patchcli.__all__ if inspect.isfunction(getattr(patchcli, name))])
def test_a_verb_is_short_and_typed(verb: str) -> None:
    function = getattr(patchcli, verb)
    assert len(inspect.getsource(inspect.getmodule(function)).splitlines()) <= VERB
    assert function.__doc__
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.kind is not parameter.VAR_KEYWORD or "Fields" in str(parameter.annotation), parameter


def test_no_room_holds_more_than_a_fifth() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in SOURCES.items()}
    rooms: dict[str, int] = {}
    for name, count in lines.items():
        if "/" in name:
            rooms[name.split("/")[0]] = rooms.get(name.split("/")[0], 0) + count
    assert max(rooms.values()) <= sum(lines.values()) / 5, rooms


@pytest.mark.parametrize("name", [name for name in SOURCES if not name.startswith(("cli/", "reporting/"))])
def test_the_library_speaks_python(name: str) -> None:
    """No flag and no shell command in a text of the library; arguments and verbs stand in backquotes."""
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.search(r"(^|[\s(`'\"])--[a-z]", node.value), f"{name}: {node.value!r}"
            assert not re.search(r"run: patchcli|patchcli (train|embed|score|calibrate|eval)\b", node.value), (
                f"{name}: {node.value!r}"
            )
