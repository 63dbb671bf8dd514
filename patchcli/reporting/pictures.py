"""Pictures for people: heat map overlays, and pages without any reference outside of them."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from patchcli.datasets.images import Pixels, levels, strips

# Anchors of a perceptually even map (dark blue to yellow, readable with colour blindness); red is left to the mask.
_ANCHORS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float32)


OVERLAID = 1 << 16  # pixels that are drawn at a time: what is in the cache is drawn faster
SIDE = 1024  # pixels a side of a picture of the page, at most
SMALLEST = 64  # and at least, however many there are
TITLE = 100  # letters of a title; a longer one loses its middle
PATCH = 320  # pixels that a patch with its surroundings is enlarged to, about


@dataclass(frozen=True)
class ColourScale:
    """Map values drawn as nothing (low) and as full heat (high); one for all pictures of a run, never per image."""

    low: float
    high: float

    def heat(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values → 0 to 1. The square root makes up for the map being a product of two distances."""
        span = max(self.high - self.low, 1e-30)
        share: NDArray[np.float32] = np.clip((values - self.low) / span, 0, 1).astype(np.float32)
        return np.sqrt(share)


def overlay(
    pixels: Pixels, values: NDArray[np.float32], mask: NDArray[np.bool_] | None, scale: ColourScale
) -> NDArray[np.uint8]:
    """Image (H, W, 3) under its anomaly map (H, W), the mask's outline in red."""
    drawn = np.empty(pixels.shape, np.uint8)
    for rows in strips(values.shape[0], values.shape[1], OVERLAID):
        heat = scale.heat(values[rows])
        at = heat * (len(_ANCHORS) - 1)
        for channel in range(3):
            alpha = 0.85 * heat
            colours = np.interp(at, range(len(_ANCHORS)), _ANCHORS[:, channel])
            blended = levels(pixels[rows, :, channel]) * (1 - alpha) + colours * alpha
            drawn[rows, :, channel] = blended.round()
    if mask is not None and mask.any():
        drawn[outline(mask, max(1, round(min(mask.shape) / 200)))] = (255, 0, 0)
    return drawn


def outline(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels within `width` around the mask, outside of it."""
    grown = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * width + 1))
    return (np.asarray(grown) > 0) & ~mask


def marked(pixels: NDArray[np.uint8], boxes: Sequence[tuple[int, int, int, int]], peak: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture with boxes (x, y, width, height) in white and a ring around the peak (x, y)."""
    picture = Image.fromarray(pixels)
    draw, width = ImageDraw.Draw(picture), max(1, round(min(pixels.shape[:2]) / 150))
    for x, y, w, h in boxes:
        draw.rectangle((x - width, y - width, x + w - 1 + width, y + h - 1 + width), outline="white", width=width)
    (x, y), radius = peak, 4 * width
    for grow, colour in ((width, "black"), (0, "white")):
        draw.ellipse((x - radius - grow, y - radius - grow, x + radius + grow, y + radius + grow), outline=colour, width=width)
    return np.asarray(picture)


def surroundings(pixels: NDArray[np.uint8], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """A box (x, y, width, height) of a picture, outlined, with as much again on each side where the picture goes on."""
    spans = []
    for start, length, whole in zip(box[:2], box[2:], pixels.shape[1::-1], strict=True):
        first = max(0, min(start - length, whole - 3 * length))
        spans.append((first, min(whole, first + 3 * length)))
    (left, right), (top, bottom) = spans
    factor = max(1, PATCH // max(right - left, bottom - top))
    size = (right - left) * factor, (bottom - top) * factor
    picture = Image.fromarray(pixels[top:bottom, left:right]).resize(size, Image.Resampling.BICUBIC)
    x, y, width, height = (factor * value for value in (box[0] - left, box[1] - top, *box[2:]))
    draw = ImageDraw.Draw(picture)
    for grow, colour in ((3, "black"), (2, "white"), (1, "white")):
        draw.rectangle((x - grow, y - grow, x + width - 1 + grow, y + height - 1 + grow), outline=colour)
    return np.asarray(picture)


def inline(pixels: NDArray[np.uint8], limit: int) -> str:
    """A picture (H, W, 3) as a data: address of at most `limit` characters, made smaller until it is; at most SIDE a side."""
    picture, side = Image.fromarray(pixels), SIDE
    while True:
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, format="WEBP", quality=80)
        address = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(address) <= limit or side <= SMALLEST:
            return address
        side = max(SMALLEST, int(max(picture.size) * min(0.9, math.sqrt(limit / len(address)))))
