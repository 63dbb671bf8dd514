"""Every command's data is the same whatever is a terminal; what a terminal shows is whole."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import astuple, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import finished
from hypothesis import given
from hypothesis import strategies as st
from smallworld import World, copy_of, write_plain
from terminals import ERASE, Outcome, Run, lines_of, run_all, run_one

import patchcli
from patchcli.cli.bar import Bar
from patchcli.cli.terminal import Terminal
from patchcli.cli.text import cells, table, visible
from patchcli.features.hierarchical import HierarchicalEncoder

STREAMS = list(product(("pipe", "pty"), repeat=2))
ALIKE = STREAMS[0], STREAMS[-1]  # for commands whose data is nothing, or that of others, and for a second form
# Each command, its forms, and what it reads on standard input; DATA, STORE, NEW and PATHS stand for paths.
PRINTING: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "data": (["data", "DATA"], ("jsonl", "csv")),
    "score": (["score", "--store", "STORE"], ("jsonl", "csv")),
    "score -": (["score", "-", "--store", "STORE"], ("jsonl",)),
    "eval": (["eval", "--store", "STORE"], ("jsonl",)),
    "calibrate": (["calibrate", "--store", "STORE", "--from", "MORE", "--false-alarms", "25%"], ("jsonl",)),
    "bank list": (["bank", "list", "--store", "STORE"], ("jsonl", "csv")),
    "bank audit": (["bank", "audit", "--store", "STORE"], ("jsonl",)),
    "info": (["info", "--store", "STORE"], ("jsonl",)),
    "demo": (["demo", "NEW/demo", "--steps", "0"], ("jsonl",)),
    "watch": (["watch", "DATA/test", "--store", "STORE", "--log", "NEW/log.jsonl", "--every", "0.05"], ()),
}
SILENT = {
    "train": ["train", "DATA", "--size", "128", "--steps", "0", "--dim", "8", "--store", "NEW/new.zarr"],
    "embed": ["embed", "--overwrite", "--store", "STORE"],
    "import": ["import", "WEIGHTS", "--overwrite", "--store", "OTHER"],
    "report": ["report", "--store", "STORE", "--out", "NEW/page.html"],
}
LONG = {"demo", *SILENT}
CASES = [(name, form) for name, (_, forms) in PRINTING.items() for form in forms or ("",)] + [(name, "") for name in SILENT]


class Commands:
    """Runs of each command over one world, the placeholders of their arguments filled in."""

    def __init__(self, world: World, folder: Path) -> None:
        self.folder, self.made = folder, 0
        more = write_plain(folder / "more", 12, seed=3)
        torch.save(dict(HierarchicalEncoder(64).state_dict()), folder / "hazelnut.pkl")
        other = Path(shutil.copytree(world.store, folder / "other.zarr"))
        self.paths = [str(path) for path in sorted((world.data / "test").rglob("*.png"))]
        self.places = {
            "DATA": world.data, "STORE": world.store, "MORE": more, "OTHER": other, "WEIGHTS": folder / "hazelnut.pkl",
        }  # fmt: skip

    def run(self, name: str, form: str, stdout: str, stderr: str) -> Run:
        arguments = PRINTING[name][0] if name in PRINTING else SILENT[name]
        self.made += 1
        places = {**self.places, "NEW": self.folder / str(self.made)}
        filled = [re.sub("|".join(places), lambda found: str(places[found[0]]), argument) for argument in arguments]
        listed = "\n".join(self.paths) if name == "score -" else ""
        stop = len(self.paths) if name == "watch" else None
        options = ["--format", form] if form else []
        return Run((*filled, *options), stdout, stderr, stdin=listed, stop_after=stop)


@pytest.fixture(scope="module")
def commands(made: World, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    folder = tmp_path_factory.mktemp("terminals")
    world = copy_of(made, folder)
    more = write_plain(folder / "calibration", 12, seed=8)
    patchcli.calibrate(world.store, source=[more], false_alarms=0.25)
    return Commands(world, folder)


def data_of(stdout: str) -> str:
    """The output without the moment at which it was made."""
    lines = stdout.splitlines()
    if lines and lines[0].startswith("{"):
        return "\n".join(json.dumps({k: v for k, v in json.loads(line).items() if k != "time"}) for line in lines)
    rows = list(csv.reader(io.StringIO(stdout, newline="")))
    if rows and "time" in rows[0]:
        at = rows[0].index("time")
        return "\n".join(repr(row[:at] + row[at + 1 :]) for row in rows)
    return stdout


@pytest.fixture(scope="module")
def outcomes(commands: Commands) -> dict[tuple[str, str], list[Outcome]]:
    """The runs of each case with each combination of terminals, none first."""
    return {
        case: run_all(
            [commands.run(*case, *streams) for streams in (ALIKE if case[0] in LONG or case[1] == "csv" else STREAMS)]
        )
        for case in CASES
    }


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_data_is_the_same_with_any_terminals(outcomes: dict[tuple[str, str], list[Outcome]], case: tuple[str, str]) -> None:
    plain, *others = outcomes[case]
    assert plain.status == 0, plain.stderr
    assert bool(plain.stdout) == (case[0] in PRINTING)
    for outcome in others:
        assert outcome.status == 0, outcome.stderr
        assert data_of(outcome.stdout) == data_of(plain.stdout)
        assert {*map(told, outcome.shown)} - {""} == {*map(told, plain.shown)} - {""}


def told(line: str) -> str:
    """A note without the paths and seconds that are each run's own."""
    return re.sub(r"\d+ s: .*|[^ ]*/terminals[^ ]*|[0-9a-f]{12}", "", line)


