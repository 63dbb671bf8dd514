"""The two losses of Patch SVDD at every scale (Sect. 3.1, Eq. 3: SVDD'; Sect. 3.2: position, SSL), and a contrast.

SVDD' alone draws features together, down to a point where the position of a neighbour cannot be told, as in a texture
without a layout. The contrast (InfoNCE, van den Oord et al. 2018, over normalised features) draws the two patches of a
near pair together and pushes them from the other places of the same image; a point does not solve it. It takes the
place of SVDD'.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcli.encoder import Encoder, PositionClassifier
from patchcli.sampling import Batch, Pairs

CONTRAST_PAIRS, TEMPERATURE = 128, 0.1  # near pairs an entry that are told from each other


class PatchSVDDLoss(nn.Module):
    """Encoder and one position classifier a scale; forward(batch) gives every loss, so that DDP can wrap it."""

    def __init__(self, encoder: Encoder, D: int, contrast: bool) -> None:
        super().__init__()
        self.encoder, self.contrast = encoder, contrast
        self.classifiers = nn.ModuleDict({scale: PositionClassifier(D) for scale in encoder.scales})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"svdd_<scale>": mean ‖f(p) - f(p')‖₂, "ssl_<scale>": cross-entropy of the neighbour's position}; with
        contrast, "nce_<scale>", cross-entropy of which patch of the image is the one nearby, instead of the first."""
        device = next(self.parameters()).device
        dense: dict[tuple[int, str], Tensor] = {}
        views = [torch.from_numpy(view).to(device, memory_format=torch.channels_last) for view in batch.views]

        def features(pairs: Pairs, scale: str) -> tuple[Tensor, Tensor]:
            entry = torch.from_numpy(pairs.entry).to(device)
            pair = []
            for v, at in zip(pairs.view, (pairs.first, pairs.second), strict=True):
                if (v, scale) not in dense:
                    dense.update(((v, name), f) for name, f in self._encode(views[v], scale).items())
                y, x = torch.from_numpy(at // self.encoder.stride).to(device).unbind(1)
                pair.append(dense[v, scale][entry, :, y, x])  # (n, D)
            return pair[0], pair[1]

        def mean(values: Tensor, pairs: Pairs) -> Tensor:
            """Each entry's mean, averaged over the entries: processes with equal batches then average to the whole."""
            counts = torch.bincount(torch.from_numpy(pairs.entry), minlength=len(views[pairs.view[0]]))
            weights = 1 / (counts[torch.from_numpy(pairs.entry)] * len(counts))
            return (values * weights.to(device)).sum()

        losses = {}
        for scale in self.encoder.scales:
            f1, f2 = features(batch.jitter[scale], scale)
            if self.contrast:
                losses[f"nce_{scale}"] = nce(f1, f2, torch.from_numpy(batch.jitter[scale].entry).to(device))
            else:
                losses[f"svdd_{scale}"] = mean(torch.linalg.vector_norm(f1 - f2, dim=1), batch.jitter[scale])
            h1, h2 = features(batch.position[scale], scale)
            label = torch.from_numpy(batch.position[scale].label).to(device)
            logits = self.classifiers[scale](h1, h2)
            losses[f"ssl_{scale}"] = mean(F.cross_entropy(logits, label, reduction="none"), batch.position[scale])
        return losses

    def _encode(self, view: Tensor, scale: str) -> dict[str, Tensor]:
        """Features (B, D, h, w) of a view: per patch where the view is a patch, else dense at every scale."""
        if view.shape[-1] == self.encoder.scales[scale].K:
            return {scale: self.encoder(view, scale)[:, :, None, None]}
        return self.encoder.dense(view)


def nce(f1: Tensor, f2: Tensor, entry: Tensor) -> Tensor:
    """Mean over entries of the cross-entropy of f2[n] being the partner of f1[n], among the entry's first pairs."""
    losses = []
    for one in torch.unique(entry):
        z1, z2 = (F.normalize(f[entry == one][:CONTRAST_PAIRS], dim=1) for f in (f1, f2))
        losses.append(F.cross_entropy(z1 @ z2.T / TEMPERATURE, torch.arange(len(z1), device=z1.device)))
    return torch.stack(losses).mean()


def total(losses: dict[str, Tensor], lam: float) -> Tensor:
    """λ·SVDD' + SSL (Eq. 5), or contrast + SSL, summed over the scales."""
    return torch.stack([lam * loss if name.startswith("svdd") else loss for name, loss in losses.items()]).sum()
