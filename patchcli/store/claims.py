"""One writer at a time in object storage: a lock object that belongs to whoever made it, as long as that renews it."""

import contextlib
import threading
import uuid

from patchcli.errors import StoreError
from patchcli.store import objects
from patchcli.store.objects import Objects

RENEW, STALE = 10.0, 45.0  # seconds between two renewals, and from the last one until another writer may take over


class Claim:
    """A claim to write to a store. The object tells who has it, and something new at each renewal, so its tag changes."""

    def __init__(self, url: str, key: str, holder: str) -> None:
        self._objects, self._key = Objects(url), key
        self._mark = f"{holder}\n{uuid.uuid4().hex}\n"
        self._tag: str | None = None
        self._renewing = threading.Lock()
        self._over = threading.Event()

    def acquire(self) -> bool:
        """Make the lock, or take one that nobody renews; whether that worked."""
        self._tag = self._put(IfNoneMatch="*")
        if self._tag is None:
            tag, seconds = self._objects.state(self._key)
            if tag is not None and (
                seconds > STALE or not objects.read(self._objects.url, self._key)
            ):  # or copied from a folder
                self._tag = self._put(IfMatch=tag)
        elif self._put(IfNoneMatch="*") is not None:
            self._objects.remove(self._key)
            advice = "make sure that nothing else writes to the store, and set PATCHCLI_NO_LOCK=1"
            raise StoreError(
                "its server ignores conditions of writes (If-None-Match)", subject=self._objects.url, advice=advice
            )
        if self._tag is None:
            return False
        threading.Thread(target=self._renew, daemon=True).start()
        return True

    def _put(self, **condition: str) -> str | None:
        return self._objects.put(self._key, f"{self._mark}{uuid.uuid4().hex}\n".encode(), **condition)

    def _renew(self) -> None:
        while not self._over.wait(RENEW):
            with self._renewing, contextlib.suppress(StoreError):  # perhaps the next time
                if self._over.is_set() or self._tag is None:
                    return
                tag = self._put(IfMatch=self._tag)
                if tag is None and (objects.read(self._objects.url, self._key) or b"").startswith(self._mark.encode()):
                    tag = self._objects.state(self._key)[0]  # of a renewal whose answer was lost
                self._tag = tag

    @property
    def holder(self) -> str:
        """Who has the lock."""
        content = objects.read(self._objects.url, self._key) or b""
        return content.decode(errors="replace").partition("\n")[0] or "another process"

    def check(self) -> None:
        """Raise StoreError if another writer has taken over, as it may when this process slept or had no connection."""
        with self._renewing:
            if self._tag is None or self._objects.state(self._key)[0] != self._tag:
                raise StoreError(
                    "another process has taken its lock meanwhile", subject=self._objects.url, advice="run this again"
                )

    def release(self) -> None:
        """Remove the lock, if it is still this process's."""
        self._over.set()
        with self._renewing, contextlib.suppress(StoreError):  # without a connection it becomes stale
            if self._tag is not None and self._objects.state(self._key)[0] == self._tag:
                self._objects.remove(self._key)
