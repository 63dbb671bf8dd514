"""Synthetic defects: drawn by code into good images, so that training and its checkpoints need no real ones.

The kinds follow CutPaste (Li et al., CVPR 2021: patches and scars) and the local noise, blur and changes of contrast of
other self-supervised methods. Some are glaring, others as faint as the image's own detail. None is drawn from a test image.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from patchcli.datasets.images import Pixels, levels

VISIBLE = 8  # grey levels: a pixel that is changed by less is not part of a defect
PLAIN = 0.5  # of an image's upper quartile of detail: on ground with less, fewer defects are drawn
LEAST = 0.1  # of the defects, that are drawn on ground without any

Floats = NDArray[np.float64]


def _blur(values: Floats, sigma: float) -> Floats:
    """Gaussian blur over the first two axes."""
    from scipy.ndimage import gaussian_filter

    blurred: Floats = gaussian_filter(values, (sigma, sigma, 0), mode="reflect")
    return blurred


def _frame(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Coordinates (H, W) along and across a random direction, from a random place."""
    y, x = np.ogrid[:height, :width]
    dy, dx = y - rng.uniform(0, height), x - rng.uniform(0, width)
    angle = rng.uniform(0, np.pi)
    return dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)


def _blob(rng: np.random.Generator, height: int, width: int, radius: tuple[float, float] = (4, 18)) -> Floats:
    """Opacity (H, W, 1) of an ellipse with a wavy rim, hard or soft, of a radius between these, in pixels."""
    along, across = _frame(rng, height, width)
    stretch = np.exp(rng.uniform(-0.5, 0.5))
    along, across = along * stretch, across / stretch
    angle, (low, high) = np.arctan2(across, along), np.log(radius)
    rim = 1 + sum(0.2 * np.sin(k * angle + phase) for k, phase in enumerate(rng.uniform(0, 2 * np.pi, 3), 2))
    distance = np.hypot(along, across) / (rim * np.exp(rng.uniform(low, high)))
    opacity: Floats = 1 / (1 + np.exp(np.clip((distance - 1) * rng.uniform(4, 20), -30, 30)))
    return opacity[..., None]


def _paste(rng: np.random.Generator, pixels: Floats, other: Floats) -> Floats:
    """A rectangle of 5 to 28 pixels a side from elsewhere, brighter or darker."""
    size = np.exp(rng.uniform(np.log(5), np.log(28), 2)).round().astype(int)
    (h, w), room = size, np.array(pixels.shape[:2]) - size
    (sy, sx), (y, x) = rng.integers(0, room + 1), rng.integers(0, room + 1)
    piece = other[sy : sy + h, sx : sx + w]
    out = pixels.copy()
    out[y : y + h, x : x + w] = np.rot90(piece, 2 * int(rng.integers(2))) * rng.uniform(0.8, 1.2) + rng.uniform(-10, 10)
    return out


def _scar(rng: np.random.Generator, pixels: Floats, other: Floats) -> Floats:
    """A thin, bent line of a colour from elsewhere or of any."""
    along, across = _frame(rng, *pixels.shape[:2])
    line = np.abs(across - rng.uniform(-0.015, 0.015) * along**2) < rng.uniform(0.8, 3)
    opacity = _blur((line & (np.abs(along) < rng.uniform(6, 28))).astype(np.float64)[..., None], 0.6)
    elsewhere = other[rng.integers(other.shape[0]), rng.integers(other.shape[1])]
    colour = elsewhere if rng.random() < 0.5 else rng.uniform(0, 255, 3)
    return pixels + opacity * (colour - pixels)


def _noise(rng: np.random.Generator, pixels: Floats, _: Floats) -> Floats:
    """A blob of noise, grey or coloured, fine or coarse."""
    noise = rng.standard_normal((*pixels.shape[:2], rng.choice([1, 3])))
    noise = _blur(noise, rng.uniform(0, 2))
    out: Floats = pixels + _blob(rng, *pixels.shape[:2]) * noise / noise.std() * rng.uniform(15, 50)
    return out


def _smear(rng: np.random.Generator, pixels: Floats, _: Floats) -> Floats:
    """A blob out of focus."""
    opacity = _blob(rng, *pixels.shape[:2])
    out: Floats = pixels + opacity * (_blur(pixels, rng.uniform(1.5, 4)) - pixels)
    return out


