"""--dry-run: says what would be read and written, refuses what the command refuses, and changes nothing."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import done, records, refused, run
from smallworld import World, part_folder, touched, truncate, write_plain
from typer.main import get_command

from patchcli.cli.app import app
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.training import criterion


@pytest.fixture
def place(world: World, bankless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that a command could want; it must stay as it is."""
    write_plain(tmp_path / "more", 12, seed=4)
    torch.save(HierarchicalEncoder(16).state_dict(), "weave.pkl")
    monkeypatch.setenv("PATCHCLI_STORE", "weave.zarr")
    return tmp_path


DRY = [
    ("extract weave --store new.zarr --size 128",
     ["read 10 images of weave", "write 10 images of 128x128 pixels into new.zarr (about 0.5 MB)"]),
    ("extract weave", ["read 10 images of weave", "write nothing: weave.zarr holds them already"]),
    ("extract --patches looks", ["read 1 images of weave.zarr", "write 25 patches below looks"]),
    ("train weave --store new.zarr --size 128",
     ["read 10 images of weave", "write 10 images and an encoder into new.zarr (about 0.5 MB)"]),
    ("train --overwrite --dim 8", ["read images of weave.zarr", "write its encoder (about 8.9 MB)"]),
    ("train --resume --steps 4 --report run.html", ["read images of weave.zarr", "write its encoder and run.html (about"]),
    ("embed", ["read the bank of weave.zarr", "write nothing: it is finished"]),
    ("embed --keep 10%", ["read images of weave.zarr", "write its bank: 6,500 vectors before thinning"]),
    ("embed --store bankless.zarr",
     ["read images of bankless.zarr", "write its bank: 6,500 vectors before thinning, 1.2 MB of memory to be searched"]),
    ("bank remove train/good/001.png",
     ["read 0 images to add", "write images and bank of weave.zarr, now of 9 images (about 0.7 MB)"]),
    ("bank add more", ["read 12 images to add", "write images and bank of weave.zarr, now of 22 images (about 1.8 MB)"]),
    ("calibrate --false-alarms 30%",
     ["read 10 good images (leave-one-out over the bank's own images)", "write the calibration of weave.zarr"]),
    ("calibrate --false-alarms 30% --from more",
     ["read 12 good images (named images)", "write the calibration of weave.zarr"]),
    ("score", ["read 5 images", "write no file"]),
    ("score more --out maps --overlay", ["read 12 images", "write 12 maps and overlays below maps (about 1.1 MB)"]),
    ("import weave.pkl --overwrite", ["read weave.pkl", "write the encoder of weave.zarr (about"]),
    ("demo", ["read nothing", "write pictures, store, maps and page below patchcli-demo (about"]),
]  # fmt: skip


def test_nothing_changes(place: Path) -> None:
    before = touched(place)
    for command, (reads, writes) in DRY:
        result = done(*command.split(), "--dry-run")
        assert result.stdout == ""
        *_, first, second = result.stderr.splitlines()
        assert first == f"patchcli: would {reads}", command
        assert second.startswith(f"patchcli: would {writes}"), command
        assert done(*command.split(), "-n", "--quiet").stderr == ""
    assert touched(place) == before


