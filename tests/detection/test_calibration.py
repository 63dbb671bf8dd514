"""The promises: thresholds from order statistics, and conformal p-values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchcli.detection import calibration
from patchcli.detection.calibration import Calibration, Thresholds
from patchcli.errors import InputError

RATES = st.floats(0.005, 0.9)
CONFIDENCES = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99])


def exceeded_too_often(n: int, r: int, rate: float) -> float:
    """P(Binomial(n, rate) < r), term by term."""
    return sum(math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(r))


@given(st.integers(1, 150), RATES, CONFIDENCES)
def test_the_rank_is_the_largest_that_keeps_the_promise(n: int, rate: float, confidence: float) -> None:
    r = calibration.rank(n, rate, confidence)
    assert 0 <= r <= n
    assert r == 0 or exceeded_too_often(n, r, rate) <= 1 - confidence + 1e-12
    assert r == n or exceeded_too_often(n, r + 1, rate) > 1 - confidence - 1e-12


@pytest.mark.parametrize(
    ("rate", "confidence", "n"), [(0.01, 0.95, 299), (0.05, 0.95, 59), (0.1, 0.95, 29), (0.1, 0.9, 22), (0.01, 0.99, 459)]
)
def test_wilks_numbers(rate: float, confidence: float, n: int) -> None:
    assert calibration.least_images(rate, confidence) == n


@given(RATES, CONFIDENCES)
def test_the_least_number_of_images_by_brute_force(rate: float, confidence: float) -> None:
    n = next(n for n in range(1, 2000) if calibration.rank(n, rate, confidence))
    assert calibration.least_images(rate, confidence) == n
    assert calibration.least_rate(n, confidence) <= rate * (1 + 1e-9)
    assert n == 1 or calibration.least_rate(n - 1, confidence) > rate * (1 - 1e-9)


@pytest.mark.parametrize(("n", "rate", "confidence"), [(60, 0.05, 0.95), (100, 0.1, 0.9), (300, 0.01, 0.95), (40, 0.2, 0.8)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_promise_in_a_simulation(n: int, rate: float, confidence: float, ties: bool) -> None:
    """Of 1,000 calibrations, at least the share `confidence` has at most the share `rate` of normals above its threshold."""
    draws = np.random.default_rng(n).exponential(size=(1000, n))
    if ties:
        draws = np.ceil(2 * draws)
    thresholds = np.array([calibration.threshold(scores, rate, confidence) for scores in draws])
    above = np.exp(-thresholds / 2 if ties else -thresholds)  # P(score > threshold), known for this distribution
    kept = (above <= rate).mean()
    assert kept >= confidence - 3 * math.sqrt(confidence * (1 - confidence) / 1000)
    if not ties:  # no lower order statistic would do
        r = calibration.rank(n, rate, confidence)
        lower = np.exp(-np.sort(draws, axis=1)[:, -r - 1])
        assert (lower <= rate).mean() < confidence + 3 * math.sqrt(confidence * (1 - confidence) / 1000)


def test_too_few_images_name_the_number_and_a_rate_that_works() -> None:
    scores = np.arange(28.0)
    with pytest.raises(InputError, match=r"10% at 95% confidence needs 29 good images, found 28; .* `false_alarms=10.15%`"):
        calibration.threshold(scores, 0.1, 0.95)
    assert calibration.threshold(scores, 0.1015, 0.95) == 27
    assert calibration.threshold(np.arange(29.0), 0.1, 0.95) == 28
    with pytest.raises(InputError, match=r"needs 299 good images, found 0$"):
        calibration.check(0, 0.01, 0.95)
    with pytest.raises(InputError, match=r"1e-10% .* needs 2,995,732,\d+,\d+ good images"):  # said without trying them all
        calibration.check(28, 1e-12, 0.95)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, 1e-300, 1 - 1e-16, math.nan, math.inf])
def test_no_share(share: float) -> None:
    with pytest.raises(InputError, match="`false_alarms`: expected a share between 0 and 100%"):
        calibration.check(100, share, 0.95)
    with pytest.raises(InputError, match="`confidence`: expected a share between 0 and 100%"):
        calibration.check(100, 0.1, share)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.integers(-1, 10), min_size=1, max_size=5))
def test_p_values_by_counting(scores: list[int], queries: list[int]) -> None:
    found = calibration.p_values(np.array(scores, float), np.array(queries, float))
    expected = [(1 + sum(s >= query for s in scores)) / (len(scores) + 1) for query in queries]
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_p_values_of_normals_are_uniform() -> None:
    """Over calibrations of 19 scores and a new one of the same kind: each of 1/20, …, 20/20 as often."""
    draws = np.random.default_rng(3).lognormal(size=(20_000, 20))
    p = np.array([calibration.p_values(row[1:], row[:1])[0] for row in draws])
    counts = np.bincount((20 * p).round().astype(int), minlength=21)[1:]
    assert np.abs(counts - 1000).max() < 5 * math.sqrt(1000)


def test_verdicts() -> None:
    def thresholds(review: float | None) -> Thresholds:
        rate = None if review is None else 0.2
        return Thresholds("s", "loo", 4, 0.1, 0.95, 3.0, 3.0, rate, review, 0.0, 6.0, "", "")

    scores = np.array([1.0, 4, 3, 2])
    banded, plain = Calibration(thresholds(2.0), scores), Calibration(thresholds(None), scores)
    assert [banded.verdict(score) for score in (1, 2, 2.5, 3, 3.1)] == ["pass", "pass", "review", "review", "reject"]
    assert [plain.verdict(score) for score in (1, 2, 2.5, 3, 3.1)] == ["pass", "pass", "pass", "pass", "reject"]
    assert [plain.p_value(score) for score in (0, 3, 5)] == [1, 0.6, 0.2]


@given(st.integers(1, 1000), st.floats(0.5, 0.999))
def test_the_best_rate_is_the_least_that_can_be_promised(n: int, confidence: float) -> None:
    rate = calibration.best_rate(n, confidence)
    calibration.check(n, rate, confidence)
    for other in calibration.RATES:
        assert other >= rate or calibration.rank(n, other, confidence) == 0
    if rate not in calibration.RATES:
        assert calibration.rank(n, rate - 1.1e-4, confidence) == 0


@pytest.mark.parametrize(("n", "rate"), [(299, 0.01), (298, 0.02), (149, 0.02), (148, 0.05), (59, 0.05), (58, 0.1), (14, 0.2)])
def test_the_rates_of_so_many_images(n: int, rate: float) -> None:
    assert calibration.best_rate(n, 0.95) == rate
