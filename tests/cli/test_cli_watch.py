"""patchcli watch as a process: killed and started again, stopped by a signal."""

import json
import signal
import time
from pathlib import Path

import numpy as np
from commands import process
from smallworld import World, save, texture


def test_each_image_once_whatever_happens(made: World, tmp_path: Path) -> None:
    folder, log = tmp_path / "in", tmp_path / "log.jsonl"
    folder.mkdir()
    arguments = ("watch", folder, "--store", made.store, "--log", log, "--every", "0.05")

    def arrive(*numbers: int) -> None:
        for number in numbers:
            save(folder / f"{number}.png", texture(np.random.default_rng(number), 128, 128))

    def lines(count: int) -> list[str]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = log.read_text().splitlines() if log.exists() else []
            if len(found) >= count:
                return [json.loads(line)["file"] for line in found]
            time.sleep(0.05)
        raise AssertionError(f"{count} records did not come")

    arrive(0, 1)
    with process(*arguments) as killed:
        lines(1)
        killed.kill()
    arrive(2)
    with process(*arguments) as started:
        found = lines(3)
        started.send_signal(signal.SIGTERM)
        stdout, stderr = started.communicate(timeout=60)
    assert started.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert sorted(found) == ["0.png", "1.png", "2.png"]
    assert [json.loads(line)["file"] for line in stdout.splitlines()] == found[-len(stdout.splitlines()) :]
