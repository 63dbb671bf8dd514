"""The log of a watcher: a record a line, synced before it is passed on, and what it says was scored."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from patchcli.datasets.arrivals import State
from patchcli.detection.records import SCHEMA, Record
from patchcli.errors import InputError

START = json.dumps({"schema": SCHEMA})[:-1].encode()  # of every record in a log
STATE = ("bytes", "mtime_ns", "ctime_ns", "inode")  # logs of earlier versions have two of them


def usual_log(folder: Path, store: Path | str) -> Path:
    """Where records of this folder and store go when no place is named."""
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    except RuntimeError as error:
        raise InputError(f"no place for the log ({error}); name one with `log`") from None
    place = store.resolve() if isinstance(store, Path) else store
    of = hashlib.sha256(f"{folder.resolve()}\0{place}".encode(errors="surrogateescape")).hexdigest()
    return state / "patchcli" / f"watch-{folder.resolve().name}-{of[:12]}.jsonl"


@contextlib.contextmanager
def ledger(path: Path) -> Iterator[tuple[dict[str, State], Callable[[Record], None]]]:
    """What a log tells was scored, and a function that appends a record; the log is this process's alone meanwhile."""
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror})", parameter="log", subject=path, advice="name another place"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("another watcher writes to it; name another log", parameter="log", subject=path) from None
        except OSError as error:
            problem = f"its file system has no locks ({error.strerror})"
            raise InputError(problem, parameter="log", subject=path, advice="name a place on a local disk") from None

        def write(record: Record) -> None:
            left = memoryview(f"{json.dumps(asdict(record))}\n".encode())  # ASCII: names need not be UTF-8
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError as error:
                reason = f"cannot be written ({error.strerror})"
                raise InputError(reason, parameter="log", subject=path, advice="fix this and rerun") from None

        yield _scored_before(path), write


def _scored_before(path: Path) -> dict[str, State]:
    """The last state of every file that the log has a record of; a last line that was cut off by a kill is taken away."""
    states: dict[str, State] = {}
    end = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, 1):
            torn = not line.endswith(b"\n")
            if torn and line[: len(START)] == START[: len(line)]:  # nothing but a record of ours is ever cut off
                file.truncate(end)
                break
            end += len(line)
            try:
                if torn:
                    raise ValueError
                record = json.loads(line)
                state = record["bytes"], record["mtime_ns"]
                states[record["file"]] = tuple(record[name] for name in STATE) if STATE[-1] in record else state
            except (ValueError, KeyError, TypeError):
                other, expected = f"something else in line {number}", "records of `watch()`"
                raise InputError(other, parameter="log", subject=path, expected=expected, advice="name another log") from None
    return states
