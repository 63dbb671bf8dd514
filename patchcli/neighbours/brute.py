"""Brute force in tiles: a matrix product names candidates, direct differences decide among them."""

from collections.abc import Iterable

import torch
from torch import Tensor

TILE_QUERIES, TILE_VECTORS, CANDIDATES = 2048, 8192, 1 << 17


def search(queries: Tensor, blocks: Iterable[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    """Exact nearest neighbours of queries (Q, D); see the package for blocks and results.

    |q|² - 2qv + |v|² is off by rounding: at most `slack` = (D + 8)·u·(|q| + |v|)², u = 2⁻²⁴, for float32 dot products of
    length D in any order. So every vector whose expanded value is within `slack` of the best so far is a candidate;
    no other can be the neighbour. Vectors are centred first (distances do not change), which keeps the slack small.
    """
    Q, D = queries.shape
    best = queries.new_full((Q,), torch.inf, dtype=torch.float64)  # squared direct distances
    index = torch.full((Q,), torch.iinfo(torch.int64).max, device=queries.device)
    centre = queries.mean(0)
    centred = queries - centre
    rounding = (D + 8) * 2.0**-24
    for offset, vectors in blocks:
        for v in range(0, len(vectors), TILE_VECTORS):
            tile = vectors[v : v + TILE_VECTORS]
            moved = tile - centre
            norms = moved.square().sum(1)
            reach = norms.max().sqrt()
            for q in range(0, Q, TILE_QUERIES):
                rows = slice(q, min(q + TILE_QUERIES, Q))
                x = centred[rows]
                squared = x.square().sum(1)
                slack = rounding * (squared.sqrt() + reach).square()
                expanded = torch.addmm(norms, x, moved.T, alpha=-2)  # (q, v), |q|² left out
                least = expanded.amin(1)
                bound = torch.minimum(best[rows].float() * (1 + 2.0**-22), least + squared + slack)  # of the true best
                limit = bound + slack - squared
                hot = torch.nonzero(least <= limit)[:, 0]
                pairs = torch.nonzero(expanded[hot] <= limit[hot, None])
                for chunk in pairs.split(CANDIDATES):
                    row, column = hot[chunk[:, 0]] + q, chunk[:, 1]
                    direct = (queries[row].double() - tile[column].double()).square().sum(1)
                    _keep_nearest(best, index, row, direct, column + offset + v)
    return best.sqrt().float(), index


def _keep_nearest(best: Tensor, index: Tensor, row: Tensor, squared: Tensor, candidate: Tensor) -> None:
    """Running minimum over candidates (row, squared distance, bank index); ties go to the lowest index."""
    before = best.clone()
    best.scatter_reduce_(0, row, squared, "amin")
    index[best < before] = torch.iinfo(index.dtype).max
    winners = squared == best[row]
    index.scatter_reduce_(0, row[winners], candidate[winners], "amin")
