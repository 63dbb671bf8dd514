"""Defaults of options from patchcli.toml, or from [tool.patchcli] in pyproject.toml."""

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from patchcli.cli import usage
from patchcli.errors import InputError

WORDS = ("holdout", "validation", "loo")  # of --from, which are no paths


def defaults(ctx: Any) -> dict[str, Any]:
    """The default map for a context: the values of the nearest file, from the working directory upwards.

    A key at the top applies to every command with that option, a table to one command. Paths are relative to the file.
    Raises InputError for an unknown option or command, or a value of the wrong type.
    """
    path, table = _nearest(Path.cwd())
    return {} if path is None else _filled(ctx, path, ctx.command, table, {}, "")


def _nearest(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    for place in (folder, *folder.parents):
        for path, keys in ((place / "patchcli.toml", ()), (place / "pyproject.toml", ("tool", "patchcli"))):
            if not path.is_file():
                continue
            try:
                table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                if keys:
                    continue  # left to other tools to report
                raise InputError(f"{path}: not valid TOML ({error})") from None
            for key in keys:
                table = table.get(key) if isinstance(table, dict) else None
            if isinstance(table, dict):
                return path, table
    return None, {}


def _filled(ctx: Any, path: Path, group: Any, table: dict[str, Any], inherited: dict[str, Any], where: str) -> dict[str, Any]:
    """The default map of a group. Each command takes the keys that it has an option for; all keys of its table must be."""
    here = {key: value for key, value in table.items() if not isinstance(value, dict)}
    for key in table.keys() - here.keys() - group.commands.keys():
        raise _unknown(path, "command", where, key, group.commands)
    taken = inherited | here
    filled: dict[str, Any] = {}
    known: set[str] = set()
    for name, command in group.commands.items():
        own = table.get(name, {})
        if not isinstance(own, dict):
            raise InputError(f"{path}: {where}{name}: expected a table of that command's options, found {own!r}")
        if hasattr(command, "commands"):
            filled[name] = _filled(ctx, path, command, own, taken, f"{where}{name}.")
            known |= {option for child in command.commands.values() for option in _options(child)}
            continue
        options = _options(command)
        known |= options.keys()
        for key in own.keys() - options.keys():
            raise _unknown(path, "option", f"{where}{name}.", key, options)
        values = {key: value for key, value in taken.items() if key in options} | own
        filled[name] = {options[key].name: _checked(ctx, path, key, options[key], value) for key, value in values.items()}
    for key in here.keys() - known:
        raise _unknown(path, "option", where, key, [*known, *group.commands])
    return filled


def _options(command: Any) -> dict[str, Any]:
    """The options of a command by their long names."""
    return {max(p.opts, key=len).removeprefix("--"): p for p in command.params if p.param_type_name == "option"}


def _unknown(path: Path, what: str, where: str, key: str, known: Iterable[str]) -> InputError:
    near = difflib.get_close_matches(key, list(known), 1)
    return InputError(f"{path}: {where}{key}: no such {what}{f'; did you mean {near[0]}?' if near else ''}")


def _checked(ctx: Any, path: Path, key: str, option: Any, value: Any) -> Any:
    if isinstance(value, str) and option.multiple:
        value = [value]
    try:
        read = option.process_value(ctx, value)
        if key == "from":
            return [each if each in WORDS else str(path.parent / Path(each).expanduser()) for each in read]
        return str(path.parent / read.expanduser()) if isinstance(read, Path) else value
    except usage.UsageError as error:
        raise usage.refusal(error, f"{path}: {key}") from None
    except RuntimeError as error:  # no home directory
        raise InputError(f"{path}: {key}: {error}") from None
