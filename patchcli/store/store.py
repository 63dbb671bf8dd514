"""One opened store: images, encoder, bank and calibration of one version."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from patchcli.datasets.images import Canvas, Pixels, Reader, levels
from patchcli.errors import IncompleteError, InputError, StoreError
from patchcli.features.grid import PatchGrid
from patchcli.observer import Observer
from patchcli.store.bank import Bank, Blocks, bank_bytes
from patchcli.store.locks import LOCK, Leases, locked, unread
from patchcli.store.parts import FOLDER, METADATA, REPAIR, Array, Attributes, Part, Stored, remove, write_arrays
from patchcli.store.root import Named, Root

if TYPE_CHECKING:
    import torch

    from patchcli.features.encoder import Encoder

IMAGE_BLOCK = 8  # images a chunk of images/train
TRIES = 10  # to read a version that is not replaced meanwhile

Decoded = Iterator[tuple[str, tuple[int, int], Array]]  # id, original (height, width), pixels (height, width, 3)


class Store:
    """One version of a store. `path` is a folder; what is only read may have a URL."""

    def __init__(self, path: Path | str, root: Root, leases: Leases | None = None) -> None:
        self.path, self.root = path, root
        self._leases = leases  # of a reader; a writer has the lock
        self._parts: dict[str, Part] = {}
        self._unsealed = set[str]()  # names of parts that are being written, which no version has yet

    # ---- the whole ----------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path | str) -> "Store":
        """Open a store to read. Its parts stay as they are while it or one of them lives, whatever is written meanwhile.

        Raises StoreError where there is none, or one that is damaged or of another format.
        """
        if isinstance(path, str) and "://" in path:
            return cls(path, Root.read(path), Leases(()))
        path = Path(path)
        for _ in range(TRIES):
            root = Root.read(path)
            leases = Leases(path / named.name for named in root.parts.values())
            if Root.read(path).revision == root.revision:
                return cls(path, root, leases)
        raise StoreError(f"{path}: changes all the time; run this again when the writing has ended")

    @classmethod
    @contextlib.contextmanager
    def writing(cls, path: Path | str, observer: Observer | None = None) -> Iterator["Store"]:
        """Open a store to write; no other process does meanwhile. In a dry run it is opened to read."""
        path, observer = Path(path), observer or Observer()
        Root.read(path)  # no lock file goes into a folder that is no store
        with locked(path, observer):
            store = cls.open(path) if observer.dry else cls(path, Root.read(path))
            if not observer.dry:
                store._sweep()
            try:
                yield store
            finally:
                if not observer.dry:
                    store._sweep()

    @classmethod
    @contextlib.contextmanager
    def creating(
        cls, path: Path, dataset: Attributes, overwrite: bool = False, observer: Observer | None = None, repair: bool = False
    ) -> Iterator["Store"]:
        """A new store, or new images in the place of all that a store holds: the switch comes when the block ends well.

        With `repair` the images are those that the store has already, and what was made from them stays.
        """
        check_replaceable(path, overwrite)
        with locked(path, observer or Observer(), create=True):
            check_replaceable(path, overwrite)
            before = _present(path) or Root({})
            fresh = not any(child.is_dir() for child in path.iterdir())
            store = cls(path, Root(dataset, before.parts if repair else {}, revision=before.revision, plain=fresh))
            store._sweep()
            try:
                yield store
                store._switch()
            finally:
                store._sweep()

    def close(self) -> None:
        """Give the parts of this version up, so that a writer may remove them."""
        if self._leases is not None:
            self._leases.end()

    def _switch(self, dataset: Attributes | None = None, **parts: Named | None) -> None:
        """The one moment of a change: the root names these parts instead (None: no such part any more)."""
        if self._leases is not None:
            raise StoreError(f"{self.path}: is open to read only")
        path = Path(self.path)
        if (_present(path) or Root({})).revision != self.root.revision:
            raise StoreError(f"{path}: another process has written to it meanwhile; run this again")
        named = {kind: part for kind, part in {**self.root.parts, **parts}.items() if part is not None}
        self.root = replace(self.root, dataset=dataset or self.root.dataset, parts=named).write(path)
        self._parts.clear()
        for name in ("_images", "mean"):
            self.__dict__.pop(name, None)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what no version names and no reader reads: parts that were replaced, and what a killed process left."""
        path = Path(self.path)
        present = _present(path)
        if present is None and (path / METADATA).exists():  # it cannot be read: until another is in its place
            return
        parts = present.parts if present else {}
        named, blocks = {part.name for part in parts.values()}, parts["blocks"].name if "blocks" in parts else None
        for child in path.iterdir():
            if child.is_dir() and FOLDER.fullmatch(child.name) and child.name not in named | self._unsealed:
                with unread(child) as free:
                    if free:
                        remove(child)
            elif child.name == blocks:  # what zarr had not renamed yet
                for partial in child.rglob("*.partial"):
                    partial.unlink(missing_ok=True)
            elif child.name.endswith((".partial", ".part")):
                child.unlink(missing_ok=True)

    def part(self, kind: str) -> Part | None:
        """A part of this version, None where it has none of that kind."""
        named = self.root.parts.get(kind)
        if named is None:
            return None
        if kind not in self._parts:
            unfinished = kind == "blocks" and self._leases is None
            self._parts[kind] = Part.open(self.path, kind, named.name, named.sha256, writable=unfinished)
            self._parts[kind].leases = self._leases
        return self._parts[kind]

    @contextlib.contextmanager
    def _new(self, kind: str) -> Iterator[Part]:
        """A part to be written; removed again where that fails."""
        try:
            part = Part.create(Path(self.path), kind, self.root.plain and kind not in self.root.parts)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written ({error.strerror}); name another with --store") from None
        self._unsealed.add(part.name)
        try:
            yield part
        except BaseException:
            remove(Path(self.path) / part.name)
            raise
        finally:
            self._unsealed.discard(part.name)

    def attributes_of(self, kind: str) -> Attributes | None:
        """Attributes of a part, None where there is no such part."""
        part = self.part(kind)
        return None if part is None else part.attributes

    @property
    def dataset(self) -> Attributes:
        """Where the images came from: root, layout, category, manifest (sha256)."""
        return self.root.dataset

    @property
    def held_out(self) -> dict[str, str]:
        """Good images that neither images nor bank hold, kept for calibration: id → sha256 of the file."""
        return cast(dict[str, str], self.dataset.get("holdout", {}))

    def update_dataset(self, **changes: Any) -> None:
        """Change what is said of the data set."""
        self._switch(dataset={**self.dataset, **changes})

    def check(self, *kinds: str) -> Iterator[str]:
        """Read these parts, or everything; a line for each thing that is damaged, with its repair."""
        for kind in kinds or self.root.parts:
            try:
                part = self.part(kind)
                assert part is not None
                damaged = list(Blocks(part).damaged() if kind == "blocks" else part.check())
                yield from damaged
                if kind == "encoder" and not damaged:
                    self.read_encoder()
            except StoreError as error:
                yield str(error)

    # ---- images -------------------------------------------------------------------------------------------------

    def write_images(self, decoded: Decoded, height: int, width: int) -> int:
        """Write the images of a new store and their mean; how many. They are there when `creating` ends."""
        with self._new("images") as part:
            count = _write_images(part, decoded, height, width, None)
            if count:
                self.root = replace(self.root, parts=self.root.parts | {"images": Named(part.name, part.seal({}))})
        return count

    @contextlib.contextmanager
    def editing(self, decoded: Decoded, edited: str) -> Iterator["Edit"]:
        """Other images with a bank of their own, instead of the present ones; the mean stays, as encoder and features
        depend on it. The switch comes when the block has given the bank; `edited` (sha256) is the images' identity."""
        height, width = self.images.shape[1:3]
        with self._new("images") as part:
            count = _write_images(part, decoded, height, width, self.mean)
            images = Named(part.name, part.seal({}))
            fingerprint = {**self.bank_fingerprint(), "manifest": edited, "images": [count, *self.images.shape[1:]]}
            edit = Edit(self, count, fingerprint)
            yield edit
            if edit.bank is None:
                raise ValueError("an edit ends with a bank")
            self._switch({**self.dataset, "edited": edited}, images=images, bank=edit.bank, blocks=None)

    @property
    def images(self) -> Stored:
        """images/train: uint8, or uint16 of deeper files, (N, H, W, 3); slices of it stream from the store."""
        return self._images.array("train")

    @cached_property
    def _images(self) -> Part:
        part = self.part("images")
        if part is None:
            raise StoreError(f"{self.path}: holds no images; {REPAIR['images']}")
        return part

    def read_images(self, start: int, stop: int) -> Pixels:
        """Training images start:stop as (B, H, W, 3)."""
        return self._images.read("train", slice(start, stop))

    @property
    def reader(self) -> Reader:
        """How image files become pixels of these."""
        return Reader(self.dataset.get("bits", 8), self.dataset.get("large", False))

    @property
    def canvas(self) -> Canvas:
        """The images' working size, and how others are brought to it."""
        height, width = self.dataset.get("size") or self.images.shape[1:3]
        return Canvas(height, width, self.dataset.get("keeps_aspect", False))

    @property
    def image_ids(self) -> list[str]:
        """Ids of the training images, in storage order."""
        return self._images.texts("id")

    @property
    def image_sizes(self) -> Array:
        """Original (height, width) of the training images, int32 (N, 2)."""
        return self._images.read("size")

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """Per-pixel mean of the training images, in levels of 0 to 255, float32 (H, W, 3)."""
        return cast(NDArray[np.float32], self._images.read("mean"))

    # ---- encoder ------------------------------------------------------------------------------------------------

    def write_encoder(self, weights: Mapping[str, Array], attributes: Attributes, state: Mapping[str, Array]) -> str:
        """Replace the encoder: one array per weight, and what training needs to go on under training/."""
        digest = digest_of(weights)
        with self._new("encoder") as part:
            write_arrays(part, weights)
            write_arrays(part, {f"training/{name}": values for name, values in state.items()})
            sealed = part.seal({**attributes, "sha256": digest})
            self._switch(encoder=Named(part.name, sealed))
        return digest

    def _encoder(self) -> Part:
        part = self.part("encoder")
        if part is None:
            raise IncompleteError(f"{self.path}: holds no encoder yet; run: patchcli train (or patchcli import)")
        return part

    @property
    def encoder_attributes(self) -> Attributes:
        """Architecture, D, λ, seed, steps, sha256. Raises IncompleteError where nothing is trained."""
        return self._encoder().attributes

    def read_encoder(self) -> dict[str, Array]:
        """The encoder's weights, checked against the digest written with them and for finite numbers."""
        part = self._encoder()
        weights = part.read_all()
        if not all(np.isfinite(values).all() for values in weights.values()):
            raise part.damaged("weights hold NaN or infinity")
        if digest_of(weights) != part.attributes["sha256"]:
            raise part.damaged("weights differ from their sha256")
        return weights

    def encoder(self, device: "torch.device") -> "Encoder":
        """The encoder, ready to embed."""
        from patchcli.features.registry import restore

        attributes = self.encoder_attributes
        return restore(attributes["architecture"], attributes["D"], self.read_encoder(), device)

    def read_training_state(self) -> dict[str, Array]:
        """What training needs to go on, empty where the encoder was imported."""
        part = self.part("encoder")
        return {} if part is None else part.read_all("training")

    # ---- bank ---------------------------------------------------------------------------------------------------

    @property
    def strides(self) -> dict[str, int]:
        """Where a bank of the encoder samples patches of a scale at another stride, in pixels, than the paper's: that."""
        return cast(dict[str, int], self.encoder_attributes.get("strides", {}))

    def bank_fingerprint(self) -> Attributes:
        """What a bank depends on: encoder, images, their geometry, and where it samples patches."""
        depends = {
            "encoder": self.encoder_attributes["sha256"],
            "manifest": self.dataset.get("edited", self.dataset["manifest"]),
            "images": list(self.images.shape),
        }
        return depends | ({"strides": self.strides} if self.strides else {})

    def blocks(self) -> Blocks | None:
        """What has been embedded of an unfinished bank of the present encoder and images."""
        part = self.part("blocks")
        if part is None or part.attributes["fingerprint"] != self.bank_fingerprint():
            return None
        return Blocks(part)

    def begin_blocks(self, grids: Mapping[str, PatchGrid], D: int) -> Blocks:
        """Room for the embedded patches of all images, which stays when the process ends."""
        self.check_space(bank_bytes(grids, D, self.images.shape[0]))
        with self._new("blocks") as part:
            made = Blocks.create(part, self.bank_fingerprint(), grids, D, self.images.shape[0])
            self._switch(blocks=Named(part.name, part.seal(made.attributes)))
        begun = self.blocks()
        assert begun is not None
        return begun

    def drop_blocks(self) -> None:
        """Remove what was embedded of an unfinished bank."""
        if "blocks" in self.root.parts:
            self._switch(blocks=None)

    @contextlib.contextmanager
    def scratch_blocks(self, grids: Mapping[str, PatchGrid], D: int, images: int, first: int) -> Iterator[Blocks]:
        """Room for the embedded patches of images from `first` on, which goes when the block ends."""
        with self._new("blocks") as part:
            try:
                yield Blocks.create(part, self.bank_fingerprint(), grids, D, images, first)
            finally:
                remove(Path(self.path) / part.name)

    @contextlib.contextmanager
    def writing_bank(self, grids: Mapping[str, PatchGrid], D: int) -> Iterator[Bank]:
        """A bank of the present encoder and images, to be filled with pages; the switch comes when the block ends well."""
        with self._new("bank") as part:
            bank = Bank.create(part, self.bank_fingerprint(), grids, D, self.images.shape[0])
            yield bank
            self._switch(bank=Named(part.name, bank.seal()), blocks=None)

    def finished_bank(self) -> Bank | None:
        """The bank of the present encoder and images."""
        part = self.part("bank")
        return Bank(part) if part is not None and part.attributes["fingerprint"] == self.bank_fingerprint() else None

    def check_space(self, needed: int) -> None:
        """Refuse to write `needed` bytes where they are not free."""
        free = shutil.disk_usage(self.path).free
        if needed > free:
            found = f"the bank needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
            raise StoreError(f"{self.path}: {found}; make room, or put the store elsewhere with --store")

    def bank(self) -> Bank:
        """The finished bank, to read. Raises where it is missing, half-written or of another encoder."""
        if (finished := self.finished_bank()) is not None:
            return finished
        part, now = self.part("bank"), self.bank_fingerprint()
        if (begun := self.blocks()) is not None:
            done = f"{int(begun.done.sum())} of {len(begun.done)} blocks"
            raise IncompleteError(f"{self.path}: the bank is half-written ({done}); run: patchcli embed, which goes on")
        if part is None:
            raise IncompleteError(f"{self.path}: holds no bank yet; run: patchcli embed")
        made = part.attributes["fingerprint"]
        if made["encoder"] != now["encoder"]:
            found = f"the bank is of encoder {made['encoder'][:12]}, the store's encoder is {now['encoder'][:12]}"
            raise StoreError(f"{self.path}: {found}; run: patchcli embed")
        if made.get("strides") != now.get("strides"):
            raise StoreError(f"{self.path}: the bank is of patches at other places than the encoder's; run: patchcli embed")
        raise StoreError(f"{self.path}: the bank is of other images than the store's; run: patchcli embed")

    # ---- calibration --------------------------------------------------------------------------------------------

    def _calibration_fingerprint(self) -> Attributes:
        """What scores depend on: encoder, images, and how the bank was thinned."""
        bank = self.attributes_of("bank") or {}
        return {"bank": bank.get("fingerprint"), "thinning": bank.get("thinning")}

    def write_calibration(self, ids: list[str], arrays: Mapping[str, Array], attributes: Attributes) -> None:
        """Replace the calibration: ids (n,) of the good images, their figures (n,) by name, and what follows of them."""
        with self._new("calibration") as part:
            part.write_texts("id", ids)
            write_arrays(part, arrays)
            sealed = part.seal({**attributes, "fingerprint": self._calibration_fingerprint()})
            self._switch(calibration=Named(part.name, sealed))

    def read_calibration(self) -> tuple[Array, Attributes]:
        """Scores (n,) and attributes. Raises IncompleteError where there are none, StoreError where they are stale."""
        part = self.part("calibration")
        if part is None:
            raise IncompleteError(f"{self.path}: holds no calibration yet; run: patchcli calibrate")
        if part.attributes["fingerprint"] != self._calibration_fingerprint():
            raise StoreError(f"{self.path}: the calibration is of another bank; run: patchcli calibrate")
        return part.read("scores"), part.attributes


