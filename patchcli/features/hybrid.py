"""The paper's encoder, which training teaches, and the fixed features beside it, as a third scale."""

from collections.abc import Collection, Mapping

from torch import Tensor

from patchcli.features.encoder import Places, Scale
from patchcli.features.fixed import FixedEncoder
from patchcli.features.hierarchical import HierarchicalEncoder


class HybridEncoder(HierarchicalEncoder):
    """Scales big and small of the hierarchical encoder, and "fixed"."""

    scales: Mapping[str, Scale] = {**HierarchicalEncoder.scales, **FixedEncoder.scales}

    def __init__(self, D: int = 64) -> None:
        super().__init__(D)
        self.fixed = FixedEncoder(D)

    def fit(self, images: Tensor, floor: float) -> None:
        """Fit the fixed features to good images (B, 3, H, W)."""
        self.fixed.fit(images, floor)

    def forward(self, patches: Tensor, scale: str) -> Tensor:
        """Patches (B, 3, K, K) → features (B, D)."""
        return self.fixed(patches, scale) if scale in self.fixed.scales else super().forward(patches, scale)

    def dense(self, images: Tensor, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """Images (B, 3, H, W) → for each scale whose patches fit, (B, D, (H-K)//2+1, (W-K)//2+1).

        While it is in training mode, the learned scales alone.
        """
        learned = super().dense(images, wanted)
        fits = min(images.shape[-2:]) >= self.scales["fixed"].K
        unlearned = fits and not self.training and (wanted is None or "fixed" in wanted)
        return learned | self.fixed.dense(images) if unlearned else learned

    def sparse(self, images: Tensor, places: Mapping[str, Places]) -> dict[str, Tensor]:
        """See Encoder."""
        learned = super().sparse(images, places)
        return learned | self.fixed.sparse(images, places) if "fixed" in places else learned
