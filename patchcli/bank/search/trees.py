"""A bank as pages: k-d trees over principal coordinates, cut from shards of it; how they are searched is in pruned.

Trained features lie near a manifold of few dimensions, so the first principal coordinates nearly give the distance.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcli.bank.search import kernels
from patchcli.bank.search.kernels import COORDS
from patchcli.bank.search.lanes import LANES, WORDS

LEAF = 100  # vectors in the smallest box, up to twice as many
PAGE = 1 << 15  # vectors in a tree at most: what is read at once of a bank that does not fit in memory
SHARD = 1 << 28  # bytes of vectors that are cut into pages together: more make the search faster, and need more memory
AXES = 64  # principal axes that are kept at most
SAMPLE = 1 << 15  # vectors that axes are fitted on, up to twice as many

Array = NDArray[Any]
Vectors = tuple[NDArray[np.int64], NDArray[np.float32]]  # ids (n,), vectors (n, D)
Stream = Callable[[], Iterable[Vectors]]


@dataclass(frozen=True)
class Axes:
    """The map from vectors to coordinates: principal axes of a sample, padded with zeros to at least COORDS - 1.

    A bank of an earlier version has no more than these, which is slower.
    """

    centre: NDArray[np.float64]  # (D,)
    axes: NDArray[np.float64]  # (D, count), orthonormal columns or zeros

    @classmethod
    def fit(cls, sample: NDArray[np.float32]) -> "Axes":
        """Principal axes of vectors (n, D)."""
        from sklearn.decomposition import PCA

        count = min(AXES, sample.shape[1], len(sample))
        with np.errstate(invalid="ignore"):  # of a bank of equal vectors, shares of no variance
            solver = "full" if len(sample) < 1000 else "covariance_eigh"
            fitted = PCA(count, svd_solver=solver).fit(sample.astype(np.float64))
        axes = np.zeros((sample.shape[1], max(COORDS - 1, count)))
        axes[:, :count] = np.nan_to_num(fitted.components_.T)
        return cls(fitted.mean_, axes)

    def coords(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors (n, D) → coordinates (n, COORDS); the last is the norm of what the axes leave out."""
        coords, leading = np.empty((len(vectors), COORDS), np.float32), self.axes[:, : COORDS - 1]
        for start in range(0, len(vectors), 1 << 14):
            part = slice(start, start + (1 << 14))
            moved = vectors[part].astype(np.float64) - self.centre
            coords[part, :-1] = projected = moved @ leading
            rest = moved - projected @ leading.T
            coords[part, -1] = np.sqrt(np.einsum("ij,ij->i", rest, rest))
        return coords

    def turned(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Vectors (n, D) → coordinates on all axes, (n, 16 · groups) with zeros at the end."""
        count = self.axes.shape[1]
        turned = np.zeros((len(vectors), -(-count // LANES) * LANES))
        turned[:, :count] = (vectors.astype(np.float64) - self.centre) @ self.axes
        return turned


def slack_of(coords: NDArray[np.float32], radius: float) -> NDArray[np.float64]:
    """By how much distances of coordinates may be above those of the vectors, for each of (n, COORDS) points.

    A coordinate is rounded by 2⁻²⁴ of itself, so a point moves by at most 2⁻²⁴ of its norm; the float64 steps before add
    far less. Eight times their sum over both points is allowed.
    """
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", coords, coords, dtype=np.float64))
    return 2.0**-21 * (norms + radius)


@dataclass(frozen=True)
class Page:
    """Some of a bank's vectors, in the order of their tree; see kernels for the trees."""

    vectors: NDArray[np.float32]  # (n, D)
    ids: NDArray[np.int64]  # (n,) flat index in the bank
    coords: NDArray[np.float32]  # (n, COORDS)
    blocks: NDArray[np.int32]  # (groups, n / 16, WORDS) all coordinates, as multiples of the scale
    scale: float
    nodes: NDArray[np.int64]  # (nodes, 3): start, stop, kind
    low: NDArray[np.float32]  # (nodes, COORDS)
    high: NDArray[np.float32]

    STORED = ("vectors", "ids", "coords", "nodes", "low", "high")

    @classmethod
    def build(cls, ids: NDArray[np.int64], vectors: NDArray[np.float32], axes: Axes) -> "Page":
        """A tree over vectors (n, D)."""
        from sklearn.neighbors import KDTree

        coords = axes.coords(vectors)
        _, order, nodes, _ = KDTree(coords, leaf_size=LEAF).get_arrays()
        order, nodes = np.asarray(order), np.asarray(nodes)
        start, stop = nodes["idx_start"].astype(np.int64), nodes["idx_end"].astype(np.int64)
        kind = np.where(nodes["is_leaf"], kernels.LEAF, kernels.INNER)
        low, high = np.empty((2, len(nodes), COORDS), np.float32)
        vectors, ids, coords = vectors[order], ids[order], coords[order]
        kernels.finish_tree(vectors, coords, start, stop, kind, low, high)
        for node in np.flatnonzero(kind == kernels.SAME):
            ids[start[node] : stop[node]].sort()  # equal vectors: any order of them is right
        return cls.stored(axes, vectors, ids, coords, np.column_stack([start, stop, kind]), low, high)

    @classmethod
    def stored(cls, axes: Axes, vectors: Array, ids: Array, coords: Array, nodes: Array, low: Array, high: Array) -> "Page":
        """A page from the arrays that are STORED; vectors may be float16."""
        vectors = vectors.astype(np.float32, copy=False)
        turned = axes.turned(vectors)
        radius = np.sqrt(np.einsum("ij,ij->i", turned, turned).max(initial=0))
        scale = max(float(radius), 1e-100) / kernels.RANGE
        blocks = _aligned(turned.shape[1] // LANES, -(-len(vectors) // LANES), WORDS)
        kernels.lay(turned, scale, blocks)
        return cls(vectors, ids, coords, blocks, scale, nodes, low, high)

    def checked(self, D: int, patches: int) -> "Page":
        """The page itself. Raises ValueError where compiled code would read beyond its arrays, or ids beyond the bank's."""
        n, nodes = len(self.ids), len(self.nodes)
        shapes = self.vectors.shape, self.ids.shape, self.coords.shape, self.nodes.shape, self.low.shape, self.high.shape
        if shapes != ((n, D), (n,), (n, COORDS), (nodes, 3), (nodes, COORDS), (nodes, COORDS)) or not 0 < nodes <= 2 * n:
            raise ValueError(f"expected arrays that fit each other, found {shapes}")
        start, stop, kind = self.nodes.T
        inner = np.flatnonzero(kind == kernels.INNER)
        spans = (start >= 0) & (start <= stop) & (stop <= n) & (kind >= kernels.INNER) & (kind <= kernels.SAME)
        if not spans.all() or (len(inner) and 2 * inner[-1] + 2 >= nodes):
            raise ValueError("expected nodes of a tree over the vectors, found others")
        if n and not 0 <= self.ids.min() <= self.ids.max() < patches:
            raise ValueError("expected ids of the bank's patches, found others")
        return self

    @cached_property
    def tree(self) -> tuple[Array, ...]:
        """low, high, start, stop, kind, as the kernels take them."""
        start, stop, kind = np.ascontiguousarray(self.nodes.T)
        return self.low, self.high, start, stop, kind

    @property
    def radius(self) -> float:
        """The largest norm of its coordinates."""
        return float(np.sqrt(np.square(self.coords, dtype=np.float64).sum(axis=1).max()))

    @property
    def nbytes(self) -> int:
        """What the page holds in memory."""
        return sum(getattr(self, name).nbytes for name in (*self.STORED, "blocks"))


def _aligned(*shape: int) -> NDArray[np.int32]:
    """Zeros whose rows of 16 begin where a cache line does, as those of blocks then all do."""
    zeros = np.zeros(math.prod(shape) + LANES, np.int32)
    first = -(zeros.ctypes.data // 4) % LANES
    return zeros[first : first + math.prod(shape)].reshape(shape)


def page_bytes(vectors: int, D: int) -> int:
    """About what pages of so many vectors hold in memory."""
    groups = -(-max(COORDS - 1, min(AXES, D)) // LANES)
    return vectors * (4 * D + 8 + 4 * COORDS + 4 * WORDS * groups // LANES + 8)


@dataclass(frozen=True)
class Index:
    """What is in memory of every page, whether or not the page itself is."""

    axes: Axes
    low: NDArray[np.float32]  # (pages, COORDS) the box around a page
    high: NDArray[np.float32]
    radius: float  # the largest norm of coordinates in the bank

    def checked(self, D: int) -> "Index":
        """The index itself. Raises ValueError where its arrays do not fit vectors of length D."""
        shapes = self.axes.centre.shape, self.axes.axes.shape, self.low.shape, self.high.shape
        boxes, axes = (len(self.low), COORDS), (D, max(COORDS - 1, self.axes.axes.shape[-1]))
        if shapes != ((D,), axes, boxes, boxes):
            raise ValueError(f"expected arrays that fit each other, found {shapes}")
        return self


_KEEPING = Lock()  # threads may share pages


class Pages:
    """A bank to search: its index, and its pages; those that fit into `budget` bytes stay in memory once they are read.

    If not all of them do (`total` bytes), there is room left for one in use, and for reading another: three times its size.
    """

    def __init__(self, index: Index, load: Callable[[int], Page], budget: int, total: int = 0) -> None:
        self.index, self._load = index, load
        self._left = budget - (4 * page_bytes(PAGE, len(index.axes.centre)) if total > budget else 0)
        self._cached: dict[int, Page] = {}

    def __len__(self) -> int:
        return len(self.index.low)

    def share(self, number: int, count: int) -> "Pages":
        """Every `count`-th page, from that number on: the same pages."""
        index = replace(self.index, low=self.index.low[number::count], high=self.index.high[number::count])
        return Pages(index, lambda page: self[number + count * page], 0)

    @property
    def held(self) -> Collection[int]:
        """The numbers of the pages that stay in memory by now."""
        return tuple(self._cached)

    @property
    def slack(self) -> float:
        """By how much the distance of two vectors' coordinates may be above theirs."""
        return float(slack_of(np.zeros((1, COORDS), np.float32), 2 * self.index.radius)[0])

    def __iter__(self) -> Iterator[Page]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> Page:
        page = self._cached.get(number)
        if page is None:
            page = self._load(number)
            with _KEEPING:
                if page.nbytes <= self._left and number not in self._cached:
                    self._left -= page.nbytes
                    self._cached[number] = page
        return page


def axes_of(vectors: Iterable[Vectors], total: int) -> Axes:
    """The axes of `total` vectors, from a sample of SAMPLE of them or more, evenly spread."""
    step = max(1, total // SAMPLE)
    taken, passed = [], 0
    for _, part in vectors:
        taken.append(part[-passed % step :: step])
        passed += len(part)
    return Axes.fit(np.concatenate(taken))


def shard_size(D: int, budget: int) -> int:
    """How many vectors are cut into pages together, in `budget` bytes of memory: they are held up to three times."""
    return max(PAGE, min(SHARD, budget // 3) // (4 * D))


def shards(vectors: Iterable[Vectors], size: int) -> Iterator[Vectors]:
    """Vectors in their order, at least `size` at once until the last."""
    waiting: list[Vectors] = []
    for part in vectors:
        waiting.append(part)
        if sum(len(ids) for ids, _ in waiting) >= size:
            yield joined(waiting)
    if waiting:
        yield joined(waiting)


def joined(waiting: list[Vectors]) -> Vectors:
    """The parts as one; nothing waits any more."""
    ids, vectors = (np.concatenate(column) for column in zip(*waiting, strict=True))
    waiting.clear()
    return ids, vectors


def depth(vectors: int) -> int:
    """How often so many vectors are halved until a page holds each part: 2 ** depth pages."""
    return max(0, math.ceil(math.log2(max(1, vectors) / PAGE)))


def cut(ids: NDArray[np.int64], vectors: NDArray[np.float32], axes: Axes) -> Iterator[Page]:
    """A shard as pages of neighbours: halved at the median of the coordinate that varies most, `depth` times."""
    parts = [np.arange(len(ids))]
    coords = axes.coords(vectors)
    for _ in range(depth(len(ids))):
        parts = [half for rows in parts for half in _halves(coords, rows)]
    for rows in parts:
        yield Page.build(ids[rows], vectors[rows], axes)


def _halves(coords: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    own = coords[rows]
    widest = own[:, own.var(axis=0, dtype=np.float64).argmax()]
    order, middle = np.argsort(widest, kind="stable"), len(rows) // 2
    return rows[order[:middle]], rows[order[middle:]]
