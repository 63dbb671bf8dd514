"""What the library says in Python's terms → the same in the shell's: arguments become flags, functions become commands."""

import re

from patchcli.errors import PatchcliError

COMMANDS = {name: name for name in ("data", "extract", "train", "embed", "calibrate", "score", "watch", "export", "info")}
COMMANDS |= {"demo": "demo", "verify": "verify", "evaluate": "eval", "import_weights": "import", "write_report": "report"}
COMMANDS |= {"audit": "bank audit", "embed_part": "embed"}
COMMANDS |= {f"bank_{verb}": f"bank {verb}" for verb in ("list", "remove", "add")}

# Arguments of those functions, as the shell has them; a test compares both with the library and the command line.
_SAME = (
    "backbone batch bits check confidence device encoder epochs every false_alarms force half holdout keep large layers "
    "layout limit log lr maps mask_threshold memory min_area minutes mm_per_pixel objective out overlay overwrite part "
    "precision report resume review roi sampler scale scheduler search seed size spread steps store submission threads "
    "tolerance warmup workers"
)
FLAGS = {name: f"--{name.replace('_', '-')}" for name in _SAME.split()}
FLAGS |= {"lam": "--lambda", "D": "--dim", "source": "--from", "regions_out": "--regions", "metrics_out": "--metrics"}
FLAGS |= {"calibrated": "--exit-code", "patches": "--patches", "image": "--image"}
FLAGS |= {"data": "DATA", "paths": "PATHS", "names": "IMAGES", "folder": "FOLDER", "weights": "WEIGHTS", "file": "FILE"}

_VALUE = r"(?:\"[^\"`]*\"|'[^'`]*'|[^`,()\s]*)"
_ARGUMENT = rf"(\w+)(?:=({_VALUE}))?"
_ARGUMENTS = rf"((?:\w+(?:={_VALUE})?(?:, )?)*)"
_QUOTED = re.compile(rf"(?<![^\s(:/])`(?:(\w+)\({_ARGUMENTS}\)|{_ARGUMENT})`(?![^\s.,;:)?])")


def in_shell(text: str) -> str:
    """`embed(overwrite=True)` → patchcli embed --overwrite; `size="fit:256x320"` → --size fit:256x320.

    What is no function or argument of the library stays as it is, such as a file's name in backquotes.
    """

    def shell(match: re.Match[str]) -> str:
        function, arguments, name, value = match.groups()
        named = [(name, value)] if function is None else [one.groups() for one in re.finditer(_ARGUMENT, arguments)]
        if not FLAGS.keys() >= {name for name, _ in named} or function not in {None, *COMMANDS}:
            return match[0]
        flags = [_flag(name, value) for name, value in named]
        return " ".join(flags if function is None else ("patchcli", COMMANDS[function], *flags))

    return _QUOTED.sub(shell, text)


def explained(error: PatchcliError) -> str:
    """An error's text in the shell's terms; its subject, which is the user's, is left alone."""
    whole = str(error)
    start = 0 if error.parameter is None else len(f"`{error.parameter}` ")
    end = start if error.subject is None else start + len(str(error.subject))
    return in_shell(whole[:start]) + whole[start:end] + in_shell(whole[end:])


def _flag(name: str, value: str | None) -> str:
    value = (value or "").strip("\"'")
    return FLAGS[name] if value in ("", "True") else f"{FLAGS[name]} {value}"
