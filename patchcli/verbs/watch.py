"""Images that arrive in a folder → a record each, as it happens."""

from collections.abc import Iterator
from pathlib import Path

from patchcli.detection.detector import Detector, Setup, path_and_setup
from patchcli.detection.regions import RegionOptions
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.store import Store, located
from patchcli.verbs.ledger import usual_log
from patchcli.verbs.outputs import Outputs
from patchcli.verbs.scoring import Scoring
from patchcli.verbs.watcher import Decode, Watcher, WatchRecord

EVERY = 1.0  # seconds between two looks at the folder; network shares report no changes, so it is looked at


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
    path = located(path)
    log = usual_log(folder, path) if log is None else Path(log)
    for name, place in (("log", log), ("out", outputs.folder)):
        if place is not None and place.resolve().is_relative_to(folder.resolve()):
            raise InputError("lies in the folder that is watched; name another place", parameter=name, subject=place)
    if log.exists() and not log.is_file():
        what = "folder" if log.is_dir() else "device or pipe"
        raise InputError(f"a {what}", parameter="log", subject=log, expected="the name of a file")

    def start(paths: Iterator[Path], read: Decode) -> Scoring:
        opened = Detector(Store.open(path), setup, observer)
        options = regions or RegionOptions()
        return Scoring(
            opened, paths, outputs, options, batch=1, mask_threshold=mask_threshold, endless=True, read=read, observer=observer
        )

    return Watcher(folder, path, log, every, start, observer).run()
