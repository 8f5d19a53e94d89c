from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attnseg.core.grid import TokenGrid


@st.composite
def grids(draw):
    stride = draw(st.sampled_from([1, 2, 4, 8, 16]))
    zoom = draw(st.floats(0.1, 4.0))
    field = draw(st.integers(1, 200)), draw(st.integers(1, 200))
    shape = tuple(max(1, int(np.ceil(round(n * zoom) / stride))) for n in field)
    origin = draw(st.integers(0, 500)), draw(st.integers(0, 500))
    return TokenGrid(stride, zoom, shape, origin, field)


@settings(max_examples=100, deadline=None)
@given(grid=grids(), data=st.data())
def test_token_to_pixel_and_back(grid, data):
    token = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    assert grid.token_of(grid.pixel_of(token)) == token


@settings(max_examples=100, deadline=None)
@given(grid=grids())
def test_index_maps_agree_with_token_of(grid):
    rows, cols = grid.index_maps()
    assert rows.shape == (grid.field[0],)
    assert cols.shape == (grid.field[1],)
    for y in range(0, grid.field[0], 7):
        for x in range(0, grid.field[1], 11):
            assert grid.token_of((grid.origin[0] + y, grid.origin[1] + x)) == (rows[y], cols[x])


@settings(max_examples=50, deadline=None)
@given(grid=grids(), data=st.data())
def test_pixels_lie_within_half_a_cell_of_their_token(grid, data):
    pixel = tuple(o + data.draw(st.integers(0, n - 1)) for o, n in zip(grid.origin, grid.field, strict=True))
    assert grid.contains(pixel)
    token = grid.token_of(pixel)
    back = grid.pixel_of(token)
    for p, b, t, n in zip(pixel, back, token, grid.shape, strict=True):
        if t < n - 1:  # the last token also takes what a rounded size leaves over
            assert abs(p - b) <= grid.cell / 2 + 1e-6


def test_paint_repeats_each_weight_over_its_cell():
    grid = TokenGrid(4, 1.0, (2, 3), (10, 20), (8, 12))
    values = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    out = grid.paint(values, (30, 40))
    assert out.shape == (30, 40)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out[10:18, 20:32], np.kron(values, np.ones((4, 4))))
    assert out.sum() == pytest.approx(values.sum() * 16)


def test_affine_puts_token_centres_on_their_pixels():
    grid = TokenGrid(16, 0.5, (3, 4), (5, 7), (96, 128))
    for token in ((0, 0), (2, 3)):
        np.testing.assert_allclose((grid.affine() @ (*token, 1))[:2], grid.pixel_of(token))
    assert grid.pixel_of((0, 0)) == (5 + 15.5, 7 + 15.5)


def test_contains_uses_pixel_edges():
    grid = TokenGrid(4, 1.0, (2, 2), (10, 10), (8, 8))
    assert grid.contains((9.5, 17.4))
    assert not grid.contains((9.4, 12))
    assert not grid.contains((12, 17.5))


def test_paint_fills_the_cell_in_which_the_field_ends():
    grid = TokenGrid(16, 1.0, (3, 3), (0, 16), (39, 39))
    values = np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    out = grid.paint(values, (100, 60))  # rows have room, columns end with the plane
    assert out[47, 20] == 7
    assert out[48, 20] == 0
    assert out[40, 59] == 9
    centres = np.ix_([8, 24, 40], [24, 40, 56])
    np.testing.assert_array_equal(out[centres], values)


@given(
    st.integers(1, 700), st.integers(1, 700), st.sampled_from([0.05, 0.074, 0.3, 0.84, 1.0, 1.19, 2.0, 4.0])
)
def test_parts_of_tokens_end_where_the_plane_ends(height, width, zoom):
    shape = int(np.ceil(height * zoom / 16)), int(np.ceil(width * zoom / 16))
    grid = TokenGrid(16, zoom, shape, (0, 0), (height, width))
    count, cells = grid.parts((height, width))
    side = grid.cell / count
    assert count * max(shape) <= 1024 or count == 1
    for n, cell, tokens in zip((height, width), cells, shape, strict=True):
        assert cell * side - n >= -1e-3  # nothing is left bare
        assert cell <= tokens * count
        assert cell * side - n <= max(1.0, n / 256, side)
    if all((n * zoom / 16).is_integer() for n in (height, width)):
        assert count == 1
