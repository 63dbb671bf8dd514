"""What a watcher takes for a complete image, what it remembers, and what it refuses."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from smallworld import Told, World, save, texture, tree, truncate, write_plain

import patchcli
from patchcli import images
from patchcli.errors import InputError
from patchcli.pipeline import watch as module
from patchcli.pipeline.watch import PATIENCE, arrivals, watch

LOOK = module._look


class Looks:
    """Each look at the folder is preceded by the next step of a script; the watcher stops when the script is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *steps: object) -> None:
        self.steps = list(steps)

        def scripted(folder: Path) -> object:
            step = self.steps.pop(0)
            if callable(step):
                step()
            return LOOK(folder)

        monkeypatch.setattr(module, "_look", scripted)

    def over(self) -> bool:
        return not self.steps


def image(path: Path, seed: int = 0) -> Path:
    return save(path, texture(np.random.default_rng(seed), 40, 50))


def came(folder: Path, looks: Looks, told: Told | None = None) -> list[str]:
    return [name for name, _ in arrivals(folder, {}, 1e-6, looks.over, told or Told(), images.Reader())]


def test_an_image_is_taken_when_it_has_not_changed_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def grow() -> None:
        image(tmp_path / "sub" / "b.png", 1)
        (tmp_path / ".hidden.png").write_bytes(b"x")

    image(tmp_path / "a.png")
    looks = Looks(monkeypatch, None, None, grow, None, None, None)
    assert came(tmp_path, looks) == ["a.png", "sub/b.png"]


def test_a_file_that_grows_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = image(tmp_path / "a.png").read_bytes()
    part = truncate(tmp_path / "a.png")
    told = Told()
    looks = Looks(monkeypatch, None, None, None, lambda: part.write_bytes(whole), None, None, None)
    assert came(tmp_path, looks, told) == ["a.png"]
    assert told.problems == []


def test_a_damaged_file_is_named_once_and_tried_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = image(tmp_path / "a.png").read_bytes()
    part = truncate(tmp_path / "a.png")
    told = Told()
    assert came(tmp_path, Looks(monkeypatch, *[None] * (PATIENCE + 4)), told) == []
    assert len(told.problems) == 1 and "a.png: cannot be decoded" in told.problems[0]
    later = [None] * (PATIENCE + 4), lambda: part.write_bytes(whole), [None] * 3
    assert came(tmp_path, Looks(monkeypatch, *later[0], later[1], *later[2])) == ["a.png"]


def test_an_overwritten_image_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image(tmp_path / "a.png")

    def overwrite() -> None:
        image(path, seed=1)
        os.utime(path, ns=(1, 1))

    assert came(tmp_path, Looks(monkeypatch, None, None, None, overwrite, None, None, None)) == ["a.png"] * 2


def test_what_vanishes_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    path = image(folder / "a.png")
    told = Told()
    assert came(folder, Looks(monkeypatch, None, path.unlink, None), told) == []
    assert told.problems == []
    with pytest.raises(InputError, match="the folder that was watched is gone"):
        came(folder, Looks(monkeypatch, None, folder.rmdir, None))


