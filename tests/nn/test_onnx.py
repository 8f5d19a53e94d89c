"""The ONNX file says what the network says."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from napari_attnseg import engine as door
from napari_attnseg.engine import load_engine
from napari_attnseg.errors import EngineUnavailableError, StoreError
from napari_attnseg.jobs.export import export_onnx
from napari_attnseg.records import Normalisation
from napari_attnseg.store.models import find


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_file_gives_the_maps_of_the_engine(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    path = export_onnx("base", tmp_path / "base.onnx")
    session = runtime.InferenceSession(path.read_bytes())
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["sha256"]) == find("base").card.sha256
    monkeypatch.setattr(
        "napari_attnseg.nn.device.autocast", lambda device: torch.autocast("cpu", enabled=False)
    )
    engine = load_engine("base", "cpu")
    for shape in ((192, 128), (320, 512)):  # fewer positions than the logits are scaled from, and more
        image = np.random.default_rng(2).random(shape, dtype=np.float32)
        maps = engine.maps(image, norm=Normalisation((0.0,), (1.0,)))
        said = session.run(None, {"image": np.tile(image, (1, 3, 1, 1))})
        wanted = (maps.foreground, maps.distance, maps.size, maps.offset)
        for got, want, off in zip(said, wanted, (1e-3, 1e-3, 0.05, 0.05), strict=True):
            np.testing.assert_allclose(got[0].squeeze(), want, atol=off)
    with pytest.raises(StoreError, match="exists already"):
        export_onnx("base", path)


def test_a_missing_package_is_said_with_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineUnavailableError, match=r"napari-attnseg\[onnx\]"):
        export_onnx("base", tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_an_unknown_model_is_said_first():
    with pytest.raises(Exception, match="no model"):
        door.onnx_bytes("nobody")
