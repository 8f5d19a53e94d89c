"""What every registered backbone must do: any size, honest tape, trainable, saved and loaded."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch

from napari_attnseg import registry
from napari_attnseg.nn.checkpoint import load_weights, read_tensors, save_model
from napari_attnseg.nn.engine import TorchEngine
from napari_attnseg.nn.model import BACKBONES, build_model
from napari_attnseg.records import ModelCard

CPU = torch.device("cpu")


@pytest.fixture(params=BACKBONES.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("shape", [(1, 1), (33, 47)])
def test_any_size(name: str, shape: tuple[int, int]) -> None:
    model = build_model(name).eval()
    tape: dict[str, object] = {}
    with torch.inference_mode():
        out = model(torch.randn(1, 3, *shape), tape)
    for part, channels in ((out.foreground, 1), (out.distance, 1), (out.size, 1), (out.offset, 2)):
        assert part.shape == (1, channels, *shape)
    assert list(tape) == list(model.blocks)
    for block, stride in model.blocks.items():
        assert tape[block].shape == tuple(-(-n // stride) for n in shape)


def test_rows_and_registers_add_up(name: str) -> None:
    engine = TorchEngine(ModelCard("t", "t", {"architecture": name}), build_model(name), CPU)
    tape = engine.tape(np.random.default_rng(0).random((40, 40)))
    for block in tape.blocks:
        row = tape.row(block, (20, 13))
        assert row.weights.min() >= 0
        assert row.weights.sum() + row.register_share == pytest.approx(1, abs=1e-3)


def test_every_parameter_learns(name: str) -> None:
    model = build_model(name).train()
    out = model(torch.randn(2, 3, 32, 32))
    parts = (out.foreground, out.distance, out.size, out.offset, out.embedding)
    sum(p.square().mean() for p in parts).backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None]
    assert idle == []


def test_save_and_load(name: str, tmp_path) -> None:
    model = build_model(name).eval()
    card = save_model(tmp_path / "m", model, ModelCard("m", "m", {"architecture": name}))
    again = build_model(name).eval()
    load_weights(again, read_tensors(tmp_path / "m" / "weights.safetensors", card.sha256)[0])
    x = torch.randn(1, 3, 24, 24)
    with torch.inference_mode():
        assert torch.equal(model(x).foreground, again(x).foreground)


def test_another_package_can_register_one(monkeypatch) -> None:
    point = EntryPoint("mine", "napari_attnseg.nn.model:ArticleNet", "napari_attnseg.backbones")

    def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
        return [point] if group == point.group and name in (None, "mine") else []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    monkeypatch.setattr(BACKBONES, "_items", dict(BACKBONES._items))
    assert "mine" in BACKBONES.names()
    assert list(build_model("mine", width=32).blocks) == ["gate2"]
