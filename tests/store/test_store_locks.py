"""One writer at a time; readers keep their version; what a killed process left goes."""

import errno
import fcntl
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workers import hold

from patchcli.errors import DamagedError, IncompleteError, StoreError
from patchcli.observer import Observer
from patchcli.store import EncoderAttributes, Source, Store, locked, locks, revision

SOURCE = Source("/somewhere", "plain", "weave", "0" * 64)
IMPORTED = EncoderAttributes("hierarchical", 6, "imported")
WEIGHTS = {"scale": np.ones(3, np.float32)}


class Noted(Observer):
    """Remembers notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def pixels(count: int, value: int) -> Iterator[tuple[str, tuple[int, int], Any]]:
    return ((f"{n}.png", (70, 80), np.full((70, 80, 3), value, np.uint8)) for n in range(count))


def make(path: Path, overwrite: bool = False, value: int = 7) -> None:
    with Store.creating(path, SOURCE, overwrite) as new:
        new.write_images(pixels(3, value), 70, 80)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make(tmp_path / "weave.zarr")
    return tmp_path / "weave.zarr"


@pytest.fixture
def another(path: Path) -> Iterator[Callable[[], None]]:
    """A process that has the lock; calling the fixture lets it end."""
    context = multiprocessing.get_context("spawn")
    ready, over = context.Event(), context.Event()
    process = context.Process(target=hold, args=(str(path), ready, over))
    process.start()
    assert ready.wait(60)

    def end() -> None:
        over.set()
        process.join(60)

    yield end
    end()


def test_a_second_writer_gives_up_with_one_line(
    path: Path, another: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    noted = Noted()
    says = r"weave\.zarr: process \d+ on .* writes to it; run this again"
    with pytest.raises(StoreError, match=says), Store.writing(path, noted):
        pytest.fail("must not come here")
    assert len(noted.notes) == 1
    assert "waiting for process" in noted.notes[0]
    assert Store.open(path).images.read(0, 1).max() == 7  # readers do not wait
    another()
    with Store.writing(path) as store:
        store.update_source(replace(store.source, category="grid"))


def test_a_writer_waits(path: Path, another: Callable[[], None]) -> None:
    class EndsIt(Noted):
        def note(self, line: str) -> None:
            super().note(line)
            another()

    noted = EndsIt()
    with Store.writing(path, noted) as store:
        store.update_source(replace(store.source, category="grid"))
    assert len(noted.notes) == 1
    assert Store.open(path).source.category == "grid"


def test_the_same_thread_may_write_within(path: Path) -> None:
    with locked(path, Observer()), Store.writing(path) as store:
        store.update_source(replace(store.source, category="grid"))
    assert (path / ".lock").read_text() == ""


def test_a_writer_whose_version_was_replaced_refuses_to_switch(path: Path) -> None:
    """As it could be where there are no locks."""
    with Store.writing(path) as one, Store.writing(path) as two:
        two.update_source(replace(two.source, category="grid"))
        with pytest.raises(StoreError, match=r"another process has written to it meanwhile; run this again"):
            one.write_encoder(WEIGHTS, IMPORTED, {})
    assert Store.open(path).source.category == "grid"
    with pytest.raises(IncompleteError):
        Store.open(path).encoder.weights()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def without(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without)
    with pytest.raises(StoreError, match=r"its file system has no locks.*set PATCHCLI_NO_LOCK=1"), Store.writing(path):
        pytest.fail("must not come here")
    assert Store.open(path).images.read(0, 1).max() == 7
    monkeypatch.setenv("PATCHCLI_NO_LOCK", "1")
    with Store.writing(path) as store:
        store.write_encoder(WEIGHTS, IMPORTED, {})
    assert Store.open(path).encoder.weights().keys() == WEIGHTS.keys()


def test_a_reader_keeps_its_version(path: Path) -> None:
    reader = Store.open(path)
    before = reader.images.mean
    make(path, overwrite=True, value=9)
    assert reader.images.read(0, 3).max() == 7
    assert reader.images.ids == ["0.png", "1.png", "2.png"]
    assert before.max() == 7
    assert revision(path) != reader.root.revision
    assert Store.open(path).images.read(0, 3).max() == 9
    assert len([child for child in path.iterdir() if child.name.startswith("images")]) == 2
    reader.close()
    with Store.writing(path):
        pass
    assert len([child for child in path.iterdir() if child.name.startswith("images")]) == 1


def test_a_reader_without_locks_says_what_happened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not told that the store is damaged."""
    reader = Store.open(path)
    reader.images.sizes  # noqa: B018
    reader.close()
    make(path, overwrite=True, value=9)
    with pytest.raises(DamagedError, match=r"another process has changed it meanwhile; run this again"):
        reader.images.read(0, 3)


def test_what_a_killed_process_left_goes(path: Path) -> None:
    for name in ("bank", "images-0123abcd", "blocks"):
        (path / name / "c").mkdir(parents=True)
    (path / "zarr.12ab.partial").write_text("half")
    (path / "notes").mkdir()
    with Store.writing(path):
        pass
    assert sorted(child.name for child in path.iterdir()) == [".lock", "images", "notes", "zarr.json"]


def test_what_a_killed_creation_left_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "weave.zarr"
    (path / "images" / "train").mkdir(parents=True)
    (path / ".lock").write_text("process 1")
    with pytest.raises(StoreError, match="no store found"):
        Store.open(path)
    make(path)
    assert Store.open(path).images.read(0, 3).max() == 7


@pytest.mark.parametrize("content", ["", "{", '{"attributes": {"patchcli": {"format_version": 1}}}'])
def test_a_store_whose_root_is_damaged_can_be_made_again(path: Path, content: str) -> None:
    (path / "zarr.json").write_text(content)
    with pytest.raises(StoreError, match=r"damaged|earlier"):
        Store.open(path)
    with pytest.raises(StoreError, match="already exists"):
        make(path)
    make(path, overwrite=True, value=9)
    assert Store.open(path).images.read(0, 3).max() == 9
    assert Store.open(path).root.parts["images"].name != "images"  # a reader may still have that


def test_a_creation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Store.creating(tmp_path / "weave.zarr", SOURCE):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_store_stays_a_link(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.zarr"
    link.symlink_to(path.name)
    make(link, overwrite=True, value=9)
    assert link.is_symlink()
    assert Store.open(path).images.read(0, 3).max() == 9


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    link = tmp_path / "link.zarr"
    link.symlink_to("gone.zarr")
    with pytest.raises(StoreError, match=r"is a link to gone\.zarr, which is not there"):
        make(link)
    assert link.is_symlink()


def test_a_url_is_read(path: Path) -> None:
    opened = Store.open(f"file://{path}")
    assert opened.images.read(0, 3).max() == 7
    assert opened.images.ids == ["0.png", "1.png", "2.png"]
