"""patchcli.toml, or [tool.patchcli] in pyproject.toml: values of options that neither a flag nor the environment gives."""

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from patchcli.errors import InputError


def defaults(ctx: Any) -> dict[str, Any]:
    """The nearest file's values, from the working directory upwards, as the context's default map.

    A key at the top is for every command with an option of that name; a table is one command's. Paths are relative to the
    file. Raises InputError with file and key where there is no such option or command, or it does not take the value.
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
                    continue  # another tool's to complain of
                raise InputError(f"{path}: expected TOML, found a mistake ({error})") from None
            for key in keys:
                table = table.get(key) if isinstance(table, dict) else None
            if isinstance(table, dict):
                return path, table
    return None, {}


def _filled(ctx: Any, path: Path, group: Any, table: dict[str, Any], inherited: dict[str, Any], where: str) -> dict[str, Any]:
    """A group's default map: of each command, what it has an option for; its own table's keys must all be options."""
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
    """A command's options by their long names."""
    return {max(p.opts, key=len).removeprefix("--"): p for p in command.params if p.param_type_name == "option"}


def _unknown(path: Path, what: str, where: str, key: str, known: Iterable[str]) -> InputError:
    near = difflib.get_close_matches(key, list(known), 1)
    return InputError(f"{path}: {where}{key}: no such {what}{f'; did you mean {near[0]}?' if near else ''}")


def _checked(ctx: Any, path: Path, key: str, option: Any, value: Any) -> Any:
    try:
        found = option.process_value(ctx, value)
        return str(path.parent / found.expanduser()) if isinstance(found, Path) else value
    except Exception as error:  # whatever the option's type says
        raise InputError(f"{path}: {key}: {getattr(error, 'message', error)}") from None
