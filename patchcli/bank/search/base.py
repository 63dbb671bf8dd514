"""What every search is."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from patchcli.bank.search.trees import Pages


class Search(ABC):
    """The exact nearest neighbours of queries among a bank's vectors (Patch SVDD, Sect. 3.4, Eq. 6).

    `Search(pages, device, budget)` searches these pages; `budget` is the memory for what it keeps of them, in bytes.
    """

    preference: ClassVar[dict[str, int]] = {}  # by device type: "auto" takes the search of the lowest number that works

    @abstractmethod
    def __init__(self, pages: Pages, device: torch.device, budget: int) -> None: ...

    @abstractmethod
    def __call__(self, queries: Tensor, skip: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
        """Queries (Q, D) float32 → distances (Q,) float32 and ids (Q,) int64; ids skip[0] to skip[1] - 1 are left out.

        A distance comes from direct differences, never from |x|² - 2xy + |y|². Of equally near vectors, the lowest id.
        """

    @classmethod
    def problem(cls, device: torch.device, D: int) -> str:
        """Why this search does not work for vectors of length D on a device; "" where it does."""
        return ""
