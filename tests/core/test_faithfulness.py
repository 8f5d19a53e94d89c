from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from napari_attnseg.core import faithfulness as math
from napari_attnseg.core.faithfulness import QueryCheck
from napari_attnseg.core.faithfulness_report import MapScore, ModelReport, interval
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.records import AttentionRow


def test_rank_correlation_is_that_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.random(40), rng.integers(0, 5, 40).astype(float)
    assert math.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert math.spearman(a, np.ones(40)) == 0
    assert math.spearman(a, a**3) == pytest.approx(1)


def test_partial_correlation_takes_a_common_cause_out():
    rng = np.random.default_rng(0)
    cause = rng.random(2000)
    a, b = cause + 0.3 * rng.random(2000), cause + 0.3 * rng.random(2000)
    assert math.spearman(a, b) > 0.8
    assert abs(math.partial_spearman(a, b, cause)) < 0.1
    assert math.partial_spearman(a, cause, cause) == 0


def test_p_counts_the_draws_that_reach_the_value():
    assert math.p_value(5.0, [1.0] * 20) == pytest.approx(1 / 21)
    assert math.p_value(1.0, [1.0, 2.0, 0.5]) == pytest.approx(3 / 4)


def test_the_area_under_a_curve_is_over_its_width():
    assert math.area_under([0, 0.5, 1], [1, 0, 0]) == pytest.approx(0.25)
    assert math.area_under([2, 4], [3, 3]) == pytest.approx(3)


def test_only_chosen_cells_are_covered():
    image = np.arange(35 * 50, dtype=np.uint16).reshape(35, 50)
    before = image.copy()
    cells = math.cell_grid(1.0, (100, 200), (35, 50))
    assert cells.shape == (3, 4)
    fill = np.full(image.shape, -1, dtype=np.float32)
    out = math.covered(image, fill, cells, [0, 11])
    changed = out != image
    wanted = np.zeros_like(changed)
    wanted[:16, :16] = wanted[32:, 48:] = True
    np.testing.assert_array_equal(changed, wanted)
    np.testing.assert_array_equal(image, before)
    colour = math.covered(np.dstack([image] * 3), np.dstack([fill] * 3), cells, [0])
    assert (colour[:16, :16] == -1).all()


def test_the_fill_is_the_surroundings():
    image = np.zeros((64, 64), dtype=np.uint8)
    image[:, 32:] = 100
    fill = math.fill_of(image, 4)
    assert fill[10, 5] < 1
    assert fill[10, 60] > 99
    assert 40 < fill[10, 32] < 60
    assert math.fill_of(np.dstack([image, image, image * 0]), 4)[..., 2].max() == 0


def test_cells_of_a_row_are_its_tokens_unless_those_are_tiny():
    grid = TokenGrid(8, 0.5, (4, 4), (0, 0), (64, 64))
    row = AttentionRow(np.eye(4, dtype=np.float32), 0.0, "b", "local", "mean", (0, 0), grid)
    assert math.cells_of(row, 0.5, (0, 0), (64, 64)) is grid
    seeds = TokenGrid(1, 1.0, (64, 64), (0, 0), (64, 64))
    readout = AttentionRow(np.eye(64, dtype=np.float32), 0.0, "r", "readout", "mean", (0, 0), seeds)
    cells = math.cells_of(readout, 0.5, (0, 0), (64, 64))
    assert (cells.stride, cells.shape) == (16, (2, 2))
    np.testing.assert_allclose(math.on_cells(readout, cells), [32, 0, 0, 32])


def test_distances_and_the_top():
    cells = math.cell_grid(1.0, (0, 0), (48, 48))
    away = math.distances(cells, (7.5, 7.5))
    assert away[0] == 0
    assert away[1] == away[3] == 16
    np.testing.assert_array_equal(math.top(-away, 2, np.arange(1, 9)), [1, 3])


def check(attended, random=(1.0, 2.0, 3.0) * 7, nearest=2.5, **more):
    grid = math.cell_grid(1.0, (0, 0), (48, 48))
    p = math.p_value(attended, random)
    return QueryCheck(
        "global1",
        "mean",
        False,
        (5, 5),
        attended,
        random,
        nearest,
        p,
        0.4,
        2,
        8,
        ((0, 1), (1, 0)),
        grid,
        **more,
    )


def test_a_check_says_what_it_found():
    yes = check(9.0)
    assert yes.verdict == "yes"
    assert yes.draws == 21
    assert yes.field == ((0, 0), (48, 48))
    for word in ("2 cells", "40% of the row", "by 9;", "1 to 3 in 21 draws", "p = 0.045", "more than chance"):
        assert word in yes.words
    assert "more than the nearest" in yes.words
    assert "nearness alone" in check(9.0, nearest=9.5).words
    assert check(1.5).verdict == "no"
    assert "do not read" in check(1.5).words
    assert check(2.5).verdict == "unclear"
    assert "of its window" in check(2.5, local=True).words


def report(value=0.6, near=0.4):
    scores = (
        MapScore("global1", "weights", 0.3, 0.2, 0.4, 0.1, 0.2, 0.05, 0.2, 0.5, 0.7, 0.95, 0.5),
        MapScore("global1", "value", value, 0.5, 0.7, 0.5, 0.3),
        MapScore("readout", "weights", 0.9, 0.9, 0.9, 0.9, 0.9),
        MapScore("nearness", "", near, 0.3, 0.5, 0.4, None),
    )
    return ModelReport("base", "abc", 3, 36, 6, 0.02, 0.13, scores, {"side": 192, "cells": 8, "draws": 20})


def test_a_report_is_a_table_and_json():
    found = report()
    page = found.markdown()
    assert "| global1, value | 0.600 (0.500 to 0.700) | 0.300 | 0.500 |  |" in page
    assert "| nearness | 0.400" in page
    assert "3 images" in page
    assert "not causation" in page
    assert "2.0%" in page
    raw = json.loads(found.to_json())
    assert raw["schema_version"] == 1
    assert raw["scores"][0]["beats_random"] == 0.95
    assert found.score("global1", "value").spearman == 0.6
    with pytest.raises(KeyError):
        found.score("global2")


def test_the_headline_holds_the_best_block_against_nearness():
    assert "global1, value" in report().headline
    assert "more than plain nearness" in report().headline
    assert "about as much as" in report(0.42).headline
    assert "less than" in report(0.31).headline


def test_the_interval_is_over_groups():
    rng = np.random.default_rng(0)
    alike = [list(rng.normal(1, 0.1, 10)) for _ in range(20)]
    mean, low, high = interval(alike)
    assert low < mean < high
    assert high - low < 0.1
    apart = [[float(n % 2)] * 10 for n in range(20)]
    mean, low, high = interval(apart)
    assert mean == 0.5
    assert high - low > 0.3
    assert interval([[]]) == (0.0, 0.0, 0.0)
