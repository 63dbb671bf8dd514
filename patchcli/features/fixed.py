"""Features that nothing has to be trained for: local energies and colours, whitened by the good images."""

import math
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from patchcli.features.encoder import Encoder, Places, Scale

Index = slice | Tensor  # some rows or columns of the dense grid

ORIENTATIONS = 6
# Wavelength and side of the Gabor filters, in pixels; those of half the resolution count pixels there.
FULL, HALF = ((3.0, 10), (6.0, 14)), ((6.0, 15), (12.0, 19))
BANDWIDTH = 0.45  # σ of a filter's envelope over its wavelength
POOLS, BLURS = (1.0, 2.5), (1.0, 3.0)  # σ of the windows of energies and of colours, in pixels of half the resolution
# Added to amplitudes before their logarithm, in standardised units: what is fainter is noise. The first hides the noise of
# dark ground, the second no more than the rounding of 8 bits; good images choose.
FLOORS = (0.005, 0.001)
RADIUS = 11  # of a patch around its middle, in pixels of half the resolution
# Of the mean variance: components with less are whitened as if they had so much. What does not vary from one good patch to
# another counts then, such as the colour of a grey part, and noise is not blown up.
LEAST = 1e-3
SAMPLES = 100_000  # patches that the whitening is computed from, at most


