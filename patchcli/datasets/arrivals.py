"""Images that are complete in a folder, as they come."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from patchcli.datasets import images
from patchcli.datasets.images import Pixels, Reader
from patchcli.errors import InputError
from patchcli.observer import Observer

PATIENCE = 5  # looks for which an unchanged file that cannot be decoded may still be being written
State = tuple[int, ...]  # bytes, mtime_ns, ctime_ns, inode: how a file is known again


@dataclass(frozen=True)
class Arrival:
    """A complete image: its name in the folder, and what was decoded of the file in that state."""

    name: str
    state: State
    pixels: Pixels
    remarks: list[str]


def arrivals(
    folder: Path,
    known_states: dict[str, State],
    every: float,
    stop: Callable[[], int],
    observer: Observer,
    reader: Callable[[], Reader],
) -> Iterator[Arrival]:
    """Complete images below the folder that are not in `known_states`, which they are added to, until `stop()`."""
    before: dict[str, State] = {}
    failed: dict[str, int] = {}
    trouble: dict[str, str] = {}
    reported: set[str] = set()
    while not stop():
        now, unreadable = _look(folder)
        lasting = unreadable.keys() & trouble.keys()
        for name in sorted(lasting - reported):
            observer.problem(f"{folder / name}: {unreadable[name]}")
        trouble, reported = unreadable, lasting
        for name, state in now.items():
            if stop():
                return
            known = known_states.get(name)
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
                    known_states[name] = state
                    observer.problem(str(error))
                continue
            if arrival is None:
                continue
            known_states[name] = state
            yield arrival
        before = now
        pause(every, stop)


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
        raise InputError(f"cannot be read ({error.strerror}); replace it, or let this user read it", subject=path) from None


def _state(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def pause(seconds: float, stop: Callable[[], int]) -> None:
    until = time.monotonic() + seconds
    while not stop() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))


def _look(folder: Path) -> tuple[dict[str, State], dict[str, str]]:
    """Image files below the folder and their states, the oldest first; and what cannot be read there, with the reason.

    Hidden ones are passed over; links are followed, but not to a folder that they are in.
    """
    files: list[tuple[int, str, State]] = []
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
                raise InputError(gone, subject=folder, advice="bring it back and rerun") from None
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
                        files.append((status.st_mtime_ns, name, _state(status)))
                    elif suffix.lower() in images.SUFFIXES and entry.is_symlink():
                        trouble[name] = "links to no file; fix or remove the link"
                except FileNotFoundError:
                    continue
                except OSError as error:
                    trouble[name] = f"cannot be read ({error.strerror}); replace or remove it"
    return {name: state for _, name, state in sorted(files)}, trouble
