"""Where the map of an image lies, for those who write it and those who read it; no map is an image, or lies beside one."""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from itertools import count, takewhile
from pathlib import Path, PurePosixPath
from typing import Any

import tifffile

from patchcli import files
from patchcli.datasets import images, layouts
from patchcli.datasets.layouts import Dataset, Sample
from patchcli.errors import InputError
from patchcli.store import Store

_OF_THE_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.ENOTDIR, errno.EEXIST)


def below(folder: Path, id_: str) -> Path:
    """The place of an id below a folder: an absolute one loses its root, and no step leads upward."""
    return folder.joinpath(*(part for part in PurePosixPath(id_).parts if part.strip("/") not in ("", ".", "..")))


def _numbered(name: Path) -> Iterator[Path]:
    return (name.with_name(f"{name.name}.{number}.tiff") for number in count(2))


def description(path: Path) -> dict[str, Any]:
    """What `score` wrote into a map: image, id, encoder, …; empty of other files."""
    if path.suffix != ".tiff" or files.trouble(path):
        return {}
    try:
        with tifffile.TiffFile(path) as file:
            found = json.loads(file.pages.first.description)
    except Exception:  # tifffile raises whatever it meets
        return {}
    return found if isinstance(found, dict) else {}


def unwritable(path: Path) -> str | None:
    """Why there can be no file of this name, None where there can; the folders above it are made.

    That is of one name. What would be so of every other, such as a full disk, is raised.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _OF_THE_NAME:
            raise
        return error.strerror
    return None


def _owner(path: Path) -> str | None:
    """The id of the image that a map is of, where it says so."""
    found = description(path)
    return found.get("id", found.get("image"))


def _identities(samples: Iterable[Sample]) -> set[tuple[int, int]]:
    return {identity for sample in samples if (identity := _identity(sample.path))}


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, the same under all of its names."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


class Places:
    """Where a run writes its maps: test/<kind>/<stem>.tiff for test/<kind>/<stem>.png, each map at a place of its own.

    `samples` are the data set's. `endless` runs keep no list: whose place it is, the map that lies there says.
    """

    def __init__(self, folder: Path, samples: Iterable[Sample], endless: bool = False) -> None:
        self._folder, self._endless = folder, endless
        self._images = _identities(samples)
        self._taken: set[Path] = set()

    def of(self, sample: Sample) -> Path:
        """The map's place; where images differ in their suffix alone, the second one keeps it."""
        name = below(self._folder, sample.id)
        candidates = [name.with_suffix(".tiff"), name.with_name(f"{name.name}.tiff")]
        path = next((path for path in candidates if self._free(path, sample)), None)
        path = path or next(path for path in _numbered(name) if self._free(path, sample))
        if not self._endless:
            self._taken.add(path)
        above = files.real(path.parent)
        if above == files.real(sample.path).parent or above == files.real(sample.path.parent):
            why = f"the map would lie beside the image {sample.path}"
        elif not above.is_relative_to(files.real(self._folder)):
            why = f"the map of {sample.id} would lie outside of it, in {above}"
        elif self._images & {_identity(path), _identity(path.with_suffix(".png"))}:
            why = f"the map of {sample.id} would take the place of the image {path}"
        else:
            return path
        raise InputError(f"--out {self._folder}: {why}; name another folder")

    def _free(self, path: Path, sample: Sample) -> bool:
        of_another = self._endless and _owner(path) not in (None, sample.id)
        return not (path in self._taken or of_another or files.is_folder(path))

    def __len__(self) -> int:
        return len(self._taken)


class Maps:
    """The maps of a data set's images below a folder, as `Places` lays them out, or another tool with other suffixes."""

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        if not files.is_folder(folder):
            raise InputError(f"--maps {folder}: no such folder; expected one with maps, such as patchcli score --out writes")
        if files.real(folder) == files.real(dataset.root):
            raise InputError(f"--maps {folder}: is the data set's own folder; expected one with maps")
        self._folder, self._dataset = folder, dataset
        self._images = _identities(dataset.samples)
        self._ids = {sample.id for sample in dataset.samples}

    def of(self, sample: Sample) -> Path | None:
        """The file of an image's map; raises InputError where it is an image of the data set."""
        name = below(self._folder, sample.id)
        paths = [name.with_name(f"{name.name}.tiff"), *map(name.with_suffix, images.MAP_SUFFIXES)]
        for path in [*paths, *takewhile(os.path.lexists, _numbered(name))]:
            if not os.path.lexists(path):
                continue
            if _identity(path) in self._images:
                found = f"{path} is an image of the data set, not a map"
                raise InputError(f"--maps {self._folder}: {found}; expected a folder of maps")
            owner = _owner(path)
            if owner == sample.id or owner not in self._ids:
                return path
        return None


def check_apart(option: str, path: Path, expected: str, store: Store, samples: Iterable[Sample]) -> None:
    """Raise InputError where what is written at `path`, or below it, would be taken for images of the data set."""
    layout, root = layouts.LAYOUTS[store.source.layout], files.real(Path(store.source.root))
    full = files.real(path)
    taken = layout.takes(root, full)
    if layout.folders:  # linked folders may lie anywhere
        taken |= any(full.is_relative_to(folder) for folder in {files.real(sample.path.parent) for sample in samples})
    if taken:
        raise InputError(f"{option} {path}: lies among the data set's images; expected {expected}")
