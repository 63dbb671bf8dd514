"""The working size that images suggest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchcli.datasets.images import Canvas
from patchcli.datasets.layouts import Sample
from patchcli.datasets.sizes import AREA, canvas_of, usual
from patchcli.errors import InputError


def samples(folder: Path, sizes: list[tuple[int, int]]) -> list[Sample]:
    """Empty images (width, height)."""
    made = []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.png"
        Image.new("L", size).save(path)
        made.append(Sample(path.name, path, "train", "good"))
    return made


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(1024, 1024)] * 3, (256, 256)),
        ([(1024, 1020)] * 3, (256, 256)),  # about square
        ([(144, 144)] * 3, (144, 144)),  # not enlarged
        ([(100, 100)] * 3, (128, 128)),  # but to what training needs
        ([(400, 300)] * 3, (256, 344)),
        ([(300, 400)] * 3, (344, 256)),
        ([(1260, 500)] * 3, (256, 648)),
        ([(1260, 500), (1260, 500), (300, 900)], (256, 648)),  # the median
        ([(4000, 500)] * 3, (184, 1448)),  # a longer side would be too much
        ([(9000, 200)] * 3, (128, 2048)),
    ],
)
def test_the_usual_size(tmp_path: Path, sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    canvas = usual(samples(tmp_path, sizes))
    assert canvas == Canvas(*expected)
    assert canvas.height * canvas.width <= 1.02 * AREA


@pytest.mark.parametrize("size", [96, (96,), (96, 96, 3), (96.5, 96), None, ("a", "b")])
def test_what_is_no_size_is_refused(size: Any) -> None:
    with pytest.raises(InputError, match=r"`size`: expected \(height, width\) or a text"):
        canvas_of(size, [], 64)


def test_numpy_numbers_are_a_size() -> None:
    canvas = canvas_of(np.array([96, 128]), [], 64)  # type: ignore[arg-type]
    assert (canvas, type(canvas.height), type(canvas.width)) == (Canvas(96, 128), int, int)


def test_files_that_are_no_images_do_not_count(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    assert usual([Sample("broken.png", broken, "train", "good")]) == Canvas(256, 256)
    assert usual([Sample("broken.png", broken, "train", "good"), *samples(tmp_path, [(400, 300)])]) == Canvas(256, 344)
