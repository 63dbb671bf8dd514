"""The paper's encoder (Patch SVDD, Sect. 3.3; networks: supplement S3.2)."""

from collections.abc import Collection, Mapping
from itertools import pairwise
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcli.features.encoder import SLOPE, Encoder, Places, Scale, initialise, picked

APART = 16  # from one quadrant of a big patch to the next, on the dense grid


class SmallEncoder(nn.Module):
    """K=32: eight valid 3×3 convolutions, the first with stride 2; (B, 3, H, W) → (B, D, (H-31)//2+1, …)."""

    def __init__(self, D: int) -> None:
        super().__init__()
        channels = (3, 32, 64, 128, 128, 64, 32, 32, D)
        for i, (c_in, c_out) in enumerate(pairwise(channels), 1):
            self.add_module(f"conv{i}", nn.Conv2d(c_in, c_out, 3, stride=2 if i == 1 else 1))

    def forward(self, x: Tensor, step: int = 1) -> Tensor:
        """With `step`, each `step`-th feature down and across."""
        *hidden, last = self.children()
        for conv in hidden:
            x = F.leaky_relu(conv(x), SLOPE, inplace=True)
        return torch.tanh(F.conv2d(x, last.weight, last.bias, stride=step))  # type: ignore[arg-type]


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

    def _join(self, features: Tensor, dilation: int, step: int = 1) -> Tensor:
        x = F.conv2d(features, self.conv1.weight, self.conv1.bias, stride=step, dilation=dilation)
        return torch.tanh(self.conv2(F.leaky_relu(x, SLOPE, inplace=True)))

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
        fits = {"big", "small"} if min(images.shape[-2:]) >= self.scales["big"].K else {"small"}
        return self._every(dict.fromkeys(fits if wanted is None else fits.intersection(wanted), 1), images)

    def sparse(self, images: Tensor, places: Mapping[str, Places]) -> dict[str, Tensor]:
        """See Encoder: the last convolution and those that join quadrants are strided where places are regular."""
        learned = {name: places[name] for name in ("big", "small") if name in places}
        steps = {name: gcd(*rows, *columns) or APART for name, (rows, columns) in learned.items()}
        return {name: picked(each, *places[name], steps[name]) for name, each in self._every(steps, images).items()}

    def _every(self, steps: Mapping[str, int], images: Tensor) -> dict[str, Tensor]:
        """The dense features of these scales; of each scale every `step`-th patch down and across."""
        if not steps:
            return {}
        step = gcd(APART, *steps.values())
        rows, columns = ((side - 32) // (self.stride * step) + 1 for side in images.shape[-2:])
        small: Tensor = self.enc(images, step)[:, :, :rows, :columns]  # the receptive field is 31: an odd side has margin
        found = {"big": self._join(small, APART // step, steps["big"] // step)} if "big" in steps else {}
        if "small" in steps:
            found["small"] = small[:, :, :: steps["small"] // step, :: steps["small"] // step]
        return found
