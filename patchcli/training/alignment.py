"""Whether the good images are aligned: whether the same place shows the same detail in all of them."""

from collections.abc import Iterable

import numpy as np

from patchcli.datasets.images import Pixels
from patchcli.training.images import GoodImages

# Images that are aligned less than this call for the separation loss. In aligned images a good patch has near ones at the same
# place of other images, and the separation would only learn to see synthetic defects at the cost of others.
ALIGNED = 0.08
SAMPLES = 100  # images to measure, at most
CELLS = 21  # across the shorter side


def alignment(images: Iterable[Pixels]) -> float:
    """The share of the images' detail that their mean image explains: an unbiased R², at least 0.

    Takes two or more images (H, W, 3). The detail is the mean colour of each of CELLS × CELLS cells or more, minus that of
    the four cells around it, so that uneven light does not count. Near 0 for a surface, 1 for copies of one image.
    """
    count, squares, sums = 0, 0.0, np.zeros(())
    for image in images:
        side = min(image.shape[:2]) // CELLS
        h, w = (length // side for length in image.shape[:2])
        cells = image[: h * side, : w * side].reshape(h, side, w, side, -1).mean((1, 3))
        around = cells[:-2, 1:-1] + cells[2:, 1:-1] + cells[1:-1, :-2] + cells[1:-1, 2:]
        detail = cells[1:-1, 1:-1] - around / 4
        count, squares, sums = count + 1, squares + np.square(detail).mean(), sums + detail
    within = (squares / count - np.square(sums / count).mean()) * count / (count - 1)
    return max(0.0, float(1 - within / (squares / count))) if squares else 1.0


def measured(images: GoodImages) -> float:
    """The alignment of some of the images, evenly spread."""
    indices = np.unique(np.linspace(0, len(images), SAMPLES, endpoint=False).astype(np.int64))
    return alignment(images.read(indices[n : n + 1])[0] for n in range(len(indices)))
