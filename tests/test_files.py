"""Files that are whole or not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from patchcli import files


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
