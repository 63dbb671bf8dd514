"""Where the map of an image lies, for those who write it and those who read it; no map is an image, or lies beside one."""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path, PurePosixPath
from typing import Any

import tifffile

from patchcli import files
from patchcli.datasets import images, layouts
from patchcli.datasets.layouts import Dataset, Sample
from patchcli.detection import regions
from patchcli.detection.detector import Detector
from patchcli.errors import InputError

MVTEC2 = "mvtec-ad-2"
MAP, OVERLAY = 4, 11  # bytes of memory a pixel of the image, as measured

_OF_THE_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True)
class Outputs:
    """Which files `score` writes.

    `out` gets maps (float32 TIFF) in the data set's layout, with `overlay` heat maps as PNG beside them. `regions_out`, a
    .csv or .json (COCO) file, gets the regions of all images when the last is scored. With `submission` "mvtec-ad-2" the
    private test images are scored, and `out` gets what that benchmark's server takes: float16 maps, in multiples of the
    pixel threshold, and pictures of what is above it.
    """

    out: Path | str | None = None
    overlay: bool = False
    regions_out: Path | str | None = None
    submission: str | None = None

    def __post_init__(self) -> None:
        if self.out is None and (self.overlay or self.submission):
            raise InputError("expected `out` too, where the files go", parameter="overlay" if self.overlay else "submission")
        if self.submission not in (None, MVTEC2):
            raise InputError(repr(self.submission), parameter="submission", expected=MVTEC2)
        if self.submission and self.overlay:
            raise InputError("draws nothing; leave `overlay` out", parameter="submission")
        if self.out is not None:
            object.__setattr__(self, "out", files.target("out", self.out))
        if self.regions_out is not None:
            object.__setattr__(self, "regions_out", files.target("regions_out", self.regions_out, *regions.SUFFIXES))

    @property
    def folder(self) -> Path | None:
        """`out` as a path."""
        return None if self.out is None else Path(self.out)

    @property
    def thresholded(self) -> bool:
        """Whether the files depend on thresholds."""
        return self.regions_out is not None or self.submission is not None

    @property
    def memory(self) -> int:
        """Bytes that writing takes, a pixel of an image."""
        return MAP * (self.out is not None) + OVERLAY * self.overlay

    def described(self, images: int) -> str:
        """What is written of so many images, in words."""
        pictures = " and overlays" * self.overlay + " and what is above the threshold" * bool(self.submission)
        named = [f"{images} maps{pictures} below {self.out}"] * (self.out is not None)
        named += [str(self.regions_out)] * (self.regions_out is not None)
        return " and ".join(named) or "no file"


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
            written = json.loads(file.pages.first.description)
    except Exception:  # tifffile raises whatever it meets
        return {}
    return written if isinstance(written, dict) else {}


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
    written = description(path)
    return written.get("id", written.get("image"))


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

    `samples` are the data set's. `endless` runs keep no list: whose place it is, the map that lies there says. Files with these
    `suffixes` are replaced only where they are maps, or overlays beside maps.
    """

    def __init__(
        self, folder: Path, samples: Iterable[Sample], endless: bool = False, suffixes: tuple[str, ...] = (".tiff", ".png")
    ) -> None:
        self._folder, self._endless, self._suffixes = folder, endless, suffixes
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
        elif theirs := [
            file for file in map(path.with_suffix, self._suffixes) if os.path.lexists(file) and _owner(path) is None
        ]:
            why = f"{theirs[0]} would be replaced, and is no map that was written here"
        else:
            return path
        raise InputError(why, parameter="out", subject=self._folder, advice="name another folder")

    def _free(self, path: Path, sample: Sample) -> bool:
        of_another = self._endless and _owner(path) not in (None, sample.id)
        return not (path in self._taken or of_another or files.is_folder(path))

    def __len__(self) -> int:
        return len(self._taken)


class Maps:
    """The maps of a data set's images below a folder, as `Places` lays them out, or another tool with other suffixes."""

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        if not files.is_folder(folder):
            expected = "expected one with maps, such as `score(out)` writes"
            raise InputError(f"no such folder; {expected}", parameter="maps", subject=folder)
        if files.real(folder) == files.real(dataset.root):
            raise InputError("is the data set's own folder; expected one with maps", parameter="maps", subject=folder)
        self.folder = folder
        self._images = _identities(dataset.samples)
        self._ids = {sample.id for sample in dataset.samples}

    def of(self, sample: Sample) -> Path | None:
        """The file of an image's map; raises InputError where it is an image of the data set."""
        name = below(self.folder, sample.id)
        paths = [name.with_name(f"{name.name}.tiff"), *map(name.with_suffix, images.MAP_SUFFIXES)]
        for path in [*paths, *takewhile(os.path.lexists, _numbered(name))]:
            if not os.path.lexists(path):
                continue
            if _identity(path) in self._images:
                image = f"{path} is an image of the data set, not a map"
                raise InputError(f"{image}; expected a folder of maps", parameter="maps", subject=self.folder)
            owner = _owner(path)
            if owner == sample.id or owner not in self._ids:
                return path
        return None


def check_apart(parameter: str, path: Path, expected: str, detector: Detector, samples: Iterable[Sample]) -> None:
    """Raise InputError where what is written at `path`, or below it, would be taken for images of the data set."""
    layout, root = layouts.LAYOUTS[detector.source.layout], files.real(Path(detector.source.root))
    full = files.real(path)
    taken = layout.takes(root, full)
    if layout.folders:  # linked folders may lie anywhere
        taken |= any(full.is_relative_to(folder) for folder in {files.real(sample.path.parent) for sample in samples})
    if taken:
        raise InputError(f"lies among the data set's images; expected {expected}", parameter=parameter, subject=path)
