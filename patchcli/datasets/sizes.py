"""The working size that `size` asks for."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import index
from statistics import median

from patchcli.datasets import images
from patchcli.datasets.images import Canvas
from patchcli.datasets.layouts import Sample
from patchcli.errors import InputError

SIDE = 256  # shorter side of the working size, by default,
LEAST = 128  # or that of smaller images, but not below this, which training needs
AREA = 4 * SIDE**2  # pixels: beyond, memory and time of a bank of some hundred images grow out of hand
MULTIPLE = 8  # of which sides are that follow the images' aspect ratio
SAMPLED = 200  # images whose size is looked at
ASPECT = 0.01  # by how much aspect ratios of images that are alike may differ


def canvas_of(size: tuple[int, int] | str, samples: Sequence[Sample], smallest: int) -> Canvas:
    """(height, width), or a text: "256", "256x320", "fit:256x320", "native", "keep:256" (see ImageOptions).

    No side may be below `smallest`.
    """
    if isinstance(size, str) and (size == "native" or re.fullmatch(r"keep:\d+", size)):
        size = _own_size(samples, size)
    fits = isinstance(size, str) and size.startswith("fit:")
    if isinstance(size, str):
        sides = size.removeprefix("fit:").lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() for side in sides):
            expected = "256, 256x320 (height x width), fit:256x320, keep:256 or native"
            raise InputError(f"{size!r}", parameter="size", expected=expected)
        size = int(sides[0]), int(sides[-1])
    try:
        height, width = map(index, size)
    except (TypeError, ValueError):
        raise InputError(f"{size!r}", parameter="size", expected="(height, width) or a text such as fit:256x320") from None
    size = height, width
    if min(size) < smallest:
        wrong = f"expected at least {smallest}x{smallest}, the larger patch; found {size[0]}x{size[1]}"
        raise InputError(wrong, parameter="size")
    return Canvas(*size, keeps_aspect=fits)


def usual(samples: Sequence[Sample]) -> Canvas:
    """The working size of images for which none is given: their median aspect ratio, and the size that SIDE, LEAST and AREA
    allow; a square for images that are about square."""
    sizes = list(_sizes(samples[:: max(1, len(samples) // SAMPLED)]))
    ratio = median(width / height for height, width in sizes) if sizes else 1.0
    shorter = median(min(size) for size in sizes) if sizes else SIDE
    longer = max(ratio, 1 / ratio)
    short = max(LEAST, min(SIDE, shorter, (AREA / longer) ** 0.5))
    if longer <= 1 + ASPECT:
        return Canvas(round(short), round(short))
    sides = (_rounded(short), min(_rounded(short * longer), AREA // LEAST))
    return Canvas(*(sides if ratio > 1 else sides[::-1]))


def _rounded(side: float) -> int:
    return max(LEAST, round(side / MULTIPLE) * MULTIPLE)


def _sizes(samples: Sequence[Sample]) -> Iterator[tuple[int, int]]:
    """(height, width) of the images, from their heads; those that cannot be read do not count."""
    for sample in samples:
        with contextlib.suppress(InputError):
            yield images.size(sample.path)


def _own_size(samples: Sequence[Sample], wanted: str) -> tuple[int, int]:
    """(height, width) for "native" or "keep:N"."""
    sizes = Counter(_sizes(samples))
    (height, width), most = sizes.most_common(1)[0] if sizes else ((SIDE, SIDE), 0)
    ratios = [own_width * height / (own_height * width) for own_height, own_width in sizes]
    if len(sizes) > 1 if wanted == "native" else max(ratios, default=1) - min(ratios, default=1) > ASPECT:
        alike = "size" if wanted == "native" else "aspect ratio"
        share = f"{most} of {sum(sizes.values())} have {height}x{width} (height x width)"
        expected, advice = f"good images of one {alike}", "give `size=fit:HEIGHTxWIDTH`"
        raise InputError(share, parameter="size", subject=wanted, expected=expected, advice=advice)
    if wanted == "native":
        return height, width
    scale = int(wanted.removeprefix("keep:")) / min(height, width)
    return round(height * scale), round(width * scale)