def test_every_command_that_writes_into_a_store_has_it() -> None:
    tested = {command.split()[0] for command, _ in DRY}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert name in ("bank", "export") or ("dry_run" in {parameter.name for parameter in command.params}) == (name in tested)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("extract nowhere", "nowhere: no such folder"),
        ("extract more", "the store holds images of"),
        ("extract more --store more --overwrite", "more: is not a store and will not be replaced"),
        ("extract more --store new.zarr --size 32", "--size: expected at least 64x64"),
        ("train", "holds an encoder already"),
        ("train --overwrite --dim 0", "--dim: expected 1 or more"),
        ("train --resume --dim 8", "--resume: the checkpoint has --dim 16, found 8"),
        ("embed --keep 0", "--keep: expected a share"),
        ("bank remove x.png", "x.png: not in the bank"),
        ("calibrate --false-alarms 1%", "needs 299 good images, found 10"),
        ("calibrate --from weave/test/good --false-alarms 90%", "is a test image of the data set"),
        ("score --out weave", "lies among the data set's images"),
        ("score --exit-code", "holds no calibration yet"),
        ("score --store bankless.zarr", "holds no bank yet"),
        ("import missing.pkl", "no such file"),
        ("import weave.pkl", "holds an encoder already"),
        ("demo more", "expected a new or empty folder"),
    ],
)
def test_what_the_command_refuses(place: Path, command: str, says: str) -> None:
    before = touched(place)
    refused(*command.split(), "--dry-run", says=(says,))
    assert touched(place) == before


@pytest.mark.parametrize(
    "command",
    ["extract more --store new.zarr", "train more --store new.zarr", "bank add more", "score more --out maps",
     "calibrate --from more --false-alarms 30%"],
)  # fmt: skip
def test_what_cannot_be_read(place: Path, command: str) -> None:
    truncate(place / "more" / "003.png")
    before = touched(place)
    result = run(*command.split(), "--dry-run")
    assert (result.exit_code, result.stdout) == (2, "")
    first, *_, reads, writes, last = result.stderr.splitlines()
    assert first.startswith("patchcli: left out: ") and "003.png: cannot be decoded" in first
    assert " 11 " in reads
    assert writes.startswith("patchcli: would write ")
    assert last == "patchcli: done, but 1 problem reported above"
    assert touched(place) == before


def test_training_says_its_plan_before_it_fits_anything(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criterion, "fit", lambda *_: pytest.fail("the dry run fitted features"))
    assert "would write its encoder" in done("train", "--overwrite", "--dry-run").stderr


def test_what_a_kill_left_is_left(place: Path) -> None:
    (place / "weave.zarr" / "bank-1f2e3d4c").mkdir()
    before = touched(place)
    for command in ("embed --overwrite", "bank remove train/good/001.png", "calibrate --false-alarms 30%"):
        done(*command.split(), "--dry-run")
    assert touched(place) == before
    done("bank", "remove", "train/good/001.png")
    assert not (place / "weave.zarr" / "bank-1f2e3d4c").exists()


def test_the_estimate_holds(place: Path) -> None:
    def size(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    told = done("score", "more", "--out", "maps", "--dry-run").stderr.split("(about ")[1].split()[0]
    assert len(records(done("score", "more", "--out", "maps"))) == 12
    assert size(place / "maps") / 1e6 == pytest.approx(float(told), rel=0.05)
    told = done("train", "--resume", "--steps", 2, "--dry-run").stderr.split("(about ")[1].split()[0]
    shutil.copytree("weave.zarr", "trained.zarr")
    done("train", "--resume", "--steps", 2, "--store", "trained.zarr")
    assert 0.7 < size(part_folder(place / "trained.zarr", "encoder")) / 1e6 / float(told) < 1.05


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "patchcli: error: nowhere: no such folder"),
        (["more", "--size", "128", "--dry-run"], "patchcli: would read 12 images"),
    ],
)
def test_processes_that_begin_together_end_together(place: Path, arguments: list[str], says: str) -> None:
    """As torchrun starts them: the first one alone says why they do not begin."""
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "OMP_NUM_THREADS": "1"}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        common |= {"TORCHELASTIC_RUN_ID": "none", "PATCHCLI_STORE": "new.zarr", "MASTER_PORT": str(free.getsockname()[1])}
    options: dict[str, Any] = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "patchcli", "train", *arguments],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, **options,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=120)[1] for process in started]
    assert told[0].startswith(says)
    assert told[1] == ""
    assert [process.returncode for process in started] == [2 * ("error" in says), 0]
    assert not (place / "new.zarr").exists()
