"""One opened store: its version, its parts, and the switch to the next version."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from patchcli.datasets.images import Canvas, mean_colour
from patchcli.errors import IncompleteError, StoreError
from patchcli.features.grid import PatchGrid
from patchcli.observer import Observer
from patchcli.store import calibration as calibration_part
from patchcli.store import encoder as encoder_part
from patchcli.store import images as images_part
from patchcli.store.bank import Bank, Blocks, Fingerprint, bank_bytes
from patchcli.store.calibration import Calibrated, StoredCalibration, Thresholds
from patchcli.store.encoder import EncoderAttributes, StoredEncoder, digest_of
from patchcli.store.images import Decoded, Images, Source
from patchcli.store.locks import Leases, check_claim, locked, unread
from patchcli.store.objects import Objects
from patchcli.store.parts import METADATA, REPAIR, UNFINISHED, UNIQUE, Array, Part, left_over, read_object, remove, unwritable
from patchcli.store.places import below, check_replaceable, located
from patchcli.store.root import Named, Root

TRIES = 10  # at reading a version that nobody replaces meanwhile


class Store:
    """One version of a store. `path` is a folder, or a URL: s3:// to read and write, another that fsspec knows to read."""

    def __init__(self, path: Path | str, root: Root, leases: Leases | None = None) -> None:
        self.path, self.root = located(path), root
        self._leases = leases  # of a reader; a writer has the lock
        self._parts: dict[str, Part] = {}
        self._unsealed = set[str]()  # names of parts that are being written, which no version has yet

    # ---- the whole ----------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path | str, revision: str | None = None) -> "Store":
        """Open a store to read. Its parts stay as they are as long as anything refers to them, whatever is written meanwhile.

        Raises StoreError if there is none, or one that is damaged, of another format, or not of this `revision`.
        """
        opened = cls._open(path)
        if revision not in (None, opened.root.revision):
            raise StoreError("another process has changed it meanwhile", subject=path, advice="run this again")
        return opened

    @classmethod
    def _open(cls, path: Path | str) -> "Store":
        path = located(path)
        if isinstance(path, str):
            return cls(path, Root.read(path), Leases(()))
        for _ in range(TRIES):
            root = Root.read(path)
            leases = Leases(path / named.name for named in root.parts.values())
            if Root.read(path).revision == root.revision:
                return cls(path, root, leases)
        raise StoreError("changes all the time", subject=path, advice="run this again when the writing has ended")

    @classmethod
    @contextlib.contextmanager
    def writing(cls, path: Path | str, observer: Observer | None = None) -> Iterator["Store"]:
        """Open a store to write; other writers wait. In a dry run it is opened to read."""
        path, observer = located(path), observer or Observer()
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
        cls, path: Path | str, source: Source, overwrite: bool = False, observer: Observer | None = None, repair: bool = False
    ) -> Iterator["Store"]:
        """A new store, or new images that replace all that a store holds: the switch comes when the block ends well.

        `repair` says that the images are those the store had, and keeps what was made from them.
        """
        path = located(path)
        check_replaceable(path, overwrite)
        with locked(path, observer or Observer(), create=True):
            check_replaceable(path, overwrite)
            before = Root.present(path)
            fresh = isinstance(path, Path) and not any(child.is_dir() for child in path.iterdir())
            parts = before.parts if before and repair else {}
            store = cls(path, Root.new(source, parts, before.revision if before else "", fresh))
            store._sweep()
            try:
                yield store
                store._switch()
            finally:
                store._sweep()

    def close(self) -> None:
        """Release the parts of this version, so that a writer may remove them."""
        if self._leases is not None:
            self._leases.end()

    def _switch(self, source: Source | None = None, **parts: Named | None) -> None:
        """The one moment of a change: the root names these parts instead (None: no such part any more)."""
        if self._leases is not None:
            raise StoreError("is open to read only", subject=self.path)
        if isinstance(self.path, str):
            check_claim(self.path)
        named = {kind: part for kind, part in {**self.root.parts, **parts}.items() if part is not None}
        before = self.root.parts.get("blocks")
        self.root = replace(self.root, dataset=source or self.root.dataset, parts=named).write(self.path)
        if isinstance(self.path, str) and before is not None and before != named.get("blocks"):
            remove(f"{self.path}/{before.name}")  # at once: they are large, and nobody searches them
        self._parts.clear()
        for name in ("images", "encoder", "calibration"):
            self.__dict__.pop(name, None)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what no version names and no reader uses: replaced parts, and leftovers of a killed process."""
        if isinstance(self.path, str):
            with contextlib.suppress(StoreError):  # the next writer does it
                if (parts := self._present_parts()) is not None:
                    used = {part.name for part in parts.values()} | self._unsealed
                    there = {name.rstrip("/") for name in Objects(self.path).children() if name.endswith("/")}
                    Objects(self.path).sweep({name for name in there - used if UNIQUE.fullmatch(name)})
            return
        if (parts := self._present_parts()) is None:
            return
        named, blocks = {part.name for part in parts.values()}, parts["blocks"].name if "blocks" in parts else None
        for child in self.path.iterdir():
            if child.name not in named | self._unsealed and left_over(child):
                with unread(child) as free:
                    if free:
                        remove(child)
            elif child.name == blocks:
                with unread(child) as free:  # or somebody may be about to rename it
                    for partial in child.rglob("*.partial") if free else ():
                        partial.unlink(missing_ok=True)
            elif UNFINISHED.fullmatch(child.name):
                child.unlink(missing_ok=True)

    def _present_parts(self) -> dict[str, Named] | None:
        """The parts that the root names; None if it cannot be read: until another is in its place."""
        present = Root.present(self.path)
        if present is None and read_object(self.path, METADATA) is not None:
            return None
        return present.parts if present else {}

    def part(self, kind: str) -> Part | None:
        """A part of this version, None if it has none of that kind."""
        named = self.root.parts.get(kind)
        if named is None:
            return None
        if kind not in self._parts:
            unfinished = kind == "blocks"  # a reader may embed some beside others
            self._parts[kind] = Part.open(self.path, kind, named.name, named.sha256, writable=unfinished)
            self._parts[kind].leases = self._leases
        return self._parts[kind]

    @contextlib.contextmanager
    def _new(self, kind: str) -> Iterator[Part]:
        """A new part to write; removed again on failure."""
        try:
            part = Part.create(self.path, kind, self.root.plain and kind not in self.root.parts)
        except OSError as error:
            raise unwritable(self.path, error) from None
        self._unsealed.add(part.name)
        try:
            yield part
        except BaseException:
            if isinstance(self.path, Path):  # where the answer to a switch may be lost, the root may name the part: see _sweep
                remove(self.path / part.name)
            raise
        finally:
            self._unsealed.discard(part.name)

    def holds(self, kind: str) -> bool:
        """Whether this version has a part of that kind: images, encoder, blocks, bank, calibration."""
        return kind in self.root.parts

    @property
    def source(self) -> Source:
        """Where the images came from."""
        return self.root.dataset

    def update_source(self, source: Source) -> None:
        """Change the description of the data set."""
        self._switch(source)

    def check(self, *kinds: str) -> Iterator[str]:
        """Read these parts, or all; a line for each damage, with its repair."""
        for kind in kinds or self.root.parts:
            try:
                part = self.part(kind)
                assert part is not None
                damaged = list(Blocks(part).damaged() if kind == "blocks" else part.check())
                yield from damaged
                if not damaged and kind == "encoder":
                    StoredEncoder(part).weights()
                elif not damaged and kind in ("bank", "calibration"):
                    (Bank if kind == "bank" else StoredCalibration)(part)  # its attributes
            except StoreError as error:
                yield str(error)

    # ---- images -------------------------------------------------------------------------------------------------

    @cached_property
    def images(self) -> Images:
        """The training images."""
        part = self.part("images")
        if part is None:
            raise StoreError("holds no images", subject=self.path, advice=REPAIR["images"])
        return Images(part)

    @property
    def mean(self) -> Array:
        """What the encoder takes from images before it sees them, float32 (H, W, 3) in levels of 0 to 255."""
        return mean_colour(self.images.mean) if self.encoder.attributes.by_colour else self.images.mean

    def check_mean(self) -> None:
        """Raise StoreError where there are too few images for an encoder that takes their mean from them."""
        if len(self.images) < 2:
            advice = "add some, or import a pretrained backbone: `import_weights(backbone)`"
            raise StoreError(
                "1", subject=self.path, expected="at least 2 good images (their mean is subtracted)", advice=advice
            )

    @property
    def canvas(self) -> Canvas:
        """The images' working size, and how others are brought to it."""
        return self.images.canvas(self.source)

    def write_images(self, decoded: Decoded, height: int, width: int) -> int:
        """Write the images of a new store and their mean; how many. `creating` makes them visible when it ends."""
        with self._new("images") as part:
            count = images_part.write(part, decoded, height, width)
            if count:
                self.root = replace(self.root, parts=self.root.parts | {"images": Named(part.name, part.seal({}))})
        return count

    @contextlib.contextmanager
    def editing(self, decoded: Decoded, edited: str) -> Iterator["Edit"]:
        """Replace the images together with their bank; the mean stays, since encoder and features depend on it.

        The switch comes at the end of the block, which writes the bank; `edited` (sha256) is the images' new identity.
        """
        _, height, width, channels = self.images.shape
        with self._new("images") as part:
            count = images_part.write(part, decoded, height, width, self.images.mean)
            images = Named(part.name, part.seal({}))
            shape = count, height, width, channels
            before = self.any_bank()
            now = self.bank_fingerprint(before.precision if before else "float32")
            edit = Edit(self, replace(now, manifest=edited, images=shape))
            yield edit
            if edit.bank is None:
                raise ValueError("an edit ends with a bank")
            self._switch(replace(self.source, edited=edited), images=images, bank=edit.bank, blocks=None)

    # ---- encoder ------------------------------------------------------------------------------------------------

    @cached_property
    def encoder(self) -> StoredEncoder:
        """The encoder. Raises IncompleteError if there is none."""
        part = self.part("encoder")
        if part is None:
            raise IncompleteError(
                "holds no encoder yet",
                subject=self.path,
                advice="import one with `import_weights()`, or train one",
                run="train()",
            )
        return StoredEncoder(part)

    def write_encoder(self, weights: Mapping[str, Array], attributes: EncoderAttributes, state: Mapping[str, Array]) -> str:
        """Replace the encoder and the state that training continues from; the sha256 of the weights."""
        sha256 = digest_of(weights)
        with self._new("encoder") as part:
            sealed = encoder_part.write(part, weights, replace(attributes, sha256=sha256), state)
            self._switch(encoder=Named(part.name, sealed))
        return sha256

    # ---- bank ---------------------------------------------------------------------------------------------------

    def bank_fingerprint(self, precision: str = "float32") -> Fingerprint:
        """What a bank of the present encoder and images is made from."""
        encoder = self.encoder.attributes
        return Fingerprint(encoder.sha256, self.source.identity, self.images.shape, encoder.strides, precision)

    def _is_present(self, made: Bank | Blocks) -> bool:
        """Whether it is of the present encoder, its maps in use, and images."""
        fingerprint = made.attributes.fingerprint
        return fingerprint == self.bank_fingerprint(fingerprint.precision) and set(made.scales) == self.encoder.maps

    def blocks(self) -> Blocks | None:
        """The blocks of an unfinished bank of the present encoder and images, None if there are none."""
        part = self.part("blocks")
        blocks = None if part is None else Blocks(part)
        return blocks if blocks is not None and self._is_present(blocks) else None

    def begin_blocks(self, grids: Mapping[str, PatchGrid], D: int, precision: str = "float32") -> Blocks:
        """Empty blocks for all images; they survive the process."""
        self.check_space(bank_bytes(grids, D, len(self.images)))
        with self._new("blocks") as part:
            blocks = Blocks.create(part, self.bank_fingerprint(precision), grids, D, len(self.images))
            self._switch(blocks=Named(part.name, blocks.seal()))
        begun = self.blocks()
        assert begun is not None
        return begun

    def drop_blocks(self) -> None:
        """Remove the blocks of an unfinished bank."""
        if self.holds("blocks"):
            self._switch(blocks=None)

    @contextlib.contextmanager
    def scratch_blocks(self, grids: Mapping[str, PatchGrid], D: int, images: int, first: int) -> Iterator[Blocks]:
        """Empty blocks for images from `first` on, removed at the end."""
        with self._new("blocks") as part:
            try:
                yield Blocks.create(part, self.bank_fingerprint(), grids, D, images, first)
            finally:
                remove(below(self.path, part.name))

    @contextlib.contextmanager
    def writing_bank(self, grids: Mapping[str, PatchGrid], D: int, precision: str = "float32") -> Iterator[Bank]:
        """A bank of the present encoder and images, to fill with pages; the switch comes when the block ends well."""
        edit = Edit(self, self.bank_fingerprint(precision))
        with edit.writing_bank(grids, D) as bank:
            yield bank
        self._switch(bank=edit.bank, blocks=None)

    def finished_bank(self) -> Bank | None:
        """The bank of the present encoder and images, None if there is none."""
        bank = self.any_bank()
        return bank if bank is not None and self._is_present(bank) else None

    def any_bank(self) -> Bank | None:
        """The bank, even if it belongs to an encoder or images that the store no longer has."""
        part = self.part("bank")
        return None if part is None else Bank(part)

    def check_space(self, needed: int) -> None:
        """Raise StoreError if fewer than `needed` bytes are free, on a disk."""
        if isinstance(self.path, str):
            return
        free = shutil.disk_usage(self.path).free
        if needed > free:
            numbers = f"the bank needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
            raise StoreError(numbers, subject=self.path, advice="make room, or put the store elsewhere with `store`")

    def bank(self) -> Bank:
        """The finished bank. Raises StoreError if it is missing, half-written or of another encoder."""
        if (finished := self.finished_bank()) is not None:
            return finished
        bank, now = self.any_bank(), self.bank_fingerprint()
        if (begun := self.blocks()) is not None:
            done = f"{int(begun.done.sum())} of {len(begun.done)} blocks"
            raise IncompleteError(f"the bank is half-written ({done})", subject=self.path, run="embed()")
        if bank is None:
            raise IncompleteError("holds no bank yet", subject=self.path, run="embed()")
        before = bank.attributes.fingerprint
        if before.encoder != now.encoder:
            other = f"the bank belongs to encoder {before.encoder[:12]}, the store's encoder is {now.encoder[:12]}"
        elif set(bank.scales) != self.encoder.maps:
            other = f"the bank has the maps {', '.join(bank.scales)}, the encoder {', '.join(sorted(self.encoder.maps))}"
        elif before.strides != now.strides:
            other = "the bank has patches at other places than the encoder's"
        else:
            other = "the bank belongs to other images than the store's"
        raise StoreError(other, subject=self.path, run="embed()")

    # ---- calibration --------------------------------------------------------------------------------------------

    def _calibration_fingerprint(self) -> Calibrated:
        """The bank that scores depend on."""
        bank = self.any_bank()
        return Calibrated(None, None) if bank is None else Calibrated(bank.attributes.fingerprint, bank.attributes.thinning)

    @cached_property
    def calibration(self) -> StoredCalibration:
        """The calibration. Raises IncompleteError if there is none, StoreError if it belongs to another bank."""
        part = self.part("calibration")
        if part is None:
            raise IncompleteError("holds no calibration yet", subject=self.path, run="calibrate()")
        calibration = StoredCalibration(part)
        if calibration.fingerprint != self._calibration_fingerprint():
            raise StoreError("the calibration belongs to another bank", subject=self.path, run="calibrate()")
        return calibration

    def write_calibration(self, ids: list[str], arrays: Mapping[str, Array], thresholds: Thresholds) -> None:
        """Replace the calibration: ids (n,) of the good images, their figures (n,) by name, and the thresholds."""
        with self._new("calibration") as part:
            sealed = calibration_part.write(part, ids, arrays, thresholds, self._calibration_fingerprint())
            self._switch(calibration=Named(part.name, sealed))


class Edit:
    """The bank of an edited set of images, while it is written."""

    def __init__(self, store: Store, fingerprint: Fingerprint) -> None:
        self._store, self._fingerprint = store, fingerprint
        self.bank: Named | None = None

    @contextlib.contextmanager
    def writing_bank(self, grids: Mapping[str, PatchGrid], D: int) -> Iterator[Bank]:
        """The bank, to fill with pages."""
        with self._store._new("bank") as part:
            bank = Bank.create(part, self._fingerprint, grids, D, self._fingerprint.images[0])
            yield bank
            self.bank = Named(part.name, bank.seal())


def revision(path: Path | str) -> str | None:
    """A string that differs for each version of the store at `path`; None if it cannot be read."""
    with contextlib.suppress(StoreError):
        return Root.read(path).revision
    return None
