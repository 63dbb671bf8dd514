"""The artefact: one Zarr v3 group with images, encoder, bank and provenance. The only module that imports zarr.

Nothing is pickled. What is replaced is written beside and renamed; only the bank is written in place, block by block,
each block followed by its flag, so that an interrupted `embed` goes on where it stopped. When all blocks are there, their
vectors are laid out anew as pages of neighbours, which the searches read, and the blocks are removed:

    bank/               attrs: fingerprint, images, first, block, D, status, thinning, radius; done (blocks,) uint8
    bank/<scale>/       attrs: K, S, rows, columns, vectors, index (the name of the one that holds)
      features          float32 (N, rows, columns, D), chunks of whole images, fill NaN; until the bank is complete
      index/            centre, axes, low, high (see neighbours.pruned); attrs: radius
      index/<number>/   a page: vectors (n, D) float32 or float16, ids (n,) image · rows · columns + patch, and its tree

    calibration/        attrs: fingerprint, source, rates, thresholds, promise; scores, peaks float64 (n,), id string (n,)
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
from patchcli.images import Canvas, Pixels, Reader, levels

FORMAT_VERSION = 1
PARTS = ("images", "encoder", "bank", "calibration")  # groups that are replaced whole
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
        check_replaceable(path, overwrite)
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

    @property
    def held_out(self) -> dict[str, str]:
        """Good images that neither images nor bank hold, kept for calibration: id → sha256 of the file."""
        return cast(dict[str, str], self.dataset.get("holdout", {}))

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
        """Write images (id, original (height, width), pixels (height, width, 3)) and their mean, in levels; how many."""
        return _write_images(self.group.create_group("images"), decoded, height, width, self.reader.dtype, None)

    def edit_images(self, decoded: Iterator[tuple[str, tuple[int, int], Array]]) -> int:
        """Replace the images; their mean stays, since encoder and features depend on it. How many."""
        height, width = self.images.shape[1:3]
        with self.replacing("images") as group:
            return _write_images(group, decoded, height, width, self.reader.dtype, self.mean)

    def update_dataset(self, **changes: Any) -> None:
        """Change what is said of the data set."""
        self.attributes = {**self.attributes, "dataset": {**self.dataset, **changes}}
        self.group.attrs["patchcli"] = self.attributes

    @property
    def images(self) -> "zarr.Array[Any]":
        """images/train: uint8, or uint16 of deeper files, (N, H, W, 3); slices of it stream from the store."""
        return _array(self.group, "images/train")

    def read_images(self, start: int, stop: int) -> Pixels:
        """Training images start:stop as (B, H, W, 3)."""
        return _read(self.images, slice(start, stop))

    @property
    def reader(self) -> Reader:
        """How image files become pixels of these."""
        return Reader(self.dataset.get("bits", 8), self.dataset.get("large", False))

    @property
    def canvas(self) -> Canvas:
        """The images' working size, and how others are brought to it."""
        _, height, width, _ = self.images.shape
        return Canvas(height, width, self.dataset.get("keeps_aspect", False))

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
        """Per-pixel mean of the training images, in levels of 0 to 255, float32 (H, W, 3)."""
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

    @property
    def strides(self) -> dict[str, int]:
        """Where a bank of the encoder samples patches of a scale at another stride, in pixels, than the paper's: that."""
        return cast(dict[str, int], self.encoder_attributes.get("strides", {}))

    def bank_fingerprint(self) -> Attributes:
        """What a bank depends on: encoder, images, their geometry, and where it samples patches."""
        depends = {
            "encoder": self.encoder_attributes["sha256"],
            "manifest": self.dataset["manifest"],
            "images": list(self.images.shape),
        }
        return depends | ({"strides": self.strides} if self.strides else {})

    def begun_bank(self) -> "Bank | None":
        """The bank that was begun for the present encoder and images, and may be finished."""
        present = self.attributes_of("bank")
        same = present is not None and present.get("fingerprint") == self.bank_fingerprint()
        return Bank(cast(zarr.Group, self.group["bank"])) if same else None

    def prepare_bank(self, grids: Mapping[str, PatchGrid], D: int, overwrite: bool = False) -> "Bank":
        """The bank to write to: the present one if it was begun for the same encoder and images, else a new one."""
        begun = None if overwrite else self.begun_bank()
        if begun is not None:
            return begun
        images = self.images.shape[0]
        self.check_space(bank_bytes(grids, D, images))
        with self.replacing("bank") as group:
            Bank.create(group, self.bank_fingerprint(), grids, D, images)
        return Bank(cast(zarr.Group, self.group["bank"]))

    @contextlib.contextmanager
    def replacing_bank(
        self, fingerprint: Attributes, grids: Mapping[str, PatchGrid], D: int, images: int, first: int
    ) -> Iterator["Bank"]:
        """A new bank beside the present one; the vectors of its images before `first` are to come from there."""
        with self.replacing("bank") as group:
            yield Bank.create(group, fingerprint, grids, D, images, first)

    def check_space(self, needed: int) -> None:
        """Refuse to write `needed` bytes where they are not free."""
        free = shutil.disk_usage(self.path).free
        if needed > free:
            found = f"the bank needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
            raise StoreError(f"{self.path}: {found}; make room, or put the store elsewhere with --store")

    def bank(self) -> "Bank":
        """The finished bank, to read. Raises where it is missing, half-written or of another encoder."""
        attributes = self.attributes_of("bank")
        if attributes is None:
            self.encoder_attributes  # noqa: B018  (where the encoder is missing too, say so first)
            raise IncompleteError(f"{self.path}: holds no bank yet; run: patchcli embed")
        made, now = attributes["fingerprint"], self.bank_fingerprint()
        if made["encoder"] != now["encoder"]:
            found = f"the bank is of encoder {made['encoder'][:12]}, the store's encoder is {now['encoder'][:12]}"
            raise StoreError(f"{self.path}: {found}; run: patchcli embed")
        if made.get("strides") != now.get("strides"):
            raise StoreError(f"{self.path}: the bank is of patches at other places than the encoder's; run: patchcli embed")
        if made != now:
            raise StoreError(f"{self.path}: the bank is of other images than the store's; run: patchcli embed")
        bank = Bank(cast(zarr.Group, self.group["bank"]))
        if attributes["status"] != "complete":
            done = f"{int(bank.done.sum())} of {len(bank.done)} blocks"
            raise IncompleteError(f"{self.path}: the bank is half-written ({done}); run: patchcli embed, which goes on")
        return bank

    # ---- calibration --------------------------------------------------------------------------------------------

    def _calibration_fingerprint(self) -> Attributes:
        """What scores depend on: encoder, images, and how the bank was thinned."""
        bank = self.attributes_of("bank") or {}
        return {"bank": bank.get("fingerprint"), "thinning": bank.get("thinning")}

    def write_calibration(self, ids: list[str], arrays: Mapping[str, Array], attributes: Attributes) -> None:
        """Replace the calibration: ids (n,) of the good images, their figures (n,) by name, and what follows of them."""
        with self.replacing("calibration") as group:
            _write_ids(group, ids)
            for name, values in arrays.items():
                _write_whole(group, name, values)
            group.attrs.update({**attributes, "fingerprint": self._calibration_fingerprint()})

    def read_calibration(self) -> tuple[Array, Attributes]:
        """Scores (n,) and attributes. Raises IncompleteError where there are none, StoreError where they are stale."""
        attributes = self.attributes_of("calibration")
        if attributes is None:
            raise IncompleteError(f"{self.path}: holds no calibration yet; run: patchcli calibrate")
        if attributes["fingerprint"] != self._calibration_fingerprint():
            raise StoreError(f"{self.path}: the calibration is of another bank; run: patchcli calibrate")
        return _read(_array(self.group, "calibration/scores")), attributes


