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
    names, shares = ("one", "two", "three"), (0.5, 0.25, 0.25)
    states = [save(tmp_path / name, seed) for seed, name in enumerate(names)]
    folders = [tmp_path / name for name in names]
    average(monkeypatch, *folders, "--shares", *shares, "--out", tmp_path / "mean")
    card = read_card(tmp_path / "mean" / "card.json")
    mean, _ = read_tensors(tmp_path / "mean" / "weights.safetensors", card.sha256)
    assert mean.keys() == states[0].keys()
    for name, value in mean.items():
        wanted = sum(share * state[name] for share, state in zip(shares, states, strict=True))
        torch.testing.assert_close(value, wanted if value.is_floating_point() else states[-1][name])
    sources = [read_card(folder / "card.json").sha256 for folder in folders]
    assert card.training["averaged"] == dict(zip(sources, shares, strict=True))


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.4)])
def test_shares_that_are_no_average_are_refused(tmp_path, monkeypatch, shares):
    for seed, name in enumerate(("one", "two")):
        save(tmp_path / name, seed)
    with pytest.raises(SystemExit, match="1 in all"):
        average(
            monkeypatch, tmp_path / "one", tmp_path / "two", "--shares", *shares, "--out", tmp_path / "mean"
        )
    assert not (tmp_path / "mean").exists()


def test_other_networks_are_refused(tmp_path, monkeypatch):
    save(tmp_path / "one", 0)
    save(tmp_path / "two", 1, context="none")
    with pytest.raises(SystemExit, match="cannot be averaged"):
        average(
            monkeypatch, tmp_path / "one", tmp_path / "two", "--shares", 0.5, 0.5, "--out", tmp_path / "mean"
        )
    assert not (tmp_path / "mean").exists()
