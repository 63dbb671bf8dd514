"""KeOps lazy tensors: the nearest by direct differences without a distance matrix. The only import of pykeops."""

import contextlib
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from patchcli.neighbours import brute

CANDIDATES = 4  # of each block, among which float64 decides


def _lazy_tensor() -> Any:
    """pykeops' LazyTensor, its messages kept off standard output."""
    with contextlib.redirect_stdout(sys.stderr):
        import pykeops

        pykeops.set_verbose(False)
        from pykeops.torch import LazyTensor
    return LazyTensor


def search(queries: Tensor, blocks: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Exact nearest neighbours of queries (Q, D); see the package for blocks and results.

    KeOps ranks by float32 sums of squares, which are off by less than r = 2(D + 2)2⁻²⁴ of themselves: what it does not
    name is no nearer than (1 - r)² times the farthest that it names. Where the nearest is not below that, as among
    many duplicates, brute force decides.
    """
    lazy = _lazy_tensor()
    queries = queries.contiguous()
    margin = (1 - 2 * (queries.shape[1] + 2) * 2.0**-24) ** 2
    best = queries.new_full((len(queries),), torch.inf, dtype=torch.float64)
    index = torch.full((len(queries),), torch.iinfo(torch.int64).max, device=queries.device)
    for ids, vectors in blocks:
        vectors = vectors.contiguous()
        with contextlib.redirect_stdout(sys.stderr):
            squared = ((lazy(queries[:, None, :]) - lazy(vectors[None, :, :])) ** 2).sum(-1)
            named = squared.argKmin(K=min(CANDIDATES, len(vectors)), dim=1)  # (Q, K)
        direct = (queries[:, None].double() - vectors[named].double()).square().sum(2)
        nearest = direct.min(1).values
        at = torch.where(direct == nearest[:, None], ids[named], torch.iinfo(torch.int64).max).min(1).values
        unsure = torch.nonzero((nearest >= direct.max(1).values * margin) & (len(vectors) > CANDIDATES))[:, 0]
        if len(unsure):
            nearest[unsure], at[unsure] = brute.nearest(queries[unsure], [(ids, vectors)])
        nearer = (nearest < best) | ((nearest == best) & (at < index))
        best[nearer], index[nearer] = nearest[nearer], at[nearer]
    return best.sqrt().float(), index

