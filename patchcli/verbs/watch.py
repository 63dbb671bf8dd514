"""Images that arrive in a folder → a record each, as it happens."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from patchcli import runtime
from patchcli.datasets import images
from patchcli.datasets.images import Pixels, Remark
from patchcli.detection.detector import Detector, Setup, path_and_setup
from patchcli.detection.records import Record
from patchcli.detection.regions import RegionOptions
from patchcli.errors import InputError, PatchcliError, StoreError
from patchcli.observer import Observer
from patchcli.store import Store, revision
from patchcli.verbs.arrivals import Arrival, arrivals, pause
from patchcli.verbs.ledger import ledger, usual_log
from patchcli.verbs.outputs import Outputs
from patchcli.verbs.scoring import Scoring

EVERY = 1.0  # seconds between two looks at the folder; network shares report no changes, so it is looked at


@dataclass(frozen=True)
class WatchRecord(Record):
    """A record of `watch`: of the content that a file had in this state."""

    file: str  # relative to the folder
    bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def watch(
    folder: Path | str,
    detector: Detector | Path | str = "patchcli.zarr",
    *,
    log: Path | str | None = None,
    every: float = EVERY,
    outputs: Outputs | None = None,
    regions: RegionOptions | None = None,
    mask_threshold: int | None = None,
    setup: Setup | None = None,
    observer: Observer | None = None,
) -> Iterator[WatchRecord]:
    """Score the images that are below `folder` and those that come, until SIGINT or SIGTERM; options are those of `score`.

    An image is complete when it did not change between two looks, nor while it was decoded. Records are appended to `log`,
    a JSON Lines file, and synced before they are yielded; a file is scored again when its state is another than the log
    has. Without `log`, it is a file of this folder and store below the user's state folder (XDG_STATE_HOME).

    When the store changes, images from then on are compared with its new bank; both are in memory for a moment. As long
    as the new one cannot be used, the one before it is.
    """
    path, setup = path_and_setup(detector, setup)
    observer, folder, outputs = observer or Observer(), Path(folder), outputs or Outputs()
    if not folder.is_dir():
        raise InputError("a file" if folder.exists() else "none", subject=folder, expected="a folder to watch")
    if not every > 0:
        raise InputError(f"{every:g}", parameter="every", expected="seconds above 0")
    log = usual_log(folder, Path(path)) if log is None else Path(log)
    for name, place in (("log", log), ("out", outputs.folder)):
        if place is not None and place.resolve().is_relative_to(folder.resolve()):
            raise InputError("lies in the folder that is watched; name another place", parameter=name, subject=place)
    if log.exists() and not log.is_file():
        what = "folder" if log.is_dir() else "device or pipe"
        raise InputError(f"a {what}", parameter="log", subject=log, expected="the name of a file")

    def start(paths: Iterator[Path], read: Callable[[Path, Remark | None], Pixels]) -> Scoring:
        opened = Detector(Store.open(path), setup, observer)
        options = regions or RegionOptions()
        return Scoring(
            opened, paths, outputs, options, batch=1, mask_threshold=mask_threshold, endless=True, read=read, observer=observer
        )

    return _Watcher(folder, Path(path), log, every, start, observer).run()


class _Watcher:
    """Scores arrivals with the store as it is, and follows when it changes."""

    def __init__(
        self,
        folder: Path,
        store: Path,
        log: Path,
        every: float,
        start: Callable[[Iterator[Path], Callable[[Path, Remark | None], Pixels]], Scoring],
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
                        state = {"bytes": size, "mtime_ns": modified, "ctime_ns": changed, "inode": inode}
                        arrived = WatchRecord(**vars(record), file=self._now.name, **state)
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
