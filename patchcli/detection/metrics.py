"""Detection figures of images, from labels and scores; nothing here reaches training or thresholds.

The figures are scikit-learn's. Intervals are 95 % percentile intervals of a bootstrap over images: RESAMPLES resamples, in
each as many defective and as many other images as there are, drawn with replacement, the seed fixed.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

RESAMPLES, SEED = 1000, 0

Interval = tuple[float, float]
Counts = NDArray[np.int64]


def auroc(labels: Sequence[bool] | NDArray[np.bool_], scores: Sequence[float] | NDArray[np.float32]) -> float | None:
    """Area under the ROC curve; None where one of the two classes is missing."""
    if np.all(labels) or not np.any(labels):
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def average_precision(labels: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Mean precision over the steps of recall (no interpolation); None where one of the two classes is missing."""
    if len(set(labels)) < 2:
        return None
    from sklearn.metrics import average_precision_score

    return min(1.0, float(average_precision_score(labels, scores)))  # its sum can round to more


def f1_max(labels: Sequence[bool], scores: Sequence[float]) -> float | None:
    """F1 at the threshold that is best for these labels: an oracle's figure, no threshold found without labels has it."""
    if len(set(labels)) < 2:
        return None
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)))


def auroc_interval(labels: Sequence[bool], scores: Sequence[float]) -> Interval | None:
    """Bootstrap interval of the AUROC; None where one of the two classes is missing."""
    if len(set(labels)) < 2:
        return None
    positives = sum(labels)
    drawn = draws(positives, len(labels) - positives)
    area, below = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for _, group in groupby(sorted(zip(scores, labels, strict=True)), key=itemgetter(0)):
        tied = {True: np.zeros(RESAMPLES), False: np.zeros(RESAMPLES)}
        for _, label in group:
            tied[label] += next(drawn[label])
        area += tied[True] * (below + tied[False] / 2)
        below += tied[False]
    return percentiles(area / (positives * (len(labels) - positives)))


def draws(positives: int, negatives: int) -> dict[bool, Iterator[Counts]]:
    """How often each image is drawn in each resample, (RESAMPLES,), for the defective and for the other images."""
    sizes = {True: positives, False: negatives}
    return {label: _multiplicities(n, np.random.default_rng((SEED, label))) for label, n in sizes.items()}


def _multiplicities(n: int, rng: np.random.Generator) -> Iterator[Counts]:
    """Image by image of n: a multinomial, one coordinate after the other, each binomial given those before."""
    left = np.full(RESAMPLES, n)
    for remaining in range(n, 0, -1):
        drawn = rng.binomial(left, 1 / remaining)
        left -= drawn
        yield drawn


def percentiles(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
