"""Images → features of every patch of the grid, by the dense forward; never by cutting patches out."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcli.encoder import Encoder
from patchcli.errors import InputError
from patchcli.grid import PatchGrid
from patchcli.images import standardise

CPU_IMAGES = 2  # a forward: more at once fall out of the cache and are slower


def grids(encoder: Encoder, height: int, width: int) -> dict[str, PatchGrid]:
    """The patch grid of each of the encoder's scales on images of height × width pixels."""
    largest = max(scale.K for scale in encoder.scales.values())
    if min(height, width) < largest:
        raise InputError(f"images of {width}×{height} pixels are smaller than a patch ({largest}×{largest}); use --size")
    return {name: PatchGrid(height, width, scale.K, scale.S) for name, scale in encoder.scales.items()}


def _pick(encoder: Encoder, images: Tensor, whole: Tensor, scale: str, grid: PatchGrid) -> Tensor:
    """Features (B, rows, columns, D) of the grid's patches, read off the dense features `whole` (B, D, h, w).

    Positions off the encoder's dense grid (the last one, flush with an edge that the stride does not divide) are read
    off a further forward whose origin lies on them; it covers only the strip that they need.
    """
    stride = encoder.stride
    out = whole.new_empty(len(images), *grid.shape, whole.shape[1])
    for rows in _by_phase(grid.ys, stride):
        for columns in _by_phase(grid.xs, stride):
            top, left, dense = 0, 0, whole
            if grid.ys[rows[0]] % stride or grid.xs[columns[0]] % stride:
                top, left = grid.ys[rows[0]], grid.xs[columns[0]]
                bottom, right = grid.ys[rows[-1]] + grid.K, grid.xs[columns[-1]] + grid.K
                dense = encoder.dense(images[:, :, top:bottom, left:right])[scale]
            i = torch.tensor([(grid.ys[row] - top) // stride for row in rows])
            j = torch.tensor([(grid.xs[column] - left) // stride for column in columns])
            picked = dense[:, :, i[:, None], j[None, :]].permute(0, 2, 3, 1)  # (B, rows, columns, D)
            out[:, torch.tensor(rows)[:, None], torch.tensor(columns)[None, :]] = picked
    return out


def _by_phase(starts: tuple[int, ...], stride: int) -> list[list[int]]:
    """Indices of `starts`, grouped by start modulo stride."""
    groups: dict[int, list[int]] = {}
    for index, start in enumerate(starts):
        groups.setdefault(start % stride, []).append(index)
    return list(groups.values())


@torch.inference_mode()
def embed(
    encoder: Encoder,
    pixels: NDArray[np.uint8],
    mean: NDArray[np.float32],
    grids: Mapping[str, PatchGrid],
    device: torch.device,
) -> dict[str, Tensor]:
    """Images (B, H, W, 3) uint8 → features of each scale, (B, rows, columns, D) float32 on `device`."""
    parts: dict[str, list[Tensor]] = {name: [] for name in grids}
    at_once = len(pixels) if device.type == "cuda" else CPU_IMAGES
    for start in range(0, len(pixels), at_once):
        images = torch.from_numpy(standardise(pixels[start : start + at_once], mean)).to(device)
        dense = encoder.dense(images)  # one forward serves every scale
        for name, grid in grids.items():
            parts[name].append(_pick(encoder, images, dense[name], name, grid))
    return {name: torch.cat(features) for name, features in parts.items()}
