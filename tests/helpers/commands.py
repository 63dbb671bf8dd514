"""Ways to run a command: in this process where that is enough, as a process of its own where that is the point."""

import json
import os
import subprocess
import sys
from typing import Any

import typer
from typer.testing import CliRunner, Result

from patchcli.cli.app import app


def leaves() -> dict[str, Any]:
    """Every command that has no commands of its own, by its words: "score", "bank list"."""
    commands: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        children = getattr(command, "commands", None)
        commands |= {f"{name} {child}": own for child, own in children.items()} if children else {name: command}
    return commands


def run(*arguments: object, stdin: str | None = None) -> Result:
    """Run `patchcli ARGUMENTS` in this process, standard streams replaced (neither is a terminal)."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # what a user would see as a traceback
    assert result.exit_code != 70, f"an internal error: {result.stderr}"
    return result


def done(*arguments: object, stdin: str | None = None) -> Result:
    """Run a command that must end well."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result


def records(result: Result) -> list[dict[str, Any]]:
    """What a command wrote as JSON Lines."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def timeless(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records but for the time, which no two runs share."""
    return [{name: value for name, value in record.items() if name != "time"} for record in found]


def refused(*arguments: object, says: tuple[object, ...], stdin: str | None = None) -> str:
    """Run a command that must be refused: status 2, one or two lines on stderr with all of `says`, no output."""
    result = run(*arguments, stdin=stdin)
    check_refusal(result.exit_code, result.stdout, result.stderr, says)
    return result.stderr


def check_refusal(status: int, stdout: str, stderr: str, says: tuple[object, ...]) -> None:
    """What every refusal looks like."""
    assert status == 2, stderr
    assert stdout == ""
    assert 1 <= len(stderr.splitlines()) <= 2, stderr
    assert stderr.startswith("patchcli: error: ")
    assert "Traceback" not in stderr
    for word in says:
        assert str(word) in stderr, f"{word!r} is not in {stderr!r}"


def process(*arguments: object, driver: str | None = None, **options: Any) -> "subprocess.Popen[str]":
    """Start `patchcli ARGUMENTS` as a process; `driver` is Python that runs first in it."""
    start = ["-m", "patchcli"] if driver is None else ["-c", f"{driver}\nfrom patchcli.cli import main\nmain()"]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {name: value for name, value in os.environ.items() if name != "PATCHCLI_STORE"}
    return subprocess.Popen(
        [sys.executable, *start, *map(str, arguments)], text=True, env=environment, **{**streams, **options}
    )


def finished(*arguments: object, driver: str | None = None, **options: Any) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `patchcli ARGUMENTS` run as a process."""
    with process(*arguments, driver=driver, **options) as started:
        stdout, stderr = started.communicate(timeout=120)
    return started.returncode, stdout, stderr
