"""A store that a verb is about to change."""

import tempfile
from pathlib import Path

from patchcli.errors import StoreError
from patchcli.observer import Observer
from patchcli.store import Store


def open_to_write(path: Path | str, observer: Observer) -> Store:
    """The store, opened for writing (in a dry run, for reading); raises StoreError where nothing can be written there.

    Permissions do not tell, of root or on a share: a file is made there and removed.
    """
    opened = Store.open(path, observer.mode)
    if not observer.dry:
        try:
            tempfile.TemporaryFile(dir=path, prefix=".writable-").close()
        except OSError as error:
            advice = "make it writable, or name a copy with --store"
            raise StoreError(f"{path}: the store cannot be written to ({error.strerror}); {advice}") from None
    return opened
