"""The recipe that replaces attention weights reaches every block, on the path that a run takes."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_attnseg.engine import load_engine
from napari_attnseg.nn import attention

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes"


@pytest.fixture
def put(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setattr(
        attention, "attend_strips", attention.attend_strips
    )  # both are put back after the test
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", attention.F.scaled_dot_product_attention
    )
    from substitute import Substitute

    engine = load_engine("base", "cpu")
    yield engine, Substitute(engine)
    engine.close()
    for name in ("substitute", "measure"):
        sys.modules.pop(name, None)


def test_every_block_can_be_replaced(put):
    engine, put = put
    rng = np.random.default_rng(0)
    one, two = (rng.random((64, 64), dtype=np.float32) for _ in range(2))
    own = engine.maps(one).offset
    np.testing.assert_array_equal(engine.maps(one).offset, own)  # nothing is replaced unasked
    put.how = "record"
    engine.maps(two)
    assert put.names == ["global16a", "local8"]
    for block, how in product(put.names, ("uniform", "other")):
        put.block, put.how = block, how
        assert np.abs(engine.maps(one).offset - own).max() > 0.1, (block, how)
    put.block = put.how = ""
    np.testing.assert_array_equal(engine.maps(one).offset, own)
