"""verify, as a command."""

import csv
import io
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from commands import done, records, refused, run
from smallworld import World

import patchcli
from patchcli.bank.search import keops, pruned
from patchcli.detection import verification

ROWS = ["bank", "embed on cpu", "brute on cpu", "pruned on cpu", "keops on cpu"]


@pytest.fixture(autouse=True)
def _no_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keops.KeOps, "problem", lambda device, D: "no compiler")


def test_the_forms(made: World) -> None:
    result = done("verify", "--store", made.store)
    told, note = result.stderr.splitlines()
    assert told.startswith("patchcli: a bank of 6,500 vectors; torch ") and note == "patchcli: keops on cpu: no compiler"
    found = records(result)
    assert [record["check"] for record in found] == ROWS
    for record in found:
        assert list(record) == [field.name for field in fields(patchcli.Check)]
        assert record["schema"] == "patchcli.verify/1"
    heading, *lines = done("verify", "--store", made.store, "--format", "table", "--quiet").stdout.splitlines()
    assert heading.split() == ["check", "status", "ms", "nearest", "features", "distance", "score", "images", "patches"]
    assert [line.split("  ")[0] for line in lines] == ROWS
    assert lines[3].split()[3] == "agrees"
    result = done("verify", "--store", made.store, "--format", "csv", "--quiet", "--threads", 1)
    assert result.stderr == ""
    assert [row["status"] for row in csv.DictReader(io.StringIO(result.stdout))] == [record["status"] for record in found]


def test_a_table_of_80_columns(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    heading = done("verify", "--store", made.store, "--format", "table").stdout.splitlines()[0]
    assert heading.split()[:7] == ["check", "status", "ms", "nearest", "features", "distance", "score"]


def test_what_disagrees_makes_the_status_2(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    search = pruned.Pruned.__call__
    monkeypatch.setattr(pruned.Pruned, "__call__", lambda *given: (search(*given)[0], search(*given)[1] * 0))
    result = run("verify", "--store", made.store, "--quiet")
    assert result.exit_code == 2
    problem, last = result.stderr.splitlines()
    assert problem.startswith("patchcli: problem: pruned on cpu disagrees: 2,5")
    assert problem.endswith(" of 2,600 patches have another nearest patch; use --search brute")
    assert last == "patchcli: done, but 1 problem reported above"
    assert [record["status"] for record in records(result)] == ["agrees", "reference", "reference", "disagrees", "unavailable"]


def test_the_bank_comes_first(bankless: Path) -> None:
    refused("verify", "--store", bankless, says=("holds no bank yet", "patchcli embed"))


def test_interrupted(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verification, "check_bank", interrupt)
    result = run("verify", "--store", made.store, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "patchcli: interrupted\n")


def test_a_reader_that_leaves(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*given: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("patchcli.cli.terminal._json", gone)
    result = run("verify", "--store", made.store, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (141, "", "")
