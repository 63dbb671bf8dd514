"""Commands as processes of their own that start at once: forked from one that has imported everything.

The scripts beside this try stores out by hundreds of kills, flipped bytes and pairs of commands; run them with `--help`.
The suite runs each in a short form.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

INTERNAL = 99  # of a process that ends by an exception
WORKING = 128


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status (negative: the signal), and what it wrote."""

    status: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """What it wrote as JSON Lines, but for the time."""
        rows = [json.loads(line) for line in self.stdout.splitlines()]
        return [{key: value for key, value in row.items() if key != "time"} for row in rows]

    @property
    def fault(self) -> str:
        """Why this is no proper end: a crash, a traceback, a status without a meaning; "" where it is one."""
        if self.status not in (0, 2):
            return f"status {self.status}: {self.stderr[-500:]}"
        if "Traceback" in self.stderr:
            return f"traceback: {self.stderr[-500:]}"
        if self.status == 2 and not (self.stderr.startswith("patchcli: ") and len(self.stderr) < 4000):
            return f"refused without a word: {self.stderr[-500:]}"
        return ""


class Command:
    """`patchcli ARGUMENTS`, running in `folder`."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        from patchcli.cli.app import app

        self._out, self._err = (folder / f".{name}-{time.monotonic_ns()}" for name in ("out", "err"))
        self.begun = time.monotonic()
        self.pid = os.fork()
        if self.pid:
            return
        status = INTERNAL
        try:
            os.setsid()
            for number, path in ((1, self._out), (2, self._err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(folder)
            try:
                app([str(argument) for argument in arguments], standalone_mode=True)
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def kill(self) -> None:
        """End it at once, and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> Ended:
        """How it ended."""
        _, status = os.waitpid(self.pid, 0)
        self.seconds = time.monotonic() - self.begun
        texts = [path.read_text(errors="replace") if path.exists() else "" for path in (self._out, self._err)]
        for path in (self._out, self._err):
            path.unlink(missing_ok=True)
        return Ended(os.waitstatus_to_exitcode(status), *texts)


def run(folder: Path, *arguments: object) -> Ended:
    """Run a command to its end."""
    return Command(folder, *arguments).wait()


def done(folder: Path, *arguments: object) -> Ended:
    """Run a command that must end well."""
    ended = run(folder, *arguments)
    assert ended.status == 0, (arguments, ended)
    return ended


def write_world(folder: Path, images: int = 8) -> Path:
    """A data set of cloth below `folder`, more good images in more/, and a store in s.zarr: embedded and calibrated."""
    rng = np.random.default_rng(0)

    def cloth(path: Path, damaged: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        y, x = np.mgrid[:WORKING, :WORKING]
        pixels = 120 + 60 * np.sin(x * np.pi / 4) * np.sin(y * np.pi / 4)
        pixels = pixels[..., None] + rng.normal(0, 8, (WORKING, WORKING, 3))
        if damaged:
            pixels[40:70, 50:90] = (230, 20, 20)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)

    for number in range(images):
        cloth(folder / f"data/train/good/{number:03}.png")
    for number in range(3):
        cloth(folder / f"data/test/good/{number:03}.png")
        cloth(folder / f"data/test/hole/{number:03}.png", damaged=True)
        cloth(folder / f"more/{number}.png")
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    done(folder, "train", "data", "--store", "s.zarr", "--size", WORKING, "--steps", 0, "--dim", 8, "--threads", 1)
    done(folder, "embed", "--store", "s.zarr", "--threads", 1)
    done(folder, "calibrate", "--store", "s.zarr", "--false-alarms", "40%", "--threads", 1)
    return folder


def parts(store: Path) -> dict[str, str]:
    """A digest of what each part of a store holds, whatever its folder is called; metadata is not looked at."""
    root = json.loads((store / "zarr.json").read_text())["attributes"]["patchcli"]
    digests = {}
    for kind, named in root["parts"].items():
        whole = hashlib.sha256()
        for path in sorted((store / named["name"]).rglob("*")):
            if path.is_file() and path.name != "zarr.json":
                whole.update(f"{path.relative_to(store / named['name'])}\0".encode() + path.read_bytes())
        digests[kind] = whole.hexdigest()
    return digests


def leftovers(store: Path) -> list[str]:
    """What lies in a store that its root does not name."""
    root = json.loads((store / "zarr.json").read_text())["attributes"]["patchcli"]
    named = {part["name"] for part in root["parts"].values()} | {"zarr.json", ".lock"}
    inside = [path.name for name in named for path in (store / name).rglob("*.partial")]
    return [path.name for path in store.iterdir() if path.name not in named] + inside


def counted(total: int, what: str) -> Iterator[int]:
    """Numbers up to total, with a line on standard error now and then."""
    for number in range(total):
        if total >= 50 and number % 25 == 0:
            print(f"{what} {number} of {total}", file=sys.stderr)
        yield number


def main(doc: str | None, count: int, what: str, trial: Callable[[Path, int, int], tuple[Counter[str], list[str]]]) -> None:
    """Run a script's trial in a folder of its own, print outcomes and faults, and exit with 1 where there are faults."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    import loaded  # noqa: F401

    folder = Path(tempfile.mkdtemp())
    try:
        outcomes, faults = trial(folder, arguments.count, arguments.seed)
    finally:
        shutil.rmtree(folder)
    print(*faults, sep="\n")
    print(f"{arguments.count} {what}: {dict(outcomes)}; {len(faults)} faults")
    sys.exit(bool(faults))


def no_fault(script: str, count: int) -> None:
    """Run a script of tests/faults in its short form, as a process of its own."""
    helpers = Path(__file__).parent
    command = [sys.executable, helpers.parent / "faults" / f"{script}.py", "--count", str(count), "--seed", "1"]
    place = {"PYTHONPATH": f"{helpers}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=os.environ | place)
    assert ended.stdout.endswith("; 0 faults\n"), ended.stdout + ended.stderr
    assert ended.returncode == 0
