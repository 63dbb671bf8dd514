"""A part of a store: a Zarr group of its own, sealed by the digest of its metadata.

A sealed part never changes. The root keeps the digest of its consolidated metadata, so no byte of that changes unnoticed;
every chunk ends in its crc32c. A lost chunk reads as NaN, -1, "" or zeros: if a whole row does, the chunks are counted.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import threading
import uuid
import warnings
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from patchcli.errors import DamagedError, StoreError
from patchcli.store import objects
from patchcli.store.attributes import T, from_stored
from patchcli.store.objects import Objects

REPAIR = {
    "images": "extract the images again with `overwrite`",
    "encoder": "train again with `overwrite`",
    "blocks": "run: `embed(overwrite)`",
    "bank": "run: `embed(overwrite)`",
    "calibration": "run: `calibrate()`",
}
UNIQUE = re.compile(rf"({'|'.join(REPAIR)})-[0-9a-f]{{8}}")  # the names of parts in object storage, where none comes again
FOLDER = re.compile(rf"{'|'.join(REPAIR)}|{UNIQUE.pattern}")  # and in a folder, present or left over
METADATA = "zarr.json"
# Files of the root that do not have their name yet.
UNFINISHED = re.compile(r"zarr\.[0-9a-f]+\.partial|\.[0-9a-f]+-\d+-[0-9a-f]{12}\.part")
INSIDE = re.compile(r"zarr\.json|c|\d+|.+\.partial")  # files of a part
AT_ONCE = 16  # arrays that are written or read at a time
READ = 1 << 26  # bytes of arrays that are checked at a time

Item = TypeVar("Item")
Array = NDArray[Any]
Attributes = dict[str, Any]
Stored = zarr.Array[Any]  # an array of a store, to be read in slices


class Rows(NamedTuple):
    """Some rows of an array."""

    name: str
    array: Stored
    selection: Any


class Part:
    """One part of a store: writable until it is sealed, then read only."""

    def __init__(self, path: Path | str, kind: str, name: str, group: zarr.Group) -> None:
        self.path, self.kind, self.name, self.group = path, kind, name, group
        self._sealed = False
        self.leases: object = None  # of a reader: they last as long as somebody refers to the part

    # ---- written ------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path | str, kind: str, plain: bool) -> "Part":
        """An empty part in the store at `path`: under the name of its kind, or one that no part has ever had.

        In object storage it is always the latter: no folder is made there that another writer would find.
        """
        names = (f"{kind}-{uuid.uuid4().hex[:8]}" for _ in range(3))
        for name in (kind, *names) if plain and isinstance(path, Path) else names:
            with contextlib.suppress(FileExistsError):
                if isinstance(path, Path):
                    (path / name).mkdir()
                break
        return cls(path, kind, name, zarr.open_group(_place(path, name), mode="a", zarr_format=3))

    @classmethod
    def begun(cls, path: Path | str, kind: str, name: str) -> "Part":
        """A part that another process has created and will seal, to write arrays of it."""
        try:
            return cls(path, kind, name, zarr.open_group(_place(path, name), mode="r+", zarr_format=3))
        except FileNotFoundError:
            raise StoreError("the run that this worker belongs to has ended; there is nothing to do", subject=path) from None

    def seal(self, attributes: Attributes) -> str:
        """Finish a part: write attributes and metadata as one object, sync everything to disk; the digest of the metadata."""
        self.group.attrs.update(attributes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that Zarr v3 does not specify consolidated metadata yet
            zarr.consolidate_metadata(self.group.store, path=self.group.path)
        if isinstance(self.path, Path):
            synchronise(self.path / self.name)
        return hashlib.sha256(read_object(self.path, f"{self.name}/{METADATA}") or b"").hexdigest()

    def create_array(self, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any) -> Stored:
        """An array whose chunks have checksums; texts and bytes are compressed."""
        return self.group.create_array(name, **_layout(shape, chunks, dtype))

    def write(self, arrays: Mapping[str, Array], below: str = "") -> None:
        """Arrays by name, each in one chunk, in a group below the part if one is named."""

        async def write(name: str, values: Array) -> None:
            path = f"{below}/{name}".removeprefix("/")
            array = await self.group._async_group.create_array(path, **_layout(values.shape, values.shape, values.dtype))
            await array.setitem(..., values)

        _at_once(write, {name: np.asarray(values) for name, values in arrays.items()})

    def write_texts(self, name: str, texts: list[str]) -> None:
        """An array of texts in one chunk."""
        self.create_array(name, (len(texts),), (len(texts),), str)[:] = np.array(texts, dtype=object)

    # ---- read ---------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path | str, kind: str, name: str, sha256: str, writable: bool = False) -> "Part":
        """The part that the root names. Raises DamagedError if its metadata is gone or has changed."""
        part = cls(path, kind, name, cast(zarr.Group, None))
        part._sealed = True
        content = read_object(path, f"{name}/{METADATA}")
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            raise part.damaged("its metadata", missing=content is None)
        try:
            mode: Any = "r+" if writable else "r"
            part.group = zarr.open_group(_place(path, name), mode=mode, zarr_format=3, use_consolidated=True)
        except Exception as error:
            if isinstance(error, StoreError):
                raise
            raise part.damaged(f"its metadata: {error}") from None
        return part

    def damaged(self, what: str, missing: bool = False) -> DamagedError:
        """The error that names this part and its repair; or, without locks, says that the part was replaced meanwhile."""
        if self._sealed and f'"name": "{self.name}"'.encode() not in (read_object(self.path, METADATA) or b""):
            return DamagedError("another process has changed it meanwhile", subject=self.path, advice="run this again")
        state = "missing" if missing else "damaged"
        return DamagedError(f"{state} ({what})", subject=f"{self.path}/{self.name}", advice=REPAIR[self.kind])

    @property
    def attributes(self) -> Attributes:
        """The attributes as stored."""
        return dict(self.group.attrs)

    def read_attributes(self, kind: type[T]) -> T:
        """The same as a dataclass. Raises DamagedError if a field is missing or of another type."""
        try:
            return from_stored(kind, self.attributes)
        except ValueError as error:
            raise self.damaged(str(error)) from None

    def array(self, name: str) -> Stored:
        """An array, to be read in slices by `read`."""
        array = self.group.get(name)
        if not isinstance(array, zarr.Array):
            raise self.damaged(name, missing=True)
        return array

    def flags(self, name: str) -> Array:
        """An unsigned array; chunks that are not written yet read as 0."""
        return self._values(name, ...)

    def _values(self, name: str, selection: Any) -> Array:
        array = self.array(name)
        try:
            return np.asarray(array[selection])
        except Exception as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: Exception) -> StoreError:
        """What it means that an array cannot be read: codecs raise whatever they meet."""
        return error if isinstance(error, StoreError) else self.damaged(f"{name}: {error}")

    def read(self, name: str, selection: Any = ...) -> Array:
        """An array's values, or some of them. Raises DamagedError if a chunk is damaged or lost, or a row is NaN."""
        return self._whole(name, self._values(name, selection))

    def _whole(self, name: str, values: Array) -> Array:
        """The values of an array, if none of them stands for a lost chunk."""
        if values.size and _blank_row(values):
            array = self.array(name)
            if array.nchunks_initialized != array.nchunks:
                raise self.damaged(f"a chunk of {name}", missing=True)
            if values.dtype.kind == "f":
                raise self.damaged(f"{name} holds NaN")
        return values

    def texts(self, name: str) -> list[str]:
        """An array of texts."""
        return [str(text) for text in self.read(name)]

    def read_all(self, below: str = "", names: Iterable[str] | None = None) -> dict[str, Array]:
        """All arrays directly below the part, or below a group of it, by name; with `names`, these alone are looked at."""

        async def read(name: str, array: Stored) -> Any:
            try:
                return await array.async_array.getitem(...)
            except Exception as error:
                return error

        if names is None:
            group = self.group.get(below) if below else self.group
            arrays = dict(group.arrays()) if isinstance(group, zarr.Group) else {}
        else:
            arrays = {name: self.array(f"{below}/{name}") for name in names}
        values = {}
        for name, found in _at_once(read, arrays).items():
            path = f"{below}/{name}".removeprefix("/")
            if isinstance(found, Exception):
                raise self._unreadable(path, found) from None
            values[name] = self._whole(path, np.asarray(found))
        return values

    def check(self) -> Iterator[str]:
        """Read every array, some rows at a time; a line for each that is damaged."""

        async def sound(_: str, rows: Rows) -> bool:
            try:
                values = np.asarray(await rows.array.async_array.getitem(rows.selection))
            except Exception:
                return False
            return not (values.size and _blank_row(values))

        damaged = set[str]()
        for some in self._all_rows():
            of_rows = _at_once(sound, some)
            for rows in (some[key] for key, fine in of_rows.items() if not fine):
                if rows.name not in damaged:
                    try:
                        self.read(rows.name, rows.selection)
                    except DamagedError as error:
                        damaged.add(rows.name)
                        yield str(error)

    def _all_rows(self) -> Iterator[dict[str, Rows]]:
        """The chunks of rows of all arrays, as many together as READ bytes hold."""
        some, size = dict[str, Rows](), 0
        for name, array in self.group.members(max_depth=None):
            if not isinstance(array, zarr.Array):
                continue
            count, step = (array.shape[0], array.chunks[0]) if array.ndim else (1, 1)
            of_chunk = step * array.nbytes // max(1, count)
            for start in range(0, count, step):
                some[f"{name}/{start}"] = Rows(name, array, slice(start, start + step) if array.ndim else ...)
                size += of_chunk
                if size >= READ:
                    yield some
                    some, size = {}, 0
        yield some


