"""Searches that take the bank as blocks, one after another, and keep a running minimum."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from patchcli.bank.search.base import Search
from patchcli.bank.search.trees import Pages

Block = tuple[Tensor, Tensor]  # ids (M,) int64, vectors (M, D) float32


class Streaming(Search):
    """Blocks that stream to a GPU stay there where the budget, and half of what is free, holds them all."""

    def __init__(self, pages: Pages, device: torch.device, budget: int) -> None:
        if device.type == "cuda":
            budget = min(budget, torch.cuda.mem_get_info(device)[0] // 2)
        self._pages, self._device, self._budget = pages, device, budget
        self._resident: list[Block] = []  # all blocks of the bank, or none

    @staticmethod
    @abstractmethod
    def nearest(queries: Tensor, blocks: Iterable[Block]) -> tuple[Tensor, Tensor]:
        """Distances and ids as a search returns them, among the vectors of the blocks."""

    def __call__(self, queries: Tensor, skip: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
        return self.nearest(queries, self._without(skip))

    def _without(self, skip: tuple[int, int]) -> Iterator[Block]:
        """The blocks without the ids skip[0] to skip[1] - 1."""
        for ids, vectors in self._resident or self._blocks():
            stays = (ids < skip[0]) | (ids >= skip[1])
            if bool(stays.all()):
                yield ids, vectors
            elif bool(stays.any()):
                yield ids[stays], vectors[stays]

    def _blocks(self) -> Iterator[Block]:
        """Pages as blocks of up to a quarter of the budget."""
        streamed: list[Block] = []
        waiting: list[Block] = []
        size = total = 0
        for number, page in enumerate(self._pages, 1):
            waiting.append((torch.from_numpy(page.ids), torch.from_numpy(page.vectors)))
            size += page.vectors.nbytes + page.ids.nbytes
            if size < self._budget // 4 and number < len(self._pages):
                continue
            ids, vectors = (torch.cat(column).to(self._device) for column in zip(*waiting, strict=True))
            total += size
            if self._stays(total):
                streamed.append((ids, vectors))
            else:
                streamed.clear()
            yield ids, vectors
            waiting, size = [], 0
        if self._stays(total):
            self._resident = streamed

    def _stays(self, total: int) -> bool:
        return self._device.type == "cuda" and total <= self._budget
