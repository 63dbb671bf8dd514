"""Kill `patchcli watch` at random moments while images arrive and are overwritten: no record is lost, doubled or of another
content. It makes its own data and prints what it counted.

PYTHONPATH=tests/helpers python tests/faults/watch_kills.py KILLS [SEED]

Images are BMP files of one size, and those that are overwritten get the old time of change back, so that bytes and
mtime_ns tell nothing.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from smallworld import WORKING, Told, make_store, save, texture, write_plain

import patchcli
from patchcli.verbs.ledger import STATE

BACKLOG = 8  # images that arrive or change before each start, and at most so many before the kill
DEADLINE = 300  # seconds for what takes a few


@dataclass
class Line:
    """A folder where images arrive, and a copy of every content that a file there had, by name and state."""

    place: Path
    chance: random.Random
    copies: dict[tuple[object, ...], Path] = field(default_factory=dict)
    images: int = 0

    @property
    def folder(self) -> Path:
        return self.place / "in"

    def arrive(self) -> None:
        """One more image, or another content for one that is there: in place, or renamed to it."""
        self.images += 1
        kept = save(self.place / "copies" / f"{self.images}.bmp", texture(np.random.default_rng(self.images), *WORKING))
        there = sorted(self.folder.glob("*.bmp"))
        path, old = self.folder / f"{self.images}.bmp", None
        if there and self.chance.random() < 0.5:
            path = self.chance.choice(there)
            old = path.stat().st_mtime_ns
        if old is not None and self.chance.random() < 0.5:
            path.write_bytes(kept.read_bytes())
        else:
            part = shutil.copyfile(kept, path.with_name(".part"))
            self._remember(path, part, kept)
            part.replace(path)
        self._remember(path, path, kept)
        if old is not None:
            os.utime(path, ns=(old, old))
            self._remember(path, path, kept)

    def _remember(self, path: Path, file: Path, kept: Path) -> None:
        self.copies[path.name, *state(file)] = kept

    def expected(self) -> set[tuple[object, ...]]:
        """What is there now: name and state of each file."""
        return {(path.name, *state(path)) for path in self.folder.glob("*.bmp")}


def state(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def key(record: dict[str, Any]) -> tuple[object, ...]:
    return record["file"], *(record[name] for name in STATE)


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file; the last may be cut off."""
    text = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


def kill_watchers(place: Path, store: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Start and kill a watcher `kills` times, then let it finish; raises AssertionError where a record is wrong."""
    line, log = Line(place, random.Random(seed)), place / "log.jsonl"
    outputs: list[Path] = []

    def start() -> "subprocess.Popen[bytes]":
        outputs.append(place / f"stdout{len(outputs)}.jsonl")
        command = ["watch", line.folder, "--store", store, "--log", log, "--every", "0.02", "--threads", "1"]
        with outputs[-1].open("wb") as stdout, (place / "stderr").open("wb") as stderr:
            return subprocess.Popen([sys.executable, "-m", "patchcli", *map(str, command)], stdout=stdout, stderr=stderr)

    def until(what: str, running: "subprocess.Popen[bytes]") -> None:
        """Wait until the watcher watches, has one more record, or one of everything."""
        end, before = time.monotonic() + DEADLINE, len(whole_lines(log))
        while time.monotonic() < end and running.poll() is None:
            if what == "watching" and b"watching" in (place / "stderr").read_bytes():
                return
            if what == "one more" and len(whole_lines(log)) > before:
                return
            if what == "all" and line.expected() <= {key(record) for record in whole_lines(log)}:
                return
            time.sleep(0.01)
        raise AssertionError(f"{what}: status {running.poll()}, {(place / 'stderr').read_text()}")

    line.folder.mkdir(parents=True)
    for _ in range(kills):
        for _ in range(BACKLOG):
            line.arrive()
        running = start()
        stage = line.chance.choices(("started", "watching", "one more"), (1, 2, 7))[0]
        if stage != "started":
            until(stage, running)
        for _ in range(line.chance.randrange(BACKLOG)):
            line.arrive()
            time.sleep(line.chance.uniform(0, 0.02))
        time.sleep(line.chance.uniform(0, 0.2))
        running.kill()
        running.wait()
    running = start()
    until("watching", running)  # before, a signal ends it as it ends any process
    until("all", running)
    running.send_signal(signal.SIGTERM)
    assert running.wait(DEADLINE) == 0, (place / "stderr").read_text()

    records = whole_lines(log)
    assert log.read_bytes().endswith(b"\n")
    assert len({key(record) for record in records}) == len(records), "a file was scored twice in one state"
    assert line.expected() <= {key(record) for record in records}, "an image has no record"
    told = [record for output in outputs for record in whole_lines(output)]
    assert all(record in records for record in told), "standard output has a record that the log does not have"
    scores = {Path(record.image).name: record.score for record in patchcli.score(store, [place / "copies"], observer=Told())}
    for record in records:
        wanted = scores[line.copies[key(record)].name]
        assert abs(record["score"] - wanted) <= 1e-4 * wanted, f"{record['file']} has the score of another content"
    return {
        "kills": kills,
        "contents": line.images,
        "records": len(records),
        "on standard output": len(told),
        "overwritten and scored again": len(records) - len({record["file"] for record in records}),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = make_store(write_plain(Path(folder) / "good", 10), Path(folder) / "good.zarr", D=16)
        print(kill_watchers(Path(folder) / "line", made, int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
