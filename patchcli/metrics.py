"""Detection figures from labels and scores; nothing here reaches training or thresholds."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

ScoredPixels = tuple[NDArray[np.bool_], NDArray[np.float32]]


def auroc(labels: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Area under the ROC curve; None where one of the two classes is missing."""
    if len(set(labels)) < 2:
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def pixel_auroc(images: Callable[[], Iterator[ScoredPixels]]) -> float | None:
    """AUROC over the pixels of all images, exact, in memory for the defective pixels and one image.

    `images()` is called twice and yields (mask, map) of equal shape. The area is the share of (defective, normal)
    pixel pairs that the map orders rightly, ties counting half; None where there are no defective or normal pixels.
    """
    defective = np.sort(np.concatenate([values[mask] for mask, values in images()] or [np.empty(0, np.float32)]))
    above, normals = 0.0, 0
    for mask, values in images():
        normal = np.sort(values[~mask])
        left = np.searchsorted(defective, normal, "left")
        right = np.searchsorted(defective, normal, "right")
        above += float(2 * len(defective) * len(normal) - left.sum() - right.sum()) / 2
        normals += len(normal)
    return above / (len(defective) * normals) if len(defective) and normals else None
