"""What lies at a place: a store, several stores, something else, or nothing. A place is a folder, or a URL."""

import json
from pathlib import Path

from patchcli import files
from patchcli.errors import InputError, StoreError
from patchcli.store import objects
from patchcli.store.locks import LOCK
from patchcli.store.objects import REPLACED, Objects
from patchcli.store.parts import METADATA, UNFINISHED, UNIQUE, left_over, read_object


def located(path: Path | str) -> Path | str:
    """Where a store lies: a folder, or a URL. Raises InputError for a URL with credentials, or one that Path has bent."""
    if isinstance(path, str) and "://" in path:
        return objects.checked(path)
    files.check_local("store", path, "write s3://bucket/key.zarr, as a text")
    return Path(path)


def below(path: Path | str, name: str) -> Path | str:
    """A part, or a store in a folder of stores."""
    return path / name if isinstance(path, Path) else f"{path}/{name}"


def _names(path: Path | str) -> list[str]:
    """What lies directly inside a store; a file has something that no store has."""
    if isinstance(path, str):
        return [name.rstrip("/") for name in Objects(path).children()]
    return [child.name for child in path.iterdir()] if path.is_dir() else ["?"]


def _has_root(path: Path | str) -> bool:
    return (path / METADATA).exists() if isinstance(path, Path) else read_object(path, METADATA) is not None


def _is_store(path: Path | str) -> bool:
    """Whether a folder is a store of any format version, a damaged one, or the leftovers of a killed creation."""
    ours = LOCK, METADATA, REPLACED.rstrip("/")
    try:
        if (content := read_object(path, METADATA)) is not None:
            return "patchcli" in json.loads(content)["attributes"]
    except ValueError as error:
        if isinstance(error, StoreError):
            raise
    except (OSError, KeyError, TypeError):
        return False
    if isinstance(path, str):
        return all(name in ours or UNIQUE.fullmatch(name) for name in _names(path))
    return all(name in ours or UNFINISHED.fullmatch(name) or left_over(path / name) for name in _names(path))


def existing(path: Path | str) -> bool:
    """Whether something is at `path` other than an empty folder or the leftovers of a killed creation."""
    if isinstance(path, Path) and not path.exists():
        return False
    return _has_root(path) or not _is_store(path)


def check_replaceable(path: Path | str, overwrite: bool) -> None:
    """Raise StoreError if a new store must not replace what is at `path`."""
    if isinstance(path, Path) and path.is_symlink() and not path.exists():
        target = f"is a link to {path.readlink()}, which is not there"
        raise StoreError(target, subject=path, advice="fix the link, or name another store")
    if existing(path) and not overwrite:
        raise StoreError(
            "already exists", subject=path, advice="continue with it, name another with `store`, or give `overwrite`"
        )
    if existing(path) and not _is_store(path):
        raise StoreError("is not a store and will not be replaced", subject=path, advice="name another with `store`")


def stores_in(folder: Path | str) -> list[Path | str] | None:
    """The stores directly inside a folder, by name; None if it is a store or not there. Raises InputError if none is inside."""
    several = folder.startswith(objects.S3) if isinstance(folder, str) else folder.is_dir()
    if not several or _has_root(folder):
        return None
    stores = [each for name in sorted(_names(folder)) if _has_root(each := below(folder, name))]
    if not stores and isinstance(folder, str):
        return None
    if not stores:
        raise InputError("no store found in this folder", subject=folder, advice="expected one Zarr store per class")
    return stores
