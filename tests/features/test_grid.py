"""Patch geometry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchcli.features.grid import PatchGrid, positions


@st.composite
def grids(draw: st.DrawFn) -> PatchGrid:
    """Grids whose stride is no larger than their patches."""
    K = draw(st.integers(1, 20))
    sides = st.integers(K, K + 50)
    return PatchGrid(draw(sides), draw(sides), K, draw(st.integers(1, K)))


@pytest.mark.parametrize(("length", "K", "S", "count"), [(256, 64, 16, 13), (256, 32, 4, 57), (64, 64, 16, 1)])
def test_positions_of_the_paper(length: int, K: int, S: int, count: int) -> None:
    assert positions(length, K, S) == tuple(S * i for i in range(count))


def test_the_last_patch_is_flush_with_the_edge() -> None:
    assert positions(97, 32, 10) == (0, 10, 20, 30, 40, 50, 60, 65)


@given(grids())
def test_starts_go_up_by_the_stride_except_for_the_last(grid: PatchGrid) -> None:
    *regular, last = grid.ys
    assert regular == [i * grid.S for i in range(len(regular))]
    assert last == grid.height - grid.K
    assert not regular or 0 < last - regular[-1] <= grid.S


@given(grids())
def test_every_pixel_is_covered(grid: PatchGrid) -> None:
    covered = np.zeros((grid.height, grid.width), bool)
    for y in grid.ys:
        for x in grid.xs:
            covered[y : y + grid.K, x : x + grid.K] = True
    assert covered.all()


@given(grids(), st.integers(1, 3))
def test_locate_inverts_the_flat_index(grid: PatchGrid, images: int) -> None:
    corners = [(image, y, x) for image in range(images) for y in grid.ys for x in grid.xs]
    assert [grid.locate(index) for index in range(images * grid.patches)] == corners


def test_shape_and_count() -> None:
    grid = PatchGrid(height=100, width=50, K=32, S=4)
    assert grid.shape == (18, 6)
    assert grid.patches == 18 * 6


def test_an_image_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="31 pixels holds no patch of 32"):
        positions(31, 32, 4)
