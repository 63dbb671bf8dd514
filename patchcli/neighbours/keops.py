"""KeOps lazy tensors: the argmin over direct differences without a distance matrix. The only import of pykeops."""

import contextlib
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def _lazy_tensor() -> Any:
    """pykeops' LazyTensor, its messages kept off standard output."""
    with contextlib.redirect_stdout(sys.stderr):
        import pykeops

        pykeops.set_verbose(False)
        from pykeops.torch import LazyTensor
    return LazyTensor


def search(queries: Tensor, blocks: Iterable[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    """Exact nearest neighbours of queries (Q, D); see the package for blocks and results."""
    lazy = _lazy_tensor()
    queries = queries.contiguous()
    best = queries.new_full((len(queries),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    for offset, vectors in blocks:
        vectors = vectors.contiguous()
        with contextlib.redirect_stdout(sys.stderr):
            squared = ((lazy(queries[:, None, :]) - lazy(vectors[None, :, :])) ** 2).sum(-1)
            nearest = squared.argmin(dim=1).view(-1)  # (Q,)
        direct = (queries.double() - vectors[nearest].double()).square().sum(1)
        nearer = direct < best
        best[nearer] = direct[nearer]
        index[nearer] = nearest[nearer] + offset
    return best.sqrt().float(), index
