"""Pictures for people: heat map overlays and a self-contained overview page."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

# Anchors of a perceptually even map (dark blue to yellow, readable with colour blindness); red is left to the mask.
_ANCHORS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float32)


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
    pixels: NDArray[np.uint8], values: NDArray[np.float32], mask: NDArray[np.bool_] | None, scale: ColourScale
) -> NDArray[np.uint8]:
    """Image (H, W, 3) under its anomaly map (H, W), the mask's outline in red."""
    heat = scale.heat(values)
    at = heat * (len(_ANCHORS) - 1)
    colours = np.stack([np.interp(at, range(len(_ANCHORS)), _ANCHORS[:, c]) for c in range(3)], axis=-1)
    alpha = (0.85 * heat)[..., None]
    blended = pixels * (1 - alpha) + colours * alpha
    if mask is not None and mask.any():
        blended[outline(mask, max(1, round(min(mask.shape) / 200)))] = (255, 0, 0)
    return blended.round().astype(np.uint8)


def outline(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels within `width` around the mask, outside of it."""
    grown = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * width + 1))
    return (np.asarray(grown) > 0) & ~mask


@dataclass(frozen=True)
class Card:
    """One image of the overview page."""

    title: str
    defective: bool
    score: float
    pixels: NDArray[np.uint8]
    overlay: NDArray[np.uint8]
    normal: NDArray[np.uint8]  # the nearest normal patch, cut out
    normal_title: str


def _inline(pixels: NDArray[np.uint8], side: int = 256) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(500px, 1fr)); gap: 1rem; }
article { border: 1px solid #8886; border-radius: 8px; padding: .7rem .9rem; }
article h2 { font-size: 1rem; margin: 0 0 .5rem; display: flex; justify-content: space-between; }
.pictures { display: flex; gap: .6rem; align-items: flex-start; }
figure { margin: 0; } figcaption { font-size: .8rem; opacity: .75; overflow-wrap: anywhere; }
figure img { width: 190px; display: block; } figure.normal img { width: 80px; image-rendering: pixelated; }
figure.normal { width: 80px; }
.defect { color: #c4001a; } @media (prefers-color-scheme: dark) { .defect { color: #ff7a85; } }
"""


def overview(title: str, lines: Sequence[str], table: Sequence[Mapping[str, str]], cards: Sequence[Card]) -> str:
    """One HTML page without any reference outside it: sentences, a table, and a card an image, worst first."""
    escape = html.escape
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in (table[0] if table else ()))
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.values()) + "</tr>" for row in table)
    articles = []
    for card in sorted(cards, key=lambda card: -card.score):
        kind = ' class="defect"' if card.defective else ""
        figures = "".join(
            f'<figure{style}><img alt="{escape(alt)}" src="{_inline(pixels)}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
            for style, alt, pixels, caption in (
                ("", f"{card.title}, as taken", card.pixels, "image"),
                ("", f"{card.title}, anomaly map", card.overlay, "anomaly map, true mask in red"),
                (' class="normal"', "nearest normal patch", card.normal, f"nearest normal patch: {card.normal_title}"),
            )
        )
        heading = f"<h2><span{kind}>{escape(card.title)}</span><span>{card.score:.4g}</span></h2>"
        articles.append(f'<article>{heading}<div class="pictures">{figures}</div></article>')
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>{escape(title)}</h1>{text}'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f'<div class="cards">{"".join(articles)}</div></html>\n'
    )