class Edit:
    """Images that are written, and the bank that is to go with them."""

    def __init__(self, store: Store, images: int, fingerprint: Attributes) -> None:
        self._store, self.images, self._fingerprint = store, images, fingerprint
        self.bank: Named | None = None

    @contextlib.contextmanager
    def writing_bank(self, grids: Mapping[str, PatchGrid], D: int) -> Iterator[Bank]:
        """The bank of these images, to be filled with pages."""
        with self._store._new("bank") as part:
            bank = Bank.create(part, self._fingerprint, grids, D, self.images)
            yield bank
            self.bank = Named(part.name, bank.seal())


def _write_images(part: Part, decoded: Decoded, height: int, width: int, mean: Array | None) -> int:
    """Write images into an empty part; the mean is theirs where none is given."""
    train: Any = None
    total, count = np.zeros((height, width, 3), np.float64), 0
    ids: list[str] = []
    sizes: list[tuple[int, int]] = []
    block: list[Array] = []

    def flush() -> None:
        nonlocal train
        if train is None:
            train = part.create_array("train", (0, height, width, 3), (IMAGE_BLOCK, height, width, 3), block[0].dtype)
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
        part.write_texts("id", ids)
        part.write("size", np.array(sizes, np.int32))
        part.write("mean", (total / count).astype(np.float32) if mean is None else mean)
    return count


