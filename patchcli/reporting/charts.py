"""Line charts in inline SVG."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Line = Sequence[tuple[float, float]]  # (x, y)

_COLOURS = 4  # of lines, in the style
_LETTER = 7  # about the width of a letter, in pixels
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM = 560, 240, 52, 20, 34  # of a chart, and its margins, in pixels


@dataclass(frozen=True)
class Chart:
    """Lines over a common x axis."""

    title: str
    lines: Mapping[str, Line]
    marks: Mapping[str, float] = field(default_factory=dict)  # values of x that are pointed out, by name
    logarithmic: bool = False  # the x axis; all x are above 0


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values (1, 2 or 5 times a power of ten apart) within [low, high]."""
    step = (high - low) / count
    power = 10 ** math.floor(math.log10(step))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * number, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within [low, high], or the powers alone where those are many; `ticks` where few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) < 5 else (1,)
    values = [value for power in powers for factor in factors if low <= (value := float(f"{factor}e{power}")) <= high]
    return values if len(values) > 1 else ticks(low, high)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 0.5
    return low - margin, high + margin


def svg(chart: Chart) -> str:
    """The chart as an <svg> element."""
    points = [point for line in chart.lines.values() for point in line]
    xs = [*chart.marks.values(), *(x for x, _ in points)]
    x_low, x_high = min(xs), max(xs)
    if x_low == x_high:
        x_low, x_high = (x_low / 2, x_high * 2) if chart.logarithmic else (x_low - 0.5, x_high + 0.5)
    y_low, y_high = _span([y for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        first, here, last = map(math.log, (x_low, x, x_high)) if chart.logarithmic else (x_low, x, x_high)
        across = _LEFT + (here - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)
        return round(across, 1), round((y_high - y) / (y_high - y_low) * (_HEIGHT - _BOTTOM), 1)

    whole = _HEIGHT + 24 + 15 * (len(chart.marks) > 1)
    parts = [f'<svg viewBox="0 -24 {_WIDTH} {whole}" role="img" aria-label="{html.escape(chart.title)}">']
    for y in ticks(y_low, y_high):
        down = at(x_low, y)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{down + 4}" text-anchor="end">{y:g}</text>')
    for x in log_ticks(x_low, x_high) if chart.logarithmic else ticks(x_low, x_high, 8):
        parts.append(f'<text x="{at(x, y_low)[0]}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
    for number, (name, line) in enumerate(chart.lines.items()):
        colour = f"var(--line{number % _COLOURS})"
        path = " ".join(f"{across},{down}" for across, down in (at(x, y) for x, y in line))
        parts.append(f'<polyline style="stroke: {colour}" points="{path}"/>')
        parts.append(f'<text x="{_LEFT + 130 * number}" y="-10" style="fill: {colour}">{html.escape(name)}</text>')
    free = [0.0, 0.0]  # where each of two lines of labels is still empty
    for name, x in sorted(chart.marks.items(), key=lambda mark: mark[1]):
        across, half = at(x, y_low)[0], _LETTER * len(name) / 2
        centre = min(max(across, half), _WIDTH - half)
        row = 0 if centre - half >= free[0] else 1
        free[row] = centre + half + _LETTER
        parts.append(f'<line class="mark" x1="{across}" x2="{across}" y1="0" y2="{_HEIGHT - _BOTTOM}"/>')
        label = html.escape(name)
        parts.append(f'<text x="{centre:.1f}" y="{_HEIGHT - 2 + 15 * row}" text-anchor="middle">{label}</text>')
    return "".join(parts) + "</svg>"


def bars(values: Sequence[float], edges: Sequence[float]) -> list[tuple[float, float]]:
    """A histogram's outline: how many values lie from each edge to the next, the last one included."""
    counts = [sum(low <= v < high or (v == high == edges[-1]) for v in values) for low, high in pairwise(edges)]
    steps = [(x, count) for (low, high), count in zip(pairwise(edges), counts, strict=True) for x in (low, high)]
    return [(edges[0], 0), *steps, (edges[-1], 0)]
