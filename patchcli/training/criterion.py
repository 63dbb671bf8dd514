"""How well an encoder finds defects, judged from good images alone: the criterion that checkpoints are chosen by.

Some good images are held out of training; synthetic defects are drawn into copies of them, and both are scored against
a small memory bank of the other good images, as Algorithm 2 of Patch SVDD would score them.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcli.datasets.images import Pixels
from patchcli.detection import maps, metrics
from patchcli.features.dense import embed
from patchcli.features.encoder import Encoder
from patchcli.features.grid import PatchGrid
from patchcli.training import defects

HELD, BANK, COPIES = 8, 24, 2  # at most: images held out, images of the bank; damaged copies of each held-out image
SHARE = 5  # at most one image of so many is held out
WINDOW = 256  # of larger images, the middle is judged by
SEED = 1  # the same defects whatever the seed of training


def split(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the images that are held out, evenly spread, and of those that are trained on."""
    held = np.linspace(0, count, min(HELD, count // SHARE), endpoint=False).astype(np.int64)
    return held, np.setdiff1d(np.arange(count), held)


@dataclass(frozen=True)
class Judgement:
    """What is found about an encoder."""

    criterion: float  # pixel AUROC over the synthetic defects; that of so few images is noise
    rank: float  # effective rank of the good images' features, the least of all scales
    spread: float  # their standard deviation over their root mean square, the least of all scales


class HeldOut:
    """Held-out images (n, H, W, 3), their damaged copies, and the images of the bank."""

    def __init__(self, held: Pixels, bank: Pixels, mean: NDArray[np.float32]) -> None:
        top, left = (max(0, side - WINDOW) // 2 for side in held.shape[1:3])
        held, bank = (part[:, top : top + WINDOW, left : left + WINDOW] for part in (held, bank))
        mean = mean[top : top + WINDOW, left : left + WINDOW]
        rng = np.random.default_rng(SEED)
        damaged = [defects.damage(rng, image, bank[rng.integers(len(bank))], 1) for image in held for _ in range(COPIES)]
        self.bank, self.mean = bank, mean
        self.queries = np.concatenate([held, np.stack([pixels for pixels, _ in damaged])])
        self.masks = np.concatenate([np.zeros(held.shape[:3], bool), np.stack([mask for _, mask in damaged])])

    def judge(self, encoder: Encoder, device: torch.device) -> Judgement:
        """Score the queries against the bank. Raises ValueError where the map is not finite."""
        encoder = copy.deepcopy(encoder).eval()
        height, width = self.mean.shape[:2]
        grids = {name: PatchGrid(height, width, scale.K, scale.judged or scale.S) for name, scale in encoder.scales.items()}
        bank, queries = (embed(encoder, pixels, self.mean, grids, device) for pixels in (self.bank, self.queries))
        of_scale, ranks, spreads = {}, [], []
        for name, grid in grids.items():
            normal, asked = bank[name].flatten(0, 2), queries[name].flatten(0, 2)
            distances = torch.cat([torch.cdist(part, normal).amin(1) for part in torch.split(asked, 1024)])
            of_scale[name] = maps.spread(distances.view(queries[name].shape[:3]).cpu().numpy(), grid)
            rank, spread = shape(normal)
            ranks.append(rank)
            spreads.append(spread)
        product = maps.multiply(of_scale)
        return Judgement(metrics.auroc(self.masks.ravel(), product.ravel()) or 0.5, min(ranks), min(spreads))


def shape(features: Tensor) -> tuple[float, float]:
    """(effective rank, spread) of features (n, D): the exponential of the entropy of the singular values' shares
    (Roy & Vetterli 2007), and the standard deviation over the root mean square."""
    centred = (features - features.mean(0)).double()
    values = torch.linalg.svdvals(centred.T @ centred).sqrt()
    shares = values / values.sum().clamp_min(1e-300)
    rank = torch.special.entr(shares).sum().exp().item()
    return rank, (centred.square().mean() / features.double().square().mean().clamp_min(1e-300)).sqrt().item()