class FixedEncoder(Encoder):
    """Log energies of 24 Gabor filters (4 octaves, 6 orientations) in a narrow and a wide window, and colours in two, reduced
    to D whitened components of the good patches; with fewer components than D, the others are 0.

    The filters follow texture analysis (Jain & Farrokhnia, Pattern Recognition 1991); the whitening makes Euclidean distance
    Mahalanobis distance within the memory bank. There is nothing to train: `fit` is all.
    """

    scales: Mapping[str, Scale] = {"fixed": Scale(2 * (2 * RADIUS + 1), 8, "fixed", fine=4, focus=5.0, learned=False)}
    stride = 2
    floor: Tensor  # (), one of FLOORS
    mean: Tensor  # (channels,)
    whitening: Tensor  # (channels, D)

    def __init__(self, D: int = 64) -> None:
        super().__init__(D)
        channels = len(POOLS) * ORIENTATIONS * len(FULL + HALF) + 3 * len(BLURS)
        self.register_buffer("floor", torch.tensor(FLOORS[0]))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("whitening", torch.eye(channels, D))
        for name, bank in (("full", FULL), ("half", HALF)):
            for index, (wavelength, side) in enumerate(bank):
                self.register_buffer(f"{name}{index}", _gabor(wavelength, side), persistent=False)
        self.register_load_state_dict_pre_hook(_of_one_floor)  # type: ignore[no-untyped-call]

    def dense(self, images: Tensor, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """Images (B, 3, H, W) → {"fixed": (B, D, (H-46)//2+1, (W-46)//2+1)}."""
        return {"fixed": self.every(1, images)}

    def sparse(self, images: Tensor, places: Mapping[str, Places]) -> dict[str, Tensor]:
        """See Encoder: the windows of energies and colours are those of the places alone."""
        rows, columns = map(torch.tensor, places["fixed"])
        return {"fixed": self._whitened(images, rows, columns)}

    def every(self, step: int, images: Tensor) -> Tensor:
        """The dense features of each `step`-th patch down and across."""
        return self._whitened(images, slice(None, None, step), slice(None, None, step))

    def _whitened(self, images: Tensor, rows: Index, columns: Index) -> Tensor:
        """The features at these rows and columns of the dense grid."""
        with torch.autocast(images.device.type, enabled=False):  # logarithms of small energies need float32
            described = self._described(images, rows, columns) - self.mean[:, None, None]
            return torch.einsum("bchw,cd->bdhw", described, self.whitening).contiguous()

    @torch.no_grad()
    def fit(self, images: Tensor, floor: float) -> None:
        """Set the floor, and mean and whitening to those of the patches of good images (B, 3, H, W)."""
        self.floor.fill_(floor)
        step = max(1, math.isqrt(len(images) * images.shape[2] * images.shape[3] // 4 // SAMPLES))
        each = slice(None, None, step)
        parts = [self._described(image[None], each, each)[0].flatten(1).double() for image in images]
        patches = torch.cat(parts, 1).T  # (n, channels)
        mean = patches.mean(0)
        centred = patches - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        D = self.whitening.shape[1]
        values, vectors = values.flip(0)[:D], vectors.flip(1)[:, :D]
        self.mean.copy_(mean)
        self.whitening.zero_()
        self.whitening[:, : len(values)] = vectors / values.clamp_min(float(LEAST * values.mean()) + 1e-12).sqrt()

    def _described(self, images: Tensor, rows: Index, columns: Index) -> Tensor:
        """Images (B, 3, H, W) → energies and colours of the patches at these rows and columns, (B, channels, h, w)."""
        grey, halved = images.mean(1, keepdim=True), F.avg_pool2d(images, 2)
        halved_grey = halved.mean(1, keepdim=True)
        responses = [(F.conv2d(grey, getattr(self, f"full{i}"), stride=2), (side - 2) // 4) for i, (_, side) in enumerate(FULL)]
        responses += [(F.conv2d(halved_grey, getattr(self, f"half{i}")), side // 2) for i, (_, side) in enumerate(HALF)]
        shape = halved.shape[2] - 2 * RADIUS, halved.shape[3] - 2 * RADIUS
        parts = []
        for response, reach in responses:
            energy = response[:, 0::2].square() + response[:, 1::2].square()
            parts += [
                (_pooled(energy, sigma, RADIUS - reach, shape, rows, columns).sqrt() + self.floor).log() for sigma in POOLS
            ]
        parts += [_pooled(halved, sigma, RADIUS, shape, rows, columns) for sigma in BLURS]
        return torch.cat(parts, 1)


def _of_one_floor(module: torch.nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Complete the weights of an earlier version, which had the first floor alone."""
    state.setdefault(f"{prefix}floor", torch.tensor(FLOORS[0]))


def _gabor(wavelength: float, side: int) -> Tensor:
    """Even and odd filters of every orientation, (2 · ORIENTATIONS, 1, side, side), without a mean."""
    at = torch.arange(side) - (side - 1) / 2
    y, x = at[:, None], at[None, :]
    envelope = torch.exp(-(x**2 + y**2) / (2 * (BANDWIDTH * wavelength) ** 2))
    envelope = envelope / envelope.sum()
    filters = []
    for angle in torch.arange(ORIENTATIONS) * math.pi / ORIENTATIONS:
        phase = 2 * math.pi / wavelength * (x * torch.cos(angle) + y * torch.sin(angle))
        even = envelope * torch.cos(phase)
        filters += [even - envelope * even.sum(), envelope * torch.sin(phase)]
    return torch.stack(filters)[:, None]


def _pooled(values: Tensor, sigma: float, margin: int, shape: tuple[int, int], rows: Index, columns: Index) -> Tensor:
    """Gaussian means of values (B, C, h, w) around the middle of patches, whose window reaches `margin` at most.

    The dense grid has `shape`; these rows and columns of it are computed.
    """
    reach = min(math.ceil(2.5 * sigma), margin)
    weights = torch.exp(-(torch.arange(-reach, reach + 1, device=values.device) ** 2) / (2 * sigma**2))
    weights, C = (weights / weights.sum()).to(values.dtype), values.shape[1]
    crop = margin - reach
    values = values[:, :, crop : crop + shape[0] + 2 * reach, crop : crop + shape[1] + 2 * reach]
    values = F.conv2d(values, weights.view(1, 1, -1, 1).expand(C, 1, -1, 1), groups=C)[:, :, rows]
    return F.conv2d(values, weights.view(1, 1, 1, -1).expand(C, 1, 1, -1), groups=C)[..., columns]
