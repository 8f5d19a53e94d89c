"""``models``: remove, rename, export, import."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from napari_attnseg import cli
from napari_attnseg.params import TrainParams
from napari_attnseg.records import Sample
from napari_attnseg.store import models, runs
from tests.cli.test_cli import call, refused


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path / "home"))
    return tmp_path


def test_a_model_goes_round(home, capsys):
    out = home / "base.zip"
    assert call("models", "export", "base", "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"exported": "base", "path": str(out)}
    assert call("models", "import", out, "--name", "mine", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"imported": "mine"}
    nothing = Sample(np.zeros((1, 32, 32), np.float32), np.zeros((32, 32), np.int32), np.ones((32, 32), bool))
    run = runs.create_run(TrainParams(name="next", start="mine"), [nothing])
    assert call("models", "rename", "mine", "better") == 0
    assert "'better'" in capsys.readouterr().out
    assert runs.read_request(run).parent == "better"  # it goes on from it under its new name
    assert call("models", "show", "better", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["shipped"] is False
    assert shown["bytes"] == models.find("base").size
    assert shown["date"] == models.find("base").date
    assert call("models", "export", "better", "--out", home / "folder") == 0
    assert sorted(path.name for path in (home / "folder").iterdir()) == ["card.json", "weights.safetensors"]
    assert call("models", "remove", "better") == 0
    capsys.readouterr()
    assert call("models", "list", "--json") == 0
    assert [m["id"] for m in json.loads(capsys.readouterr().out)["models"]] == ["base"]


def test_the_imported_model_runs(home, capsys):
    from napari_attnseg import load_engine

    assert call("models", "export", "base", "--out", home / "sent") == 0
    assert call("models", "import", home / "sent") == 0
    engine = load_engine("sent", "cpu")
    assert engine.card.id == "sent"
    engine.close()


def test_what_cannot_be_done_is_refused(home, capsys):
    refused(capsys, call("models", "remove", "base"), "came with the installation")
    refused(capsys, call("models", "rename", "base", "x"), "came with the installation")
    refused(capsys, call("models", "remove", "bass"), "no model 'bass'", "base")
    refused(capsys, call("models", "import", home / "none.zip"), "does not exist")
    refused(capsys, call("models", "export", "base", "--out", home), "exists already")
    refused(capsys, call("models", "import", models.find("base").weights.parent), "exists already")
    assert not (home / "home").exists()


def test_onnx_without_its_packages_names_the_command_that_installs_them(home, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    out = home / "x.onnx"
    refused(
        capsys, call("models", "export", "base", "--format", "onnx", "--out", out), "napari-attnseg[onnx]"
    )
    assert not out.exists()


def test_help_names_them(capsys):
    assert cli.run(["models", "--help"]) == 0
    text = capsys.readouterr().out
    for name in ("list", "show", "remove", "rename", "import", "export"):
        assert f"\n  {name} " in text
