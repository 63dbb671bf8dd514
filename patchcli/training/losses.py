"""The losses of a batch (supplement, Algorithm 1: line 4, SVDD'; line 6, SSL; line 7, their total), and which replace SVDD'.

SVDD' alone draws features together, down to a point where the position of a neighbour no longer shows, as in a texture without
a layout. By default the contrast takes its place, and the separation joins it if the images are not aligned (separation.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcli.features.encoder import SLOPE, Encoder
from patchcli.training.sampling import Batch, Ints, Pairs, Places
from patchcli.training.separation import BESIDE, Head, nce, separation, spreading


class PatchSVDDLoss(nn.Module):
    """The encoder and a position classifier per scale, with the separation a head too; forward(batch) gives every loss, so
    that DistributedDataParallel can wrap it."""

    def __init__(self, encoder: Encoder, D: int, contrast: bool, separation: bool = False) -> None:
        super().__init__()
        self.encoder, self.contrast = encoder, contrast
        self.classifiers = nn.ModuleDict({scale: PositionClassifier(D) for scale in encoder.learned})
        self.heads = nn.ModuleDict({scale: Head(D) for scale in encoder.learned}) if separation else None

    @property
    def separates(self) -> bool:
        """Whether the separation is one of the losses."""
        return self.heads is not None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses by name, each a scalar: "svdd_<scale>", or "nce_<scale>" with the contrast; "sep_<scale>" and
        "var_<scale>" with the separation; and "ssl_<scale>"."""
        features, losses = _Features(self.encoder, batch), dict[str, Tensor]()
        for scale in self.encoder.learned:
            f1, f2 = features.of_pairs(batch.jitter[scale], scale)
            if self.contrast:
                if self.heads is not None:
                    f1, f2 = self.heads[scale](f1), self.heads[scale](f2)
                losses[f"nce_{scale}"] = nce(f1, f2, features.tensor(batch.jitter[scale].entry), features.entries)
            else:
                losses[f"svdd_{scale}"] = features.mean(torch.linalg.vector_norm(f1 - f2, dim=1), batch.jitter[scale])
            h1, h2 = features.of_pairs(batch.position[scale], scale)
            logits = self.classifiers[scale](h1, h2)
            if self.separates:
                losses |= _separation(features, batch.normal[scale], batch.queries[scale], scale)
            label = features.tensor(batch.position[scale].label)
            losses[f"ssl_{scale}"] = features.mean(F.cross_entropy(logits, label, reduction="none"), batch.position[scale])
        return losses


class _Features:
    """Features of a batch's patches; each view is encoded once."""

    def __init__(self, encoder: Encoder, batch: Batch) -> None:
        self._encoder = encoder
        self._device = next(encoder.parameters()).device
        self._views = [torch.from_numpy(view).to(self._device, memory_format=torch.channels_last) for view in batch.views]
        self._dense: dict[tuple[int, str], Tensor] = {}  # (view, scale) → (B, D, h, w)

    @property
    def entries(self) -> int:
        """B, the entries of a view."""
        return len(self._views[0])

    def tensor(self, values: Ints) -> Tensor:
        """An array on the encoder's device."""
        return torch.from_numpy(values).to(self._device)

    def of_pairs(self, pairs: Pairs, scale: str) -> tuple[Tensor, Tensor]:
        """Features (n, D) of the first patches and of the second ones."""
        entry = self.tensor(pairs.entry)
        first, second = (self.at(v, scale, entry, at) for v, at in zip(pairs.view, (pairs.first, pairs.second), strict=True))
        return first, second

    def at(self, v: int, scale: str, entry: Tensor, at: Ints) -> Tensor:
        """Features (n, D) of patches of view v."""
        if (v, scale) not in self._dense:
            self._dense.update(((v, name), f) for name, f in self._encode(self._views[v], scale).items())
        y, x = self.tensor(at // self._encoder.stride).unbind(1)
        return self._dense[v, scale][entry, :, y, x]

    def _encode(self, view: Tensor, scale: str) -> dict[str, Tensor]:
        """Features (B, D, h, w) of a view: per patch if the view is a patch, else dense at every scale."""
        if view.shape[-1] == self._encoder.scales[scale].K:
            return {scale: self._encoder(view, scale)[:, :, None, None]}
        return self._encoder.dense(view)

    def mean(self, values: Tensor, pairs: Pairs) -> Tensor:
        """Each entry's mean, averaged over the entries: processes with equal batches then average to the whole."""
        counts = torch.bincount(torch.from_numpy(pairs.entry), minlength=len(self._views[pairs.view[0]]))
        weights = 1 / (counts[torch.from_numpy(pairs.entry)] * len(counts))
        return (values * weights.to(self._device)).sum()


def _separation(features: _Features, normal: Places, queries: Places, scale: str) -> dict[str, Tensor]:
    """The separation loss, queries in view 1, with synthetic defects, against normal patches in view 0; and the spread loss."""
    image, entry = features.tensor(normal.entry), features.tensor(queries.entry)
    bank, patches = features.at(0, scale, image, normal.at).float(), features.at(1, scale, entry, queries.at).float()
    damaged = torch.from_numpy(queries.damaged).to(entry.device)
    separated = separation(bank, image, patches, entry, damaged, features.entries)
    return {f"sep_{scale}": separated, f"var_{scale}": spreading(bank, image, features.entries)}


class PositionClassifier(nn.Module):
    """Which of the eight neighbours p2 is of p1, from h1 - h2 (Sect. 3.2); (B, D) → logits (B, 8)."""

    def __init__(self, D: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(D, 128), nn.Linear(128, 128), nn.Linear(128, 8)

    def forward(self, h1: Tensor, h2: Tensor) -> Tensor:
        x = F.leaky_relu(self.fc1(h1 - h2), SLOPE)
        x = F.leaky_relu(self.fc2(x), SLOPE)
        return F.linear(x, F.normalize(self.fc3.weight, dim=0), self.fc3.bias)  # published code: unit input columns


def total(losses: dict[str, Tensor], lam: float) -> Tensor:
    """λ·SVDD' + SSL, or contrast + SSL, summed over the scales; beside a separation and its spread loss, they weigh BESIDE."""
    others = BESIDE if any(name.startswith("sep") for name in losses) else 1.0
    weights = {"svdd": lam, "sep": 1.0, "var": 1.0}
    return torch.stack([weights.get(name.split("_")[0], others) * loss for name, loss in losses.items()]).sum()
