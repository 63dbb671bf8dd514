"""Compiled loops of the pruned search and of the k-centre selection. The only import of numba.

A page is a k-d tree over `coords` (n, 16): rows start[i]:stop[i] lie in node i, inside the box lo[i], hi[i]; its
children are 2i+1 and 2i+2; `kind` says INNER, LEAF, or SAME (all vectors equal, ids ascending: one distance serves all).
`heads` holds each leaf's first HEAD coordinates, dimension by dimension. The loops release the GIL.
"""

from typing import Any

import numpy as np
from numba import njit

COORDS, HEAD = 16, 8
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


@_sum
def _head_distances(heads, first, size, point, out):
    """Squared distances of a leaf's `size` vectors to a point, over the first HEAD coordinates."""
    out[:] = 0
    for k in range(0, HEAD, 4):
        base = first * HEAD + k * size
        row0, row1 = heads[base : base + size], heads[base + size : base + 2 * size]
        row2, row3 = heads[base + 2 * size : base + 3 * size], heads[base + 3 * size : base + 4 * size]
        p0, p1, p2, p3 = point[k], point[k + 1], point[k + 2], point[k + 3]
        for j in range(size):
            d0, d1, d2, d3 = row0[j] - p0, row1[j] - p1, row2[j] - p2, row3[j] - p3
            out[j] += d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3


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
def home_leaves(low, high, kind, points, rows, out):
    """A leaf near each of the chosen points: neighbours in this order visit much the same leaves."""
    for t in range(len(rows)):
        node, point = 0, points[rows[t]]
        while kind[node] == INNER:
            left = 2 * node + 1
            nearer = _to_box(low[left], high[left], point) <= _to_box(low[left + 1], high[left + 1], point)
            node = left if nearer else left + 1
        out[t] = node


@_loop
def search(vectors, ids, coords, heads, tree, queries, points, point_heads, slack, rows, skip, best, index):
    """Lower best (Q,) and index (Q,) to the page's nearest vectors, for the query rows, without ids skip[0] to skip[1] - 1."""
    low, high, start, stop, kind = tree
    skip_from, skip_to = skip
    stack = np.empty(256, np.int64)
    bounds = np.empty(256, np.float32)
    scratch = np.empty(max(1, np.max(stop - start)), np.float32)
    for i in rows:
        query, point, head = queries[i], points[i], point_heads[i]
        nearest, number = best[i], index[i]
        reach = _reach(nearest, slack[i])
        stack[0], bounds[0], top = 0, _to_box(low[0], high[0], point), 1
        while top:
            top -= 1
            if bounds[top] > reach:
                continue
            node = stack[top]
            first, size = start[node], stop[node] - start[node]
            if kind[node] == INNER:
                near, far = 2 * node + 1, 2 * node + 2
                to_near, to_far = _to_box(low[near], high[near], point), _to_box(low[far], high[far], point)
                if to_far < to_near:
                    near, far, to_near, to_far = far, near, to_far, to_near
                if to_far <= reach:
                    stack[top], bounds[top] = far, to_far
                    top += 1
                if to_near <= reach:
                    stack[top], bounds[top] = near, to_near
                    top += 1
                continue
            if kind[node] == SAME:
                j = first
                while j < first + size and skip_from <= ids[j] < skip_to:
                    j += 1
                if j < first + size:
                    squared = _direct(query, vectors[j])
                    if squared < nearest or (squared == nearest and ids[j] < number):
                        nearest, number = squared, ids[j]
                        reach = _reach(nearest, slack[i])
                continue
            distances = scratch[:size]
            _head_distances(heads, first, size, head, distances)
            for j in range(size):
                row = first + j
                if distances[j] > reach or _between(coords[row], point) > reach:
                    continue
                if skip_from <= ids[row] < skip_to:
                    continue
                squared = _direct(query, vectors[row])
                if squared < nearest or (squared == nearest and ids[row] < number):
                    nearest, number = squared, ids[row]
                    reach = _reach(nearest, slack[i])
        best[i], index[i] = nearest, number


@_loop
def finish_tree(vectors, coords, ids, start, stop, kind, low, high):
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
