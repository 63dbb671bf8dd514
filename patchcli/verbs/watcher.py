"""What `watch` does while it runs."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from patchcli import runtime
from patchcli.datasets import images
from patchcli.datasets.arrivals import Arrival, arrivals, pause
from patchcli.datasets.images import Pixels, Remark
from patchcli.detection.records import Record
from patchcli.errors import PatchcliError, StoreError
from patchcli.observer import Observer
from patchcli.store import revision
from patchcli.verbs.ledger import ledger
from patchcli.verbs.scoring import Scoring

Decode = Callable[[Path, Remark | None], Pixels]


@dataclass(frozen=True)
class WatchRecord(Record):
    """A record of `watch`: of the content that a file had in this state."""

    file: str  # relative to the folder
    bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class Watcher:
    """Scores arrivals with the store as it is, and follows when it changes."""

    def __init__(
        self,
        folder: Path,
        store: Path | str,
        log: Path,
        every: float,
        start: Callable[[Iterator[Path], Decode], Scoring],
        observer: Observer,
    ) -> None:
        self._folder, self._store, self._log, self._every = folder, store, log, every
        self._start, self._observer = start, observer
        self._arriving: Iterator[Arrival] = iter(())
        self._now: Arrival | None = None  # the image that has no record yet
        self._current: Scoring | None = None
        self._loaded: str | None = None  # revision of the store that is in use
        self._following: Scoring | None = None  # of what arrives after the store has changed
        self._refusal = ""  # why the changed store cannot be used yet

    def run(self) -> Iterator[WatchRecord]:
        """Records, until a signal comes."""
        with ledger(self._log) as (scored, write), runtime.stopping() as stop:
            self._following = self._load()
            self._arriving = arrivals(self._folder, scored, self._every, stop, self._observer, self._reader)
            before = f"; {len(scored)} images were scored before" if scored else ""
            self._observer.note(f"watching {self._folder} every {self._every:g} s, records are in {self._log}{before}")
            while self._following is not None:
                self._current, self._following = self._following, None
                try:
                    for _, record in self._current:
                        assert self._now is not None
                        size, modified, changed, inode = self._now.state
                        arrived = WatchRecord(
                            **vars(record),
                            file=self._now.name,
                            bytes=size,
                            mtime_ns=modified,
                            ctime_ns=changed,
                            inode=inode,
                        )
                        write(arrived)
                        yield replace(arrived, file=images.printable(Path(self._now.name)))
                except StoreError as error:
                    if revision(self._store) == self._loaded:
                        raise
                    changed_now = "the store changed while it was read; waiting until it can be used again"
                    self._observer.problem(f"{changed_now}: {error}")
                    while self._following is None and not stop():
                        pause(self._every, stop)
                        with contextlib.suppress(PatchcliError):
                            self._following = self._load()

    def _reader(self) -> images.Reader:
        assert self._current is not None
        return self._current.detector.reader

    def _load(self) -> Scoring:
        """The store as it is, loaded, for the images that arrive until it changes."""
        version = revision(self._store)
        scoring = self._start(self._paths(version), self._decoded)
        self._loaded = version
        return scoring

    def _paths(self, version: str | None) -> Iterator[Path]:
        """What arrives, up to the image before which the store is found to have changed."""
        while arrival := self._now or next(self._arriving, None):
            self._now = arrival
            if (present := revision(self._store)) != version:
                version = present
                try:
                    self._following = self._load()
                except PatchcliError as error:
                    if self._refusal != str(error):
                        self._refusal = str(error)
                        still = "the store changed, but images are still compared with its old bank"
                        self._observer.note(f"{still}: {error}")
                else:
                    self._observer.note("the store changed: images from now on get its new bank and thresholds")
                    return
            yield self._folder / arrival.name
            self._now = None

    def _decoded(self, path: Path, remark: Remark | None) -> Pixels:
        assert self._now is not None
        if remark is not None:
            for line in self._now.remarks:
                remark(path, line)
        return self._now.pixels
