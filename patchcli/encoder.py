"""The patch encoders (Patch SVDD, Sect. 3.3 and supplement S1): modules only, per patch and dense.

The convolutions are unpadded, so running one over the whole image gives the feature of every patch on a grid of
`stride` pixels: dense(x)[:, :, i, j] is forward of the patch whose top left pixel is (stride·i, stride·j).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1  # of every LeakyReLU


@dataclass(frozen=True)
class Scale:
    """One patch size: side K, and the stride S at which the bank samples patches, both in pixels."""

    K: int
    S: int
    label: str


def _initialise(module: nn.Module, last: frozenset[nn.Module]) -> None:
    """Kaiming weights for LeakyReLU, Xavier before a tanh, zero biases: an untrained encoder that keeps its scale."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            if layer in last:
                nn.init.xavier_normal_(layer.weight)
            else:
                nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            nn.init.zeros_(layer.bias)


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


class HierarchicalEncoder(nn.Module):
    """Scales small (K=32) and big (K=64, from the small features of its four quadrants); Eq. of Sect. 3.3."""

    scales: ClassVar[dict[str, Scale]] = {"big": Scale(64, 16, "K=64"), "small": Scale(32, 4, "K=32")}
    stride = 2

    def __init__(self, D: int = 64) -> None:
        super().__init__()
        self.enc = SmallEncoder(D)
        self.conv1 = nn.Conv2d(D, 128, 2)
        self.conv2 = nn.Conv2d(128, D, 1)
        _initialise(self, frozenset({list(self.enc.children())[-1], self.conv2}))

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

    def dense(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) → per scale (B, D, (H-K)//2+1, (W-K)//2+1); big only where a 64×64 patch fits."""
        rows, columns = ((side - 32) // self.stride + 1 for side in images.shape[-2:])
        small: Tensor = self.enc(images)[:, :, :rows, :columns]  # the receptive field is 31: an odd side has margin
        if min(images.shape[-2:]) < self.scales["big"].K:
            return {"small": small}
        return {"big": self._join(small, 32 // self.stride), "small": small}


class FlatEncoder(nn.Module):
    """One scale, K=64, no hierarchy: the comparison of Table S2. Four valid 5×5 convolutions, strides 2, 2, 2, 1."""

    scales: ClassVar[dict[str, Scale]] = {"big": Scale(64, 16, "flat K=64")}
    stride = 8

    def __init__(self, D: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 5, stride=2)
        self.conv2 = nn.Conv2d(64, 64, 5, stride=2)
        self.conv3 = nn.Conv2d(64, 128, 5, stride=2)
        self.conv4 = nn.Conv2d(128, D, 5)
        _initialise(self, frozenset({self.conv4}))

    def forward(self, patches: Tensor, scale: str) -> Tensor:
        """Patches (B, 3, 64, 64) → features (B, D)."""
        return self.dense(patches)[scale][:, :, 0, 0]

    def dense(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) → {"big": (B, D, (H-64)//8+1, (W-64)//8+1)}."""
        x = images
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.leaky_relu(conv(x), SLOPE)
        x = torch.tanh(self.conv4(x))
        rows, columns = ((side - 64) // self.stride + 1 for side in images.shape[-2:])
        return {"big": x[:, :, :rows, :columns]}  # the receptive field is 61: up to 3 pixels of margin


Encoder = HierarchicalEncoder | FlatEncoder
ARCHITECTURES: dict[str, type[HierarchicalEncoder] | type[FlatEncoder]] = {
    "hierarchical": HierarchicalEncoder,
    "flat": FlatEncoder,
}


class PositionClassifier(nn.Module):
    """Which of the eight neighbours p2 is of p1, from h1 - h2 (Sect. 3.2); (B, D) → logits (B, 8)."""

    def __init__(self, D: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(D, 128), nn.Linear(128, 128), nn.Linear(128, 8)

    def forward(self, h1: Tensor, h2: Tensor) -> Tensor:
        x = F.leaky_relu(self.fc1(h1 - h2), SLOPE)
        x = F.leaky_relu(self.fc2(x), SLOPE)
        return F.linear(x, F.normalize(self.fc3.weight, dim=0), self.fc3.bias)  # as published: unit input columns
