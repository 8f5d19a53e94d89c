"""The recipe that averages two models of one line."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

from napari_attnseg.nn.checkpoint import read_tensors, save_model
from napari_attnseg.nn.model import AttnSegNet
from napari_attnseg.records import ModelCard
from napari_attnseg.store.models import read_card

RECIPE = Path(__file__).resolve().parents[2] / "docs" / "recipes" / "average.py"
SMALL = {"widths": [32, 32, 32, 32], "depth": 1}


def save(folder: Path, seed: int, **architecture: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model = AttnSegNet(**{**SMALL, **architecture})
    save_model(folder, model, ModelCard(folder.name, "Tiny", {**SMALL, **architecture}, diameter=16.0))
    return {k: v.clone() for k, v in model.state_dict().items()}


def average(monkeypatch: pytest.MonkeyPatch, *values: object) -> None:
    monkeypatch.setattr(sys, "argv", ["average.py", *map(str, values)])
    runpy.run_path(str(RECIPE), run_name="__main__")


def test_the_mean_is_weighted_and_the_card_says_of_what(tmp_path, monkeypatch):
    one, two = save(tmp_path / "one", 0), save(tmp_path / "two", 1)
    average(monkeypatch, tmp_path / "one", tmp_path / "two", "--share", 0.25, "--out", tmp_path / "mean")
    card = read_card(tmp_path / "mean" / "card.json")
    mean, _ = read_tensors(tmp_path / "mean" / "weights.safetensors", card.sha256)
    assert mean.keys() == one.keys()
    for name, value in mean.items():
        wanted = 0.75 * one[name] + 0.25 * two[name] if value.is_floating_point() else two[name]
        torch.testing.assert_close(value, wanted)
    sources = [read_card(tmp_path / name / "card.json").sha256 for name in ("one", "two")]
    assert card.training["averaged"] == dict(zip(sources, (0.75, 0.25), strict=True))


def test_other_networks_are_refused(tmp_path, monkeypatch):
    save(tmp_path / "one", 0)
    save(tmp_path / "two", 1, context="none")
    with pytest.raises(SystemExit, match="cannot be averaged"):
        average(monkeypatch, tmp_path / "one", tmp_path / "two", "--out", tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
