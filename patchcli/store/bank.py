"""The memory bank: blocks of whole images while it is embedded, pages of neighbours when it is complete."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from patchcli.errors import DamagedError, IncompleteError, InputError
from patchcli.features.grid import PatchGrid
from patchcli.store.attributes import plain, to_stored
from patchcli.store.parts import Array, Part

CHUNK_BYTES = 8 << 20  # a block of the bank's largest scale: between 4 and 16 MB


@dataclass(frozen=True)
class Fingerprint:
    """What a bank was made from."""

    encoder: str  # sha256 of the weights
    manifest: str  # identity of the images
    images: tuple[int, int, int, int]  # their shape
    strides: dict[str, int] = field(default_factory=dict)
    precision: str = "float32"  # of the encoder's forward pass


@dataclass(frozen=True)
class Thinning:
    """Which vectors a bank keeps: by default all of them, as float32."""

    tolerance: float | None = None  # keep as few vectors as greedy k-centre needs for this radius
    keep: float | None = None  # or this share of them
    half: bool = False  # as float16

    def __post_init__(self) -> None:
        plain(self)
        if not isinstance(self.half, bool):
            raise InputError(repr(self.half), parameter="half", expected="True or False")
        if self.tolerance is not None and not 0 < self.tolerance < math.inf:
            raise InputError(f"{self.tolerance}", parameter="tolerance", expected="a distance above 0")
        if self.keep is not None and (isinstance(self.keep, bool) or not 0 < self.keep <= 1):
            raise InputError(f"{self.keep}", parameter="keep", expected="a share such as 10% or 0.1")
        if self.tolerance is not None and self.keep is not None:
            raise InputError("`tolerance` and `keep`: give one of the two")

    @property
    def selects(self) -> bool:
        """Whether some vectors are left out."""
        return self.tolerance is not None or self.keep is not None


@dataclass(frozen=True)
class BlocksAttributes:
    """Attributes of an unfinished bank."""

    fingerprint: Fingerprint
    images: int  # of the finished bank
    first: int  # number of the first image
    block: int  # images a block
    scales: dict[str, tuple[int, int, int]]  # (rows, columns, D) of each


@dataclass(frozen=True)
class ScaleAttributes:
    """Attributes of one scale of a bank."""

    K: int
    S: int
    rows: int
    columns: int
    vectors: int
    pages: int
    radius: float  # of the index
    index: str  # the group that holds the pages; "" before it is written

    @property
    def patches(self) -> int:
        """Patches of an image; `ids // patches` is the image of a vector."""
        return self.rows * self.columns


@dataclass(frozen=True)
class BankAttributes:
    """Attributes of a bank. `status` is empty until all pages are written."""

    fingerprint: Fingerprint
    images: int
    D: int
    scales: dict[str, ScaleAttributes]
    thinning: Thinning
    radius: dict[str, float]  # by how much a distance may be off at each scale
    status: str  # complete


Reference = tuple[Path | str, str, BankAttributes]  # a store, the name of the part, what is known of it


@dataclass(frozen=True)
class VectorFiles:
    """Where the vectors of a scale are, for readers in other languages: an array (n, D) a page, in one chunk.

    The file of the chunk has the numbers, not compressed, little-endian, and then four bytes of checksum.
    """

    array: str  # path in the store, with {page} for the number of the page
    chunk: str  # the file below it
    dtype: str  # float32, or float16 of a bank that was made with `half`
    pages: list[int]  # how many vectors each page has


class Blocks:
    """Embedded patches of images `first` to `images` - 1, block by block, each followed by its flag."""

    def __init__(self, part: Part, attributes: BlocksAttributes | None = None) -> None:
        self._part = part
        self.attributes = attributes or part.read_attributes(BlocksAttributes)
        self.images, self.first, self.block = self.attributes.images, self.attributes.first, self.attributes.block
        self.scales = self.attributes.scales

    @classmethod
    def create(
        cls, part: Part, fingerprint: Fingerprint, grids: Mapping[str, PatchGrid], D: int, images: int, first: int = 0
    ) -> "Blocks":
        """Empty blocks in an empty part."""
        count = images - first
        block = max(1, min(count, CHUNK_BYTES // (max(grid.patches for grid in grids.values()) * D * 4)))
        scales = {scale: (*grid.shape, D) for scale, grid in grids.items()}
        for scale, shape in scales.items():
            part.create_array(f"{scale}/features", (count, *shape), (block, *shape), np.float32)
        part.create_array("done", (-(-count // block),), (1,), np.uint8)
        return cls(part, BlocksAttributes(fingerprint, images, first, block, scales))

    def seal(self) -> str:
        """Seal the part before its blocks are written; the digest of its metadata."""
        return self._part.seal(to_stored(self.attributes))

    @property
    def precision(self) -> str:
        """Of the forward pass that makes the features: float32 or bfloat16."""
        return self.attributes.fingerprint.precision

    @property
    def done(self) -> NDArray[np.uint8]:
        """One flag per block, 1 where it is written."""
        return cast(NDArray[np.uint8], self._part.flags("done"))

    def bounds(self, block: int) -> tuple[int, int]:
        """First image of a block, and the one after its last."""
        start = self.first + block * self.block
        return start, min(start + self.block, self.images)

    def write_block(self, block: int, features: Mapping[str, Array]) -> None:
        """Write one block of every scale, each (images of the block, rows, columns, D), then its flag."""
        start, stop = self.bounds(block)
        for scale, shape in self.scales.items():
            if features[scale].shape != (stop - start, *shape):
                raise ValueError(f"block {block} of {scale}: {features[scale].shape} does not fit {shape}")
            self._part.array(f"{scale}/features")[start - self.first : stop - self.first] = features[scale]
        self._part.array("done")[block] = 1

    def read(self, scale: str, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The embedded patches of blocks `first` to `last` - 1: (ids (M,), vectors (M, D) float32)."""
        rows, columns, D = self.scales[scale]
        start, stop = self.bounds(first)[0], self.bounds(last - 1)[1]
        vectors = self._part.read(f"{scale}/features", slice(start - self.first, stop - self.first)).reshape(-1, D)
        if np.isnan(vectors).any():
            raise self._part.damaged(f"blocks {first} to {last - 1} of {scale} hold NaN")
        return np.arange(start * rows * columns, stop * rows * columns), vectors

    def stream(self, scale: str, step: int = 1) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """The same of every `step`-th block, one by one."""
        for block in range(0, len(self.done), step):
            yield self.read(scale, block, block + 1)

    def damaged(self) -> Iterator[str]:
        """Read every finished block; a line for each that is damaged."""
        for block in np.flatnonzero(self.done).tolist():
            start, stop = self.bounds(block)
            try:
                for scale in self.scales:
                    self._part.read(f"{scale}/features", slice(start - self.first, stop - self.first))
            except DamagedError as error:
                yield str(error)

    def check(self) -> None:
        """Raise IncompleteError if a block is not embedded yet."""
        missing = np.flatnonzero(self.done == 0)
        if missing.size:
            raise IncompleteError(f"blocks {missing.tolist()} of the bank are not written", run="embed()")


