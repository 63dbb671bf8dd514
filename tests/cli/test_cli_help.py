"""Help: quick, complete, with examples, and in the README."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import done, run

from patchcli.cli.app import app

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
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
    assert any(line.startswith("Example: ") and f"patchcli {command}" in text for line in lines)
    options = [line for line in lines if line.startswith("-")]
    assert options
    assert f"  {command} " in done("--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command: str) -> None:
    for parameter in typer.main.get_command(app).commands[command].params:  # type: ignore[attr-defined]
        assert parameter.help, f"{command} {parameter.name}"


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
    assert "No such command 'scor'. Did you mean 'score'?" in result.stderr


def test_an_unknown_option() -> None:
    result = run("train", "--step", 3)
    assert result.exit_code == 2
    assert "No such option: --step" in result.stderr
    assert "--steps" in result.stderr


def test_version() -> None:
    assert done("--version").stdout == f"{importlib.metadata.version('patchcli')}\n"
