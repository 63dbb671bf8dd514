"""What a watcher takes for a complete image, what it remembers, and what it refuses."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smallworld import Told, World, save, texture, tree, truncate, write_plain

import patchcli
from patchcli.datasets import arrivals as module
from patchcli.datasets import images
from patchcli.datasets.arrivals import PATIENCE, arrivals
from patchcli.detection.detector import Detector
from patchcli.errors import InputError, StoreError
from patchcli.store import Store
from patchcli.verbs import ledger, watcher
from patchcli.verbs.outputs import Outputs
from patchcli.verbs.watch import watch

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
    return [arrival.name for arrival in arrivals(folder, {}, 1e-6, looks.over, told or Told(), images.Reader)]


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


def test_a_damaged_file_is_named_once_and_tried_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def overwrite(path: Path, seed: int) -> Path:
    """Another content of the same size and time of change, in place."""
    status = path.stat()
    path.write_bytes(image(path.with_name("other") / path.name, seed).read_bytes())
    shutil.rmtree(path.with_name("other"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    return path


@pytest.mark.parametrize("renamed", [False, True])
def test_the_same_size_and_time_with_another_content_is_another_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    path = image(tmp_path / "in" / "a.bmp")

    def change() -> None:
        if renamed:
            shutil.copy2(path, tmp_path / "a.bmp")
            overwrite(tmp_path / "a.bmp", 1).replace(path)
        else:
            overwrite(path, 1)

    looks = Looks(monkeypatch, None, None, None, change, None, None, None)
    first, second = arrivals(tmp_path / "in", {}, 1e-6, looks.over, Told(), images.Reader)
    assert first.state[:2] == second.state[:2] and first.state != second.state
    np.testing.assert_array_equal(second.pixels, images.Reader().read(path))
    assert (first.pixels != second.pixels).any()


def test_what_changes_in_a_backlog_is_scored_as_it_is_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are looked at, then decoded one by one, which takes its time: each has the state of what was decoded."""
    paths = [image(tmp_path / f"{number}.bmp", number) for number in range(6)]
    for number, path in enumerate(paths):
        os.utime(path, ns=(number, number))  # the order in which they are taken
    changes = {
        "0": lambda: overwrite(paths[3], 13),
        "1": lambda: image(tmp_path / ".x" / "4.bmp", 14).replace(paths[4]),
        "2": paths[5].unlink,
    }
    told = Told()
    looks = Looks(monkeypatch, *[None] * 6)
    taken = []
    for arrival in arrivals(tmp_path, {}, 1e-6, looks.over, told, images.Reader):
        taken.append(arrival.name)
        status = (tmp_path / arrival.name).stat()
        assert arrival.state == (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        np.testing.assert_array_equal(arrival.pixels, images.Reader().read(tmp_path / arrival.name))
        changes.pop(arrival.name.removesuffix(".bmp"), lambda: None)()
    assert taken == ["0.bmp", "1.bmp", "2.bmp", "3.bmp", "4.bmp"]  # and none twice, 5.bmp is gone
    assert told.problems == []


def test_what_changes_while_it_is_decoded_waits_for_the_next_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = image(tmp_path / "a.bmp"), images.Reader.read
    changes = [lambda: overwrite(path, 1), lambda: image(tmp_path / ".x" / "a.bmp", 2).replace(path), path.unlink]

    def slow(reader: images.Reader, *arguments: Any) -> np.ndarray:
        pixels = read(reader, *arguments)
        if changes:
            changes.pop(0)()
        return pixels

    monkeypatch.setattr(images.Reader, "read", slow)
    told = Told()
    looks = Looks(monkeypatch, *[None] * 8, lambda: image(path, 3), *[None] * 3)
    (arrival,) = arrivals(tmp_path, {}, 1e-6, looks.over, told, images.Reader)
    np.testing.assert_array_equal(arrival.pixels, images.Reader().read(path))
    assert told.problems == []


def test_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders behind links are taken under the names that are seen; a loop and a broken link are named once."""
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    image(elsewhere / "lot" / "a.png")
    folder.mkdir()
    (folder / "lot").symlink_to(elsewhere / "lot")
    (folder / "b.png").symlink_to(elsewhere / "lot" / "a.png")
    (elsewhere / "lot" / "up").symlink_to(elsewhere)
    (folder / "round").symlink_to(folder)
    (folder / "none.png").symlink_to(tmp_path / "none")
    (folder / "self.png").symlink_to("self.png")
    told = Told()
    names = came(folder, Looks(monkeypatch, *[None] * 5), told)
    assert sorted(names) == ["b.png", "lot/a.png"]
    problems = sorted(problem.removeprefix(f"{folder}/") for problem in told.problems)
    expected = ("lot/up/lot", "none.png: links to no file", "round", "self.png")
    assert len(problems) == len(expected)
    assert all(problem.startswith(start) for problem, start in zip(problems, expected, strict=True)), problems


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
    monkeypatch.setattr(watcher.runtime, "stopping", Stop)
    yield tmp_path / "in"


def test_records_are_scores_and_none_is_made_twice(made: World, records: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "line.jsonl"
    told = list(watch(records, made.store, log=log, every=1e-6))
    expected = {record.image.split("/")[-1]: record for record in patchcli.score(made.store, [records])}
    assert [record.file for record in told] == sorted(expected)
    for record in told:
        assert record.score == pytest.approx(expected[record.file].score, rel=1e-5)
    assert [json.loads(line) for line in log.read_text().splitlines()] == [asdict(record) for record in told]
    assert list(watch(records, made.store, log=log, every=1e-6)) == []  # again
    log.write_bytes(log.read_bytes()[:-20])  # killed while the last record was written
    assert [record.file for record in watch(records, made.store, log=log, every=1e-6)] == [told[-1].file]
    assert [json.loads(line)["file"] for line in log.read_text().splitlines()] == [record.file for record in told]


def test_a_log_of_before_counts(made: World, records: Path, tmp_path: Path) -> None:
    """Its records have size and time of change alone."""
    log = tmp_path / "line.jsonl"
    told = list(watch(records, made.store, log=log, every=1e-6))
    status = (records / told[0].file).stat()
    assert [getattr(told[0], name) for name in ledger.STATE] == [
        status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino,
    ]  # fmt: skip
    before = [{name: value for name, value in asdict(record).items() if name not in ("ctime_ns", "inode")} for record in told]
    log.write_text("".join(f"{json.dumps(record)}\n" for record in before))
    assert list(watch(records, made.store, log=log, every=1e-6)) == []
    os.utime(records / told[1].file)
    assert [record.file for record in watch(records, made.store, log=log, every=1e-6)] == [told[1].file]


def test_each_image_is_decoded_once(world: World, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its overlay too; and what is gone by then is scored all the same."""
    write_plain(tmp_path / "more", 12, seed=7)
    patchcli.calibrate(world.store, [tmp_path / "more"], false_alarms=0.25)
    expected = {Path(record.image).name: record.score for record in patchcli.score(world.store, [records])}
    read, decoded = images.Reader.read, []

    def counted(reader: images.Reader, path: Path, *arguments: Any) -> np.ndarray:
        decoded.append(path.name)
        return read(reader, path, *arguments)

    def vanished(*arguments: Any) -> Any:
        arrival = taken(*arguments)
        if arrival is not None:
            (arguments[0] / arguments[1]).unlink()
        return arrival

    taken = module._decode
    monkeypatch.setattr(images.Reader, "read", counted)
    monkeypatch.setattr(module, "_decode", vanished)
    told = Told()
    found = watch(
        records,
        world.store,
        outputs=Outputs(tmp_path / "o", overlay=True),
        log=tmp_path / "l.jsonl",
        every=1e-6,
        observer=told,
    )
    assert {record.file: record.score for record in found} == pytest.approx(expected, rel=1e-5)
    assert sorted(decoded) == sorted(expected) and told.problems == []


def test_the_changed_store_is_used_from_the_next_image_on(world: World, records: Path, tmp_path: Path) -> None:
    def scores() -> dict[str, float]:
        return {Path(record.image).name: record.score for record in patchcli.score(world.store, [records], observer=Told())}

    told = Told()
    found = watch(records, world.store, log=tmp_path / "l.jsonl", every=1e-6, observer=told)
    before, first = scores(), next(found)
    assert first.score == pytest.approx(before[first.file], rel=1e-5)
    patchcli.bank_remove(world.store, [f"train/good/{number:03}.png" for number in range(6)])
    after, second = scores(), next(found)
    assert after[second.file] != pytest.approx(before[second.file], rel=1e-3)
    assert second.score == pytest.approx(after[second.file], rel=1e-5)
    assert second.verdict is None
    write_plain(tmp_path / "more", 12, seed=7)
    patchcli.calibrate(world.store, [tmp_path / "more"], false_alarms=0.25)
    assert next(found).verdict is not None
    assert [note for note in told.notes if "store changed" in note] == [
        "the store changed: images from now on get its new bank and thresholds"
    ] * 2
    assert told.problems == []


def test_a_store_that_cannot_be_used_yet_leaves_the_bank_of_before(world: World, records: Path, tmp_path: Path) -> None:
    told = Told()
    expected = {Path(record.image).name: record.score for record in patchcli.score(world.store, [records])}
    found = watch(records, world.store, log=tmp_path / "l.jsonl", every=1e-6, observer=told)
    scores = [next(found)]
    patchcli.train(
        store=world.store, steps=0, seed=1, overwrite=True, encoder="hierarchical", observer=Told()
    )  # its bank is another encoder's
    scores.append(next(found))
    world.store.rename(tmp_path / "away.zarr")  # as if it were made anew
    scores.append(next(found))
    for record in scores:
        assert record.score == pytest.approx(expected[record.file], rel=1e-5)
    kept = [note for note in told.notes if "the store changed, but images are still compared with its old bank" in note]
    assert len(kept) == 2 and told.problems == []


def test_a_store_that_changes_while_it_is_read_is_waited_for(
    world: World, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its bank is read page by page, and the pages are gone."""
    compare, told = Detector.compare, Told()

    def gone(self: Detector, *arguments: Any) -> Any:
        monkeypatch.setattr(Detector, "compare", compare)
        with Store.writing(world.store) as opened:
            opened.update_source(replace(opened.source, category="other"))
        raise StoreError("page 3 is gone")

    monkeypatch.setattr(Detector, "compare", gone)
    found = list(watch(records, world.store, log=tmp_path / "l.jsonl", every=1e-6, observer=told))
    assert len(found) == 3
    assert len(told.problems) == 1 and "waiting until it can be used again: page 3 is gone" in told.problems[0]


def test_a_damaged_store_ends_it(world: World, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> None:
        raise StoreError("page 3 is damaged")

    monkeypatch.setattr(Detector, "compare", damaged)
    with pytest.raises(StoreError, match="page 3 is damaged"):
        list(watch(records, world.store, log=tmp_path / "l.jsonl", every=1e-6))


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
    with pytest.raises(InputError, match=r"`log` .*: cannot be written .*; name another place"):
        list(watch(other, made.store, every=1e-6))


def test_overlays_come_with_their_records(world: World, records: Path, tmp_path: Path) -> None:
    options = {"log": tmp_path / "l.jsonl", "every": 1e-6, "outputs": Outputs(tmp_path / "maps", overlay=True)}
    with pytest.raises(InputError, match=r"`overlay`: there is no scale for the colours yet; run: `calibrate\(\)`"):
        list(watch(records, world.store, **options))  # type: ignore[arg-type]
    write_plain(tmp_path / "more", 12, seed=7)
    patchcli.calibrate(world.store, [tmp_path / "more"], false_alarms=0.25)
    for record in watch(records, world.store, **options):  # type: ignore[arg-type]
        assert Path(record.map).is_file()
        assert images.Reader().read(Path(record.overlay)).shape == images.Reader().read(records / record.file).shape


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
    assert {record.file for record in watch(records, made.store, log=log, every=1e-6)} >= {"caf\\udce9.png"}
    assert list(watch(records, made.store, log=log, every=1e-6)) == []
    assert Path(name).exists()


def test_two_watchers_do_not_share_a_log(made: World, records: Path, tmp_path: Path) -> None:
    first = watch(records, made.store, log=tmp_path / "l.jsonl", every=1e-6)
    next(first)
    with pytest.raises(InputError, match=r"`log` .*l\.jsonl: another watcher writes to it"):
        next(watch(records, made.store, log=tmp_path / "l.jsonl"))
    first.close()  # type: ignore[attr-defined]


def test_a_log_that_cannot_be_locked_or_written(
    made: World, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(number: int) -> Callable[..., None]:
        def call(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        return call

    log = tmp_path / "l.jsonl"
    for number in (errno.ENOLCK, errno.EOPNOTSUPP):
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", fails(number))
            with pytest.raises(InputError, match=r"`log` .*l\.jsonl: its file system has no locks \(.*\); name a place"):
                list(watch(records, made.store, log=log, every=1e-6))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails(errno.ENOSPC))
        with pytest.raises(InputError, match=r"`log` .*l\.jsonl: cannot be written \(No space left on device\)"):
            list(watch(records, made.store, log=log, every=1e-6))


@pytest.mark.parametrize("text", ['{"auroc": 0.97}', "my notes"])
def test_a_file_that_is_no_log_is_left_as_it_is(made: World, records: Path, tmp_path: Path, text: str) -> None:
    """Without a newline at its end, and yet no record that was cut off."""
    (tmp_path / "notes.json").write_text(text)
    with pytest.raises(InputError, match=r"expected records of `watch\(\)`, found something else in line 1"):
        list(watch(records, made.store, log=tmp_path / "notes.json", every=1e-6))
    assert (tmp_path / "notes.json").read_text() == text


def test_refused(made: World, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    image(folder / "a.png")
    (tmp_path / "other.jsonl").write_text('{"file": "a.png"}\n')
    wrong = (
        ((tmp_path / "none",), {}, "expected a folder to watch, found none"),
        ((folder / "a.png",), {}, "expected a folder to watch, found a file"),
        ((folder,), {"every": 0}, "`every`: expected seconds above 0, found 0"),
        ((folder,), {"log": tmp_path}, "expected the name of a file, found a folder"),
        ((folder,), {"log": os.devnull}, "expected the name of a file, found a device or pipe"),
        ((folder,), {"log": folder / "l.jsonl"}, "`log` .*: lies in the folder that is watched"),
        ((folder,), {"outputs": Outputs(folder / "maps")}, "`out` .*: lies in the folder that is watched"),
        ((folder,), {"log": tmp_path / "other.jsonl"}, r"expected records of `watch\(\)`, found something else in line 1"),
        ((folder,), {"detector": tmp_path / "none.zarr"}, "none.zarr"),
    )
    before = tree(tmp_path)
    for arguments, options, says in wrong:
        with pytest.raises(InputError if "detector" not in options else Exception, match=says):
            list(watch(*arguments, **{"detector": made.store, **options}))  # type: ignore[arg-type]
    assert tree(tmp_path) == before
