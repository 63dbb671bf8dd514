"""The losses that the paper does not have: the contrast, in place of SVDD', and the separation.

The contrast (InfoNCE, van den Oord et al. 2018, over normalised features) draws the two patches of a near pair together, and
pushes them away from the other places of the same image; features that are a point do not minimise it.

On a surface where no two places look alike, the contrast moves every good patch as far from the memory bank as a damaged one.
The separation learns the task of Algorithm 2 instead: a patch with a synthetic defect (after the outlier exposure of Hendrycks
et al. 2019) should be farther from the nearest normal patch of other images than a good patch.

Why it needs the spread loss: where light or images differ much, good patches of an unlike image start farther from the bank
than damaged ones of a like image. The mean over pairs is then above ln 2, which is what features give that are all one point;
so the separation alone drove them there, into the flat ends of the tanh (on magnetic tiles within 80 steps). Distances are
therefore taken relative to the spread of the features, which makes shrinking them worthless, and the spread loss holds each
component's standard deviation up and its mean near 0, where the tanh has a slope.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcli.features.encoder import SLOPE

CONTRAST_PAIRS, TEMPERATURE = 128, 0.1  # near pairs per image that are compared with each other
GROUP = 4  # images of a batch that are compared with each other
BESIDE = 0.05  # weight of contrast and SSL beside the separation: they keep the features from collapsing
LEAST = 1e-3  # added to squared distances, relative to the features' variance, before their logarithm
TINY = 1e-8  # keeps roots and quotients of features that are all alike finite
FLOOR = 0.1  # the standard deviation that each component of the features should have at least


class Head(nn.Sequential):
    """(n, D) → (n, D): a projection for the contrast beside the separation, so that what distinguishes places does not have
    to dominate the distance of the features (after Chen et al., ICML 2020)."""

    def __init__(self, D: int) -> None:
        super().__init__(nn.Linear(D, 128), nn.LeakyReLU(SLOPE), nn.Linear(128, D))


def nce(f1: Tensor, f2: Tensor, entry: Tensor, count: int) -> Tensor:
    """Cross-entropy of f2[n] being the partner of f1[n] among the entry's first pairs, averaged over `count` entries."""
    losses = [0 * (f1.sum() + f2.sum())]
    for one in torch.unique(entry):
        z1, z2 = (F.normalize(f[entry == one][:CONTRAST_PAIRS], dim=1) for f in (f1, f2))
        losses.append(F.cross_entropy(z1 @ z2.T / TEMPERATURE, torch.arange(len(z1), device=z1.device)))
    return torch.stack(losses).sum() / count


def separation(bank: Tensor, image: Tensor, queries: Tensor, entry: Tensor, damaged: Tensor, count: int) -> Tensor:
    """Ranking loss: a damaged patch should be farther from the bank than a good one, over all pairs of a group of images.

    Mean of log(1 + d²(good) / d²(damaged)), a smooth 1 - AUROC that does not depend on the scale of the features; d is the
    distance of queries[n], of image entry[n], to the nearest of bank, of image image[m], among the other images of the group,
    relative to the variance of the group's bank. GROUP consecutive images of `count` are a group: processes that have whole
    groups average to what one process would compute. An image that is alone is compared with itself.
    """
    losses = [0 * (bank.sum() + queries.sum())]
    for start in range(0, count, GROUP):
        squares, mine = [], image // GROUP == start // GROUP
        variance = bank[mine].var(0, correction=0).sum() + TINY
        for one in range(start, min(start + GROUP, count)):
            others = mine & (image != one)
            normal, patches = bank[others if others.any() else image == one], queries[entry == one]
            nearest = torch.cdist(patches.detach(), normal.detach()).argmin(1)
            squares.append((patches - normal[nearest]).square().sum(1) / variance + LEAST)
        logs, bad = torch.cat(squares).log(), damaged[entry // GROUP == start // GROUP]
        if bad.any() and not bad.all():
            losses.append(F.softplus(logs[~bad, None] - logs[bad]).mean())
    return torch.stack(losses).sum() / -(-count // GROUP)


def spreading(bank: Tensor, image: Tensor, count: int) -> Tensor:
    """What the bank's features (n, D) lack of the least standard deviation, as a share of it (the variance term of VICReg,
    Bardes et al., ICLR 2022), and their mean's square, both averaged over components and groups."""
    losses = []
    for group in (bank[image // GROUP == start // GROUP] for start in range(0, count, GROUP)):
        deviations = (group.var(0, correction=0) + TINY).sqrt()
        losses.append(F.relu(1 - deviations / FLOOR).mean() + group.mean(0).square().mean())
    return torch.stack(losses).mean()
