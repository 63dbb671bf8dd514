"""Brute force in tiles: a matrix product names candidates, direct differences decide among them."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from patchcli.bank.search.streaming import Block, Streaming

TILE_QUERIES, TILE_VECTORS, CANDIDATES = 4096, 2048, 1 << 15


class Brute(Streaming):
    """Compare with every vector."""

    preference: ClassVar = {"cpu": 1, "cuda": 1}

    @staticmethod
    def nearest(queries: Tensor, blocks: Iterable[Block]) -> tuple[Tensor, Tensor]:
        squared, index = nearest(queries, blocks)
        return squared.sqrt().float(), index


def nearest(queries: Tensor, blocks: Iterable[Block]) -> tuple[Tensor, Tensor]:
    """Squared distances (Q,) float64 and ids (Q,) of the vectors that are nearest to queries (Q, D).

    |v|² - 2qv orders the vectors v by their distance to q, but for rounding: in float32, u = 2⁻²⁴, a product of length
    D + 1 and the norms are off by less than r(|q|² + |v|²), r = 4(D + 8)u, in any order of summation. So every vector
    whose value is within that of the best is a candidate, and no other can be the neighbour. Centring first leaves
    the distances as they are and keeps the norms, and with them the number of candidates, small.
    """
    Q, D = queries.shape
    r = 4 * (D + 8) * 2.0**-24
    best = queries.new_full((Q,), torch.inf, dtype=torch.float64)  # squared direct distances
    index = torch.full((Q,), torch.iinfo(torch.int64).max, device=queries.device)
    centre = queries.mean(0)
    x = queries - centre
    square = x.square().sum(1)
    left = torch.cat([-2 * x, torch.ones_like(x[:, :1])], 1)  # (Q, D+1)
    for ids, vectors in blocks:
        moved = vectors - centre
        norms = moved.square().sum(1, keepdim=True)
        right = torch.cat([moved, norms * (1 - r)], 1)  # (M, D+1)
        for v in range(0, len(vectors), TILE_VECTORS):
            for q in range(0, Q, TILE_QUERIES):
                rows = slice(q, q + TILE_QUERIES)
                low = left[rows] @ right[v : v + TILE_VECTORS].T  # lower bounds of |v|² - 2qv, but for r|q|²
                so_far = best[rows].float() * (1 + 2.0**-22) - square[rows]
                hot = torch.nonzero(low.amin(1) <= so_far + 2 * r * square[rows])[:, 0]
                low = low[hot]
                least, at = low.min(1)
                bound = torch.minimum(so_far[hot], least + 2 * r * norms[at + v, 0]) + 2 * r * square[rows][hot]
                for pairs in torch.split(torch.nonzero(low <= bound[:, None]), CANDIDATES):
                    row, column = hot[pairs[:, 0]] + q, pairs[:, 1] + v
                    direct = (queries[row].double() - vectors[column].double()).square().sum(1)
                    _keep_nearest(best, index, row, direct, ids[column])
    return best, index


def _keep_nearest(best: Tensor, index: Tensor, row: Tensor, squared: Tensor, candidate: Tensor) -> None:
    """Running minimum over candidates (row, squared distance, bank index); ties go to the lowest index."""
    before = best.clone()
    best.scatter_reduce_(0, row, squared, "amin")
    index[best < before] = torch.iinfo(index.dtype).max
    winners = squared == best[row]
    index.scatter_reduce_(0, row[winners], candidate[winners], "amin")
