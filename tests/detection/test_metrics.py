"""Detection figures against scikit-learn's, naive loops over every threshold, and cases worked by hand."""

import io
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from patchcli.detection import metrics, pixel_metrics
from patchcli.detection.pixel_metrics import PixelFigures, Pixels, SortedPixels

Picture = tuple[str, NDArray[np.float32], NDArray[np.bool_]]  # kind, map, mask

# ---- images ---------------------------------------------------------------------------------------------------------

PAIRS = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30)


@given(PAIRS)
def test_image_figures_equal_scikit_learns(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = [label for label, _ in pairs], [float(score) for _, score in pairs]
    both = len(set(labels)) == 2
    assert metrics.auroc(labels, scores) == (roc_auc_score(labels, scores) if both else None)
    wanted = min(1.0, average_precision_score(labels, scores)) if both else None
    assert metrics.average_precision(labels, scores) == wanted
    assert metrics.f1_max(labels, scores) == (pytest.approx(naive_f1_max(labels, scores)) if both else None)


def test_a_perfect_average_precision_is_one() -> None:
    """scikit-learn's sum of 20 precisions rounds to 1.0000000000000002."""
    scores = [*range(25, 5, -1), 0, 0, 0, 0, 0]
    assert metrics.average_precision([score > 0 for score in scores], scores) == 1.0


def naive_f1_max(labels: Sequence[bool], scores: Sequence[float]) -> float:
    best = 0.0
    for threshold in set(scores):
        tp = sum(label and score >= threshold for label, score in zip(labels, scores, strict=True))
        flagged = sum(score >= threshold for score in scores)
        best = max(best, 2 * tp / (flagged + sum(labels)))
    return best


@pytest.mark.parametrize(("scores", "expected"), [([1, 2, 3, 4], 1), ([4, 3, 2, 1], 0), ([1, 1, 1, 1], 0.5)])
def test_auroc_of_known_orders(scores: list[float], expected: float) -> None:
    assert metrics.auroc([False, False, True, True], scores) == expected


@pytest.mark.parametrize("labels", [[], [True, True], [False, False]])
def test_image_figures_of_one_class_are_none(labels: list[bool]) -> None:
    scores = [float(i) for i in range(len(labels))]
    for figure in (metrics.auroc, metrics.average_precision, metrics.f1_max, metrics.auroc_interval):
        assert figure(labels, scores) is None


# ---- the bootstrap --------------------------------------------------------------------------------------------------


def draws(positives: int, negatives: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often the positive and the negative images are drawn, each (RESAMPLES, images)."""
    both = metrics.draws(positives, negatives)
    return np.array(list(both[True])).T, np.array(list(both[False])).T


def test_multiplicities_are_those_of_drawing_with_replacement() -> None:
    times, others = draws(5, 5)
    assert (times != others).any()
    assert (times.sum(axis=1) == 5).all()
    expected = np.random.default_rng(1).multinomial(5, [0.2] * 5, metrics.RESAMPLES)
    assert np.allclose(times.mean(axis=0), 1, atol=0.1)
    assert np.allclose(np.cov(times.T), np.cov(expected.T), atol=0.15)


@given(PAIRS)
@settings(max_examples=10)
def test_the_images_interval_is_that_of_resampled_images(pairs: list[tuple[bool, int]]) -> None:
    pairs = [(True, 2), (False, 1), *pairs]
    labels, scores = np.array([label for label, _ in pairs]), np.array([float(score) for _, score in pairs])
    times = draws(int(labels.sum()), int((~labels).sum()))
    above, below = np.sort(scores[labels]), np.sort(scores[~labels])  # resamples are drawn in the order of the scores
    wins = (above[:, None] > below) + (above[:, None] == below) / 2
    areas = np.einsum("bp,pn,bn->b", times[0], wins, times[1]) / wins.size
    expected = np.percentile(areas, [2.5, 97.5])
    assert metrics.auroc_interval(labels.tolist(), scores.tolist()) == pytest.approx(tuple(expected))


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        scores = np.concatenate([rng.normal(0, 1, 40), rng.normal(1, 1, 40)])
        low, high = metrics.auroc_interval([False] * 40 + [True] * 40, scores.tolist()) or (0, 0)
        covered += low <= 0.7602 <= high  # Φ(1/√2)
    assert 87 <= covered <= 100


# ---- pixels ---------------------------------------------------------------------------------------------------------


def pooled(pictures: Sequence[Picture]) -> Pixels:
    pixels = Pixels(io.BytesIO())
    for kind, values, mask in pictures:
        pixels.add(kind, SortedPixels.of(values, mask))
    return pixels


def regions_of(mask: NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """8-connected regions, by flood fill."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            edge += around
        found.append(region)
    return found


def naive_aupro(pictures: Sequence[Picture], limit: float) -> float:
    """A loop over every threshold; the trapezoid that crosses the limit is cut at the line between its ends."""
    regions = [np.array([values[pixel] for pixel in region]) for _, values, mask in pictures for region in regions_of(mask)]
    normal = np.concatenate([values[~mask] for _, values, mask in pictures])
    thresholds = sorted({float(v) for _, values, _ in pictures for v in values.ravel()}, reverse=True)
    points = [(0.0, 0.0)]
    points += [(float((normal >= t).mean()), float(np.mean([(r >= t).mean() for r in regions]))) for t in thresholds]
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 < limit < x1:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def check(found: PixelFigures, pictures: Sequence[Picture]) -> None:
    """Against scikit-learn on all pixels at once, and the naive AUPRO."""
    labels = np.concatenate([mask.ravel() for *_, mask in pictures] or [np.empty(0, bool)])
    values = np.concatenate([values.ravel() for _, values, _ in pictures] or [np.empty(0, np.float32)])
    if len(np.unique(labels)) < 2:
        assert found == PixelFigures(None, None, None, None, None)
        return
    precision, recall, _ = precision_recall_curve(labels, values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert found.auroc == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
    assert found.ap == pytest.approx(average_precision_score(labels, values), abs=1e-12)
    assert found.f1_max == pytest.approx(f1.max(), abs=1e-12)
    expected = tuple(naive_aupro(pictures, limit) for limit in (0.3, 0.05))
    assert found.aupro == pytest.approx(expected, abs=1e-12)


@st.composite
def worlds(draw: st.DrawFn) -> list[Picture]:
    """Up to five images of different sizes. Masks touch the borders, fill the image or are empty; maps are constant, have
    few levels, so that there are ties within and across images, or span the floats, negative ones and both zeros too."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from(["constant", "levels", "near", "wide"]))
    pictures = []
    for shape in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=5)):
        mask = rng.random(shape) < draw(st.sampled_from([0, 0, 0.1, 0.5, 1]))
        values = {
            "constant": np.full(shape, 0.3),
            "levels": rng.integers(0, 4, shape) / 7,
            "near": 1 + rng.integers(0, 40, shape) * 2.0**-23,
            "wide": rng.choice([-1, 1], shape) * 10.0 ** rng.integers(-44, 30, shape) * rng.integers(0, 2, shape),
        }[spread]
        kind = draw(st.sampled_from(["bent", "cut"])) if mask.any() else "good"
        pictures.append((kind, values.astype(np.float32), mask))
    return pictures


@given(worlds())
@settings(max_examples=100)
def test_pixel_figures_equal_those_of_all_pixels_at_once(pictures: list[Picture]) -> None:
    pixels = pooled(pictures)
    check(pixels.figures(), pictures)
    kind = [picture for picture in pictures if picture[0] in ("good", "cut")]
    check(pixels.figures({"good", "cut"}), kind)


@given(worlds(), st.integers(0, 3), st.integers(0, 3))
def test_pixels_that_do_not_count_are_as_if_cut_off(pictures: list[Picture], top: int, left: int) -> None:
    some, cut = Pixels(io.BytesIO()), Pixels(io.BytesIO())
    for kind, values, mask in pictures:
        counted = np.zeros(mask.shape, bool)
        counted[top:, left:] = True
        some.add(kind, SortedPixels.of(values, mask, counted))
        cut.add(kind, SortedPixels.of(values[top:, left:], mask[top:, left:]))
    assert some.figures() == cut.figures()


def test_pixels_that_come_in_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_metrics, "CHUNK", 50)
    rng = np.random.default_rng(0)
    pictures: list[Picture] = []
    for number in range(12):
        mask = np.zeros((20, 30), bool)
        mask[5 : 5 + number, 3:9] = True
        values = rng.random(mask.shape) + mask / 3
        pictures.append(("good" if not number else "cut", values.astype(np.float32), mask))
    check(pooled(pictures).figures(), pictures)


def test_ties_count_half() -> None:
    assert pooled([("cut", np.array([[0.5, 0.5]], np.float32), np.array([[True, False]]))]).figures().auroc == 0.5


def test_minus_zero_is_zero() -> None:
    values = np.array([[-0.0, 0.0]], np.float32)
    for mask in ([[True, False]], [[False, True]]):
        assert pooled([("cut", values, np.array(mask))]).figures().auroc == 0.5


# ---- AUPRO by hand --------------------------------------------------------------------------------------------------


def test_a_perfect_average_precision_of_pixels_is_one() -> None:
    mask = np.zeros((20, 20), bool)
    mask[:2] = True  # 40 precisions of 1, each weighing 1/40, whose sum rounds to 1.0000000000000002
    values = np.arange(400, 0, -1, np.float32).reshape(20, 20)
    pixels = Pixels(io.BytesIO())
    pixels.add("bent", SortedPixels.of(values, mask))
    assert pixels.figures().ap == 1.0


def test_aupro_weighs_regions_not_pixels() -> None:
    """A region of one pixel and one of four, ten normal pixels; the map finds the small one only.

    Thresholds: 9 finds the small region (FPR 0, PRO ½); 5 adds one normal pixel (0.1, ½); 4 one more (0.2, ½); 3 the
    large region (0.2, 1); 0 the rest (1, 1). Up to 0.3: 0.2 · ½ + 0.1 · 1 = 0.2, over 0.3: 2/3. Up to 0.05: ½.
    """
    values = np.array([[9, 0, 3, 3, 0], [0, 0, 3, 3, 0], [5, 4, 0, 0, 0]], np.float32)
    mask = np.zeros((3, 5), bool)
    mask[0, 0], mask[:2, 2:4] = True, True
    found = pooled([("cut", values, mask)]).figures()
    assert found.aupro == pytest.approx((2 / 3, 1 / 2))
    assert naive_aupro([("cut", values, mask)], 0.3) == pytest.approx(2 / 3)


def test_aupro_is_cut_on_the_line_between_thresholds() -> None:
    """One region of two pixels, four normal ones (two of them in a good image).

    Thresholds: 3 finds half the region (0, ½); 2 the other half with two normal pixels (½, 1); 1 the rest (1, 1). At
    FPR 0.3 the line from (0, ½) to (½, 1) is at 0.8: 0.3 · (0.5 + 0.8) / 2 / 0.3 = 0.65. At 0.05: (0.5 + 0.55) / 2.
    """
    defective = np.array([[3, 2, 2, 1]], np.float32), np.array([[True, True, False, False]])
    good = np.array([[2, 1]], np.float32), np.array([[False, False]])
    found = pooled([("cut", *defective), ("good", *good)]).figures()
    assert found.aupro == pytest.approx((0.65, 0.525))


def test_aupro_regions_are_eight_connected() -> None:
    """Three pixels in a row and a corner are one region; two of them are found at FPR 0, the rest at 1: from 2/3 to 1.

    With 4-connected regions the curve would begin at ½: one of two regions.
    """
    values, mask = np.zeros((4, 4), np.float32), np.zeros((4, 4), bool)
    mask[0, 0] = mask[0, 1] = mask[1, 2] = True
    values[0, :2] = 1
    assert pooled([("cut", values, mask)]).figures().aupro == pytest.approx(
        (2 / 3 + 0.3 * (1 - 2 / 3) / 2, 2 / 3 + 0.05 * (1 - 2 / 3) / 2)
    )


@pytest.mark.parametrize(("values", "expected"), [([[1, 0, 0]], (1, 1)), ([[0, 0, 0]], (0.15, 0.025)), ([[0, 1, 1]], (0, 0))])
def test_aupro_of_perfect_constant_and_inverted_maps(values: list[list[float]], expected: tuple[float, ...]) -> None:
    mask = np.array([[True, False, False]])
    assert pooled([("cut", np.array(values, np.float32), mask)]).figures().aupro == pytest.approx(expected)


# ---- the bootstrap over images, on their pixels ---------------------------------------------------------------------


def test_the_pixels_interval_is_that_of_resampled_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 100)
    rng = np.random.default_rng(0)
    pictures: list[Picture] = []
    for number in range(6):
        mask = np.zeros((6, 7), bool)
        mask[2 : 2 + number % 3, 1:4] = True
        values = (rng.integers(0, 30, mask.shape) + 8 * mask).astype(np.float32)
        pictures.append(("cut" if mask.any() else "good", values, mask))
    times = np.zeros((metrics.RESAMPLES, 6), int)
    times[:, [1, 2, 4, 5]], times[:, [0, 3]] = draws(4, 2)
    areas = []
    for row in times:
        weights = np.concatenate([np.full(mask.size, n) for n, (*_, mask) in zip(row, pictures, strict=True)])
        labels = np.concatenate([mask.ravel() for *_, mask in pictures])
        values = np.concatenate([values.ravel() for _, values, _ in pictures])
        areas.append(roc_auc_score(labels, values, sample_weight=weights))
    expected = np.percentile(areas, [2.5, 97.5])
    assert pooled(pictures).figures().auroc_interval == pytest.approx(tuple(expected), abs=1e-12)


def test_the_bins_of_the_pixels_interval_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every image drawn once, the binned AUROC differs from the exact one by less than 1/(2 EDGES)."""
    monkeypatch.setattr(metrics, "_multiplicities", lambda n, rng: iter(np.ones((n, metrics.RESAMPLES), int)))
    rng = np.random.default_rng(0)
    mask = np.zeros((100, 120), bool)
    mask[20:70, 30:90] = True
    pictures: list[Picture] = [("cut", (rng.gamma(2, 1, mask.shape) + mask).astype(np.float32), mask) for _ in range(3)]
    found = pooled(pictures).figures()
    assert found.auroc is not None
    assert found.auroc_interval == pytest.approx((found.auroc, found.auroc), abs=1 / (2 * pixel_metrics.EDGES))
    assert found.auroc_interval != (found.auroc, found.auroc)  # it is binned, more than EDGES values as there are


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    def peak(images: int) -> int:
        with (tmp_path / str(images)).open("w+b") as file:
            tracemalloc.start()
            pixels, rng = Pixels(file), np.random.default_rng(0)
            for number in range(images):
                mask = np.zeros((300, 400), bool)
                mask[50:100, 50:100] = number % 2
                image = SortedPixels.of(rng.random(mask.shape, np.float32), mask)
                pixels.add("cut" if number % 2 else "good", image)
            pixels.figures()
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return most

    assert peak(40) < peak(8) + 2**22  # the maps of 32 images more are 15 MB
