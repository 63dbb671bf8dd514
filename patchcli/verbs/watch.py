"""Images that arrive in a folder → a record each, as it happens."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patchcli import runtime
from patchcli.datasets import images
from patchcli.datasets.images import Pixels, Reader, Remark
from patchcli.errors import InputError, PatchcliError, StoreError
from patchcli.observer import Observer
from patchcli.store import Store, revision
from patchcli.verbs.score import SCHEMA, Record, score

EVERY = 1.0  # seconds between two looks at the folder; network shares tell of no changes, so it is looked at
PATIENCE = 5  # looks for which an unchanged file that cannot be decoded may still be being written
START = json.dumps({"schema": SCHEMA})[:-1].encode()  # of every record in a log
STATE = ("bytes", "mtime_ns", "ctime_ns", "inode")  # how a file is known again; logs of earlier versions have two of them
State = tuple[int, ...]


@dataclass(frozen=True)
class Arrival:
    """A complete image: its name in the folder, and what was decoded of the file in that state."""

    name: str
    state: State
    pixels: Pixels
    remarks: list[str]


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

    Yields score's record with "file" (relative to the folder) and the state of the file whose content was scored: "bytes",
    "mtime_ns", "ctime_ns" and "inode". An image is complete when it did not change between two looks, nor while it was
    decoded. Records are appended to `log`, a JSON Lines file, and synced before they are yielded; a file is scored again
    when its state is another than the log has. Without `log`, it is a file of this folder and store below the user's state
    folder (XDG_STATE_HOME).

    When the store changes, images from then on are compared with its new bank; both are in memory for a moment. As long
    as the new one cannot be used, the one before it is.
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
    if log.exists() and not log.is_file():
        raise InputError(f"--log {log}: expected the name of a file, found a {'folder' if log.is_dir() else 'device or pipe'}")

    def run() -> Iterator[dict[str, Any]]:
        with _ledger(log) as (seen, write), runtime.stopping() as stop:
            reader = Reader()
            arriving = arrivals(folder, seen, every, stop, observer, lambda: reader)
            now: Arrival | None = None  # the image that has no record yet
            loaded: str | None = None
            following: Iterator[Record] | None = None  # records of what arrives after the store has changed
            refusal = ""  # why the changed store cannot be used yet

            def load() -> Iterator[Record]:
                """The store as it is, loaded: a record for each image that arrives, until the store changes."""
                nonlocal loaded, reader
                version = revision(Path(store))
                records = score(store, paths(version), batch=1, endless=True, read=decoded, observer=observer, **options)
                loaded, reader = version, Store.open(store).source.reader.lifted(options.get("large", False))
                return records

            def paths(version: str | None) -> Iterator[Path]:
                """What arrives, up to the image before which the store is found to have changed."""
                nonlocal now, following, refusal
                while now := now or next(arriving, None):
                    if (present := revision(Path(store))) != version:
                        version = present
                        try:
                            following = load()
                        except PatchcliError as error:
                            if refusal != str(error):
                                refusal = str(error)
                                observer.note(f"the store changed, but images are still compared with its old bank: {error}")
                        else:
                            observer.note("the store changed: images from now on get its new bank and thresholds")
                            return
                    yield folder / now.name
                    now = None

            def decoded(path: Path, remark: Remark | None) -> Pixels:
                assert now is not None
                if remark is not None:
                    for line in now.remarks:
                        remark(path, line)
                return now.pixels

            following = load()
            before = f"; {len(seen)} images were scored before" if seen else ""
            observer.note(f"watching {folder} every {every:g} s, records are in {log}{before}")
            while following is not None:
                records, following = following, None
                try:
                    for record in records:
                        assert now is not None
                        fields = asdict(record) | {"file": now.name} | dict(zip(STATE, now.state, strict=True))
                        write(fields)
                        yield fields | {"file": images.printable(Path(now.name))}
                except StoreError as error:
                    if revision(Path(store)) == loaded:
                        raise
                    observer.problem(f"the store changed while it was read; waiting until it can be used again: {error}")
                    while following is None and not stop():
                        _pause(every, stop)
                        with contextlib.suppress(PatchcliError):
                            following = load()

    return run()


def arrivals(
    folder: Path,
    seen: dict[str, State],
    every: float,
    stop: Callable[[], int],
    observer: Observer,
    reader: Callable[[], Reader],
) -> Iterator[Arrival]:
    """Complete images below the folder that are not in `seen`, which they are added to, until `stop()`."""
    before: dict[str, State] = {}
    failed: dict[str, int] = {}
    trouble: dict[str, str] = {}
    reported: set[str] = set()
    while not stop():
        now, found = _look(folder)
        lasting = found.keys() & trouble.keys()
        for name in sorted(lasting - reported):
            observer.problem(f"{folder / name}: {found[name]}")
        trouble, reported = found, lasting
        for name, state in now.items():
            if stop():
                return
            known = seen.get(name)
            if known is not None and state[: len(known)] == known:
                continue
            if before.get(name) != state:
                failed.pop(name, None)
                continue
            try:
                arrival = _decode(folder, name, state, reader())
            except InputError as error:
                failed[name] = failed.get(name, 0) + 1
                if failed[name] == PATIENCE:
                    seen[name] = state
                    observer.problem(str(error))
                continue
            if arrival is None:
                continue
            seen[name] = state
            yield arrival
        before = now
        _pause(every, stop)


def _decode(folder: Path, name: str, state: State, reader: Reader) -> Arrival | None:
    """The image, read once; None where the file is gone or not in that state, before and after it was read."""
    path, remarks = folder / name, list[str]()
    try:
        with path.open("rb") as file:
            if _state(os.fstat(file.fileno())) != state:
                return None
            pixels = reader.read(path, lambda _, line: remarks.append(line), file)
            return Arrival(name, state, pixels, remarks) if _state(os.fstat(file.fileno())) == state else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); replace it, or let this user read it") from None


def _state(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _pause(seconds: float, stop: Callable[[], int]) -> None:
    until = time.monotonic() + seconds
    while not stop() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))


def _look(folder: Path) -> tuple[dict[str, State], dict[str, str]]:
    """Image files below the folder and their states, the oldest first; and what cannot be read there, with the reason.

    Hidden ones are passed over; links are followed, but not to a folder that they are in.
    """
    found: list[tuple[int, str, State]] = []
    trouble: dict[str, str] = {}
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]  # and those that each is in
    while folders:
        above, around = folders.pop()
        try:
            status = (folder / above).stat()
            if (status.st_dev, status.st_ino) in around:
                trouble[above] = "links to a folder that it lies in; remove the link"
                continue
            around |= {(status.st_dev, status.st_ino)}
            entries = os.scandir(folder / above)
        except (FileNotFoundError, NotADirectoryError):
            if not above:
                gone = "the folder that was watched is gone"
                raise InputError(f"{folder}: {gone}; bring it back and run the same command again") from None
            continue
        except OSError as error:
            trouble[above] = f"may not be read ({error.strerror}); give this user permission to see what arrives there"
            continue
        with entries:
            for entry in entries:
                name = above + entry.name
                if images.passed_over(entry.name):
                    continue
                suffix = os.path.splitext(name)[1]  # noqa: PTH122  (a Path for each of 10,000 takes its time)
                try:
                    if entry.is_dir():
                        folders.append((f"{name}/", around))
                    elif suffix.lower() in images.SUFFIXES and entry.is_file():
                        status = entry.stat()
                        found.append((status.st_mtime_ns, name, _state(status)))
                    elif suffix.lower() in images.SUFFIXES and entry.is_symlink():
                        trouble[name] = "links to no file; mend or remove the link"
                except FileNotFoundError:
                    continue
                except OSError as error:
                    trouble[name] = f"cannot be read ({error.strerror}); replace or remove it"
    return {name: state for _, name, state in sorted(found)}, trouble


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
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise InputError(f"--log {path}: cannot be written ({error.strerror}); name another place") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--log {path}: another watcher writes to it; name another log") from None
        except OSError as error:
            found = f"its file system has no locks ({error.strerror})"
            raise InputError(f"--log {path}: {found}; name a place on a local disk") from None

        def write(record: dict[str, Any]) -> None:
            left = memoryview(f"{json.dumps(record)}\n".encode())  # ASCII: names need not be UTF-8
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError as error:
                advice = "see to it and run the same command again"
                raise InputError(f"--log {path}: cannot be written ({error.strerror}); {advice}") from None

        yield _scored_before(path), write


def _scored_before(path: Path) -> dict[str, State]:
    """The last state of every file that the log has a record of; a last line that was cut off by a kill is taken away."""
    seen: dict[str, State] = {}
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
                seen[record["file"]] = tuple(record[name] for name in STATE) if STATE[-1] in record else state
            except (ValueError, KeyError, TypeError):
                found = f"expected records of patchcli watch, found something else in line {number}"
                raise InputError(f"--log {path}: {found}; name another log") from None
    return seen
