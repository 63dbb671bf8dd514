"""Data set → images in a store."""

from pathlib import Path

from patchcli.datasets import layouts
from patchcli.observer import Observer
from patchcli.store import check_replaceable, located
from patchcli.verbs.extraction import Check, Extracted, Extraction, ImageOptions


def extract(
    data: Path | str,
    store: Path | str = "patchcli.zarr",
    options: ImageOptions | None = None,
    *,
    overwrite: bool = False,
    observer: Observer | None = None,
    check: Check = lambda _present, _canvas: None,
    least: int = 1,
) -> Extracted:
    """Read the training images of `data`, a folder or a manifest, resize them and write a new store.

    A store that already holds the same images is left as it is, also with `overwrite`. What cannot be decoded is reported
    to the observer and left out; in a dry run that is all. `check` may refuse, before anything is written, the store that
    is left as it is, if there is one, and the working size. Raises InputError (fewer than `least` usable images), StoreError
    (another data set there).
    """
    observer, options, store = observer or Observer(), options or ImageOptions(), located(store)
    dataset = layouts.read(Path(data), options.layout)
    for line in dataset.problems:
        observer.problem(line)
    check_replaceable(store, overwrite=True)  # no lock file goes into a folder that is no store
    return Extraction(dataset, options, store, overwrite, observer, check, least).run()
