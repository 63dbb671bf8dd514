"""The two losses of Patch SVDD at every scale (Sect. 3.1, Eq. 3: SVDD'; Sect. 3.2: position, SSL), and two others.

SVDD' alone draws features together, down to a point where the position of a neighbour cannot be told, as in a texture
without a layout. The contrast (InfoNCE, van den Oord et al. 2018, over normalised features) draws the two patches of a
near pair together and pushes them from the other places of the same image; a point does not solve it. It takes the
place of SVDD'.

On a surface where no two places are alike, the contrast makes every good patch as far from the memory bank as a damaged
one. The separation learns what Algorithm 2 is to do instead: patches with a synthetic defect (after the outlier exposure
of Hendrycks et al. 2019) are to be farther from the nearest normal patch of other images than good ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcli.features.encoder import SLOPE, Encoder
from patchcli.training.sampling import Batch, Ints, Pairs

CONTRAST_PAIRS, TEMPERATURE = 128, 0.1  # near pairs an entry that are told from each other
GROUP = 4  # images of a batch that are compared with each other
BESIDE = 0.05  # weight of contrast and position beside the separation: they keep the features from collapsing
LEAST = 1e-4  # is added to squared distances, for their logarithm


class PatchSVDDLoss(nn.Module):
    """Encoder and one position classifier a scale, with the separation a head too; forward(batch) gives every loss, so
    that DDP can wrap it."""

    def __init__(self, encoder: Encoder, D: int, contrast: bool, separation: bool = False) -> None:
        super().__init__()
        self.encoder, self.contrast = encoder, contrast
        self.classifiers = nn.ModuleDict({scale: PositionClassifier(D) for scale in encoder.scales})
        self.heads = nn.ModuleDict({scale: Head(D) for scale in encoder.scales}) if separation else None

    @property
    def separates(self) -> bool:
        """Whether the separation is one of the losses."""
        return self.heads is not None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"svdd_<scale>": mean ‖f(p) - f(p')‖₂, "ssl_<scale>": cross-entropy of the neighbour's position}; with
        contrast, "nce_<scale>", cross-entropy of which patch of the image is the one nearby, instead of the first; with
        the separation, "sep_<scale>" too, and the contrast is taken of the head's features."""
        device = next(self.parameters()).device
        dense: dict[tuple[int, str], Tensor] = {}
        views = [torch.from_numpy(view).to(device, memory_format=torch.channels_last) for view in batch.views]

        def read(v: int, scale: str, entry: Tensor, at: Ints) -> Tensor:
            """Features (n, D) of patches of view v."""
            if (v, scale) not in dense:
                dense.update(((v, name), f) for name, f in self._encode(views[v], scale).items())
            y, x = torch.from_numpy(at // self.encoder.stride).to(device).unbind(1)
            return dense[v, scale][entry, :, y, x]

        def features(pairs: Pairs, scale: str) -> tuple[Tensor, Tensor]:
            entry = torch.from_numpy(pairs.entry).to(device)
            first, second = (read(v, scale, entry, at) for v, at in zip(pairs.view, (pairs.first, pairs.second), strict=True))
            return first, second

        def mean(values: Tensor, pairs: Pairs) -> Tensor:
            """Each entry's mean, averaged over the entries: processes with equal batches then average to the whole."""
            counts = torch.bincount(torch.from_numpy(pairs.entry), minlength=len(views[pairs.view[0]]))
            weights = 1 / (counts[torch.from_numpy(pairs.entry)] * len(counts))
            return (values * weights.to(device)).sum()

        losses = {}
        for scale in self.encoder.scales:
            f1, f2 = features(batch.jitter[scale], scale)
            if self.contrast:
                if self.heads is not None:
                    f1, f2 = self.heads[scale](f1), self.heads[scale](f2)
                losses[f"nce_{scale}"] = nce(f1, f2, torch.from_numpy(batch.jitter[scale].entry).to(device), len(views[0]))
            else:
                losses[f"svdd_{scale}"] = mean(torch.linalg.vector_norm(f1 - f2, dim=1), batch.jitter[scale])
            h1, h2 = features(batch.position[scale], scale)
            label = torch.from_numpy(batch.position[scale].label).to(device)
            logits = self.classifiers[scale](h1, h2)
            if self.separates:
                normal, asked = batch.normal[scale], batch.asked[scale]
                of, entry = (torch.from_numpy(places.entry).to(device) for places in (normal, asked))
                bank, queries = read(0, scale, of, normal.at), read(1, scale, entry, asked.at)
                damaged = torch.from_numpy(asked.damaged).to(device)
                losses[f"sep_{scale}"] = separation(bank.float(), of, queries.float(), entry, damaged, len(views[0]))
            losses[f"ssl_{scale}"] = mean(F.cross_entropy(logits, label, reduction="none"), batch.position[scale])
        return losses

    def _encode(self, view: Tensor, scale: str) -> dict[str, Tensor]:
        """Features (B, D, h, w) of a view: per patch where the view is a patch, else dense at every scale."""
        if view.shape[-1] == self.encoder.scales[scale].K:
            return {scale: self.encoder(view, scale)[:, :, None, None]}
        return self.encoder.dense(view)


class PositionClassifier(nn.Module):
    """Which of the eight neighbours p2 is of p1, from h1 - h2 (Sect. 3.2); (B, D) → logits (B, 8)."""

    def __init__(self, D: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(D, 128), nn.Linear(128, 128), nn.Linear(128, 8)

    def forward(self, h1: Tensor, h2: Tensor) -> Tensor:
        x = F.leaky_relu(self.fc1(h1 - h2), SLOPE)
        x = F.leaky_relu(self.fc2(x), SLOPE)
        return F.linear(x, F.normalize(self.fc3.weight, dim=0), self.fc3.bias)  # as published: unit input columns


class Head(nn.Sequential):
    """(n, D) → (n, D): what the contrast is taken of beside the separation, so that what tells places apart need not make
    up the distance of the features (the projection of Chen et al., ICML 2020)."""

    def __init__(self, D: int) -> None:
        super().__init__(nn.Linear(D, 128), nn.LeakyReLU(SLOPE), nn.Linear(128, D))


def nce(f1: Tensor, f2: Tensor, entry: Tensor, count: int) -> Tensor:
    """Cross-entropy of f2[n] being the partner of f1[n] among the entry's first pairs, averaged over `count` entries."""
    losses = [0 * (f1.sum() + f2.sum())]
    for one in torch.unique(entry):
        z1, z2 = (F.normalize(f[entry == one][:CONTRAST_PAIRS], dim=1) for f in (f1, f2))
        losses.append(F.cross_entropy(z1 @ z2.T / TEMPERATURE, torch.arange(len(z1), device=z1.device)))
    return torch.stack(losses).sum() / count


def separation(bank: Tensor, of: Tensor, asked: Tensor, entry: Tensor, damaged: Tensor, count: int) -> Tensor:
    """How far damaged patches are from lying farther from the bank than good ones, over all pairs of a group of images.

    Mean of log(1 + d²(good) / d²(damaged)), a smooth 1 - AUROC that the scale of the features does not change; d is the
    distance of asked[n], of image entry[n], to the nearest of bank, of image of[m], among the other images of the group.
    Of `count` images, GROUP after each other are a group: processes that have whole groups average to what one process
    would compute. An image that is alone is compared with itself.
    """
    losses = [0 * (bank.sum() + asked.sum())]
    for start in range(0, count, GROUP):
        squares = []
        for one in range(start, min(start + GROUP, count)):
            others = (of // GROUP == start // GROUP) & (of != one)
            normal, queries = bank[others if others.any() else of == one], asked[entry == one]
            nearest = torch.cdist(queries.detach(), normal.detach()).argmin(1)
            squares.append((queries - normal[nearest]).square().sum(1) + LEAST)
        logs, bad = torch.cat(squares).log(), damaged[entry // GROUP == start // GROUP]
        if bad.any() and not bad.all():
            losses.append(F.softplus(logs[~bad, None] - logs[bad]).mean())
    return torch.stack(losses).sum() / -(-count // GROUP)


def total(losses: dict[str, Tensor], lam: float) -> Tensor:
    """λ·SVDD' + SSL (Eq. 5), or contrast + SSL, summed over the scales; beside a separation, the latter with BESIDE."""
    others = BESIDE if any(name.startswith("sep") for name in losses) else 1.0
    weights = {"svdd": lam, "sep": 1.0}
    return torch.stack([weights.get(name.split("_")[0], others) * loss for name, loss in losses.items()]).sum()
