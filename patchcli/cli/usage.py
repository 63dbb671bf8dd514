"""What the command line refuses by itself: Typer's errors in patchcli's words, one line each."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from patchcli.cli.terminal import BAD_INPUT, Terminal
from patchcli.errors import InputError

UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # Typer gives it no public name
KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


@contextmanager
def one_line() -> Iterator[None]:
    """A mistake in the arguments ends in one line on standard error and status 2."""
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        Terminal().explain(refusal(error))
        raise typer.Exit(BAD_INPUT) from None


def refuse_empty(command: Any, args: list[str]) -> None:
    """Refuse empty texts, which Path takes for the working directory; of several paths they are left out later."""
    takes_value = {name for each in command.params if not getattr(each, "is_flag", True) for name in each.opts}
    several = any(each.param_type_name == "argument" and each.nargs == -1 for each in command.params)
    for before, arg in zip(["", *args], args, strict=False):
        option = before if before in takes_value else arg.partition("=")[0] if arg.startswith("--") else ""
        if (not arg and (option or not several)) or (option and arg == f"{option}="):
            found = "an empty text (a variable that is not set?)"
            Terminal().explain(InputError(found, subject=option or None, expected="a value"))
            raise typer.Exit(BAD_INPUT)


def refusal(error: Any, name: str = "") -> InputError:
    """Typer's error as ours; `name` says what the value belongs to, else the parameter at fault does."""
    parameter = getattr(error, "param", None)
    details: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()  # of Pydantic, which reads the values
    if parameter is None or not details:
        text, command = error.format_message().rstrip("."), error.ctx and error.ctx.command_path
        advice = f"see: {command} --help" if command and not text.endswith("?") else None
        return InputError(f"{text[:1].lower()}{text[1:]}", subject=name or None, advice=advice)
    subject = name or (parameter.metavar if parameter.param_type_name == "argument" else max(parameter.opts, key=len))
    raised = details[0].get("ctx", {}).get("error")
    if isinstance(raised, InputError):  # by a parser in options.py
        return InputError(raised.found, subject=subject, expected=raised.expected)
    kind = KINDS.get(parameter.type_descriptor.annotation)
    expected = alternatives(choices(parameter)) or kind
    found = repr(details[0]["input"]) if expected else details[0]["msg"]
    return InputError(found, subject=subject, expected=expected)


def choices(parameter: Any) -> tuple[str, ...]:
    """The values of a closed choice; none where the choice is open."""
    return tuple(parameter.type_descriptor.choices or ()) if parameter.type_descriptor.is_choice else ()


def alternatives(words: tuple[str, ...]) -> str:
    """a, b or c"""
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
