"""Scores of good images that the bank does not hold → thresholds that keep a promise on false alarms, and p-values.

Nothing is assumed of the distribution, only that new good images come from the same process, one independently of another.

* Threshold: S. S. Wilks, "Determination of sample sizes for setting tolerance limits", Ann. Math. Statist. 12 (1941), 91–96.
  Of n scores, the share of all good images above the r-th largest is Beta(r, n - r + 1), so it is at most α with
  confidence P(Binomial(n, α) ≥ r). Ties make the share smaller.
* p-value: V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World" (2005), Sect. 2.2 (conformal).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcli.errors import InputError, StoreError
from patchcli.store import Thresholds
from patchcli.store.attributes import plain

VERDICTS = ("pass", "review", "reject")
CONFIDENCE = 0.95
LEAST_SHARE = 1e-15  # no number of images that anybody has tells a smaller one from none
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)  # of false alarms, that are promised where none is asked for: the first that can be


def _binomial(k: Any, n: int, p: float) -> Any:
    """P(Binomial(n, p) ≤ k)."""
    from scipy.special import bdtr  # not at once: only `calibrate` needs it, and it takes a fifth of a second

    return bdtr(k, n, p)


def rank(n: int, rate: float, confidence: float) -> int:
    """The largest r for which the r-th largest of n scores is a threshold that keeps the promise; 0 where none does."""
    missed = _binomial(np.arange(n), n, rate)  # for r = 1, 2, …: P(Binomial(n, rate) < r)
    return int(np.searchsorted(missed, 1 - confidence, side="right"))


def least_images(rate: float, confidence: float) -> int:
    """The fewest images from which a threshold for this rate can be promised: (1 - rate)ⁿ ≤ 1 - confidence."""
    about = math.ceil(math.log(1 - confidence) / math.log1p(-rate))  # but for rounding
    kept = (n for n in (about - 1, about) if n > 0 and _binomial(0, n, rate) <= 1 - confidence)
    return next(kept, about + 1)


def least_rate(n: int, confidence: float) -> float:
    """The smallest rate that n images can promise."""
    return float(1 - (1 - confidence) ** (1 / n))


def best_rate(n: int, confidence: float) -> float:
    """The first of RATES that n images can promise; else the smallest rate that they can, rounded up to 0.01%."""
    _check_share("confidence", confidence)
    if n == 0:
        return RATES[0]
    can = (rate for rate in RATES if rank(n, rate, confidence))
    return next(can, _rounded_up(least_rate(n, confidence)))


def _rounded_up(rate: float) -> float:
    return math.ceil(1e4 * rate) / 1e4


def _check_share(name: str, share: float) -> None:
    if not LEAST_SHARE <= share <= 1 - LEAST_SHARE:
        raise InputError(f"{100 * share:g}%", parameter=name, expected="a share between 0 and 100%")


def check(n: int, rate: float, confidence: float) -> None:
    """Raise InputError where a rate or confidence is no share between 0 and 1, or n images are too few for them."""
    _check_share("false_alarms", rate)
    _check_share("confidence", confidence)
    if n == 0 or rank(n, rate, confidence) == 0:
        needed = f"{100 * rate:g}% at {100 * confidence:g}% confidence needs {least_images(rate, confidence):,}"
        smallest = 100 * _rounded_up(least_rate(n, confidence)) if n else 100
        advice = f"with these: `false_alarms={smallest:.2f}%`" if smallest < 100 else None
        raise InputError(f"a false-alarm rate of {needed} good images, found {n}", advice=advice)


def threshold(scores: NDArray[np.float64], rate: float, confidence: float) -> float:
    """What at most a share `rate` of good images scores above, with this confidence; `scores` (n,) are good images'."""
    check(len(scores), rate, confidence)
    return float(np.sort(scores)[-rank(len(scores), rate, confidence)])


def p_values(scores: NDArray[np.float64], queries: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 + number of `scores` ≥ query) / (n + 1): of a good image, at most p with probability p, for every p."""
    above = len(scores) - np.searchsorted(np.sort(scores), queries, side="left")
    p: NDArray[np.float64] = (1 + above) / (len(scores) + 1)
    return p


@dataclass(frozen=True)
class Promise:
    """What thresholds are to promise: rates of false alarms, as shares of good images, and the confidence in them."""

    false_alarms: float | None = None  # None: the lowest of RATES that the images can promise, else the lowest that they can
    confidence: float = CONFIDENCE
    review: float | None = None  # the higher rate of a lower threshold

    def __post_init__(self) -> None:
        plain(self)

    def rate(self, images: int) -> float:
        """The rate that so many images are to promise; raises InputError where they cannot."""
        rate = best_rate(images, self.confidence) if self.false_alarms is None else self.false_alarms
        check(images, rate, self.confidence)
        if self.review is not None and not rate < self.review < 1:
            expected = f"a rate above that of `false_alarms` ({100 * rate:g}%)"
            raise InputError(f"{100 * self.review:g}%", parameter="review", expected=expected)
        return rate


@dataclass(frozen=True)
class Calibration:
    """Thresholds, with the image scores (n,) behind them."""

    thresholds: Thresholds
    scores: NDArray[np.float64]

    def check_roi(self, roi: str | None) -> None:
        """Raise StoreError where scores within `roi` (sha256) are not what was calibrated.

        A threshold that was set without a region of interest holds with any: the maximum over fewer pixels is no higher.
        """
        if self.thresholds.roi not in (None, roi):
            other = "the thresholds hold for another region of interest"
            raise StoreError(other, advice="give the same `roi` as for `calibrate()`", run="calibrate()")

    def verdict(self, score: float) -> str:
        """pass, review or reject."""
        review = self.thresholds.review_threshold
        return VERDICTS[2 if score > self.thresholds.threshold else 1 if review is not None and score > review else 0]

    def p_value(self, score: float) -> float:
        """How unusual a score is among good images'."""
        return float(p_values(self.scores, np.array([score]))[0])