def _at_once(do: Callable[[str, Item], Awaitable[Any]], items: Mapping[str, Item]) -> dict[str, Any]:
    """What a coroutine gives for each item, by name; several are on their way at a time, since storage may be far.

    After an error or an interruption the others are left alone, and none is still on its way.
    """
    rest, given, ended = iter(items.items()), dict[str, Any](), threading.Event()

    async def some() -> None:
        try:
            for name, item in rest:
                given[name] = await do(name, item)
        finally:
            deque(rest, maxlen=0)

    async def whole() -> list[BaseException | None]:
        try:
            return await asyncio.gather(*(some() for _ in range(AT_ONCE)), return_exceptions=True)
        finally:
            ended.set()

    try:
        for error in sync(whole()):
            if error is not None:
                raise error
    except BaseException:  # Ctrl-C and SIGTERM too
        deque(rest, maxlen=0)
        ended.wait(timeout=10)
        raise
    return {name: given[name] for name in items}


def _layout(shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any) -> dict[str, Any]:
    """How Zarr is to store an array: chunks have checksums; texts and bytes are compressed."""
    kind = "U" if dtype is str else np.dtype(dtype).kind
    return {
        "shape": shape,
        "chunks": tuple(max(1, length) for length in chunks),
        "dtype": dtype,
        "compressors": [*([ZstdCodec()] if kind in "Uu" else []), Crc32cCodec()],
        "fill_value": {"f": float("nan"), "i": -1, "u": 0, "U": ""}[kind],
        "config": {"write_empty_chunks": True},
    }