def _stain(rng: np.random.Generator, pixels: Floats, _: Floats) -> Floats:
    """A blob of other contrast, brightness and tint."""
    opacity, mean = _blob(rng, *pixels.shape[:2]), _blur(pixels, 6)
    stained = mean + (pixels - mean) * np.exp(rng.uniform(-1.2, 0.7)) + rng.uniform(-50, 50) + rng.uniform(-15, 15, 3)
    out: Floats = pixels + opacity * (stained - pixels)
    return out


def _blend(rng: np.random.Generator, pixels: Floats, other: Floats) -> Floats:
    """A blob of what is elsewhere, upside down or mirrored, without an edge of its own."""
    moved = np.roll(other, rng.integers(0, other.shape[:2]), (0, 1))[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    out: Floats = pixels + _blob(rng, *pixels.shape[:2]) * (moved - pixels)
    return out


def _faint(rng: np.random.Generator, pixels: Floats, _: Floats) -> Floats:
    """A scratch, a few times as bright or dark as the image's finest detail."""
    along, across = _frame(rng, *pixels.shape[:2])
    line = np.abs(across - rng.uniform(-0.01, 0.01) * along**2) < rng.uniform(0.5, 1.5)
    opacity = _blur((line & (np.abs(along) < rng.uniform(5, 40))).astype(np.float64)[..., None], 0.5)
    return pixels + opacity * _contrast(rng, pixels)


def _speck(rng: np.random.Generator, pixels: Floats, _: Floats) -> Floats:
    """A small spot of the same contrast."""
    height, width, _ = pixels.shape
    out: Floats = pixels + _blob(rng, height, width, (1.5, 4)) * _contrast(rng, pixels)
    return out


def _contrast(rng: np.random.Generator, pixels: Floats) -> float:
    """Grey levels, more or fewer: 2 to 6 standard deviations of the finest detail, and just visible at least."""
    detail = (pixels - _blur(pixels, 2)).std()
    return float(rng.choice([-1, 1]) * max(1.5 * VISIBLE, rng.uniform(2, 6) * detail))


KINDS: dict[str, Callable[[np.random.Generator, Floats, Floats], Floats]] = {
    "paste": _paste, "scar": _scar, "noise": _noise, "smear": _smear, "stain": _stain,
    "blend": _blend, "faint": _faint, "speck": _speck,
}  # fmt: skip


def damage_part(rng: np.random.Generator, pixels: Pixels, other: Pixels) -> tuple[Pixels, NDArray[np.bool_]]:
    """As `damage` with one defect, but seldom on plain ground, which is likely to lie behind a part: there the least scratch
    is easy to find, and says nothing of how well defects of the part are found. In an image without colour a defect has none
    either: the camera would not show it."""
    grey = levels(pixels).mean(axis=2, keepdims=True, dtype=np.float64)
    detail = np.sqrt((_blur(grey**2, 4) - _blur(grey, 4) ** 2).clip(0))[..., 0]
    likely = (detail / max(PLAIN * np.quantile(detail, 0.75), 1e-9)).clip(LEAST, 1)
    while True:
        damaged, mask = damage(rng, pixels, other, 1, grey=bool((pixels == pixels[..., :1]).all()))
        if rng.random() < (likely[mask].mean() if mask.any() else LEAST):
            return damaged, mask


def damage(
    rng: np.random.Generator, pixels: Pixels, other: Pixels, count: int, grey: bool = False
) -> tuple[Pixels, NDArray[np.bool_]]:
    """A copy of `pixels` (H, W, 3) with `count` defects of random kinds, and the mask (H, W) of what visibly changed.

    `other` is a good image of the same size, from which pieces are taken. With `grey`, all channels get what the first one has.
    """
    out, source = levels(pixels).astype(np.float64), levels(other).astype(np.float64)
    for kind in rng.choice(list(KINDS), count):
        out = KINDS[kind](rng, out, source)
    if grey:
        out = np.broadcast_to(out[..., :1], out.shape)
    level = 1 if pixels.dtype == np.uint8 else 257
    damaged = (out.clip(0, 255) * level).round().astype(pixels.dtype)
    return damaged, np.abs(damaged.astype(np.int32) - pixels).max(axis=2) > VISIBLE * level
