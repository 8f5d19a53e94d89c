from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.core.regrid import counts, coverage, regrid


def grid_over(field, stride, zoom=1.0, origin=(0, 0)):
    shape = tuple(int(np.ceil((n - 0.5) * zoom / stride)) for n in field)
    return TokenGrid(stride, zoom, shape, origin, field)


@given(
    field=st.tuples(st.integers(9, 70), st.integers(9, 70)),
    a=st.sampled_from([3, 8, 16]),
    b=st.sampled_from([4, 8, 16]),
    zoom=st.sampled_from([0.7, 1.0, 1.5]),
)
@settings(deadline=None, max_examples=40)
def test_the_sum_is_kept_on_the_same_field(field, a, b, zoom):
    one, two = grid_over(field, a, zoom, (5, 7)), grid_over(field, b, 1.0, (5, 7))
    values = np.random.default_rng(0).random(one.shape)
    moved = regrid(values, one, two)
    assert moved.shape == two.shape
    assert moved.sum() == pytest.approx(values.sum(), rel=1e-4)


def test_cells_are_shared_by_area():
    one, two = grid_over((32, 32), 16), grid_over((32, 32), 8)
    values = np.array([[4.0, 0.0], [0.0, 8.0]])
    np.testing.assert_allclose(regrid(values, one, two), np.kron(values / 4, np.ones((2, 2))))
    np.testing.assert_allclose(regrid(regrid(values, one, two), two, one), values)
    shifted = grid_over((16, 32), 16, origin=(8, 0))
    np.testing.assert_allclose(regrid(values, one, shifted), [[2.0, 4.0]])


def test_a_mask_on_tokens():
    mask = np.zeros((50, 60), dtype=bool)
    mask[10:20, 20:24] = True
    grid = TokenGrid(16, 1.0, (2, 3), (8, 8), (30, 40))
    found = counts(mask, grid)
    assert found.sum() == 40
    assert found[0, 0] == 10 * 4  # rows 10..19 and columns 20..23 lie in the first cell: 8..23
    np.testing.assert_allclose(coverage(mask, grid)[0, 0], 40 / 256)
    full = coverage(np.ones((50, 60), dtype=bool), grid)
    np.testing.assert_allclose(full, 1)  # cut cells count the pixels that they have
