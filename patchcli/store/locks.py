"""One writer at a time, many readers: a lock for the store, and leases that keep the parts of a reader's version."""

import contextlib
import os
import shutil
import socket
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from patchcli.errors import StoreError
from patchcli.observer import Observer
from patchcli.store.parts import METADATA

try:
    import fcntl
except ImportError:  # Windows, where a folder with open files cannot be removed
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
NO_LOCK = "PATCHCLI_NO_LOCK"
AT_ONCE, PATIENCE = 0.2, 60.0  # seconds before a waiting writer says so, and after which it gives up


@contextlib.contextmanager
def locked(path: Path, observer: Observer, create: bool = False) -> Iterator[None]:
    """Hold the lock of the store at `path`; the same thread may take it again within. In a dry run there is none.

    Another writer is waited for, with a note, for PATIENCE seconds. With `create` the folder is made, and removed again
    where no store is in it in the end. Raises StoreError where the lock cannot be had.
    """
    if observer.dry:
        yield
        return
    lock = None
    made = False
    while lock is None:
        if create and not path.exists():
            made = _make(path)
        with contextlib.suppress(FileNotFoundError):  # whoever had made the folder has just removed it again
            lock = _acquire(path, observer)
        if not create and lock is None:
            raise StoreError("no store found", subject=path, advice="make it with: `train(data)`, or name another with `store`")
    try:
        yield
    finally:
        if made and not (path / METADATA).exists():
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(lock, FileLock):
            if lock.lock_counter == 1:
                _tell(Path(lock.lock_file), "")
            lock.release()


def _make(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror or error}); name another with `store`", subject=path) from None
    return True


def _acquire(path: Path, observer: Observer) -> FileLock | bool:
    """The lock, held; True where the user says that there is none."""
    place = path.resolve() / LOCK
    if os.environ.get(NO_LOCK):
        if not os.access(path, os.W_OK):
            raise StoreError("cannot be written; name another with `store`", subject=path)
        return True
    lock = FileLock(place, is_singleton=True, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=AT_ONCE)
        except Timeout:
            observer.note(f"waiting for {_holder(place)}, which writes to {path}")
            lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise StoreError(f"{path}: {_holder(place)} writes to it; run this again when that has ended") from None
    except FileNotFoundError:
        raise
    except (PermissionError, NotADirectoryError) as error:
        raise StoreError(f"cannot be written ({error.strerror}); name another with `store`", subject=path) from None
    except OSError as error:
        if not os.access(path, os.W_OK):
            raise StoreError(f"cannot be written ({error.strerror}); name another with `store`", subject=path) from None
        advice = f"make sure that nothing else writes to the store, and set {NO_LOCK}=1"
        raise StoreError(f"{path}: its file system has no locks ({error.strerror}); {advice}") from None
    _tell(place, f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%H:%M:%S')})")
    return lock


def _tell(place: Path, holder: str) -> None:
    """Leave a word in the lock's file on who holds it, for whoever waits."""
    with contextlib.suppress(OSError):
        place.write_text(holder)


def _holder(place: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return place.read_text() or "another process"
    return "another process"


class Leases:
    """Parts that are not removed until `end` is called, or nothing refers to this any more.

    Where the file system has no locks, they are not kept: a reader may then find one gone, and says so.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        held: list[int] = []
        self.end = weakref.finalize(self, _close, held)
        for folder in folders:
            try:
                held.append(os.open(folder / METADATA, os.O_RDONLY))
                if fcntl is not None:
                    fcntl.flock(held[-1], fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:  # it is gone, or being removed, or there are no locks
                continue


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


@contextlib.contextmanager
def unread(folder: Path) -> Iterator[bool]:
    """Whether no reader has a lease of a part; none gets one within."""
    try:
        file = (folder / METADATA).open("rb")
    except OSError:
        yield True
        return
    with file:
        free = True
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
            except OSError:
                pass
        yield free