def _blank_row(values: Array) -> bool:
    """Whether some row is what a lost chunk reads as."""
    rows = values.reshape(len(values) if values.ndim else 1, -1)
    kind = values.dtype.kind

    def blank(part: Array) -> NDArray[np.bool_]:
        if kind == "f":
            return np.isnan(part)
        return np.asarray(part == (-1 if kind == "i" else 0 if kind == "u" else ""))

    return bool(blank(rows[np.flatnonzero(blank(rows[:, 0]))]).all(axis=1).any())


def read_object(path: Path | str, key: str) -> bytes | None:
    """A small object of a store, None if there is none; `path` is a folder, or a URL that fsspec knows."""
    if isinstance(path, str):
        return objects.read(path, key)
    try:
        return (path / key).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _reached(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A method of FsspecStore; what the storage refuses is a StoreError."""

    @wraps(method)
    async def reach(self: FsspecStore, *arguments: Any, **named: Any) -> Any:
        with objects.reaching(self.fs.unstrip_protocol(self.path)):
            return await method(self, *arguments, **named)

    return reach


class _Objects(FsspecStore):
    """Object storage as Zarr sees it."""

    get: Any = _reached(FsspecStore.get)
    set: Any = _reached(FsspecStore.set)
    exists: Any = _reached(FsspecStore.exists)
    delete: Any = _reached(FsspecStore.delete)
    delete_dir: Any = _reached(FsspecStore.delete_dir)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        with objects.reaching(self.fs.unstrip_protocol(self.path)):
            async for name in super().list_dir(prefix):
                yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        with objects.reaching(self.fs.unstrip_protocol(self.path)):
            async for name in super().list_prefix(prefix):
                yield name


def _place(path: Path | str, name: str) -> Any:
    """A part as Zarr opens it."""
    if isinstance(path, Path):
        return str(path / name)
    with objects.reaching(path):
        return _Objects.from_url(f"{path}/{name}", objects.options(path))


def no_store(path: Path | str) -> StoreError:
    """The error for a place without a store."""
    return StoreError("no store found", subject=path, advice="make it with: `train(data)`, or name another with `store`")


def unwritable(path: Path | str, error: OSError) -> StoreError:
    """The error for a place that cannot be written."""
    return StoreError(f"cannot be written ({error.strerror or error})", subject=path, advice="name another with `store`")


def synchronise(folder: Path) -> None:
    """Sync everything below a folder to disk."""
    for above, _, names in os.walk(folder):
        for name in (*names, "."):
            _fsync(Path(above) / name)
    _fsync(folder.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems have none for folders
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def left_over(folder: Path) -> bool:
    """Whether this is a part, or the rest of one: a folder of such a name, without files that a user has put there."""
    if not FOLDER.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return False
    return all(INSIDE.fullmatch(path.name) for path in folder.rglob("*") if not path.is_dir())


def remove(folder: Path | str) -> None:
    """Remove a part that no version names, its metadata first: half a part is never mistaken for a whole one."""
    if isinstance(folder, str):
        path, _, name = folder.rpartition("/")
        with contextlib.suppress(StoreError):  # the next writer does it
            Objects(path).remove(f"{name}/")
        return
    (folder / METADATA).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
