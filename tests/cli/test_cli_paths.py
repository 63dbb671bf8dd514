"""Paths on the command line: what is given is what is printed, and one bad path never ends a stream."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from commands import done, finished, records, refused, run
from smallworld import SIZE, World, save, texture


def photo(path: Path) -> Path:
    return save(path, texture(np.random.default_rng(90), *SIZE))


def test_a_stream_goes_on_after_any_path(made: World, tmp_path: Path) -> None:
    first, last = (photo(tmp_path / name) for name in ("first.png", "last.png"))
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "loops").mkdir()
    (tmp_path / "loops" / "round").symlink_to("round")
    os.mkfifo(tmp_path / "fifo.png")
    bad = {
        "loop.png": "links to itself", "gone.png": "broken link to nowhere.png", "fifo.png": "expected a file, found a FIFO",
        "/dev/zero": "expected a file, found a device", "x" * 300: "a name or the path is too long", "no.png": "no such file",
        "y/" * 3000 + "z.png": "a name or the path is too long", "loops": "no images found in this folder",
    }  # fmt: skip
    text = "\0".join([str(first), *bad, str(last)])
    result = run("score", "-0", "-", "--store", made.store, "--out", "maps", stdin=text)
    assert result.exit_code == 2
    assert [record["image"] for record in records(result)] == [str(first), str(last)]
    for line in bad.values():
        assert f": {line}\n" in result.stderr
    assert len(result.stderr.splitlines()) == len(bad) + 3  # no verdicts; the link in the folder; and how many there were


def test_bytes_that_are_no_text(made: World, tmp_path: Path) -> None:
    name = b"caf\xe9 \n.png"
    try:
        photo(tmp_path / os.fsdecode(name))
    except OSError:
        return  # this file system takes no such name
    status, stdout, stderr = finished("score", os.fsdecode(name), "--store", made.store, "--out", "maps")
    assert (status, stderr) == (0, "patchcli: no verdicts: not calibrated; run: patchcli calibrate\n")
    record = json.loads(stdout)
    assert record["image"] == record["id"] == "caf\\udce9 \n.png"
    assert Path(record["map"]).is_file()


def test_what_was_added_is_removed_by_the_same_words(world: World) -> None:
    photo(Path("new") / "a.png")
    for word in ("new/a.png", "./new//a.png"):
        done("bank", "add", word, "--store", world.store)
        assert records(done("bank", "list", "--store", world.store))[-1]["id"] == "new/a.png"
        done("bank", "remove", word, "--store", world.store)
    given = world.data / "train" / "good" / "003.png"
    done("bank", "remove", given, "--store", world.store)
    done("bank", "add", given, "--store", world.store)
    assert records(done("bank", "list", "--store", world.store))[-1]["id"] == "train/good/003.png"


def test_an_empty_name_adds_nothing(made: World) -> None:
    photo(Path("never.png"))
    result = run("bank", "add", "", "--store", made.store)
    assert result.exit_code == 2
    assert "expected a path, found an empty text" in result.stderr
    assert len(records(done("bank", "list", "--store", made.store))) == 10


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("score", "--out", "", "a.png"), "--out: "),
        (("score", "a.png", "--out="), "--out: "),
        (("eval", "--maps", ""), "--maps: "),
        (("extract", "--patches", ""), "--patches: "),
        (("calibrate", "--store", ""), "--store: "),
        (("watch", ""), ""),
        (("data", ""), ""),
        (("train", ""), ""),
    ],
)
def test_an_empty_text_is_not_the_working_directory(made: World, arguments: tuple[str, ...], option: str) -> None:
    photo(Path("a.png"))
    store = () if "--store" in arguments or arguments[0] == "data" else ("--store", made.store)
    refused(*arguments, *store, says=(f"{option}expected a value, found an empty text (a variable that is not set?)",))
    assert [*Path().iterdir()] == [Path("a.png")]


def test_what_is_no_data_set(tmp_path: Path) -> None:
    os.mkfifo("fifo.csv")
    refused("data", "fifo.csv", says=("fifo.csv: expected a file, found a FIFO",))
    Path("loop").symlink_to("loop")
    refused("data", "loop", says=("loop: links to itself",))
    Path("gone").symlink_to("nowhere")
    refused("train", "gone", says=("gone: broken link to nowhere",))
