"""The encoder without a hierarchy that Table S2 of Patch SVDD compares with."""

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcli.features.encoder import SLOPE, Encoder, Scale, initialise


class FlatEncoder(Encoder):
    """One scale, K=64, no hierarchy: the comparison of Table S2. Four valid 5×5 convolutions, strides 2, 2, 2, 1."""

    scales: Mapping[str, Scale] = {"big": Scale(64, 16, "flat K=64", aligned=8)}
    stride = 8
    learning_rate = 3e-4  # the last layer sums 3,200 values: with 1e-3, tanh saturates

    def __init__(self, D: int = 64) -> None:
        super().__init__(D)
        self.conv1 = nn.Conv2d(3, 64, 5, stride=2)
        self.conv2 = nn.Conv2d(64, 64, 5, stride=2)
        self.conv3 = nn.Conv2d(64, 128, 5, stride=2)
        self.conv4 = nn.Conv2d(128, D, 5)
        initialise(self, frozenset({self.conv4}))

    def dense(self, images: Tensor, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """Images (B, 3, H, W) → {"big": (B, D, (H-64)//8+1, (W-64)//8+1)}."""
        x = images
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.leaky_relu(conv(x), SLOPE)
        x = torch.tanh(self.conv4(x))
        rows, columns = ((side - 64) // self.stride + 1 for side in images.shape[-2:])
        return {"big": x[:, :, :rows, :columns]}  # the receptive field is 61: up to 3 pixels of margin
