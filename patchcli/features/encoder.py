"""What every patch encoder is: scales, and features per patch and of whole images.

A new encoder is a file beside this one and a line in the package's CLASSES.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

Places = tuple[Sequence[int], Sequence[int]]  # rows and columns of the dense grid

SLOPE = 0.1  # of every LeakyReLU
SMALL = 160  # pixels: images with a shorter side hold few patches


@dataclass(frozen=True)
class Scale:
    """One patch size: its side K, and the strides at which patches are sampled, all in pixels."""

    K: int
    S: int  # of the bank
    label: str  # in tables
    aligned: int | None = None  # S of a bank of aligned images, where it is another: their features tell nearer places apart
    fine: int | None = None  # S of a bank of small images, where it is another: they hold few patches
    judged: int | None = None  # S of the criterion's bank and queries, where it is another
    learned: bool = True  # whether training teaches it
    focus: float | None = None  # σ around its middle, in pixels, of what a patch says of the pixels it covers; None: all alike
    blur: float | None = None  # instead: σ, in pixels, of the Gaussian over distances interpolated between patches

    def stride(self, height: int, width: int) -> int:
        """S of a bank of images of this size."""
        return self.S if self.fine is None or min(height, width) >= SMALL else self.fine


class Encoder(nn.Module, ABC):
    """A patch encoder f. The convolutions are unpadded, so running f over a whole image gives the feature of every patch on
    a grid of `stride` pixels: dense(x)[scale][:, :, i, j] is f of the patch whose top left pixel is (stride·i, stride·j).

    Where they are padded, dense(x) is the definition: a patch's feature depends on what is around it too.
    """

    scales: Mapping[str, Scale]  # by name, the largest first
    learned: Mapping[str, Scale]  # those that training teaches
    unlearned: Mapping[str, Scale]  # and the others
    stride: int
    padded: ClassVar[bool] = False  # whether features see beyond their patch, so that images are not cut into tiles
    centred: ClassVar[bool] = True  # whether it takes images minus the mean of the good ones, not as they are
    learning_rate: ClassVar[float] = 1e-3  # that training takes by default

    def __init_subclass__(cls) -> None:
        cls.learned = {name: scale for name, scale in cls.scales.items() if scale.learned}
        cls.unlearned = {name: scale for name, scale in cls.scales.items() if not scale.learned}

    @abstractmethod
    def __init__(self, D: int = 64) -> None:
        super().__init__()

    def fit(self, images: Tensor, floor: float) -> None:
        """Adapt fixed features, if it has any, to good images (B, 3, H, W), standardised; `floor` is one of fixed.FLOORS."""

    def forward(self, patches: Tensor, scale: str) -> Tensor:
        """Patches (B, 3, K, K) of a scale → features (B, D)."""
        return self.dense(patches)[scale][:, :, 0, 0]

    @abstractmethod
    def dense(self, images: Tensor, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """Images (B, 3, H, W) → for each scale whose patches fit, (B, D, (H-K)//stride+1, (W-K)//stride+1).

        With `wanted`, these scales alone; what only others need is not computed.
        """

    def sparse(self, images: Tensor, places: Mapping[str, Places]) -> dict[str, Tensor]:
        """Images (B, 3, H, W) → for each scale of `places`, the dense features there, (B, D, rows, columns).

        Encoders override this where they can skip the work for all other places.
        """
        dense = self.dense(images, places)
        return {name: picked(dense[name], *at) for name, at in places.items()}


def picked(dense: Tensor, rows: Sequence[int], columns: Sequence[int], step: int = 1) -> Tensor:
    """These rows and columns of dense features, of which `dense` (B, D, h, w) has each `step`-th."""
    i, j = (torch.tensor(at) // step for at in (rows, columns))
    return dense[:, :, i[:, None], j]


def initialise(module: nn.Module, last: frozenset[nn.Module]) -> None:
    """Kaiming weights for LeakyReLU, Xavier before a tanh, zero biases: an untrained encoder that keeps its scale."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            if layer in last:
                nn.init.xavier_normal_(layer.weight)
            else:
                nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            nn.init.zeros_(layer.bias)
