"""Pictures for people: heat map overlays, and the self-contained page of scored images."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from patchcli.curves import Chart, svg
from patchcli.images import Pixels, levels, strips

# Anchors of a perceptually even map (dark blue to yellow, readable with colour blindness); red is left to the mask.
_ANCHORS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float32)


OVERLAID = 1 << 20  # pixels that are drawn at a time


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


@dataclass(frozen=True)
class Card:
    """One scored image of the page. What is None is not known."""

    title: str
    kind: str | None  # good, or the kind of defect
    score: float
    verdict: str | None
    facts: list[str]  # a line each
    large: list[tuple[str, str]]  # (what it shows, a picture as of `inline`)
    patches: list[tuple[str, str]]


def marked(
    pixels: NDArray[np.uint8], boxes: Sequence[tuple[int, int, int, int]], peak: tuple[int, int]
) -> NDArray[np.uint8]:
    """A picture with boxes (x, y, width, height) in white and a ring around the peak (x, y)."""
    picture = Image.fromarray(pixels)
    draw, width = ImageDraw.Draw(picture), max(1, round(min(pixels.shape[:2]) / 150))
    for x, y, w, h in boxes:
        draw.rectangle((x - width, y - width, x + w - 1 + width, y + h - 1 + width), outline="white", width=width)
    (x, y), radius = peak, 4 * width
    for grow, colour in ((width, "black"), (0, "white")):
        draw.ellipse((x - radius - grow, y - radius - grow, x + radius + grow, y + radius + grow), outline=colour, width=width)
    return np.asarray(picture)


def inline(pixels: NDArray[np.uint8], side: int) -> str:
    """A picture (H, W, 3) as a data: address, at most `side` pixels a side."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; } caption { text-align: left; padding: .3rem 0; opacity: .8; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child, .facts td { text-align: left; } td { white-space: nowrap; }
.facts td { white-space: normal; overflow-wrap: anywhere; } th { vertical-align: bottom; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 1.5rem; }
.charts figure { margin: 0; } svg { width: 100%; height: auto; } svg text { font-size: 13px; fill: currentColor; }
svg .grid { stroke: #8884; } svg polyline { fill: none; stroke-width: 2; }
svg .mark { stroke: currentColor; stroke-dasharray: 4 3; }
.filters { position: sticky; top: 0; background: Canvas; padding: .6rem 0; display: flex; flex-wrap: wrap; gap: 1.2rem;
  border-bottom: 1px solid #8886; align-items: center; z-index: 1; }
select { font: inherit; padding: .2rem .4rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(520px, 100%), 1fr)); gap: 1rem; margin: 1rem 0; }
article { border: 1px solid #8886; border-radius: 8px; padding: .7rem .9rem; break-inside: avoid; }
article[hidden] { display: none; } article:focus-visible, select:focus-visible { outline: 3px solid #0072b2; }
article h3 { font-size: 1rem; margin: 0 0 .5rem; display: flex; justify-content: space-between; gap: 1rem;
  overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: 1fr 1fr 84px; gap: .6rem; align-items: start; }
.patches { display: grid; gap: .6rem; } .patches img { image-rendering: pixelated; }
figure { margin: 0; } figcaption { font-size: .78rem; opacity: .85; overflow-wrap: anywhere; }
figure img { width: 100%; display: block; } article ul { margin: .6rem 0 0; padding-left: 1.1rem; font-size: .85rem; }
.tag { white-space: nowrap; } .reject { color: #b00018; } .review { color: #8a5a00; }
@media (prefers-color-scheme: dark) { .reject { color: #ff8a93; } .review { color: #f0b651; } }
@media print { .filters { display: none; } }
"""

# Shows the articles that both filters let through, and says how many those are.
_SCRIPT = """
const filters = [...document.querySelectorAll("select")], cards = [...document.querySelectorAll("article")];
function apply() {
  const wanted = card => filters.every(f => !f.value || card.dataset[f.name] === f.value);
  cards.forEach(card => { card.hidden = !wanted(card); });
  document.getElementById("shown").textContent = cards.filter(card => !card.hidden).length + " of " + cards.length + " shown";
}
filters.forEach(f => f.addEventListener("change", apply));
apply();
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(
    title: str, lines: Sequence[str], facts: Mapping[str, str], table: Sequence[Mapping[str, str]], charts: Sequence[Chart],
    cards: Sequence[Card],
) -> str:  # fmt: skip
    """One HTML page without any reference outside it: sentences, a table of figures, charts, the images in the order
    given with filters by kind and verdict, and the facts of where it comes from."""
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    figures = _table("Figures", table) if table else ""
    drawn = "".join(f"<figure><figcaption>{escape(chart.title)}</figcaption>{svg(chart)}</figure>" for chart in charts)
    origin = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><link rel="icon" href="data:,">'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><main><h1>{escape(title)}</h1>{text}'
        f'{figures}<div class="charts">{drawn}</div><h2>Images</h2>{_filters(cards)}'
        f'<div class="cards">{"".join(map(_article, cards))}</div>'
        f'<h2>Where this comes from</h2><div class="wide"><table class="facts"><tbody>{origin}</tbody></table></div></main>'
        f"<script>{_SCRIPT}</script></html>\n"
    )


def _table(caption: str, rows: Sequence[Mapping[str, str]]) -> str:
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.values()) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _filters(cards: Sequence[Card]) -> str:
    choices = {"kind": [card.kind for card in cards], "verdict": [card.verdict for card in cards]}
    selects = []
    for name, values in choices.items():
        options = "".join(f'<option value="{escape(v)}">{escape(v)}</option>' for v in sorted({v for v in values if v}))
        if options:
            selects.append(f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select></label>')
    return f'<div class="filters">{"".join(selects)}<span id="shown" role="status" aria-live="polite"></span></div>'


def _article(card: Card) -> str:
    def figures(pictures: Sequence[tuple[str, str]]) -> str:
        texts = ((escape(f"{card.title}: {what}"), address, escape(what)) for what, address in pictures)
        return "".join(
            f'<figure><img alt="{alt}" src="{address}"><figcaption>{what}</figcaption></figure>' for alt, address, what in texts
        )

    large, patches = figures(card.large), figures(card.patches)
    verdict = f'<span class="tag {escape(card.verdict or "")}">{escape(card.verdict or "")} {card.score:.4g}</span>'
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in card.facts)
    return (
        f'<article tabindex="0" data-kind="{escape(card.kind or "")}" data-verdict="{escape(card.verdict or "")}">'
        f"<h3><span>{escape(card.title)}</span>{verdict}</h3>"
        f'<div class="pictures">{large}<div class="patches">{patches}</div></div><ul>{facts}</ul></article>'
    )
