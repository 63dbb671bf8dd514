"""The paper's encoder (Patch SVDD, Sect. 3.3; networks: supplement S3.2)."""

from collections.abc import Collection, Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcli.features.encoder import SLOPE, Encoder, Scale, initialise


class SmallEncoder(nn.Module):
    """K=32: eight valid 3×3 convolutions, the first with stride 2; (B, 3, H, W) → (B, D, (H-31)//2+1, …)."""

    def __init__(self, D: int) -> None:
        super().__init__()
        channels = (3, 32, 64, 128, 128, 64, 32, 32, D)
        for i, (c_in, c_out) in enumerate(pairwise(channels), 1):
            self.add_module(f"conv{i}", nn.Conv2d(c_in, c_out, 3, stride=2 if i == 1 else 1))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.children()
        for conv in hidden:
            x = F.leaky_relu(conv(x), SLOPE)
        return torch.tanh(last(x))


class HierarchicalEncoder(Encoder):
    """Scales small (K=32) and big (K=64, from the small features of its four quadrants), after Sect. 3.3."""

    scales: Mapping[str, Scale] = {"big": Scale(64, 16, "K=64", aligned=8), "small": Scale(32, 4, "K=32", judged=8)}
    stride = 2

    def __init__(self, D: int = 64) -> None:
        super().__init__(D)
        self.enc = SmallEncoder(D)
        self.conv1 = nn.Conv2d(D, 128, 2)
        self.conv2 = nn.Conv2d(128, D, 1)
        initialise(self, frozenset({list(self.enc.children())[-1], self.conv2}))

    def _join(self, features: Tensor, dilation: int) -> Tensor:
        x = F.conv2d(features, self.conv1.weight, self.conv1.bias, dilation=dilation)
        return torch.tanh(self.conv2(F.leaky_relu(x, SLOPE)))

    def forward(self, patches: Tensor, scale: str) -> Tensor:
        """Patches (B, 3, K, K) → features (B, D)."""
        if scale == "small":
            return self.enc(patches)[:, :, 0, 0]  # type: ignore[no-any-return]
        B = len(patches)
        quadrants = patches.unfold(2, 32, 32).unfold(3, 32, 32)  # (B, 3, 2, 2, 32, 32)
        quadrants = quadrants.permute(0, 2, 3, 1, 4, 5).reshape(4 * B, 3, 32, 32)
        features = self.enc(quadrants).view(B, 2, 2, -1).permute(0, 3, 1, 2)  # (B, D, 2, 2)
        return self._join(features, 1)[:, :, 0, 0]

    def dense(self, images: Tensor, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """Images (B, 3, H, W) → per scale (B, D, (H-K)//2+1, (W-K)//2+1); big only where a 64×64 patch fits."""
        wanted = {"big", "small"} if wanted is None else {"big", "small"}.intersection(wanted)
        if not wanted:
            return {}
        rows, columns = ((side - 32) // self.stride + 1 for side in images.shape[-2:])
        small: Tensor = self.enc(images)[:, :, :rows, :columns]  # the receptive field is 31: an odd side has margin
        fits = min(images.shape[-2:]) >= self.scales["big"].K
        big = {"big": self._join(small, 32 // self.stride)} if fits and "big" in wanted else {}
        return big | ({"small": small} if "small" in wanted else {})
