"""Images that arrive in a folder → a record each, as it happens."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from io import BufferedRandom
from pathlib import Path
from typing import Any

from patchcli import images, runtime
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.pipeline.score import SCHEMA, score

EVERY = 1.0  # seconds between two looks at the folder; network shares tell of no changes, so it is looked at
PATIENCE = 5  # looks for which an unchanged file that cannot be decoded may still be being written
START = json.dumps({"schema": SCHEMA})[:-1].encode()  # of every record in a log
State = tuple[int, int]  # bytes, and time of the last change in ns


def watch(
    folder: Path | str,
    store: Path | str = "patchcli.zarr",
    *,
    log: Path | str | None = None,
    every: float = EVERY,
    observer: Observer | None = None,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Score the images that are below `folder` and those that come, until SIGINT or SIGTERM; `options` are those of score.

    Yields score's record with "file" (relative to the folder), "bytes" and "mtime_ns". An image is complete when it did
    not change between two looks and can be decoded. Records are appended to `log`, a JSON Lines file, before they are
    yielded; what it tells of is not scored again, unless the file has changed. Without one, it is a file of this folder
    and store below the user's state folder (XDG_STATE_HOME).
    """
    observer, folder = observer or Observer(), Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder to watch, found {'a file' if folder.exists() else 'none'}")
    if not every > 0:
        raise InputError(f"--every: expected seconds above 0, found {every:g}")
    log = _usual_log(folder, Path(store)) if log is None else Path(log)
    for name, written in (("--log", log), ("--out", options.get("out"))):
        if written is not None and Path(written).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{name} {written}: lies in the folder that is watched; name another place")
    if log.is_dir():
        raise InputError(f"--log {log}: expected the name of a file, found a folder")

    def run() -> Iterator[dict[str, Any]]:
        with _ledger(log) as (seen, write), runtime.stopping() as stop:
            now: tuple[str, State] | None = None

            def paths() -> Iterator[Path]:
                nonlocal now
                for now in arrivals(folder, seen, every, stop, observer):
                    yield folder / now[0]

            records = score(store, paths(), batch=1, endless=True, observer=observer, **options)
            before = f"; {len(seen)} images were scored before" if seen else ""
            observer.note(f"watching {folder} every {every:g} s, records are in {log}{before}")
            for record in records:
                assert now is not None
                name, (size, changed) = now
                told = asdict(record) | {"file": name, "bytes": size, "mtime_ns": changed}
                write(told)
                yield told | {"file": images.printable(Path(name))}

    return run()


def arrivals(
    folder: Path, seen: dict[str, State], every: float, stop: Callable[[], bool], observer: Observer
) -> Iterator[tuple[str, State]]:
    """Complete images below the folder that are not in `seen`, which they are added to, until `stop()`."""
    before: dict[str, State] = {}
    failed: dict[str, int] = {}
    closed: set[str] = set()
    while not stop():
        now, denied = _look(folder)
        for name in denied - closed:
            observer.problem(f"{folder / name}: may not be read; give this user permission to see what arrives there")
        closed = denied
        for name, state in now.items():
            if stop():
                return
            if seen.get(name) == state:
                continue
            if before.get(name) != state:
                failed.pop(name, None)
                continue
            try:
                images.decode(folder / name)
            except InputError as error:
                failed[name] = failed.get(name, 0) + 1
                if failed[name] == PATIENCE:
                    seen[name] = state
                    observer.problem(str(error))
                continue
            seen[name] = state
            yield name, state
        before = now
        until = time.monotonic() + every
        while not stop() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))


def _look(folder: Path) -> tuple[dict[str, State], set[str]]:
    """Image files below the folder and their states, the oldest first, and folders that may not be read.

    Hidden and stray ones are passed over.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: the folder that was watched is gone; bring it back and run the same command again")
    found: list[tuple[int, str, State]] = []
    unread, denied = [""], set[str]()
    while unread:
        above = unread.pop()
        try:
            entries = os.scandir(folder / above)
        except FileNotFoundError:
            continue
        except PermissionError:
            denied.add(above)
            continue
        with entries:
            for entry in entries:
                name = above + entry.name
                if images.passed_over(entry.name):
                    continue
                suffix = os.path.splitext(name)[1]  # noqa: PTH122  (a Path for each of 10,000 takes its time)
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        unread.append(f"{name}/")
                    elif suffix.lower() in images.SUFFIXES and entry.is_file():
                        status = entry.stat()
                        found.append((status.st_mtime_ns, name, (status.st_size, status.st_mtime_ns)))
    return {name: state for _, name, state in sorted(found)}, denied


def _usual_log(folder: Path, store: Path) -> Path:
    """Where records of this folder and store go when no place is named."""
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    except RuntimeError as error:
        raise InputError(f"no place for the log ({error}); name one with --log") from None
    of = hashlib.sha256(f"{folder.resolve()}\0{store.resolve()}".encode(errors="surrogateescape")).hexdigest()
    return state / "patchcli" / f"watch-{folder.resolve().name}-{of[:12]}.jsonl"


@contextlib.contextmanager
def _ledger(path: Path) -> Iterator[tuple[dict[str, State], Callable[[dict[str, Any]], None]]]:
    """What a log tells was scored, and a function that appends a record; the log is this process's alone meanwhile."""
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise InputError(f"--log {path}: cannot be written ({error.strerror}); name another place") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--log {path}: another watcher writes to it; name another log") from None

        def write(record: dict[str, Any]) -> None:
            file.write(f"{json.dumps(record)}\n".encode())  # ASCII: names need not be UTF-8
            file.flush()
            os.fsync(file.fileno())

        yield _scored_before(file, path), write


def _scored_before(file: BufferedRandom, path: Path) -> dict[str, State]:
    """The last state of every file that the log has a record of; a last line that was cut off by a kill is taken away."""
    file.seek(0)
    seen: dict[str, State] = {}
    end = 0
    for number, line in enumerate(file, 1):
        torn = not line.endswith(b"\n")
        if torn and line[: len(START)] == START[: len(line)]:  # nothing but a record of ours is ever cut off
            break
        end += len(line)
        try:
            if torn:
                raise ValueError
            record = json.loads(line)
            seen[record["file"]] = record["bytes"], record["mtime_ns"]
        except (ValueError, KeyError, TypeError):
            found = f"expected records of patchcli watch, found something else in line {number}"
            raise InputError(f"--log {path}: {found}; name another log") from None
    file.truncate(end)
    return seen