def digest_of(weights: Mapping[str, Array]) -> str:
    """sha256 over names, shapes and little-endian float32 bytes of the weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = np.ascontiguousarray(weights[name], dtype="<f4")
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _present(path: Path) -> Root | None:
    """The version on disk, None where there is none, or none that can be read."""
    with contextlib.suppress(StoreError):
        return Root.read(path)
    return None


def _is_store(path: Path) -> bool:
    """Whether a folder is a store of any format version, a damaged one, or what a killed process left of a new one."""
    try:
        return "patchcli" in json.loads((path / METADATA).read_text())["attributes"]
    except (FileNotFoundError, ValueError):
        names = [child.name for child in path.iterdir()] if path.is_dir() else ["?"]
        return all(name in (LOCK, METADATA) or name.endswith(".part") or FOLDER.fullmatch(name) for name in names)
    except (OSError, KeyError, TypeError):
        return False


def revision(path: Path) -> str | None:
    """Another text for each version of the store at `path`; None while it cannot be read."""
    present = _present(path)
    return present.revision if present else None


def existing(path: Path) -> bool:
    """Whether something is at `path` that is no empty folder, nor what a killed process left of a new store."""
    return path.exists() and ((path / METADATA).exists() or not _is_store(path))


def check_replaceable(path: Path, overwrite: bool) -> None:
    """Raise where a new store must not take the place of what is at `path`."""
    if path.is_symlink() and not path.exists():
        raise StoreError(f"{path}: is a link to {path.readlink()}, which is not there; mend the link, or name another store")
    if existing(path) and not overwrite:
        raise StoreError(f"{path}: already exists; go on with it, name another with --store, or give --overwrite")
    if existing(path) and not _is_store(path):
        raise StoreError(f"{path}: is not a store and will not be replaced; name another with --store")


def stores_in(folder: Path) -> list[Path]:
    """The stores directly inside a folder, by name; raises where there is none."""
    found = sorted(child for child in folder.iterdir() if (child / METADATA).is_file())
    if not found:
        raise InputError(f"{folder}: no store found in this folder; expected one Zarr store per class")
    return found
