"""Pages without any reference outside of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from patchcli.reporting.charts import Chart, svg
from patchcli.reporting.pictures import ColourScale, overlay

TITLE = 100  # letters of a title; a longer one loses its middle

# Colours of lines by Okabe & Ito, who see to it that they differ with colour blindness too.
_STYLE = """
:root { --line0: #0072b2; --line1: #d55e00; --line2: #009e73; --line3: #b0508a; }
@media (prefers-color-scheme: dark) { :root { --line0: #56b4e9; --line1: #f08a3c; --line2: #2fc79b; --line3: #e39ac6; } }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 13px; fill: currentColor; }
svg .grid { stroke: #8884; } svg polyline { fill: none; stroke-width: 2; }
svg .mark { stroke: currentColor; stroke-dasharray: 4 3; }
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; --edge: #8886; --soft: #8881; }
body { max-width: 1180px; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p { margin: .4rem 0; max-width: 75ch; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid var(--edge); }
th:first-child, td:first-child, .facts td { text-align: left; }
th { vertical-align: bottom; overflow-wrap: normal; } td { white-space: nowrap; }
.facts td { white-space: normal; } .facts th { font-weight: normal; opacity: .75; white-space: nowrap; vertical-align: top; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 1.5rem;
  margin: 1.5rem 0; align-items: end; }
.charts figure { max-width: 640px; } figure { margin: 0; min-width: 0; } figcaption { font-size: .85rem; }
.filters { position: sticky; top: 0; background: Canvas; padding: .6rem 0; display: flex; flex-wrap: wrap; gap: .4rem 1.2rem;
  border-bottom: 1px solid var(--edge); align-items: center; z-index: 1; }
.bar { width: 320px; max-width: 100%; margin-left: auto; } select { font: inherit; padding: .2rem .4rem; }
article { border: 1px solid var(--edge); border-radius: 8px; padding: .7rem .9rem; margin: 1rem 0; break-inside: avoid; }
article[hidden] { display: none; }
h3 { font-size: 1rem; margin: 0 0 .6rem; display: flex; justify-content: space-between; gap: 1rem; align-items: baseline; }
.tag { white-space: nowrap; } .tag b { border: 1px solid; border-radius: 4px; padding: .05rem .4rem; margin-right: .4rem; }
.pass { color: #006b4f; } .reject { color: #b00018; } .review { color: #8a5a00; }
.pictures { display: grid; grid-template-columns: repeat(4, 1fr); gap: .7rem; align-items: start; }
.pictures figcaption, article p { font-size: .8rem; opacity: .85; }
.pictures figcaption { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.zoom { all: unset; display: block; cursor: zoom-in; width: 100%; background: var(--soft); }
.zoom img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; }
article p { margin: .5rem 0 0; max-width: none; } article p span { margin-right: 1.2rem; display: inline-block; }
:focus-visible { outline: 3px solid var(--line0); outline-offset: 2px; }
dialog { border: 0; border-radius: 8px; padding: .8rem; max-width: 96vw; max-height: 96vh; box-sizing: border-box; }
dialog::backdrop { background: #000b; } dialog figcaption { margin-bottom: .5rem; padding-right: 5rem; }
dialog img { display: block; width: min(90vw, 1200px); height: min(80vh, 1200px); object-fit: contain; cursor: zoom-out; }
dialog button { position: absolute; top: .6rem; right: .8rem; font: inherit; }
@media (max-width: 760px) { .pictures { grid-template-columns: 1fr 1fr; } .filters { position: static; } .bar { margin: 0; } }
@media (prefers-color-scheme: dark) { .pass { color: #4cc79f; } .reject { color: #ff8a93; } .review { color: #f0b651; } }
@media print {
  :root { font-size: 10pt; } body { margin: 0; max-width: none; } .wide { overflow: visible; } * { print-color-adjust: exact; }
  th, td { padding: .2rem .35rem; } .charts { grid-template-columns: 1fr 1fr; gap: 1rem; } figure { break-inside: avoid; }
  .filters { position: static; border: 0; } .filters label, #shown, .hint, dialog { display: none; } .bar { margin: 0; }
  .pictures { grid-template-columns: repeat(4, 1fr); } :focus-visible { outline: none; } }
"""

# Shows the articles that both filters let through, and says how many those are; a picture that is clicked is enlarged.
_SCRIPT = """
const filters = [...document.querySelectorAll("select")], cards = [...document.querySelectorAll("article")];
function apply() {
  const wanted = card => filters.every(f => !f.value || card.dataset[f.name] === f.value);
  cards.forEach(card => { card.hidden = !wanted(card); });
  document.getElementById("shown").textContent = cards.filter(card => !card.hidden).length + " of " + cards.length + " shown";
}
filters.forEach(f => f.addEventListener("change", apply));
apply();
const dialog = document.querySelector("dialog"), large = dialog.querySelector("img");
document.addEventListener("click", event => {
  const picture = event.target.closest(".zoom")?.querySelector("img");
  if (picture) {
    [large.src, large.alt] = [picture.src, picture.alt];
    dialog.querySelector("figcaption").textContent = picture.alt;
    dialog.showModal();
  } else if (event.target === dialog || event.target === large || event.target.closest("dialog button")) dialog.close();
});
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Card:
    """One scored image of the page. What is None is not known."""

    title: str
    kind: str | None  # good, or the kind of defect
    score: float
    verdict: str | None
    facts: list[str]
    pictures: list[tuple[str, str]]  # (what it shows, a picture as of `inline`)


def page(
    title: str,
    lines: Sequence[str],
    charts: Sequence[Chart],
    table: Sequence[Mapping[str, str]] = (),
    cards: Sequence[Card] = (),
    legend: str = "",
    facts: Mapping[str, str] | None = None,
) -> str:
    """One HTML page without any reference outside it: sentences, a table of figures, charts; the images in the order
    given with filters by kind and verdict and a `legend` as of `colour_bar`; and the facts of where it comes from."""
    text = "".join(f"<p>{_text(line)}</p>" for line in lines)
    drawn = "".join(f"<figure><figcaption>{_text(chart.title)}</figcaption>{svg(chart)}</figure>" for chart in charts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><link rel="icon" href="data:,">'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f'<main><h1>{_text(title)}</h1>{text}{_table(table)}<div class="charts">{drawn}</div>'
        f"{_images(cards, legend)}{_origin(facts or {})}</main></html>\n"
    )


def _text(text: str) -> str:
    """Any text for HTML; what has no look of its own, such as control characters, as escapes."""
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th scope=col>{_text(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row.values()) + "</tr>" for row in rows)
    return f'<h2>Figures</h2><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _origin(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    rows = "".join(f"<tr><th scope=row>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts.items())
    return f'<h2>Where this comes from</h2><div class="wide"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _images(cards: Sequence[Card], legend: str) -> str:
    """The images, with filters, and the dialog and script that they need."""
    if not cards:
        return ""
    choices = {"kind": [card.kind for card in cards], "verdict": [card.verdict for card in cards]}
    selects = []
    for name, values in choices.items():
        options = "".join(f'<option value="{escape(v)}">{_text(v)}</option>' for v in sorted({v for v in values if v}))
        if options:
            selects.append(f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select></label>')
    shown = '<span id="shown" role="status" aria-live="polite"></span>'
    return (
        '<h2>Images</h2><p class="hint">Click on a picture to enlarge it, or press Enter.</p>'
        f'<div class="filters">{"".join(selects)}{shown}{legend}</div>{"".join(map(_article, cards))}'
        "<dialog><figure><figcaption></figcaption><img alt></figure><button type=button>Close</button></dialog>"
        f"<script>{_SCRIPT}</script>"
    )


def _article(card: Card) -> str:
    title = card.title if len(card.title) <= TITLE else f"{card.title[: TITLE // 4]}…{card.title[-TITLE * 3 // 4 :]}"
    drawn = "".join(
        f'<figure><button type="button" class="zoom"><img alt="{_text(f"{title}: {what}")}" src="{address}"></button>'
        f'<figcaption title="{_text(what)}">{_text(what)}</figcaption></figure>'
        for what, address in card.pictures
    )
    verdict = "" if card.verdict is None else f'<b class="{escape(card.verdict)}">{_text(card.verdict)}</b>'
    facts = "".join(f"<span>{_text(fact)}</span> " for fact in card.facts)
    return (
        f'<article data-kind="{escape(card.kind or "")}" data-verdict="{escape(card.verdict or "")}">'
        f'<h3><span title="{_text(card.title)}">{_text(title)}</span>'
        f'<span class="tag">{verdict}{card.score:.4g}</span></h3>'
        f'<div class="pictures">{drawn}</div><p>{facts}</p></article>'
    )


def colour_bar(scale: ColourScale, marks: Mapping[str, float]) -> str:
    """The scale of maps over grey as an <svg> element, with values, some of them named."""
    values = np.linspace(scale.low, scale.high, 17, dtype=np.float32)[None]
    colours = overlay(np.full((1, 17, 3), 128, np.uint8), values, None, scale)[0]
    stops = "".join(f'<stop offset="{n / 16}" stop-color="rgb({r},{g},{b})"/>' for n, (r, g, b) in enumerate(colours))
    parts = [
        '<svg class="bar" viewBox="0 0 320 40" role="img" aria-label="colours of the anomaly maps">',
        f'<linearGradient id="heat">{stops}</linearGradient><rect x="1" y="1" width="318" height="16" fill="url(#heat)"/>',
        f'<text x="1" y="34">{scale.low:.3g}</text><text x="319" y="34" text-anchor="end">≥ {scale.high:.3g}</text>',
    ]
    for name, value in marks.items():
        across = 1 + 318 * min(max((value - scale.low) / max(scale.high - scale.low, 1e-30), 0), 1)
        parts.append(f'<line x1="{across:.1f}" x2="{across:.1f}" y1="0" y2="21" stroke="currentColor" stroke-width="2"/>')
        parts.append(f'<text x="{min(max(across, 140), 178):.1f}" y="34" text-anchor="middle">{_text(name)} {value:.3g}</text>')
    return "".join(parts) + "</svg>"
