"""One writer at a time, many readers: a lock for the store, and leases that keep the parts of a reader's version.

In object storage the lock is an object (claims.py), and there are no leases.
"""

import contextlib
import os
import shutil
import socket
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from patchcli.errors import StoreError
from patchcli.observer import Observer
from patchcli.store.claims import Claim
from patchcli.store.parts import METADATA, no_store, unwritable

try:
    import fcntl
except ImportError:  # Windows, where a folder with open files cannot be removed
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
NO_LOCK = "PATCHCLI_NO_LOCK"
AT_ONCE, PATIENCE = 0.2, 60.0  # seconds until a waiting writer says so, and until it gives up
LOOK = 1.0  # seconds between two looks at a lock in object storage

_claims: dict[tuple[str, int], Claim] = {}  # by URL and thread


@contextlib.contextmanager
def locked(path: Path | str, observer: Observer, create: bool = False) -> Iterator[None]:
    """Hold the lock of the store at `path`; the same thread may take it again. A dry run takes none.

    Waits up to PATIENCE seconds for another writer, with a note. `create` makes the folder, and removes it again if there is
    no store in it at the end. Raises StoreError if the lock is not available.
    """
    if observer.dry:
        yield
        return
    if isinstance(path, str):
        with _claimed(path, observer):
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
            raise no_store(path)
    try:
        yield
    finally:
        if made and not (path / METADATA).exists():
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(lock, FileLock):
            if lock.lock_counter == 1:
                _sign(Path(lock.lock_file), "")
            lock.release()


def _make(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None
    return True


def _acquire(path: Path, observer: Observer) -> FileLock | bool:
    """The lock; True if the user says that there is none."""
    place = path.resolve() / LOCK
    if os.environ.get(NO_LOCK):
        if not os.access(path, os.W_OK):
            raise StoreError("cannot be written", subject=path, advice="name another with `store`")
        return True
    lock = FileLock(place, is_singleton=True, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=AT_ONCE)
        except Timeout:
            observer.note(f"waiting for {_holder(place)}, which writes to {path}")
            lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise _taken(path, _holder(place)) from None
    except FileNotFoundError:
        raise
    except (PermissionError, NotADirectoryError) as error:
        raise unwritable(path, error) from None
    except OSError as error:
        if not os.access(path, os.W_OK):
            raise unwritable(path, error) from None
        advice = f"make sure that nothing else writes to the store, and set {NO_LOCK}=1"
        raise StoreError(f"its file system has no locks ({error.strerror})", subject=path, advice=advice) from None
    _sign(place, _signature())
    return lock


def _signature() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%H:%M:%S')})"


def _taken(path: Path | str, holder: str) -> StoreError:
    return StoreError(f"{holder} writes to it", subject=path, advice="run this again when that has ended")


@contextlib.contextmanager
def _claimed(url: str, observer: Observer) -> Iterator[None]:
    """Hold the lock of a store in object storage."""
    key = url, threading.get_ident()
    if key in _claims or os.environ.get(NO_LOCK):
        yield
        return
    claim, begun, said = Claim(url, LOCK, _signature()), time.monotonic(), False
    while not claim.acquire():
        waited = time.monotonic() - begun
        if waited > PATIENCE:
            raise _taken(url, claim.holder)
        if waited > AT_ONCE and not said:
            said = True
            observer.note(f"waiting for {claim.holder}, which writes to {url}")
        time.sleep(LOOK if said else AT_ONCE)
    _claims[key] = claim
    try:
        yield
    finally:
        del _claims[key]
        claim.release()


def check_claim(url: str) -> None:
    """Raise StoreError if this thread has the lock of a store in object storage no more."""
    if claim := _claims.get((url, threading.get_ident())):
        claim.check()


def _sign(place: Path, holder: str) -> None:
    """Write into the lock file who holds the lock, for those who wait."""
    with contextlib.suppress(OSError):
        place.write_text(holder)


def _holder(place: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return place.read_text() or "another process"
    return "another process"


class Leases:
    """Keep parts from being removed until `end` is called, or nothing refers to this any more.

    On a file system without locks they are not kept: a reader whose part is gone says so.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        descriptors: list[int] = []
        self.end = weakref.finalize(self, _close, descriptors)
        for folder in folders:
            try:
                descriptors.append(os.open(folder / METADATA, os.O_RDONLY))
                if fcntl is not None:
                    fcntl.flock(descriptors[-1], fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:  # it is gone, or being removed, or there are no locks
                continue


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


@contextlib.contextmanager
def unread(folder: Path) -> Iterator[bool]:
    """Whether no reader has a lease on a part; none gets one inside the block."""
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
