"""Patch geometry in pure integers: where the K×K patches of an image lie."""

from dataclasses import dataclass
from functools import cached_property


def positions(length: int, K: int, S: int) -> tuple[int, ...]:
    """Starts of the patches of side K along `length` pixels: every S pixels, the last one flush with the edge."""
    if length < K:
        raise ValueError(f"a side of {length} pixels holds no patch of {K}")
    starts = list(range(0, length - K + 1, S))
    if starts[-1] != length - K:
        starts.append(length - K)
    return tuple(starts)


@dataclass(frozen=True)
class PatchGrid:
    """The grid of K×K patches with stride S on an image of height × width pixels; every pixel is covered if S ≤ K."""

    height: int
    width: int
    K: int
    S: int

    @cached_property
    def ys(self) -> tuple[int, ...]:
        """Top edge of each row of patches."""
        return positions(self.height, self.K, self.S)

    @cached_property
    def xs(self) -> tuple[int, ...]:
        """Left edge of each column of patches."""
        return positions(self.width, self.K, self.S)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return len(self.ys), len(self.xs)

    @property
    def patches(self) -> int:
        """Number of patches per image."""
        return len(self.ys) * len(self.xs)

    def locate(self, index: int) -> tuple[int, int, int]:
        """(image, y, x) of the patch at a flat index over images, rows and columns; y, x are its top left pixel."""
        image, patch = divmod(index, self.patches)
        row, column = divmod(patch, len(self.xs))
        return image, self.ys[row], self.xs[column]