class Bank:
    """The memory bank: at each scale a vector for every patch of `images` images, or for a selection (see Thinning)."""

    def __init__(self, part: Part, attributes: BankAttributes | None = None) -> None:
        self._part = part
        self.attributes = attributes or _sealed(part)
        self.images, self.D = self.attributes.images, self.attributes.D

    @classmethod
    def create(cls, part: Part, fingerprint: Fingerprint, grids: Mapping[str, PatchGrid], D: int, images: int) -> "Bank":
        """A bank that has no pages yet, in an empty part."""
        scales = {scale: ScaleAttributes(grid.K, grid.S, *grid.shape, 0, 0, 0.0, "") for scale, grid in grids.items()}
        return cls(part, BankAttributes(fingerprint, images, D, scales, Thinning(), dict.fromkeys(scales, 0.0), ""))

    @classmethod
    def begun(cls, reference: Reference) -> "Bank":
        """The bank of a reference, to read and write pages of it beside the process that has created it."""
        path, name, attributes = reference
        return cls(Part.begun(path, "bank", name), attributes)

    @property
    def reference(self) -> Reference:
        """What another process opens the bank by, finished or not."""
        return self._part.path, self._part.name, self.attributes

    @property
    def scales(self) -> list[str]:
        """The names of the scales."""
        return sorted(self.attributes.scales)

    @property
    def precision(self) -> str:
        """Of the forward pass that made the features, and has to make those of queries: float32 or bfloat16."""
        return self.attributes.fingerprint.precision

    @property
    def identity(self) -> str:
        """sha256 over what the bank was made from, and how; independent of when it was made."""
        source = {"fingerprint": to_stored(self.attributes.fingerprint), "thinning": asdict(self.attributes.thinning)}
        return hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()

    def patches(self, scale: str) -> int:
        """Patches of an image; `ids // patches` is the image of a vector."""
        return self.attributes.scales[scale].patches

    def vectors(self, scale: str) -> int:
        """How many vectors the bank holds."""
        return self.attributes.scales[scale].vectors

    # ---- written: pages of neighbours -------------------------------------------------------------------------------

    def _new(self, scale: str) -> str:
        """Where the index lies that is written, beside the present one."""
        return f"{scale}/index2" if self.attributes.scales[scale].index == "index" else f"{scale}/index"

    def begin_index(self, scale: str, arrays: Mapping[str, Array]) -> None:
        """Begin a new index of a scale, with some of the arrays that describe all pages."""
        self._part.write(arrays, self._new(scale))

    def read_begun(self, scale: str, name: str) -> Array:
        """One of the arrays that begin_index wrote; pages beside it are not looked at."""
        return self._part.read(f"{self._new(scale)}/{name}")

    def write_page(self, scale: str, number: int, arrays: Mapping[str, Array], half: bool) -> None:
        """Write a page of the new index; its vectors as float16 with `half`."""
        kept = {"vectors": arrays["vectors"].astype(np.float16)} if half else {}
        self._part.write({**arrays, **kept}, f"{self._new(scale)}/{number}")

    def write_index(self, scale: str, arrays: Mapping[str, Array], vectors: int, pages: int, radius: float) -> None:
        """Write the other arrays that describe all pages, after the pages; from now on the scale has the new index."""
        self._part.write(arrays, self._new(scale))
        before, index = self.attributes.scales[scale], self._new(scale).removeprefix(f"{scale}/")
        changed = replace(before, vectors=vectors, pages=pages, radius=radius, index=index)
        self.attributes = replace(self.attributes, scales={**self.attributes.scales, scale: changed})
        if before.index:
            del self._part.group[f"{scale}/{before.index}"]

    def seal(self) -> str:
        """Finish the bank, when every page is there; the digest of its metadata."""
        self.attributes = replace(self.attributes, status="complete")
        return self._part.seal(asdict(self.attributes) | {"fingerprint": to_stored(self.attributes.fingerprint)})

    # ---- read -------------------------------------------------------------------------------------------------------

    def read_index(self, scale: str, names: Iterable[str]) -> tuple[dict[str, Array], float]:
        """Some of the arrays that describe all pages, and the radius; pages beside them are not looked at."""
        attributes = self.attributes.scales[scale]
        return self._part.read_all(f"{scale}/{attributes.index}", names), attributes.radius

    def read_page(self, scale: str, number: int) -> dict[str, Array]:
        """The arrays of a page."""
        page = self._part.read_all(f"{scale}/{self.attributes.scales[scale].index}/{number}")
        if not page:
            raise self._part.damaged(f"page {number} of {scale}", missing=True)
        return page

    def place(self, scale: str) -> VectorFiles:
        """Where the vectors of a scale are."""
        attributes = self.attributes.scales[scale]
        path = f"{scale}/{attributes.index}/{{page}}/vectors"
        arrays = [self._part.array(path.format(page=number)) for number in range(attributes.pages)]
        return VectorFiles(f"{self._part.name}/{path}", "c/0/0", str(arrays[0].dtype), [array.shape[0] for array in arrays])

    def damaged(self, what: str) -> DamagedError:
        """The error for contents that are inconsistent."""
        return self._part.damaged(what)


def _sealed(part: Part) -> BankAttributes:
    """The attributes of a complete bank."""
    attributes = part.read_attributes(BankAttributes)
    if attributes.status != "complete" or attributes.radius.keys() != attributes.scales.keys():
        raise part.damaged("attributes do not fit each other")
    return attributes


def bank_bytes(grids: Mapping[str, PatchGrid], D: int, images: int) -> int:
    """Disk space that making a bank takes: blocks, and then pages."""
    return 2 * images * D * 4 * sum(grid.patches for grid in grids.values())
