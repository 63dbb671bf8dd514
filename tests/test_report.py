"""Overlays and the overview page."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from patchcli import report
from patchcli.curves import Chart
from patchcli.report import Card, ColourScale

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


def card(title: str, score: float, pixels: np.ndarray, kind: str | None = "hole", verdict: str | None = "reject") -> Card:
    large = [("image", report.inline(pixels, 320)), ("map", report.inline(pixels, 320))]
    patches = [("patch", report.inline(pixels[:32, :32], 96)), ("nearest", report.inline(pixels[:30, :32], 96))]
    return Card(title, kind, score, verdict, ["a fact"], large, patches)


def test_the_page_refers_to_nothing_outside_it(pixels: np.ndarray) -> None:
    text = report.page("Grid", ["A sentence."], {"a": "b"}, [{"map": "product"}], [], [card("a.png", 1, pixels)])
    assert not re.search(r"https?:|@import|url\(|<script src", text)
    references = [value for name, value in Page(text).attributes if name in ("src", "href", "srcset", "action")]
    assert len(references) == 5
    assert all(value.startswith("data:") for value in references)
    assert "default-src 'none'" in text


def test_the_pictures_are_the_cards(pixels: np.ndarray) -> None:
    text = report.page("Grid", [], {}, [], [], [card("a.png", 1, pixels)])
    sources = [value for name, value in Page(text).attributes if name == "src"]
    image, *_, normal = (np.asarray(Image.open(io.BytesIO(base64.b64decode(s.split(",")[1])))) for s in sources)
    assert np.abs(image.astype(int) - pixels).mean() < 12  # WebP loses a little
    assert normal.shape == (30, 32, 3)


def test_the_page_escapes_what_it_shows(pixels: np.ndarray) -> None:
    nasty = '<b>"&\'</b>'
    chart = Chart(nasty, {nasty: [(0, 1), (1, 2)]}, {nasty: 1})
    shown = [card(nasty, 1, pixels, kind=nasty, verdict=nasty)]
    page = Page(report.page(nasty, [nasty], {nasty: nasty}, [{nasty: nasty}], [chart], shown))
    assert "b" not in page.tags
    assert page.text.count(nasty) >= 14  # title, h1, sentence, facts, table, chart, filters, card
    assert ("alt", f"{nasty}: image") in page.attributes


def test_filters_offer_what_there_is(pixels: np.ndarray) -> None:
    cards = [card("a.png", 2, pixels), card("b.png", 1, pixels, "good", "pass"), card("c.png", 0, pixels, None, None)]
    page = Page(report.page("Grid", [], {}, [], [], cards))
    values = [value for name, value in page.attributes if name == "value"]
    assert values == ["", "good", "hole", "", "pass", "reject"]
    assert page.tags.count("article") == 3
    bare = Page(report.page("Grid", [], {}, [], [], cards[2:]))
    assert "select" not in bare.tags


def test_marks_are_on_the_picture(pixels: np.ndarray) -> None:
    drawn = report.marked(pixels, [(10, 12, 20, 8)], (25, 30))
    white = (drawn == 255).all(axis=2)
    assert white[11, 9:31].all() and white[20, 9:31].all() and white[11:21, 9].all() and white[11:21, 30].all()
    np.testing.assert_array_equal(drawn[12:20, 10:30], pixels[12:20, 10:30])  # the inside is seen
    assert (drawn[30, 25] == pixels[30, 25]).all() and white[30, 21]
