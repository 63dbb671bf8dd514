"""Overlays and the overview page."""

import base64
import html
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patchcli.reporting import page as pages
from patchcli.reporting import pictures as report
from patchcli.reporting.charts import Chart
from patchcli.reporting.page import Card
from patchcli.reporting.pictures import ColourScale

H, W = 40, 50
RED = (255, 0, 0)


@pytest.fixture
def pixels() -> np.ndarray:
    """A grey image without any red."""
    return np.random.default_rng(0).integers(50, 200, (H, W, 1)).astype(np.uint8).repeat(3, axis=2)


@pytest.fixture
def mask() -> np.ndarray:
    """One defect inside, one at the corner."""
    mask = np.zeros((H, W), bool)
    mask[10:15, 20:32] = True
    mask[36:, 45:] = True
    return mask


def naive_outline(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels outside the mask with a pixel of it no more than `width` away in y and in x."""
    around = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        around[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1] = True
    return around & ~mask


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_outline_is_around_the_mask_and_outside_of_it(mask: np.ndarray, width: int) -> None:
    np.testing.assert_array_equal(report.outline(mask, width), naive_outline(mask, width))


def test_an_overlay_is_red_exactly_around_the_mask(pixels: np.ndarray, mask: np.ndarray) -> None:
    values = np.linspace(0, 1, H * W, dtype=np.float32).reshape(H, W)
    drawn = report.overlay(pixels, values, mask, ColourScale(0.2, 1))
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal((drawn == RED).all(axis=2), naive_outline(mask, 1))


def test_nothing_is_coloured_below_the_scale(pixels: np.ndarray) -> None:
    values = np.linspace(0, 1, H * W, dtype=np.float32).reshape(H, W)
    drawn = report.overlay(pixels, values, None, ColourScale(0.5, 1))
    below = values <= 0.5
    np.testing.assert_array_equal(drawn[below], pixels[below])
    assert (drawn[values > 0.55] != pixels[values > 0.55]).any(axis=1).all()


def test_an_empty_mask_draws_nothing(pixels: np.ndarray) -> None:
    nothing = np.zeros((H, W), np.float32)
    drawn = report.overlay(pixels, nothing, np.zeros((H, W), bool), ColourScale(0, 1))
    np.testing.assert_array_equal(drawn, pixels)


def test_heat_goes_up_from_low_to_high_and_is_clipped() -> None:
    heat = ColourScale(1, 3).heat(np.array([0, 1, 1.5, 2, 3, 9], np.float32))
    assert heat[[0, 1, 4, 5]].tolist() == [0, 0, 1, 1]
    assert 0 < heat[2] < heat[3] < 1


def test_a_scale_without_extent_is_finite(pixels: np.ndarray) -> None:
    heat = ColourScale(1, 1).heat(np.array([0.5, 1, 2], np.float32))
    assert heat.tolist() == [0, 0, 1]


class Page(HTMLParser):
    """Attributes, tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


LIMIT = 100_000


def card(title: str, score: float, pixels: np.ndarray, kind: str | None = "hole", verdict: str | None = "reject") -> Card:
    names = ("image", "map", "patch", "nearest")
    return Card(title, kind, score, verdict, ["a fact"], [(name, report.inline(pixels, LIMIT)) for name in names])


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


def test_the_page_refers_to_nothing_outside_it(pixels: np.ndarray) -> None:
    bar = pages.colour_bar(ColourScale(0, 1), {"threshold": 0.5})
    chart = Chart("c", {"l": [(0, 1), (1, 2)]})
    text = pages.page("Grid", ["A sentence."], [chart], [{"map": "product"}], [card("a.png", 1, pixels)], bar, {"a": "b"})
    assert not re.search(r"https?:|@import|url\((?!#heat)|<script src", text)
    references = [value for name, value in Page(text).attributes if name in ("src", "href", "srcset", "action")]
    assert len(references) == 5
    assert all(value.startswith("data:") for value in references)
    assert "default-src 'none'" in text


def test_what_a_page_has_nothing_of_is_not_on_it() -> None:
    page = Page(pages.page("<run>", ["a & b"], [Chart("loss", {"x": [(1, 1.0)]})]))
    assert {"script", "dialog", "table", "article", "h2"}.isdisjoint(page.tags)
    assert page.text.count("<run>") == 2 and "a & b" in page.text and "loss" in page.text


def test_the_pictures_are_the_cards(pixels: np.ndarray) -> None:
    text = pages.page("Grid", [], [], cards=[card("a.png", 1, pixels)])
    image, *_ = (value for name, value in Page(text).attributes if name == "src")
    assert np.abs(decoded(image).astype(int) - pixels).mean() < 12  # WebP loses a little


@pytest.mark.parametrize("limit", [37_500, 150_000, 10**9])
def test_a_picture_is_as_large_as_it_may_be(limit: int) -> None:
    """Noise, which compresses worst."""
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1200, 3)).astype(np.uint8)
    address = report.inline(noise, limit)
    height, width, _ = decoded(address).shape
    assert len(address) <= limit and abs(height / width - 1.25) < 0.02
    assert height == report.SIDE if limit == 10**9 else len(address) > limit / 4


