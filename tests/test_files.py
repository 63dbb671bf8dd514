"""Files that are whole or not there, and places that are tried before the work."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchcli import files
from patchcli.detection import regions
from patchcli.detection.regions import Region
from patchcli.errors import InputError

PLACES = ["here", "a/b/c"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("suffixes", [(), (".html",)])
def test_a_place_that_can_be_written(tmp_path: Path, place: str, suffixes: tuple[str, ...]) -> None:
    path = tmp_path / f"{place}{''.join(suffixes)}"
    assert files.target("out", path, *suffixes) == path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/x", "/proc/a/b", "file/x", "file/a/b", "nowhere/x", "n" * 256, "a/" + "n" * 256])
@pytest.mark.parametrize("suffixes", [(), (".html",)])
def test_a_place_that_cannot(tmp_path: Path, place: str, suffixes: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"^`out` /"):
        files.target("out", tmp_path / f"{place}{''.join(suffixes)}", *suffixes)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "nowhere"}


def test_an_existing_folder_of_a_file_system_that_takes_nothing() -> None:
    with pytest.raises(InputError, match="`out` /proc: cannot be written"):
        files.target("out", "/proc")


@given(st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.none()))
def test_a_cell_is_no_formula(value: object) -> None:
    cell = files.spreadsheet(value)
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        assert cell == f"'{value}"
    else:
        assert cell == value


def test_regions_of_an_image_named_like_a_formula(tmp_path: Path) -> None:
    regions.write(tmp_path / "r.csv", [("=a.png", "=a.png", (9, 9), [Region(1, 1, 2, 2, 4, None, 0.5, 1, 1, 0.25)])])
    (row,) = csv.DictReader((tmp_path / "r.csv").open(newline=""))
    assert (row["image"], row["peak"]) == ("'=a.png", "0.5")


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "deep" / "a.txt") as beside:
        beside.write_text("half")
        assert not (tmp_path / "deep" / "a.txt").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "a.txt") as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_two_writers_have_names_of_their_own(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "a.txt") as one, files.replacing(tmp_path / "a.txt") as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert (tmp_path / "a.txt").read_text() == "one"  # the outer one ends last


def test_only_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from patchcli import files\n"
        "with files.replacing(Path(sys.argv[1])) as beside:\n"
        "    beside.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    for place in (tmp_path / "a.txt", tmp_path / "below" / "b.txt"):
        subprocess.run([sys.executable, "-c", code, place], check=False)
    assert len(list(tmp_path.rglob(".*.part"))) == 2
    with files.replacing(tmp_path / "c.txt") as running:
        running.write_text("half")
        others = [tmp_path / ".mine.part", tmp_path / f".00000000-{os.getpid()}-{'0' * 12}.part"]
        for other in others:
            other.write_text("another tool's, or another machine's")
        files.sweep(tmp_path, "**/.*.part")
        assert set(tmp_path.rglob(".*.part")) == {running, *others}
