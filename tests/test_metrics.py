"""Detection figures against scikit-learn's."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from patchcli import metrics

Pictures = list[tuple[np.ndarray, np.ndarray]]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_auroc_equals_scikit_learns(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = [label for label, _ in pairs], [float(score) for _, score in pairs]
    expected = roc_auc_score(labels, scores) if len(set(labels)) == 2 else None
    assert metrics.auroc(labels, scores) == expected


@pytest.mark.parametrize(("scores", "expected"), [([1, 2, 3, 4], 1), ([4, 3, 2, 1], 0), ([1, 1, 1, 1], 0.5)])
def test_auroc_of_known_orders(scores: list[float], expected: float) -> None:
    assert metrics.auroc([False, False, True, True], scores) == expected


@pytest.mark.parametrize("labels", [[], [True, True], [False, False]])
def test_auroc_of_one_class_is_none(labels: list[bool]) -> None:
    assert metrics.auroc(labels, [float(i) for i in range(len(labels))]) is None


@st.composite
def pictures(draw: st.DrawFn) -> Pictures:
    """Up to four (mask, map) of different sizes; with few levels, so that there are ties within and across images."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share, levels = draw(st.sampled_from([0, 0.1, 0.5, 1])), draw(st.sampled_from([1, 3, 50]))
    shapes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=4))
    return [(rng.random(s) < share, rng.integers(0, levels, s).astype(np.float32) / 7) for s in shapes]


@given(pictures())
def test_pixel_auroc_equals_scikit_learns(images: Pictures) -> None:
    def again() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return iter(images)

    labels = np.concatenate([mask.ravel() for mask, _ in images] or [[]])
    values = np.concatenate([values.ravel() for _, values in images] or [[]])
    found = metrics.pixel_auroc(again)
    if len(set(labels.tolist())) < 2:
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(labels, values), abs=1e-12)


def test_pixel_auroc_counts_ties_half() -> None:
    image = np.array([[True, False]]), np.array([[0.5, 0.5]], np.float32)
    assert metrics.pixel_auroc(lambda: iter([image])) == 0.5
