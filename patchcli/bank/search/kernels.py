"""Compiled loops of the pruned search and of the k-centre selection. With lanes, the only import of numba.

A page is a k-d tree over `coords` (n, 16): rows start[i]:stop[i] lie in node i, inside the box low[i], high[i]; its
children are 2i+1 and 2i+2; `kind` says INNER, LEAF, or SAME (all vectors equal, ids ascending: one distance serves all).
`blocks` (groups, n / 16, WORDS) holds all principal coordinates, 16 a group, as whole multiples of `scale`, of 16 rows a block.
The loops release the GIL.
"""

from typing import Any

import numpy as np
from numba import njit

from patchcli.bank.search.lanes import LANES, WORDS, below, lowest, to_box, within

COORDS = 16
RANGE = 10000  # the largest norm of a page's vectors, as a multiple of the scale
FARTHEST = 32000  # the same of queries: int16 holds their coordinates
MOST = 2**29  # above every sum of a block, which is below RANGE² / 2 + RANGE · FARTHEST
INNER, LEAF, SAME = 0, 1, 2
RELATIVE = 1 + 2.0**-18  # 16 float32 squares and their sum are off by less
TINY = 1e-37  # squares below are no normal float32 numbers
_SUMS = {"contract", "nsz", "reassoc"}  # lets sums be vectorised; infinities keep their meaning


def _compiled(**options: Any) -> Any:
    def compiled(function: Any) -> Any:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder can be written where compiled code would be kept: every run compiles anew
            return njit(nogil=True, **options)(function)

    return compiled


_loop, _sum = _compiled(), _compiled(fastmath=_SUMS)


@_sum
def _to_box(low, high, point):
    """Squared distance of a point to a box."""
    total = np.float32(0)
    for k in range(COORDS):
        gap = max(max(low[k] - point[k], point[k] - high[k]), np.float32(0))
        total += gap * gap
    return total


@_sum
def _between(a, b):
    """Squared distance of two points."""
    total = np.float32(0)
    for k in range(COORDS):
        gap = a[k] - b[k]
        total += gap * gap
    return total


@_sum
def _direct(a, b):
    """Squared distance of two vectors from direct differences, in float64."""
    total = 0.0
    for k in range(len(a)):
        gap = np.float64(a[k]) - np.float64(b[k])
        total += gap * gap
    return total


@_loop
def _reach(squared, slack):
    """The least squared distance of coordinates at which vectors cannot be nearer than `squared`, for rounding."""
    return np.float32((np.sqrt(squared) + slack) ** 2 * RELATIVE + TINY)


@_loop
def to_boxes(low, high, points, out):
    """Squared distances (Q, P) of points to boxes."""
    for i in range(len(points)):
        for p in range(len(low)):
            out[i, p] = _to_box(low[p], high[p], points[i])


@_loop
def home_leaves(vectors, ids, coords, tree, queries, points, rows, skip, best, index, leaves):
    """A leaf near each of the chosen points, into leaves (Q,): neighbours in this order visit much the same leaves.

    Where nothing is found yet, the vector of the leaf with the nearest coordinates is.
    """
    low, high, start, stop, kind = tree
    for t in range(len(rows)):
        i, node = rows[t], 0
        point = points[i]
        while kind[node] == INNER:
            left = 2 * node + 1
            nearer = _to_box(low[left], high[left], point) <= _to_box(low[left + 1], high[left + 1], point)
            node = left if nearer else left + 1
        leaves[i] = node
        if best[i] < np.inf:
            continue
        nearest, row = np.float32(np.inf), -1
        for j in range(start[node], stop[node]):
            squared = _between(coords[j], point)
            if squared < nearest and not skip[0] <= ids[j] < skip[1]:
                nearest, row = squared, j
        if row >= 0:
            best[i], index[i] = _direct(queries[i], vectors[row]), ids[row]