# ---- what a terminal shows ------------------------------------------------------------------------------------------

NASTY = "a\x1b[31m\x9bb\u202ec\nd"


@pytest.mark.parametrize("stderr", ["pty", "same"])
def test_records_problems_and_bar_on_one_terminal(commands: Commands, stderr: str) -> None:
    """Each line is whole; nothing is left of the bar."""
    arguments = ["score", *commands.paths, "nowhere.png", "--store", str(commands.places["STORE"]), "--format", "jsonl"]
    (outcome,) = run_all([Run(arguments, "pty", stderr)])
    assert outcome.status == 2
    lines = lines_of(outcome.stdout + outcome.stderr)
    assert ERASE in outcome.stdout + outcome.stderr
    told = [line for line in lines if line.startswith("patchcli: ")]
    assert told == ["patchcli: left out: nowhere.png: no such file", "patchcli: done, but 1 problem reported above"]
    assert [Path(json.loads(line)["image"]).name for line in lines if line and line not in told] == [
        Path(path).name for path in commands.paths
    ]


def test_tables_fit(commands: Commands) -> None:
    """At 80 columns no line is wider; at 160 there is more. The table of demo is that of eval."""
    runs = [commands.run(name, "table", "pty", "pipe") for name, (_, forms) in PRINTING.items() if forms and name != "demo"]
    runs.append(replace(commands.run("score", "table", "pty", "pipe"), columns=160))
    outcomes = dict(zip(runs, run_all(runs), strict=True))
    widths = {}
    for run, outcome in outcomes.items():
        assert outcome.status == 0
        widths[run] = max(cells(re.sub(r"\x1b\[\d*m", "", line)) for line in outcome.stdout.split("\n"))
        assert widths[run] <= run.columns
    assert widths[runs[-1]] > 80


KEYS = {"id": "image", "score": "score", "where": "nearest normal", "x": "x"}


@given(
    st.lists(st.fixed_dictionaries({
        "id": st.text(), "score": st.floats(allow_nan=False), "where": st.text(max_size=50), "x": st.integers(0, 9999),
    }), max_size=4),
    st.integers(30, 120), st.sampled_from(["utf-8", "ascii", "latin-1"]),
)  # fmt: skip
def test_any_table_fits_and_cuts_no_number(rows: list[dict[str, Any]], width: int, encoding: str) -> None:
    heading, *lines = table(rows, KEYS, width, encoding)
    shown = [name for name in KEYS.values() if name in heading]
    assert shown == list(KEYS.values())[: len(shown)] and "score" in shown
    for row, line in zip(rows, lines, strict=True):
        assert line.isprintable() and line.encode(encoding) is not None
        assert cells(line) <= width
        assert f"{row['score']:.4g}" in line.split()


