"""The training images, and where they came from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from patchcli.datasets.images import Canvas, Pixels, Reader, levels
from patchcli.store.parts import Array, Part

BLOCK = 8  # images a chunk

Decoded = Iterator[tuple[str, tuple[int, int], Array]]  # id, original (height, width), pixels (height, width, 3)


@dataclass(frozen=True)
class Source:
    """Where the images came from, and how files were decoded to pixels."""

    root: str
    layout: str
    category: str
    manifest: str  # sha256 of the training images' ids and contents
    holdout: dict[str, str] = field(default_factory=dict)  # images reserved for calibration: id → sha256 of the file
    keeps_aspect: bool = False
    size: tuple[int, int] | None = None  # the working size (height, width)
    bits: int = 8
    large: bool = False
    edited: str | None = None  # the identity of the images after some were added or removed

    @property
    def reader(self) -> Reader:
        """How files are decoded."""
        return Reader(self.bits, self.large)

    @property
    def identity(self) -> str:
        """What identifies the images."""
        return self.edited or self.manifest


class Images:
    """Training images at the working size, in storage order."""

    def __init__(self, part: Part) -> None:
        self._part = part

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, 3)."""
        return cast(tuple[int, int, int, int], tuple(self._part.array("train").shape))

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> Pixels:
        """Images start:stop as (B, H, W, 3), uint8, or uint16 of deeper files."""
        return self._part.read("train", slice(start, stop))

    @cached_property
    def ids(self) -> list[str]:
        """Paths below the data set's root."""
        return self._part.texts("id")

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Original (height, width)."""
        return [(height, width) for height, width in self._part.read("size").tolist()]

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """Per-pixel mean, in levels of 0 to 255, float32 (H, W, 3)."""
        return cast(NDArray[np.float32], self._part.read("mean"))

    def canvas(self, source: Source) -> Canvas:
        """The working size, and how other images are brought to it."""
        height, width = source.size or self.shape[1:3]
        return Canvas(height, width, source.keeps_aspect)


def write(part: Part, decoded: Decoded, height: int, width: int, mean: Array | None = None) -> int:
    """Write images into an empty part; how many. Without a mean, theirs is computed."""
    train: Any = None
    total, count = np.zeros((height, width, 3), np.float64), 0
    ids: list[str] = []
    sizes: list[tuple[int, int]] = []
    block: list[Array] = []

    def flush() -> None:
        nonlocal train
        if train is None:
            train = part.create_array("train", (0, height, width, 3), (BLOCK, height, width, 3), block[0].dtype)
        train.resize((count, height, width, 3))
        train[count - len(block) :] = np.stack(block)
        block.clear()

    for name, size, pixels in decoded:
        ids.append(name)
        sizes.append(size)
        block.append(pixels)
        total += levels(pixels)
        count += 1
        if len(block) == BLOCK:
            flush()
    if block:
        flush()
    if count:
        part.write_texts("id", ids)
        mean = (total / count).astype(np.float32) if mean is None else mean
        part.write({"size": np.array(sizes, np.int32), "mean": mean})
    return count
