"""The artefact: one Zarr v3 group with images, encoder, bank and provenance. The only module that imports zarr.

Nothing is pickled. What is replaced is written beside and renamed; only the bank is written in place, block by block,
each block followed by its flag, so that an interrupted `embed` goes on where it stopped.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray

from patchcli.errors import IncompleteError, InputError, StoreError
from patchcli.grid import PatchGrid

FORMAT_VERSION = 1
IMAGE_BLOCK = 8  # images a chunk of images/train
BANK_CHUNK_BYTES = 8 << 20  # a block of the bank's largest scale: between 4 and 16 MB

Array = NDArray[Any]
Attributes = dict[str, Any]


def _array(group: zarr.Group, name: str) -> "zarr.Array[Any]":
    found = group.get(name)
    if not isinstance(found, zarr.Array):
        raise StoreError(f"{group.store_path}/{name}: array is missing; the store is damaged, make it again")
    return found


def _read(array: "zarr.Array[Any]", selection: Any = ...) -> Array:
    try:
        return np.asarray(array[selection])
    except Exception as error:  # codecs raise whatever they meet
        raise StoreError(f"{array.store_path}: cannot be read ({error}); the store is damaged, make it again") from None


class Store:
    """One opened store. `path` is local where it is written; reading goes through zarr and so also takes a URL."""

    def __init__(self, path: Path | str, group: zarr.Group) -> None:
        self.path, self.group = path, group
        self.attributes = cast(Attributes, group.attrs["patchcli"])

    # ---- the whole ----------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path | str, mode: str = "r") -> "Store":
        """Open an existing store; `mode` is "r" or "r+". Raises StoreError where it is none, or of another format."""
        if mode == "r+":
            _recover(Path(path))
        try:
            group = zarr.open_group(str(path), mode=cast(Any, mode), zarr_format=3)
        except (FileNotFoundError, zarr.errors.GroupNotFoundError):
            hint = "make it with: patchcli train DATA, or name another with --store"
            raise StoreError(f"{path}: no store found; {hint}") from None
        except Exception as error:
            raise StoreError(f"{path}: not a readable Zarr group ({error}); name another store with --store") from None
        found = cast(Attributes, group.attrs.get("patchcli", {})).get("format_version")
        if found != FORMAT_VERSION:
            expected = f"expected a patchcli store of format {FORMAT_VERSION}, found {found or 'another Zarr group'}"
            raise StoreError(f"{path}: {expected}; name another with --store")
        return cls(path, group)

    @classmethod
    @contextlib.contextmanager
    def creating(cls, path: Path, dataset: Attributes, overwrite: bool = False) -> Iterator["Store"]:
        """A new store, written beside `path` and moved there when the block ends well."""
        if path.exists() and not overwrite:
            raise StoreError(f"{path}: already exists; go on with it, name another with --store, or give --overwrite")
        if path.exists() and not _is_store(path) and (not path.is_dir() or any(path.iterdir())):
            raise StoreError(f"{path}: is not a store and will not be replaced; name another with --store")
        beside = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(beside, ignore_errors=True)
            group = zarr.open_group(str(beside), mode="w-", zarr_format=3)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written ({error}); name another with --store") from None
        versions = {name: version(name) for name in ("patchcli", "torch", "zarr", "numpy")}
        group.attrs["patchcli"] = {"format_version": FORMAT_VERSION, "versions": versions, "dataset": dataset}
        try:
            yield cls(beside, group)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        _swap(beside, path)

    @property
    def dataset(self) -> Attributes:
        """Where the images came from: root, layout, category, manifest (sha256)."""
        return cast(Attributes, self.attributes["dataset"])

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[zarr.Group]:
        """A fresh group written beside group `name`, and put in its place when the block ends well."""
        root = Path(self.path)
        shutil.rmtree(root / f"{name}.new", ignore_errors=True)
        yield self.group.create_group(f"{name}.new")
        _swap(root / f"{name}.new", root / name)

    def attributes_of(self, name: str) -> Attributes | None:
        """Attributes of a subgroup, None where there is no such group."""
        group = self.group.get(name)
        return dict(group.attrs) if isinstance(group, zarr.Group) else None

    # ---- images -------------------------------------------------------------------------------------------------

    def write_images(self, decoded: Iterator[tuple[str, tuple[int, int], Array]], height: int, width: int) -> int:
        """Write images (id, original (height, width), pixels (height, width, 3) uint8) and their mean; how many."""
        group = self.group.create_group("images")
        train = group.create_array(
            "train", shape=(0, height, width, 3), chunks=(IMAGE_BLOCK, height, width, 3), dtype="uint8"
        )
        total, count = np.zeros((height, width, 3), np.float64), 0
        ids: list[str] = []
        sizes: list[tuple[int, int]] = []
        block: list[Array] = []

        def flush() -> None:
            train.resize((count, height, width, 3))
            train[count - len(block) :] = np.stack(block)
            block.clear()

        for name, size, pixels in decoded:
            ids.append(name)
            sizes.append(size)
            block.append(pixels)
            total += pixels
            count += 1
            if len(block) == IMAGE_BLOCK:
                flush()
        if block:
            flush()
        if count:
            names = group.create_array("id", shape=(count,), chunks=(count,), dtype=cast(Any, str))
            names[:] = np.array(ids, dtype=object)
            group.create_array("size", data=np.array(sizes, np.int32), chunks=(count, 2))
            group.create_array("mean", data=(total / count).astype(np.float32), chunks=(height, width, 3))
        return count

    @property
    def images(self) -> "zarr.Array[Any]":
        """images/train: uint8 (N, H, W, 3); slices of it stream from the store."""
        return _array(self.group, "images/train")

    def read_images(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Training images start:stop as (B, H, W, 3) uint8."""
        return cast(NDArray[np.uint8], _read(self.images, slice(start, stop)))

    @property
    def image_ids(self) -> list[str]:
        """Ids of the training images, in storage order."""
        return [str(name) for name in _read(_array(self.group, "images/id"))]

    @property
    def image_sizes(self) -> Array:
        """Original (height, width) of the training images, int32 (N, 2)."""
        return _read(_array(self.group, "images/size"))

    @property
    def mean(self) -> NDArray[np.float32]:
        """Per-pixel mean of the training images, float32 (H, W, 3)."""
        return cast(NDArray[np.float32], _read(_array(self.group, "images/mean")))

    # ---- encoder ------------------------------------------------------------------------------------------------

    def write_encoder(self, weights: Mapping[str, Array], attributes: Attributes, state: Mapping[str, Array]) -> str:
        """Replace the encoder: one array per weight, and what training needs to go on under encoder/training."""
        digest = digest_of(weights)
        with self.replacing("encoder") as group:
            for name, values in weights.items():
                group.create_array(name, data=np.asarray(values), compressors=None)
            if state:
                training = group.create_group("training")
                for name, values in state.items():
                    training.create_array(name, data=np.asarray(values), compressors=None)
            group.attrs.update({**attributes, "sha256": digest})
        return digest

    @property
    def encoder_attributes(self) -> Attributes:
        """Architecture, D, λ, seed, steps, sha256. Raises IncompleteError where nothing is trained."""
        attributes = self.attributes_of("encoder")
        if attributes is None:
            raise IncompleteError(f"{self.path}: holds no encoder yet; run: patchcli train (or patchcli import)")
        return attributes

    def read_encoder(self) -> dict[str, Array]:
        """The encoder's weights, checked against the digest written with them and for finite numbers."""
        attributes = self.encoder_attributes
        group = cast(zarr.Group, self.group["encoder"])
        weights = {name: _read(array) for name, array in group.arrays()}
        if not all(np.isfinite(values).all() for values in weights.values()):
            raise StoreError(f"{self.path}: encoder weights hold NaN or infinity; train again with --overwrite")
        if digest_of(weights) != attributes["sha256"]:
            raise StoreError(f"{self.path}: encoder weights differ from their sha256; train again with --overwrite")
        return weights

    def read_training_state(self) -> dict[str, Array]:
        """What encoder/training holds, empty where the encoder was imported."""
        group = self.group.get("encoder/training")
        return {name: _read(array) for name, array in group.arrays()} if isinstance(group, zarr.Group) else {}

    # ---- bank ---------------------------------------------------------------------------------------------------

    def bank_fingerprint(self) -> Attributes:
        """What a bank depends on: encoder, images, their geometry."""
        return {
            "encoder": self.encoder_attributes["sha256"],
            "manifest": self.dataset["manifest"],
            "images": list(self.images.shape),
        }

    def prepare_bank(self, grids: Mapping[str, PatchGrid], D: int, overwrite: bool = False) -> "Bank":
        """The bank to write to: the present one if it was begun for the same encoder and images, else a new one."""
        fingerprint = self.bank_fingerprint()
        present = self.attributes_of("bank")
        if present is not None and present.get("fingerprint") == fingerprint and not overwrite:
            return Bank(self)
        images = self.images.shape[0]
        largest = max(grid.patches for grid in grids.values()) * D * 4
        block = max(1, min(images, BANK_CHUNK_BYTES // largest))
        needed = images * D * 4 * sum(grid.patches for grid in grids.values())
        free = shutil.disk_usage(self.path).free
        if needed > free:
            found = f"the bank needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
            raise StoreError(f"{self.path}: {found}; make room, or put the store elsewhere with --store")
        with self.replacing("bank") as group:
            for scale, grid in grids.items():
                group.create_array(
                    f"{scale}/features",
                    shape=(images, *grid.shape, D),
                    chunks=(block, *grid.shape, D),
                    dtype="float32",
                    compressors=None,
                    fill_value=float("nan"),
                )
                group[scale].attrs.update({"K": grid.K, "S": grid.S})
            blocks = -(-images // block)
            group.create_array("done", shape=(blocks,), chunks=(1,), dtype="uint8", compressors=None)
            group.attrs.update({"fingerprint": fingerprint, "block": block, "status": "incomplete"})
        return Bank(self)

    def bank(self) -> "Bank":
        """The finished bank, to read. Raises where it is missing, half-written or of another encoder."""
        if self.attributes_of("bank") is None:
            self.encoder_attributes  # noqa: B018  (where the encoder is missing too, say so first)
            raise IncompleteError(f"{self.path}: holds no bank yet; run: patchcli embed")
        bank = Bank(self)
        if bank.attributes["fingerprint"] != self.bank_fingerprint():
            made, now = (f["encoder"][:12] for f in (bank.attributes["fingerprint"], self.bank_fingerprint()))
            found = f"the bank is of encoder {made}, the store's encoder is {now}"
            raise StoreError(f"{self.path}: {found}; run: patchcli embed")
        if bank.attributes["status"] != "complete":
            done = f"{int(bank.done.sum())} of {len(bank.done)} blocks"
            raise IncompleteError(f"{self.path}: the bank is half-written ({done}); run: patchcli embed, which goes on")
        return bank


class Bank:
    """The memory bank: for each scale, features float32 (N, rows, columns, D), in blocks of whole images."""

    def __init__(self, store: Store) -> None:
        self._group = cast(zarr.Group, store.group["bank"])
        self.attributes = cast(Attributes, dict(self._group.attrs))
        self.scales = sorted(name for name, _ in self._group.groups())
        self.images: int = self._features(self.scales[0]).shape[0]
        self.block: int = self.attributes["block"]

    def _features(self, scale: str) -> "zarr.Array[Any]":
        return _array(self._group, f"{scale}/features")

    @property
    def done(self) -> NDArray[np.uint8]:
        """One flag per block, 1 where it is written."""
        return cast(NDArray[np.uint8], _read(_array(self._group, "done")))

    def bounds(self, block: int) -> tuple[int, int]:
        """First image of a block, and the one after its last."""
        return block * self.block, min((block + 1) * self.block, self.images)

    def write_block(self, block: int, features: Mapping[str, Array]) -> None:
        """Write one block of every scale, each (images of the block, rows, columns, D), then its flag."""
        start, stop = self.bounds(block)
        for scale in self.scales:
            array = self._features(scale)
            if features[scale].shape != (stop - start, *array.shape[1:]):
                raise ValueError(f"block {block} of {scale}: {features[scale].shape} does not fit {array.shape}")
            array[start:stop] = features[scale]
        _array(self._group, "done")[block] = 1

    def finish(self) -> None:
        """Mark the bank complete, once every block is."""
        missing = np.flatnonzero(self.done == 0)
        if missing.size:
            raise IncompleteError(f"blocks {missing.tolist()} of the bank are not written; run: patchcli embed")
        self._group.attrs["status"] = "complete"

    def blocks(self, scale: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Stream one scale: (flat index of the first vector, vectors (M, D) float32), block by block."""
        array = self._features(scale)
        rows, columns, D = array.shape[1:]
        for block in range(len(self.done)):
            start, stop = self.bounds(block)
            vectors = _read(array, slice(start, stop)).reshape(-1, D)
            if np.isnan(vectors).any():
                raise StoreError(f"bank block {block} of {scale} holds NaN; embed again: patchcli embed --overwrite")
            yield start * rows * columns, vectors


def digest_of(weights: Mapping[str, Array]) -> str:
    """sha256 over names, shapes and little-endian float32 bytes of the weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = np.ascontiguousarray(weights[name], dtype="<f4")
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _is_store(path: Path) -> bool:
    """Whether a folder is a store of any format version."""
    try:
        return "patchcli" in json.loads((path / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _old(target: Path) -> Path:
    """Where what is replaced lies meanwhile: hidden beside a store, so that no copy of the user's is meant."""
    return target.with_name(f"{'' if target.name in ('encoder', 'bank') else '.'}{target.name}.old")


def _swap(new: Path, target: Path) -> None:
    """Put a folder in the place of another; a kill between the two renames is mended by `_recover`."""
    old = _old(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _recover(path: Path) -> None:
    """Finish or undo what a killed process left: X.old without X is X; other leftovers go."""
    for folder in (path, path / "encoder", path / "bank"):
        if folder != path and not _is_store(path):
            return
        old = _old(folder)
        if old.is_dir() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    for name in ("encoder.new", "bank.new"):
        shutil.rmtree(path / name, ignore_errors=True)


def existing(path: Path) -> bool:
    """Whether a store (or what a killed process left of one) is at `path`."""
    return path.exists() or _old(path).exists()


def stores_in(folder: Path) -> list[Path]:
    """The stores directly inside a folder, by name; raises where there is none."""
    found = sorted(child for child in folder.iterdir() if (child / "zarr.json").is_file())
    if not found:
        raise InputError(f"{folder}: no store found in this folder; expected one Zarr store per class")
    return found