class Bank:
    """The memory bank of `images` images: at each scale a vector for each patch, or for those kept of a thinned bank."""

    def __init__(self, group: zarr.Group) -> None:
        self._group = group
        self.attributes = cast(Attributes, dict(group.attrs))
        self.scales = sorted(name for name, _ in group.groups())
        self.images: int = self.attributes["images"]
        self.first: int = self.attributes["first"]
        self.block: int = self.attributes["block"]
        self.D: int = self.attributes["D"]

    @classmethod
    def create(
        cls, group: zarr.Group, fingerprint: Attributes, grids: Mapping[str, PatchGrid], D: int, images: int, first: int = 0
    ) -> "Bank":
        """An empty bank in an empty group, with blocks to embed for the images from `first` on."""
        count = images - first
        block = max(1, min(count, BANK_CHUNK_BYTES // (max(grid.patches for grid in grids.values()) * D * 4)))
        for scale, grid in grids.items():
            shape = (*grid.shape, D)
            group.create_array(
                f"{scale}/features", shape=(count, *shape), chunks=(block, *shape), dtype="float32", compressors=None,
                fill_value=float("nan"),
            )  # fmt: skip
            rows, columns = grid.shape
            group[scale].attrs.update({"K": grid.K, "S": grid.S, "rows": rows, "columns": columns})
        group.create_array("done", shape=(-(-count // block),), chunks=(1,), dtype="uint8", compressors=None)
        sizes = {"images": images, "first": first, "block": block, "D": D}
        group.attrs.update({"fingerprint": fingerprint, **sizes, "status": "incomplete"})
        return cls(group)

    def _features(self, scale: str) -> "zarr.Array[Any]":
        return _array(self._group, f"{scale}/features")

    def _scale(self, scale: str) -> zarr.Group:
        return cast(zarr.Group, self._group[scale])

    def patches(self, scale: str) -> int:
        """Patches of an image; `ids // patches` is the image of a vector."""
        attributes = self._scale(scale).attrs
        return cast(int, attributes["rows"]) * cast(int, attributes["columns"])

    @property
    def complete(self) -> bool:
        """Whether every vector is in its page."""
        return bool(self.attributes["status"] == "complete")

    # ---- while it is embedded: blocks of whole images ---------------------------------------------------------------

    @property
    def done(self) -> NDArray[np.uint8]:
        """One flag per block, 1 where it is written."""
        return cast(NDArray[np.uint8], _read(_array(self._group, "done")))

    def bounds(self, block: int) -> tuple[int, int]:
        """First image of a block, and the one after its last."""
        start = self.first + block * self.block
        return start, min(start + self.block, self.images)

    def write_block(self, block: int, features: Mapping[str, Array]) -> None:
        """Write one block of every scale, each (images of the block, rows, columns, D), then its flag."""
        start, stop = self.bounds(block)
        for scale in self.scales:
            array = self._features(scale)
            if features[scale].shape != (stop - start, *array.shape[1:]):
                raise ValueError(f"block {block} of {scale}: {features[scale].shape} does not fit {array.shape}")
            array[start - self.first : stop - self.first] = features[scale]
        _array(self._group, "done")[block] = 1

    def blocks(self, scale: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """What was embedded, block by block: (ids, vectors (M, D) float32)."""
        array = self._features(scale)
        patches, D = self.patches(scale), array.shape[-1]
        for block in range(len(self.done)):
            start, stop = self.bounds(block)
            vectors = _read(array, slice(start - self.first, stop - self.first)).reshape(-1, D)
            if np.isnan(vectors).any():
                raise StoreError(f"bank block {block} of {scale} holds NaN; embed again: patchcli embed --overwrite")
            yield np.arange(start * patches, stop * patches), vectors

    # ---- when it is complete: pages of neighbours -------------------------------------------------------------------

    def begin_index(self, scale: str) -> str:
        """Make room for a scale's pages beside those it has; the new index's name."""
        name = "index2" if self._scale(scale).attrs.get("index") == "index" else "index"
        self._scale(scale).create_group(name, overwrite=True)
        return name

    def write_page(self, scale: str, index: str, number: int, arrays: Mapping[str, Array], half: bool) -> None:
        """Write a page; its vectors as float16 with `half`."""
        group = self._scale(scale).create_group(f"{index}/{number}")
        for name, values in arrays.items():
            _write_whole(group, name, values.astype(np.float16) if half and name == "vectors" else values)

    def write_index(self, scale: str, index: str, arrays: Mapping[str, Array], vectors: int, **attributes: Any) -> None:
        """Write what is read of all pages, when they are there; from now on these are the scale's pages."""
        group = cast(zarr.Group, self._scale(scale)[index])
        for name, values in arrays.items():
            _write_whole(group, name, values)
        group.attrs.update(attributes)
        before = self._scale(scale).attrs.get("index")
        self._scale(scale).attrs.update({"vectors": vectors, "index": index})
        if before is not None:
            del self._scale(scale)[cast(str, before)]

    def _index(self, scale: str) -> zarr.Group:
        group = self._scale(scale).get(cast(str, self._scale(scale).attrs["index"]))
        if not isinstance(group, zarr.Group):
            raise StoreError(f"the bank's index of {scale} is missing; embed again: patchcli embed --overwrite")
        return group

    def read_index(self, scale: str) -> tuple[dict[str, Array], Attributes]:
        """What write_index wrote: arrays, and attributes."""
        group = self._index(scale)
        arrays = {name: _read(array) for name, array in group.arrays()}
        if any(np.isnan(values).any() for values in arrays.values()):
            raise StoreError(f"the bank's index of {scale} is damaged; embed again: patchcli embed --overwrite")
        return arrays, dict(group.attrs)

    def read_page(self, scale: str, number: int) -> dict[str, Array]:
        """The arrays of a page."""
        group = self._index(scale).get(str(number))
        advice = "embed again: patchcli embed --overwrite"
        if not isinstance(group, zarr.Group):
            raise StoreError(f"bank page {number} of {scale} is missing; {advice}")
        page = {name: _read(array) for name, array in group.arrays()}
        for values in page.values():
            if (np.isnan(values) if values.dtype.kind == "f" else values < 0).all(axis=-1).any():
                raise StoreError(f"bank page {number} of {scale} is damaged; {advice}")
        return page

    def vectors(self, scale: str) -> int:
        """How many vectors the finished bank holds."""
        return cast(int, self._scale(scale).attrs["vectors"])

    def finish(self, **attributes: Any) -> None:
        """Mark the bank complete, once every page is there, and remove the blocks that they were made from."""
        self._group.attrs.update({**attributes, "status": "complete"})
        self.attributes = dict(self._group.attrs)
        self.remove_blocks()

    def remove_blocks(self) -> None:
        """Remove the embedded blocks of a complete bank; a killed process may have left some."""
        for scale in self.scales:
            if "features" in self._scale(scale):
                del self._scale(scale)["features"]

    def check_blocks(self) -> None:
        """Raise where a block is not embedded yet."""
        missing = np.flatnonzero(self.done == 0)
        if missing.size:
            raise IncompleteError(f"blocks {missing.tolist()} of the bank are not written; run: patchcli embed")


def _write_images(
    group: zarr.Group, decoded: Iterator[tuple[str, tuple[int, int], Array]], height: int, width: int, dtype: str,
    mean: Array | None,
) -> int:  # fmt: skip
    """Write images into an empty group; the mean is theirs where none is given."""
    train = group.create_array(
        "train", shape=(0, height, width, 3), chunks=(IMAGE_BLOCK, height, width, 3), dtype=dtype
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
        total += levels(pixels)
        count += 1
        if len(block) == IMAGE_BLOCK:
            flush()
    if block:
        flush()
    if count:
        _write_ids(group, ids)
        group.create_array("size", data=np.array(sizes, np.int32), chunks=(count, 2))
        values = (total / count).astype(np.float32) if mean is None else mean
        group.create_array("mean", data=values, chunks=(height, width, 3))
    return count


def _write_ids(group: zarr.Group, ids: list[str]) -> None:
    names = group.create_array("id", shape=(len(ids),), chunks=(len(ids),), dtype=cast(Any, str))
    names[:] = np.array(ids, dtype=object)


def _write_whole(group: zarr.Group, name: str, values: Array) -> None:
    """An array in one chunk; were its file lost, it would read as NaN or -1."""
    array = group.create_array(
        name, shape=values.shape, chunks=values.shape, dtype=values.dtype, compressors=None,
        fill_value=float("nan") if values.dtype.kind == "f" else -1,
    )  # fmt: skip
    array[...] = values


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
    return target.with_name(f"{'' if target.name in PARTS else '.'}{target.name}.old")


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
    for folder in (path, *(path / name for name in PARTS)):
        if folder != path and not _is_store(path):
            return
        old = _old(folder)
        if old.is_dir() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    for name in PARTS:
        shutil.rmtree(path / f"{name}.new", ignore_errors=True)


def bank_bytes(grids: Mapping[str, PatchGrid], D: int, images: int) -> int:
    """What a bank takes on disk while it is made: blocks, and then pages."""
    return 2 * images * D * 4 * sum(grid.patches for grid in grids.values())


def check_replaceable(path: Path, overwrite: bool) -> None:
    """Raise where a new store must not take the place of what is at `path`."""
    if path.exists() and not overwrite:
        raise StoreError(f"{path}: already exists; go on with it, name another with --store, or give --overwrite")
    if path.exists() and not _is_store(path) and (not path.is_dir() or any(path.iterdir())):
        raise StoreError(f"{path}: is not a store and will not be replaced; name another with --store")


def existing(path: Path) -> bool:
    """Whether a store (or what a killed process left of one) is at `path`."""
    return path.exists() or _old(path).exists()


def stores_in(folder: Path) -> list[Path]:
    """The stores directly inside a folder, by name; raises where there is none."""
    found = sorted(child for child in folder.iterdir() if (child / "zarr.json").is_file())
    if not found:
        raise InputError(f"{folder}: no store found in this folder; expected one Zarr store per class")
    return found
