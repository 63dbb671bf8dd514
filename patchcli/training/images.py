"""The good images: most train the encoder, a few validate it."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from patchcli.datasets.images import Pixels, mean_colour, standardise
from patchcli.features.encoder import Encoder

CACHED = 1 << 28  # bytes of decoded images to keep: training reads them again and again
VALIDATION = 8  # images that validate, at most
SHARE = 5  # at most one image in so many validates
FITTED = 32  # images, at most, that fixed features are fitted to


def split(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the validation images, evenly spread, and of the images to train on."""
    validation = np.linspace(0, count, min(VALIDATION, count // SHARE), endpoint=False).astype(np.int64)
    return validation, np.setdiff1d(np.arange(count), validation)


class GoodImages:
    """`count` images (H, W, 3) and their per-pixel mean; `read(start, stop)` decodes some of them, as (B, H, W, 3)."""

    def __init__(self, count: int, mean: NDArray[np.float32], dtype: str, read: Callable[[int, int], Pixels]) -> None:
        self.mean, self.dtype, self.by_colour = mean, dtype, False
        self.validation, self.training = split(count)
        self._image = lru_cache(max(1, CACHED // mean.size))(lambda index: read(index, index + 1))
        self._count = count

    def __len__(self) -> int:
        return self._count

    def centre_by_colour(self) -> None:
        """Take from now on the mean colour from them, not the per-pixel mean."""
        self.mean, self.by_colour = mean_colour(self.mean), True

    def fit(self, encoder: Encoder, device: torch.device, floor: float) -> None:
        """Fit to them the fixed features of an encoder, with this floor."""
        mean = self.mean if encoder.centred else np.zeros_like(self.mean)
        encoder.fit(torch.from_numpy(standardise(self.sample(FITTED), mean)).to(device), floor)

    def sample(self, count: int) -> Pixels:
        """Up to `count` images to train on, evenly spread."""
        chosen = self.training[np.linspace(0, len(self.training), count, endpoint=False).astype(np.int64)]
        return self.read(np.unique(chosen))

    def read(self, indices: NDArray[np.int64]) -> Pixels:
        """Images (B, H, W, 3)."""
        return np.concatenate([self._image(index) for index in indices.tolist()])