@given(st.text(), st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_nothing_visible_acts_on_a_terminal(name: str, encoding: str) -> None:
    shown = visible(name, encoding)
    assert shown.isprintable() and shown.encode(encoding).decode(encoding) == shown
    if name.isprintable() and encoding == "utf-8":
        assert shown == name


@given(
    st.floats(0, 99), st.sampled_from([None, 100.0]), st.text(max_size=60), st.sampled_from(["utf-8", "ascii", "latin-1"]),
    st.sampled_from([60, 80, 160]),
)  # fmt: skip
def test_any_bar_fits(done: float, total: float | None, detail: str, encoding: str, width: int) -> None:
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        patch.setenv("TERM", "xterm")
        patch.delenv("NO_COLOR", raising=False)
        bar = Bar(written)
        bar.update("train", done, total, detail)
        bar.draw(shown=False)
        bar.draw()
        bar.remove()
    written.seek(0)
    shown = re.sub(r"\x1b\[[\d;]*m", "", written.read())
    assert lines_of(shown) == [""]
    before, *drawings, after = re.split(r"(?:[\r\n]?\x1b\[\??\d+[A-Za-z])+", shown)
    assert before == after == "" and len(drawings) == 3
    for line in drawings:
        assert line.isprintable() and cells(line) < width
        assert total is None or sum(map(line.count, "━╸╺" if encoding == "utf-8" else "- ")) >= 10


def test_names_reach_no_terminal_raw(commands: Commands, tmp_path: Path) -> None:
    image = shutil.copy(commands.paths[0], tmp_path / f"{NASTY}.png")
    arguments = ["score", str(image), str(tmp_path / f"{NASTY}.jpg"), "--store", str(commands.places["STORE"])]
    forms: list[list[str]] = [[], ["--format", "jsonl"], ["--format", "csv"]]
    outcomes = run_all([Run([*arguments, *form], "pty", "pipe", columns=200) for form in forms])
    for outcome in outcomes:
        assert outcome.status == 2
        written = re.sub(r"^\x1b\[1m(.*)\x1b\[0m$", r"\1", outcome.stdout + outcome.stderr, count=1, flags=re.MULTILINE)
        assert all(c.isprintable() or c == "\n" for c in written)
        assert r"a\x1b[31m\x9bb\u202ec\nd.jpg: no such file" in outcome.stderr
    assert r"a\x1b[31m\x9bb\u202ec\nd.png" in outcomes[0].stdout
    assert Path(json.loads(outcomes[1].stdout)["image"]).name == f"{NASTY}.png"


@pytest.mark.parametrize("form", ["jsonl", "csv", "table"])
def test_a_terminal_of_ascii(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    image = shutil.copy(commands.paths[0], tmp_path / "größe.png")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    arguments = ("score", image, tmp_path / "fehlt-ä.png", "--store", commands.places["STORE"], "--format", form)
    status, stdout, stderr = finished(*arguments)
    assert status == 2 and (stdout + stderr).isascii()
    assert r"fehlt-\xe4.png: no such file" in stderr
    if form == "jsonl":
        assert Path(json.loads(stdout)["image"]).name == "größe.png"
    else:
        assert r"gr\xf6\xdfe.png" in stdout


@pytest.mark.parametrize("value", ["=1+1", "+x.png", "-x.png", "@x", "\tx", "\rx"])
def test_no_cell_is_a_formula(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().write([{"image": value, "score": -0.5}], "csv", {})
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out, newline=""))
    assert row == {"image": f"'{value}", "score": "-0.5"}


# ---- how it ends ----------------------------------------------------------------------------------------------------

RAISES = """
from patchcli.verbs import info
def wrong(store, check):
    raise {}
info.info = wrong
"""
OUTSIDE = """
from patchcli.cli import app
def wrong(context):
    raise KeyError("x")
app.defaults = wrong
app.Terminal = __import__("contextlib").nullcontext
"""


@pytest.mark.parametrize("driver", [RAISES.format("KeyError('x')"), OUTSIDE])
def test_an_internal_error(driver: str) -> None:
    status, stdout, stderr = astuple(run_one(Run(["info"], driver=driver)))
    advice = "run again with --verbose and report it with the traceback"
    assert (status, stdout, stderr) == (70, "", f"patchcli: internal error: KeyError: 'x'; {advice}\n")
    status, stdout, stderr = astuple(run_one(Run(["info", "--verbose"], driver=driver)))
    assert (status, stdout) == (70, "") and stderr.startswith("Traceback (most recent call last)")
    assert stderr.endswith("patchcli: internal error: KeyError: 'x'; report it with the traceback\n")


@pytest.mark.parametrize("error", ["MemoryError", 'RuntimeError("DefaultCPUAllocator: can\'t allocate memory")'])
def test_out_of_memory(error: str) -> None:
    status, stdout, stderr = astuple(run_one(Run(["info"], driver=RAISES.format(error))))
    assert (status, stdout) == (70, "") and stderr.startswith("patchcli: error: not enough memory; ")
    assert len(stderr.splitlines()) == 1


def test_terminated() -> None:
    driver = RAISES.format("__import__('os').kill(__import__('os').getpid(), 15) or SystemExit(0)")
    assert run_one(Run(["info"], driver=driver)) == Outcome(143, "", "")


ERROR = "patchcli: error: "


@pytest.mark.parametrize(
    ("shell", "status", "says"),
    [
        ("{} > /dev/full", 2, f"{ERROR}standard output cannot be written (No space left on device); fix this and rerun\n"),
        ("{} >&-", 2, f"{ERROR}standard output is closed; expected a place for the records, such as > FILE\n"),
        ("{} 2>&-", 0, ""),
        ("{}x 2>&-", 2, ""),
        ("{}x 2> /dev/full", 2, ""),
        ("{} --help > /dev/full", 2, f"{ERROR}No space left on device; fix this and rerun\n"),
        ("{} --help >&-", 0, ""),
        ("{} | head -1 | wc -l | grep -q 1", 0, ""),
        ("set -o pipefail; {} | (exec <&-; sleep 3)", 141, ""),
    ],
)
def test_streams_that_take_nothing(made: World, shell: str, status: int, says: str) -> None:
    command = shell.format(f"{sys.executable} -m patchcli bank list --store {made.store}")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, says)
