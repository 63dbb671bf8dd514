"""Images → features of every patch of the grid, by the dense forward; never by cutting patches out."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcli import runtime
from patchcli.datasets.images import Pixels, standardise
from patchcli.errors import InputError
from patchcli.features.encoder import Encoder
from patchcli.features.grid import PatchGrid

Starts = tuple[int, ...]

CPU_IMAGES = 2  # a forward: more at once fall out of the cache and are slower
TILE = 960  # pixels a side that larger images are cut into, and up to 63 more that the last patches reach over
ALIGNED = 16  # tiles start at multiples of it, and so on the dense grid and on the patch grid of every encoder


def grids(
    encoder: Encoder, height: int, width: int, strides: Mapping[str, int], exponents: Mapping[str, float] | None = None
) -> dict[str, PatchGrid]:
    """The patch grid of each scale that is used, on images of height × width pixels, at `strides` or the encoder's.

    `exponents` are those of the maps that are used; empty: all are.
    """
    largest = max(scale.K for scale in encoder.scales.values())
    if min(height, width) < largest:
        small = f"images of {width}×{height} pixels are smaller than a patch ({largest}×{largest})"
        raise InputError(small, advice="give a larger `size`")
    if encoder.padded and (height % encoder.stride or width % encoder.stride):
        near = "x".join(str(max(1, round(side / encoder.stride)) * encoder.stride) for side in (height, width))
        expected = f"a height and width that are multiples of {encoder.stride}, the encoder's stride"
        advice = f"extract the images with `size={near}`"
        raise InputError(f"{height}x{width} pixels", parameter="size", expected=expected, advice=advice)
    used = {name: scale for name, scale in encoder.scales.items() if name in (exponents or encoder.scales)}
    return {name: PatchGrid(height, width, scale.K, strides.get(name, scale.S)) for name, scale in used.items()}


def _features(
    encoder: Encoder, images: Tensor, starts: Mapping[str, tuple[Starts, Starts]]
) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Features of the patches at `starts`, in parts: scale, indices of rows (r, 1) and of columns (c), features (B, r, c, D).

    One forward serves every scale's patches on the encoder's dense grid. Those off it (the last one, flush with an edge that
    the stride does not divide) get a further forward whose origin lies on them; it covers only the strip that they need.
    """
    stride = encoder.stride
    forwards: dict[tuple[int, int], dict[str, tuple[list[int], list[int]]]] = {}
    for name, (ys, xs) in starts.items():
        for rows, columns in product(_by_phase(ys, stride), _by_phase(xs, stride)):
            top, left = (start if start % stride else 0 for start in (ys[rows[0]], xs[columns[0]]))
            forwards.setdefault((top, left), {})[name] = rows, columns
    for (top, left), parts in forwards.items():
        places, bottom, right = {}, 0, 0
        for name, (rows, columns) in parts.items():
            (ys, xs), K = starts[name], encoder.scales[name].K
            places[name] = [(ys[row] - top) // stride for row in rows], [(xs[column] - left) // stride for column in columns]
            bottom, right = max(bottom, ys[rows[-1]] + K), max(right, xs[columns[-1]] + K)
        found = encoder.sparse(images[:, :, top:bottom, left:right], places)
        for name, (rows, columns) in parts.items():
            yield name, torch.tensor(rows)[:, None], torch.tensor(columns), found[name].permute(0, 2, 3, 1)


def _by_phase(starts: Starts, stride: int) -> list[list[int]]:
    """Indices of `starts`, grouped by start modulo stride."""
    groups: dict[int, list[int]] = {}
    for index, start in enumerate(starts):
        groups.setdefault(start % stride, []).append(index)
    return list(groups.values())


def _spans(
    starts: Mapping[str, Starts], K: Mapping[str, int], length: int, tile: int
) -> list[tuple[int, int, dict[str, slice]]]:
    """One axis cut into tiles: (first pixel, pixel after the last, which of each scale's patches the tile has).

    A tile has about `tile` pixels. Every patch is in one; tiles overlap by what their last patches reach beyond the next one's
    first pixel.
    """
    step = -(-length // (-(-length // tile) * ALIGNED)) * ALIGNED  # tiles of about one size
    spans = []
    for first in range(0, length, step):
        here = {name: slice(*(bisect_left(at, edge) for edge in (first, first + step))) for name, at in starts.items()}
        ends = [starts[name][part][-1] + K[name] for name, part in here.items() if part.start < part.stop]
        if ends:
            spans.append((first, max(ends), here))
    return spans


@torch.inference_mode()
def embed(
    encoder: Encoder,
    pixels: Pixels,
    mean: NDArray[np.float32],
    grids: Mapping[str, PatchGrid],
    device: torch.device,
    precision: str = "float32",
) -> dict[str, Tensor]:
    """Images (B, H, W, 3) → features of each scale, (B, rows, columns, D) float32 on `device`.

    `precision` is that of the encoder's forward pass: float32 or bfloat16.
    Images larger than TILE go through the encoder tile by tile, with the same features: the convolutions are unpadded,
    so a patch's feature depends on its own pixels alone. An encoder with padded ones takes whole images of any size.
    """
    out: dict[str, Tensor] = {}
    K = {name: grid.K for name, grid in grids.items()}
    count, height, width = pixels.shape[:3]
    at_once = max(1, TILE**2 // (height * width)) if device.type == "cuda" else CPU_IMAGES
    side = max(height, width) if encoder.padded else TILE
    mean = mean if encoder.centred else np.zeros_like(mean)
    down = _spans({name: grid.ys for name, grid in grids.items()}, K, height, side)
    across = _spans({name: grid.xs for name, grid in grids.items()}, K, width, side)
    forward = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    for (top, bottom, rows), (left, right, columns) in product(down, across):
        tile = slice(top, bottom), slice(left, right)
        starts = {
            name: (tuple(y - top for y in grid.ys[rows[name]]), tuple(x - left for x in grid.xs[columns[name]]))
            for name, grid in grids.items()
        }
        for start in range(0, count, at_once):
            part = slice(start, start + at_once)
            images = torch.from_numpy(standardise(pixels[part, *tile], mean[tile])).to(device)
            with forward, runtime.full_float32():
                for name, i, j, features in _features(encoder, images, starts):
                    if name not in out:
                        kept = torch.promote_types(features.dtype, torch.float32)
                        out[name] = features.new_empty(count, *grids[name].shape, features.shape[-1], dtype=kept)
                    out[name][part, rows[name], columns[name]][:, i, j] = features.to(out[name].dtype)
    return out
