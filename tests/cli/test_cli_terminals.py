"""Every command's data is the same whatever is a terminal; what a terminal shows is whole."""

import json
import re
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from smallworld import World, copy_of, write_plain
from terminals import Outcome, Run, run_all

import patchcli
from patchcli.encoder import HierarchicalEncoder

STREAMS = list(product(("pipe", "pty"), repeat=2))
# Each command, its forms, and what it reads on standard input; DATA, STORE, NEW and PATHS stand for paths.
PRINTING: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "data": (["data", "DATA"], ("jsonl", "csv")),
    "score": (["score", "--store", "STORE"], ("jsonl", "csv")),
    "score -": (["score", "-", "--store", "STORE"], ("jsonl", "csv")),
    "eval": (["eval", "--store", "STORE"], ("jsonl", "csv")),
    "calibrate": (["calibrate", "--store", "STORE", "--from", "MORE", "--false-alarms", "25%"], ("jsonl", "csv")),
    "bank list": (["bank", "list", "--store", "STORE"], ("jsonl", "csv")),
    "bank audit": (["bank", "audit", "--store", "STORE"], ("jsonl", "csv")),
    "info": (["info", "--store", "STORE"], ("jsonl", "csv")),
    "demo": (["demo", "NEW/demo", "--steps", "0"], ("jsonl",)),
    "watch": (["watch", "DATA/test", "--store", "STORE", "--log", "NEW/log.jsonl", "--every", "0.05"], ()),
}
SILENT = {
    "extract": ["extract", "DATA", "--size", "128", "--store", "NEW/new.zarr"],
    "train": ["train", "DATA", "--size", "128", "--steps", "0", "--dim", "8", "--store", "NEW/new.zarr"],
    "embed": ["embed", "--overwrite", "--store", "STORE"],
    "import": ["import", "WEIGHTS", "--overwrite", "--store", "OTHER"],
    "report": ["report", "--store", "STORE", "--out", "NEW/page.html"],
    "bank add": ["bank", "add", "MORE/000.png", "--dry-run", "--store", "STORE"],
}
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
        return Run([*filled, *options], stdout, stderr, stdin=listed, stop_after=stop)


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
    return stdout


@pytest.fixture(scope="module")
def outcomes(commands: Commands) -> dict[tuple[str, str], list[Outcome]]:
    """Of each case, the runs with each combination of terminals, none first."""
    found = iter(run_all([commands.run(*case, *streams) for case in CASES for streams in STREAMS]))
    return {case: [next(found) for _ in STREAMS] for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_data_is_the_same_with_any_terminals(
    outcomes: dict[tuple[str, str], list[Outcome]], case: tuple[str, str]
) -> None:
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
