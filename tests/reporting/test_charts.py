"""Line charts: the points where they belong, round ticks."""

from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchcli.reporting.charts import Chart, bars, log_ticks, svg, ticks

NUMBERS = st.floats(-1e4, 1e4)


@given(NUMBERS, st.floats(1e-3, 1e4))
def test_ticks_are_round_and_within(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 12
    assert all(low - 1e-6 * width <= value <= low + width * (1 + 1e-6) for value in found)
    steps = [b - a for a, b in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)
    assert f"{steps[0]:.0e}"[0] in "125"


def test_a_line_keeps_its_order_and_shape() -> None:
    root = ElementTree.fromstring(svg(Chart("a < b", {"x": [(0, 1.0), (5, 3.0), (10, 2.0)]}, {"here": 5})))
    (line,) = root.iter("polyline")
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, point.split(","))) for point in line.attrib["points"].split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert (y0 - y1) == pytest.approx(2 * (y2 - y1), abs=0.3)  # up is less
    (mark,) = (element for element in root.iter("line") if element.get("class") == "mark")
    assert float(mark.attrib["x1"]) == x1
    assert root.attrib["aria-label"] == "a < b"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.sampled_from(["a", "reject above", "x" * 30]))
def test_labels_of_marks_lie_in_the_chart_and_apart(at: list[float], name: str) -> None:
    root = ElementTree.fromstring(svg(Chart("t", {"l": [(0, 0), (1, 1)]}, {f"{name}1": at[0], f"{name}2": at[1]})))
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    boxes = []
    for element in root.iter("text"):
        if (element.text or "").startswith(name):
            x, y, half = float(element.attrib["x"]), float(element.attrib["y"]), 3.4 * len(name) + 3.4
            assert left <= x - half and x + half <= left + width and top < y <= top + height
            boxes.append((x - half, x + half, y))
    (a_left, a_right, a_y), (b_left, b_right, b_y) = boxes
    assert a_y != b_y or a_right <= b_left or b_right <= a_left


@given(st.floats(1e-9, 1e6), st.floats(1.5, 1e9))
def test_a_logarithmic_axis(low: float, ratio: float) -> None:
    middle, high = low * ratio**0.5, low * ratio
    root = ElementTree.fromstring(svg(Chart("t", {"l": [(low, 0), (middle, 1), (high, 2)]}, {"m": middle}, True)))
    (line,) = root.iter("polyline")
    x0, x1, x2 = (float(point.split(",")[0]) for point in line.attrib["points"].split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.3)
    assert 2 <= len(log_ticks(low, high)) <= 20
    assert all(low * 0.999 <= value <= high * 1.001 for value in log_ticks(low, high))


def test_bars_are_numpys_histogram() -> None:
    values, edges = [0.0, 0.1, 0.5, 0.5, 1.0], [0.0, 0.5, 0.75, 1.0]
    outline = bars(values, edges)
    assert [count for _, count in outline[1:-1:2]] == np.histogram(values, edges)[0].tolist()
    assert (outline[0], outline[-1]) == ((0, 0), (1, 0))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5))
def test_any_line_can_be_drawn(line: list[tuple[float, float]]) -> None:
    ElementTree.fromstring(svg(Chart("t", {"one": line, "two": line})))