def test_the_page_escapes_what_it_shows(pixels: np.ndarray) -> None:
    nasty = "<b>\"&'</b>"
    chart = Chart(nasty, {nasty: [(0, 1), (1, 2)]}, {nasty: 1})
    shown = [card(nasty, 1, pixels, kind=nasty, verdict=nasty)]
    bar = pages.colour_bar(ColourScale(0, 1), {nasty: 0.5})
    page = Page(pages.page(nasty, [nasty], [chart], [{nasty: nasty}], shown, bar, {nasty: nasty}))
    assert not [value for name, value in page.attributes if name == "onclick"] and page.tags.count("b") == 1  # the verdict's
    assert page.text.count(nasty) >= 14  # title, h1, sentence, facts, table, chart, filters, card
    assert ("alt", f"{nasty}: image") in page.attributes


@given(st.text(st.characters(codec=None), max_size=20))
def test_any_name_can_be_a_title(name: str) -> None:
    """Control characters, halves of surrogates and marks that turn the direction of text are shown as escapes."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    text = pages.page(name, [name], [], cards=[card(name, 1, pixels)])
    text.encode("utf-8")
    shown = re.findall(r"<h3><span title=\"[^\"]*\">([^<]*)</span>", text)
    assert len(shown) == 1 and all(letter.isprintable() for letter in shown[0])
    if name.isprintable():
        assert html.unescape(shown[0]) == name


def test_a_long_title_keeps_both_ends(pixels: np.ndarray) -> None:
    name = "start/" + "x" * 4000 + "/end.png"
    text = pages.page("Grid", [], [], cards=[card(name, 1, pixels)])
    (shown,) = re.findall(r"<h3><span title=\"[^\"]*\">([^<]*)</span>", text)
    assert len(shown) <= report.TITLE + 1 and shown.startswith("start/") and shown.endswith("/end.png")
    assert text.count(name) == 1  # what a pointer shows


def test_filters_offer_what_there_is(pixels: np.ndarray) -> None:
    cards = [card("a.png", 2, pixels), card("b.png", 1, pixels, "good", "pass"), card("c.png", 0, pixels, None, None)]
    page = Page(pages.page("Grid", [], [], cards=cards))
    values = [value for name, value in page.attributes if name == "value"]
    assert values == ["", "good", "hole", "", "pass", "reject"]
    assert page.tags.count("article") == 3
    bare = Page(pages.page("Grid", [], [], cards=cards[2:]))
    assert "select" not in bare.tags


def test_the_colour_bar_has_the_colours_and_values_of_the_maps() -> None:
    root = ElementTree.fromstring(pages.colour_bar(ColourScale(0.02, 0.1), {"threshold": 0.06}))
    stops = [stop.attrib["stop-color"] for stop in root.iter("stop")]
    assert stops[0] == "rgb(128,128,128)"  # nothing is drawn
    grey = np.full((1, 1, 3), 128, np.uint8)
    for at, value in ((8, 0.06), (16, 0.1)):
        drawn = report.overlay(grey, np.full((1, 1), value, np.float32), None, ColourScale(0.02, 0.1))[0, 0]
        assert stops[at] == f"rgb({drawn[0]},{drawn[1]},{drawn[2]})"
    assert [text.text for text in root.iter("text")] == ["0.02", "≥ 0.1", "threshold 0.06"]
    (mark,) = root.iter("line")
    assert float(mark.attrib["x1"]) == pytest.approx(160, abs=0.2)


@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 60), st.integers(0, 60))
def test_a_patch_is_outlined_in_its_surroundings(width: int, height: int, x: int, y: int) -> None:
    """The outline is around the patch, outside of it; of the picture, as much again is seen on each side, or what there is."""
    x, y = min(x, 60 - width), min(y, 60 - height)
    pixels = np.full((60, 60, 3), 90, np.uint8)
    pixels[y : y + height, x : x + width] = (0, 0, 200)
    drawn = report.surroundings(pixels, (x, y, width, height))
    sides = [min(60, 3 * length) for length in (height, width)]
    factor = report.PATCH // max(sides)
    assert drawn.shape == (sides[0] * factor, sides[1] * factor, 3)
    white = (drawn == 255).all(axis=2)
    blue = (drawn[..., 2] > drawn[..., 0] + 100.0).sum()
    assert blue == pytest.approx(width * height * factor**2, abs=2 * factor * (width + height))
    assert white.any()


def test_marks_are_on_the_picture(pixels: np.ndarray) -> None:
    drawn = report.marked(pixels, [(10, 12, 20, 8)], (25, 30))
    white = (drawn == 255).all(axis=2)
    assert white[11, 9:31].all() and white[20, 9:31].all() and white[11:21, 9].all() and white[11:21, 30].all()
    np.testing.assert_array_equal(drawn[12:20, 10:30], pixels[12:20, 10:30])  # the inside is seen
    assert (drawn[30, 25] == pixels[30, 25]).all() and white[30, 21]
