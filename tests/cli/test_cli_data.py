"""patchcli data, and --layout on the commands that read a data set."""

import csv
import io
import shutil
from pathlib import Path

import pytest
from commands import done, finished, records, refused, run
from smallworld import World, touched, truncate, write_plain

from patchcli.datasets.layouts import LAYOUTS


def test_a_data_set_is_described_and_left_alone(made: World) -> None:
    before = touched(made.data)
    result = done("data", made.data)
    assert result.stderr == ""
    train, good, hole = records(result)
    assert train == {
        "schema": "patchcli.data/1", "category": "weave", "layout": "mvtec", "split": "train", "kind": "good",
        "images": 10, "masks": 0, "unreadable": 0, "height": 140, "width": 160,
        "smallest_height": 140, "smallest_width": 160, "bits": 8, "lowest": train["lowest"], "highest": train["highest"],
        "turned": 0,
    }  # fmt: skip
    assert (good["split"], good["kind"], good["images"], good["masks"]) == ("test", "good", 2, 0)
    assert (hole["split"], hole["kind"], hole["images"], hole["masks"]) == ("test", "hole", 3, 3)
    assert (hole["smallest_height"], hole["smallest_width"]) == (128, 128)
    rows = list(csv.DictReader(io.StringIO(done("data", made.data, "--format", "csv").stdout)))
    assert [row["images"] for row in rows] == ["10", "2", "3"]
    table = done("data", made.data, "--format", "table").stdout
    assert all(word in table for word in ("layout", "mvtec", "unreadable", "hole"))
    assert touched(made.data) == before


def test_what_would_be_left_out_is_status_2_and_a_duplicate_is_not(world: World) -> None:
    shutil.copy(world.data / "train/good/000.png", world.data / "test/good/001.png")
    result = done("data", world.data)
    assert result.stderr == "patchcli: test/good/001.png: the same file content as train/good/000.png\n"
    assert done("data", world.data, "--quiet").stderr == ""
    cut = truncate(world.data / "train/good/003.png")
    result = run("data", world.data)
    assert result.exit_code == 2
    assert [(row["images"], row["unreadable"]) for row in records(result)] == [(10, 1), (2, 0), (3, 0)]
    first, _, last = result.stderr.splitlines()
    assert first.startswith(f"patchcli: left out: {cut}: cannot be decoded")
    assert last == "patchcli: done, but 1 problem reported above"


def test_a_manifest_and_its_bad_rows(tmp_path: Path) -> None:
    write_plain(tmp_path / "photos", 4)
    lines = ["path,label,split", *(f"photos/00{number}.png,good," for number in range(3)), "photos/003.png,fine,", "x.png,bad,"]
    (tmp_path / "parts.csv").write_text("\n".join(lines))
    for command in (["data"], ["extract", "--size", "128"]):
        result = run(*command, "parts.csv")
        assert result.exit_code == 2
        first, second, *_ = result.stderr.splitlines()
        where = f"patchcli: left out: {tmp_path}/parts.csv"
        assert first == f"{where}:5: label: expected good or bad, or 0 or 1, found 'fine'"
        assert second == f"{where}:6: path: no such file: {tmp_path}/x.png"
    (found,) = records(done("info"))
    assert (found["layout"], found["root"], found["images"]) == ("manifest", f"{tmp_path}/parts.csv", 3)


@pytest.mark.parametrize("command", ["data", "extract", "train"])
def test_the_layout_by_name(tmp_path: Path, command: str) -> None:
    write_plain(tmp_path / "photos" / "good", 3)
    write_plain(tmp_path / "photos" / "late", 3, seed=1)
    options = {"data": [], "extract": ["--size", 128], "train": ["--size", 128, "--steps", 0, "--dim", 8]}[command]
    refused(command, "photos", "--layout", "coco", *options, says=("--layout: expected manifest,", "'coco'"))
    refused(command, "photos", "--layout", "visa", *options, says=("photos: expected Data/Images/Normal (--layout visa)",))
    result = done(command, "photos", "--layout", "plain", *options)
    if command == "data":
        assert [(row["layout"], row["split"], row["images"]) for row in records(result)] == [("plain", "train", 6)]
    else:
        (found,) = records(done("info"))
        assert (found["layout"], found["images"]) == ("plain", 6)


def test_bad_input(tmp_path: Path, made: World) -> None:
    refused("data", tmp_path / "nowhere", says=("nowhere: no such folder", "expected a data set"))
    refused("data", made.data, "--format", "xml", says=("--format: expected table, jsonl or csv", "'xml'"))
    (tmp_path / "parts.csv").write_text("path;label\na.png;good\n")
    refused("data", "parts.csv", says=("parts.csv: expected the columns path and label, separated by commas",))
    refused("train", "--layout", "plain", "--store", made.store, says=("--layout: expected DATA too",))
    (tmp_path / "notes.txt").write_text("x")
    refused("data", "notes.txt", says=("expected a folder of images, found a file", ".csv or .jsonl"))


@pytest.mark.parametrize("command", ["data", "extract", "train"])
def test_help_names_every_layout(command: str) -> None:
    text = " ".join(done(command, "--help").stdout.split())
    *first, last = LAYOUTS
    assert f"{', '.join(first)} or {last}." in text


def test_torch_is_not_needed(made: World) -> None:
    driver = "import sys; sys.modules['torch'] = sys.modules['zarr'] = None"
    status, stdout, stderr = finished("data", made.data, driver=driver)
    assert (status, len(stdout.splitlines()), stderr) == (0, 3, "")
