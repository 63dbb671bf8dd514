"""Help: quick, complete, with examples, and in the README."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import done, leaves, run
from terminals import Run, run_one

from patchcli.cli import usage
from patchcli.cli.app import GROUPS, app

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
LEAVES = leaves()
HEAVY = {"torch", "zarr", "numpy", "sklearn", "pykeops", "scipy", "PIL", "tifffile", "numcodecs"}


def test_the_commands() -> None:
    assert {"extract", "train", "embed", "score", "eval", "import", "info"} <= set(COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["--version"], ["scor"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "patchcli", *arguments]
    stderr = subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in stderr.splitlines() if "import time:" in line}
    assert {"patchcli", "typer"} <= loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    text = done(command, "--help").stdout
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0].startswith(f"Usage: patchcli {command} ")
    assert len(lines[2].split()) > 3  # what it does
    examples = lines[lines.index("Examples:") + 1 :]
    assert examples and all(f"patchcli {command}" in line for line in examples)
    options = [line for line in lines if line.startswith("-")]
    assert options
    assert f"  {command} " in done("--help").stdout


@pytest.mark.parametrize("name", LEAVES)
def test_every_option_has_help_and_names_its_value(name: str) -> None:
    for parameter in LEAVES[name].params:
        assert parameter.help, f"{name} {parameter.name}"
        assert getattr(parameter, "is_flag", False) or parameter.metavar or usage.choices(parameter), f"{name} {parameter.name}"


@pytest.mark.parametrize("group", [[], ["bank"]])
def test_every_command_fits_on_a_line(group: list[str]) -> None:
    lines = done(*group, "--help").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    root = typer.main.get_command(app)
    for name, command in (root.commands["bank"] if group else root).commands.items():  # type: ignore[attr-defined]
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.split(None, 1)[1] == " ".join(command.help.split("\n\n")[0].split())


def test_groups_stand_under_their_headings() -> None:
    text = done("--help").stdout
    places = [text.index(f"\n{heading}:\n") for heading in GROUPS]
    assert places == sorted(places)
    for heading, verbs in GROUPS.items():
        below = text.split(f"\n{heading}:\n")[1].split("\n\n")[0]
        assert [line.split()[0] for line in below.splitlines()] == list(verbs)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("arguments", [[], ["score"], ["train"], ["bank"]], ids=str)
def test_help_on_a_terminal(arguments: list[str], columns: int) -> None:
    """The words of the pipe's page, in panels as wide as the terminal."""
    outcome = run_one(Run([*arguments, "--help"], "pty", columns=columns))
    shown = re.sub(r"\x1b\[[\d;]*m", "", outcome.stdout)
    assert shown != outcome.stdout and outcome.stderr == ""
    page, examples = shown.split("Examples:\n")
    assert {len(line) for line in page.splitlines() if line[:1] in "╭│╰"} >= {columns}
    assert max(map(len, page.splitlines())) <= columns
    plain = done(*arguments, "--help").stdout
    assert examples == plain.split("Examples:\n")[1]
    words = re.sub(r"[╭│╰─╮╯]", " ", page).split()
    assert sorted(words) == sorted(re.sub(r"^(\w+):$", r"\1", plain.split("Examples:\n")[0], flags=re.MULTILINE).split())


def test_a_terminal_without_colours_gets_plain_help(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run_one(Run(["--help"], "pty", driver="import os; os.environ['TERM'] = 'dumb'"))
    assert outcome.stdout == done("--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    readme = Path(__file__).parents[2] / "README.md"
    if not readme.exists():
        pytest.skip("installed without README.md")
    assert f"patchcli {command}" in readme.read_text(encoding="utf-8")


def test_a_slip_of_the_pen() -> None:
    result = run("scor")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "patchcli: error: no such command 'scor'. Did you mean 'score'?" in result.stderr


def test_an_unknown_option() -> None:
    result = run("train", "--step", 3)
    assert result.exit_code == 2
    assert "patchcli: error: no such option: --step" in result.stderr
    assert "--steps" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data"], "missing argument 'DATA'; see: patchcli data --help"),
        (["info", "x"], "got unexpected extra argument(s) (x); see: patchcli info --help"),
        (["train", "--steps", "x"], "--steps: expected a whole number, found 'x'"),
        (["embed", "--tolerance", "x"], "--tolerance: expected a number, found 'x'"),
        (["embed", "--keep", "x"], "--keep: expected a share such as 10% or 0.1, found 'x'"),
        (["embed", "--memory", "x"], "--memory: expected a size such as 300M or 2G, found 'x'"),
        (["score", "--submission", "x"], "--submission: expected mvtec-ad-2, found 'x'"),
        (["bank", "remove"], "missing argument 'IMAGES'; see: patchcli bank remove --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"patchcli: error: {says}\n")


def test_version() -> None:
    assert done("--version").stdout == f"{importlib.metadata.version('patchcli')}\n"
