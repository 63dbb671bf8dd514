"""Messages of the library, in the shell's words: every backquoted name of it becomes a flag or a command that exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import leaves

import patchcli
from patchcli.cli.shell import explained, in_shell
from patchcli.errors import InputError, PatchcliError, StoreError

ROOT = Path(patchcli.__file__).parent
LEAVES = leaves()
FLAGS = {flag for command in LEAVES.values() for parameter in command.params for flag in parameter.opts}
NAMES = {p.metavar for command in LEAVES.values() for p in command.params if p.param_type_name == "argument"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("`size`: expected 256", "--size: expected 256"),
        ("run: `embed()`", "run: patchcli embed"),
        ("run: `embed(overwrite=True)`", "run: patchcli embed --overwrite"),
        ("run: `train(data, overwrite)`", "run: patchcli train DATA --overwrite"),
        ("(run: `bank_add()`)", "(run: patchcli bank add)"),
        ('use `size="fit:256x320"` or `size=128`', "use --size fit:256x320 or --size 128"),
        ('`train(objective="paper", lam=0.5)`', "patchcli train --objective paper --lambda 0.5"),
        ("`regions_out`, `D`, `source` and `data`", "--regions, --dim, --from and DATA"),
        ("`resume=True`: no checkpoint", "--resume: no checkpoint"),
    ],
)
def test_python_becomes_shell(text: str, shown: str) -> None:
    assert in_shell(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "a`size`b.png: no such file",
        "`",
        "``size``",
        "`sizes`",
        "`rm -rf`",
        "`size`s",
        "x/`y`.png",
        "`embed`",
        "`open()`",
        "`embed(sizes=3)`",
        "'`size`'",
    ],
)
def test_other_backquotes_stay(text: str) -> None:
    assert in_shell(text) == text


def test_the_name_of_a_file_stays() -> None:
    error = InputError("no such file", parameter="out", subject="my `size` maps", advice="see `store`")
    assert explained(error) == "--out my `size` maps: no such file; see --store"


# Arguments in Python that no command has.
PYTHON_ONLY = {"`images`", "`full_scale`", "`setup`", "`mask`"}


def messages() -> Iterator[tuple[str, str]]:
    """Texts of the library that are no docstrings, a value in an f-string as X; and where they are."""
    for path in sorted(ROOT.rglob("*.py")):
        if path.is_relative_to(ROOT / "cli"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                skipped |= {id(part) for part in node.values}
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                yield where, "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                yield where, node.value


def parameters() -> Iterator[tuple[str, str]]:
    """Names of arguments that errors are raised with."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "parameter" and isinstance(node.value, ast.Constant):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", f"`{node.value.value}`"


TERMS = [
    (where, term)
    for where, text in (*messages(), *parameters())
    for term in re.findall(r"`[^`\s]+(?: [^`\s]+)*`", text)
    if not re.match(r"`X(?:[=`(]|$)", term)  # the name itself is a value: known only when it is raised
]


def test_every_term_of_the_library_is_one_of_the_shell() -> None:
    unknown = [f"{where}: {term}" for where, term in TERMS if term not in PYTHON_ONLY and not known(in_shell(term))]
    assert unknown == []
    assert [where for where, text in messages() if re.search(r"`\w", text) and "`'s" in text] == []  # would stay as it is


def known(words: str) -> bool:
    """Whether this is a flag, an argument or a command with flags, all of which exist."""
    if not words.startswith("patchcli "):
        return words.split()[0] in FLAGS | NAMES
    command = max((name for name in LEAVES if f"{words} ".startswith(f"patchcli {name} ")), key=len, default=None)
    own = {flag for parameter in LEAVES[command].params for flag in parameter.opts} if command else set()
    return command is not None and set(re.findall(r"--[\w-]+", words)) <= own


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            StoreError("no store found", subject="data", advice="make it with: `train(data)`"),
            "data: no store found; make it with: patchcli train DATA",
        ),
        (InputError("no", parameter="data", subject="data"), "DATA data: no"),
        (InputError("no", parameter="out", subject="`out`", advice="leave `out` out"), "--out `out`: no; leave --out out"),
        (InputError("7", parameter="bits", expected="8 to 16"), "--bits: expected 8 to 16, found 7"),
        (StoreError("of `embed`", subject="", run="embed(overwrite)"), "of `embed`; run: patchcli embed --overwrite"),
    ],
)
def test_a_subject_is_the_users_and_nothing_else_is(error: PatchcliError, says: str) -> None:
    assert explained(error) == says