@pytest.fixture
def records(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with two images, and a watcher that stops after a few looks."""
    shutil.copytree(made.data / "test" / "hole", tmp_path / "in")
    looks = [0]

    def looked(folder: Path) -> object:
        looks[0] += 1
        return LOOK(folder)

    class Stop:
        def __enter__(self) -> object:
            looks[0] = 0
            return lambda: looks[0] > 3

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(module, "_look", looked)
    monkeypatch.setattr(module.runtime, "stopping", Stop)
    yield tmp_path / "in"


def test_records_are_scores_and_none_is_made_twice(made: World, records: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "line.jsonl"
    told = list(watch(records, made.store, log=log, every=1e-6))
    expected = {record.image.split("/")[-1]: record for record in patchcli.score(made.store, [records])}
    assert [record["file"] for record in told] == sorted(expected)
    for record in told:
        assert record["score"] == pytest.approx(expected[record["file"]].score, rel=1e-5)
    assert [json.loads(line) for line in log.read_text().splitlines()] == told
    assert list(watch(records, made.store, log=log, every=1e-6)) == []  # again
    log.write_bytes(log.read_bytes()[:-20])  # killed while the last record was written
    assert [record["file"] for record in watch(records, made.store, log=log, every=1e-6)] == [told[-1]["file"]]
    assert [json.loads(line)["file"] for line in log.read_text().splitlines()] == [record["file"] for record in told]


def test_without_a_log_it_is_remembered_too(
    made: World, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For this folder and this store: another folder is another line."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert len(list(watch(records, made.store, every=1e-6))) == 3
    assert list(watch(records, made.store, every=1e-6)) == []
    other = Path(shutil.copytree(records, tmp_path / "elsewhere" / "in"))
    assert len(list(watch(other, made.store, every=1e-6))) == 3
    logs = sorted((tmp_path / "state" / "patchcli").iterdir())
    assert len(logs) == 2 and all(log.name.startswith("watch-in-") for log in logs)
    monkeypatch.setenv("XDG_STATE_HOME", str(records / "000.png"))
    with pytest.raises(InputError, match=r"--log .*: cannot be written .*; name another place"):
        list(watch(other, made.store, every=1e-6))


def test_overlays_come_with_their_records(world: World, records: Path, tmp_path: Path) -> None:
    options = {"log": tmp_path / "l.jsonl", "every": 1e-6, "out": tmp_path / "maps", "overlay": True}
    with pytest.raises(InputError, match="--overlay: there is no scale for the colours yet; run: patchcli calibrate"):
        list(watch(records, world.store, **options))  # type: ignore[arg-type]
    write_plain(tmp_path / "more", 12, seed=7)
    patchcli.calibrate(world.store, [tmp_path / "more"], false_alarms=0.25)
    for record in watch(records, world.store, **options):  # type: ignore[arg-type]
        assert Path(record["map"]).is_file()
        assert images.decode(Path(record["overlay"])).shape == images.decode(records / record["file"]).shape


def test_a_folder_without_permission_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "closed" / "b.png")
    scandir, shut = os.scandir, [True]

    def guarded(path: Path) -> object:
        if shut[0] and str(path).rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(module.os, "scandir", guarded)
    told = Told()
    looks = Looks(monkeypatch, None, None, None, lambda: shut.clear() or shut.append(False), None, None)
    assert came(tmp_path, looks, told) == ["a.png", "closed/b.png"]
    assert len(told.problems) == 1 and "closed: may not be read" in told.problems[0]


def test_names_that_are_not_utf8(made: World, records: Path, tmp_path: Path) -> None:
    try:
        name = shutil.move(records / "000.png", os.fsdecode(os.fsencode(records) + b"/caf\xe9.png"))
    except OSError:
        pytest.skip("this file system takes no such name")
    log = tmp_path / "l.jsonl"
    assert {record["file"] for record in watch(records, made.store, log=log, every=1e-6)} >= {"caf\\udce9.png"}
    assert list(watch(records, made.store, log=log, every=1e-6)) == []
    assert Path(name).exists()


def test_two_watchers_do_not_share_a_log(made: World, records: Path, tmp_path: Path) -> None:
    first = watch(records, made.store, log=tmp_path / "l.jsonl", every=1e-6)
    next(first)
    with pytest.raises(InputError, match=r"--log .*l\.jsonl: another watcher writes to it"):
        next(watch(records, made.store, log=tmp_path / "l.jsonl"))
    first.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ['{"auroc": 0.97}', "my notes"])
def test_a_file_that_is_no_log_is_left_as_it_is(made: World, records: Path, tmp_path: Path, text: str) -> None:
    """Without a newline at its end, and yet no record that was cut off."""
    (tmp_path / "notes.json").write_text(text)
    with pytest.raises(InputError, match="expected records of patchcli watch, found something else in line 1"):
        list(watch(records, made.store, log=tmp_path / "notes.json", every=1e-6))
    assert (tmp_path / "notes.json").read_text() == text


def test_refused(made: World, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    image(folder / "a.png")
    (tmp_path / "other.jsonl").write_text('{"file": "a.png"}\n')
    wrong = (
        ((tmp_path / "none",), {}, "expected a folder to watch, found none"),
        ((folder / "a.png",), {}, "expected a folder to watch, found a file"),
        ((folder,), {"every": 0}, "--every: expected seconds above 0, found 0"),
        ((folder,), {"log": tmp_path}, "expected the name of a file, found a folder"),
        ((folder,), {"log": folder / "l.jsonl"}, "--log .*: lies in the folder that is watched"),
        ((folder,), {"out": folder / "maps"}, "--out .*: lies in the folder that is watched"),
        ((folder,), {"log": tmp_path / "other.jsonl"}, "expected records of patchcli watch, found something else in line 1"),
        ((folder,), {"store": tmp_path / "none.zarr"}, "none.zarr"),
    )
    before = tree(tmp_path)
    for arguments, options, says in wrong:
        with pytest.raises(InputError if "store" not in options else Exception, match=says):
            list(watch(*arguments, **{"store": made.store, **options}))  # type: ignore[arg-type]
    assert tree(tmp_path) == before