@_loop
def lay(turned, scale, blocks):
    """Write coordinates (n, 16 · groups) as blocks; lanes beyond n are above every limit."""
    halves = blocks.view(np.int16)
    for row in range(len(turned)):
        b, lane, before = row // LANES, row % LANES, 0
        square = 0
        for k in range(turned.shape[1]):
            group, at = k // LANES, k % LANES
            whole = np.int64(np.rint(turned[row, k] / scale))
            halves[group, b, 2 * LANES + at // 2 * 2 * LANES + 2 * lane + at % 2] = whole
            square += whole * whole
            if at == LANES - 1:
                blocks[group, b, lane] = square // 2 - before
                before = square // 2
    for row in range(len(turned), blocks.shape[1] * LANES):
        blocks[0, row // LANES, row % LANES] = 2 * MOST - 1


@_loop
def _whole(turned, scale, ints, squares):
    """A query (16 · groups,) as negated whole numbers, and the squared norm up to each group.

    A query beyond FARTHEST is moved to it: this brings it no farther from any vector of the page.
    """
    norm = 0.0
    for k in range(len(turned)):
        norm += (turned[k] / scale) ** 2
    shrink, square = min(1.0, FARTHEST / np.sqrt(max(norm, 1.0))), 0.0
    for k in range(len(turned)):
        whole = np.rint(turned[k] / scale * shrink)
        ints[k] = -whole
        square += whole * whole
        if k % LANES == LANES - 1:
            squares[k // LANES] = square


@_loop
def _limits(squared, slack, scale, squares, limits):
    """The sums of a block, after each group, above which vectors cannot be nearer than `squared`.

    Rounding moves each of two points of 16g coordinates by at most √(16g) / 2.
    """
    for group in range(len(squares)):
        most = (np.sqrt(squared) + slack) / scale + np.sqrt(LANES * (group + 1.0))
        limits[group] = min(np.floor((most * most * (1 + 2.0**-40) - squares[group]) / 2), MOST)


@_loop
def search(vectors, ids, blocks, scale, tree, queries, points, turned, slack, rows, skip, best, index):
    """Lower best (Q,) and index (Q,) to the page's nearest vectors, for the query rows, without ids skip[0] to skip[1] - 1.

    Sixteen queries go through the tree together, so that what they read of it stays at hand.
    """
    low, high, start, stop, kind = tree
    groups, count, _ = blocks.shape
    flat, K = blocks.reshape(-1), LANES * groups
    stack, bounds = np.empty(256, np.int64), np.empty(257 * LANES, np.float32)
    lanes, reach = np.zeros((COORDS, LANES), np.float32), np.empty(LANES, np.float32)
    ints, squares = np.zeros((LANES, K), np.int16), np.zeros((LANES, groups))
    limits, sums = np.zeros((LANES, groups), np.int32), np.zeros(LANES, np.int32)
    wholes = ints.reshape(-1)
    for begin in range(0, len(rows), LANES):
        some = rows[begin : begin + LANES]
        reach[:] = -1  # of lanes without a query
        for lane in range(len(some)):
            i = some[lane]
            lanes[:, lane] = points[i]
            _whole(turned[i], scale, ints[lane], squares[lane])
            _limits(best[i], slack[i], scale, squares[lane], limits[lane])
            reach[lane] = _reach(best[i], slack[i])
        stack[0], top = 0, 1
        to_box(low, high, 0, lanes, reach, bounds, 0)
        while top:
            top -= 1
            node, live = stack[top], within(bounds, LANES * top, reach)
            if kind[node] == INNER and live:
                for child in (2 * node + 1, 2 * node + 2):
                    stack[top] = child
                    if to_box(low, high, child, lanes, reach, bounds, LANES * top):
                        top += 1
                continue
            while live:
                lane = lowest(live)
                live &= live - 1
                i = some[lane]
                if kind[node] == SAME:
                    row = start[node]
                    while row < stop[node] and skip[0] <= ids[row] < skip[1]:
                        row += 1
                    if row < stop[node] and _nearer(queries[i], vectors[row], ids[row], i, best, index):
                        _limits(best[i], slack[i], scale, squares[lane], limits[lane])
                        reach[lane] = _reach(best[i], slack[i])
                    continue
                limit = limits[lane, 0]
                for block in range(start[node] // LANES, (stop[node] + LANES - 1) // LANES):
                    mask = below(flat, block * WORDS, wholes, lane * K, sums, True, limit)
                    if mask == 0:
                        continue
                    for group in range(1, groups):
                        at, item = (group * count + block) * WORDS, lane * K + group * LANES
                        mask &= below(flat, at, wholes, item, sums, False, limits[lane, group])
                        if mask == 0:
                            break
                    while mask:
                        row = block * LANES + lowest(mask)
                        mask &= mask - 1
                        if skip[0] <= ids[row] < skip[1]:
                            continue
                        if _nearer(queries[i], vectors[row], ids[row], i, best, index):
                            _limits(best[i], slack[i], scale, squares[lane], limits[lane])
                            reach[lane], limit = _reach(best[i], slack[i]), limits[lane, 0]


@_loop
def _nearer(query, vector, number, i, best, index):
    """Whether a vector is nearer to query i than what it has, or as near and of a lower id: then it is taken."""
    squared = _direct(query, vector)
    if squared < best[i] or (squared == best[i] and number < index[i]):
        best[i], index[i] = squared, number
        return True
    return False


@_loop
def finish_tree(vectors, coords, start, stop, kind, low, high):
    """Boxes of all nodes, and SAME where a node's vectors are equal (its ids must then be put in order)."""
    for i in range(len(start) - 1, -1, -1):
        if kind[i] == INNER:
            left, right = 2 * i + 1, 2 * i + 2
            low[i], high[i] = np.minimum(low[left], low[right]), np.maximum(high[left], high[right])
            if kind[left] == SAME and kind[right] == SAME and np.all(vectors[start[left]] == vectors[start[right]]):
                kind[i] = SAME
            continue
        same = True
        low[i], high[i] = coords[start[i]], coords[start[i]]
        for j in range(start[i] + 1, stop[i]):
            for k in range(COORDS):
                low[i, k], high[i, k] = min(low[i, k], coords[j, k]), max(high[i, k], coords[j, k])
            same = same and np.all(vectors[j] == vectors[start[i]])
        if same:
            kind[i] = SAME


@_loop
def pick_centres(vectors, coords, low, high, start, stop, kind, slack, squared, farthest, picks, radii, count, limit, least):
    """Greedy k-centre (Gonzalez 1985) on a page: pick the vector farthest from those picked, until few enough are left.

    squared (n,) are the squared distances to the nearest pick, farthest (nodes,) their maxima in each node; both are
    inf before the first call. Goes on from picks[:count] up to `limit` picks, or until no squared distance is above
    `least`; radii[c] is the squared cover radius before pick c. Returns the number of picks.
    """
    stack = np.empty(256, np.int64)
    touched = np.empty(len(start), np.int64)
    while count < limit and farthest[0] > least:
        node = 0
        while kind[node] == INNER:
            node = 2 * node + 1 if farthest[2 * node + 1] == farthest[node] else 2 * node + 2
        pick = start[node]
        while squared[pick] != farthest[node]:
            pick += 1
        picks[count], radii[count] = pick, squared[pick]
        count += 1
        point, vector = coords[pick], vectors[pick]
        stack[0], top, visited = 0, 1, 0
        while top:
            top -= 1
            node = stack[top]
            if _to_box(low[node], high[node], point) > _reach(farthest[node], slack):
                continue
            if kind[node] == INNER:
                stack[top], stack[top + 1] = 2 * node + 1, 2 * node + 2
                top += 2
                touched[visited] = node
                visited += 1
                continue
            most = 0.0
            for j in range(start[node], stop[node]):
                if _between(coords[j], point) <= _reach(squared[j], slack):
                    squared[j] = min(squared[j], _direct(vector, vectors[j]))
                most = max(most, squared[j])
            farthest[node] = most
        for t in range(visited - 1, -1, -1):  # children come after their parents
            node = touched[t]
            farthest[node] = max(farthest[2 * node + 1], farthest[2 * node + 2])
    return count
