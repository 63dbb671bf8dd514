"""What the library says in Python's terms → the same in the shell's: arguments become flags, functions become commands."""

import re

COMMANDS = {"evaluate": "eval", "import_weights": "import", "write_report": "report"} | {
    f"bank_{verb}": f"bank {verb}" for verb in ("list", "remove", "add")
}
COMMANDS |= {"audit": "bank audit"}
COMMANDS |= {name: name for name in ("data", "extract", "train", "embed", "calibrate", "score", "watch", "info", "demo")}

# Arguments whose flag is not the same word.
FLAGS = {"data": "DATA", "paths": "PATHS", "lam": "--lambda", "D": "--dim", "source": "--from", "regions_out": "--regions"}
_QUOTED = re.compile(r"`(?:(\w+)\(([^`()]*)\)|(\w+)(=[^`]*)?)`")


def in_shell(text: str) -> str:
    """`embed(overwrite=True)` → patchcli embed --overwrite; `size="fit:256x320"` → --size fit:256x320."""

    def shell(match: re.Match[str]) -> str:
        function, arguments, name, value = match.groups()
        if function is None:
            return _flag(name, value or "")
        if function not in COMMANDS:
            return match[0]
        flags = [_flag(*re.fullmatch(r"(\w+)(.*)", one.strip()).groups()) for one in arguments.split(",") if one.strip()]  # type: ignore[union-attr]
        return " ".join(["patchcli", COMMANDS[function], *flags])

    return _QUOTED.sub(shell, text)


def _flag(name: str, value: str) -> str:
    flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
    value = value.removeprefix("=").strip("\"'")
    return flag if value in ("", "True") else f"{flag} {value}"
