"""Rows of a tape against the explicit softmax: every head, every border, random and shipped weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attnseg.core import normalize
from napari_attnseg.core.attention import QKBlock
from napari_attnseg.core.attention_objects import assignment
from napari_attnseg.core.axes import source_of
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.core.postprocess import tidy
from napari_attnseg.core.synth import fluorescence
from napari_attnseg.engine import load_engine
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.segment import assemble, encode
from napari_attnseg.jobs.tape import record_tape
from napari_attnseg.nn import device as devices
from napari_attnseg.nn.attention import ContextBlock, GlobalAttention, Kept, LocalAttention
from napari_attnseg.nn.engine import TorchEngine
from napari_attnseg.nn.model import build_model
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import ModelCard, Normalisation, PlaneKey

ARCHITECTURE = {"architecture": "attnseg", "widths": (32, 32, 64, 64), "depth": 2}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_PRECISION", "float32")


def tiny() -> TorchEngine:
    torch.manual_seed(0)
    model = build_model(**ARCHITECTURE)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return TorchEngine(ModelCard("tiny", "Tiny", ARCHITECTURE), model, CPU)


@pytest.fixture(scope="module", params=["random weights", "shipped weights"])
def engine(request):
    return tiny() if request.param == "random weights" else load_engine("base", "cpu")


def explicit(kept: Kept) -> torch.Tensor:
    """Return the whole attention matrix in float64, (heads, N, N + R), by its definition."""
    q, k = kept.q[0].double(), torch.cat([kept.k[0], kept.registers], dim=1).double()
    logits = q @ k.transpose(-1, -2) * kept.scale
    h, w = kept.shape
    if kept.window is not None:
        assert kept.bias is not None
        y, x = (t.reshape(-1) for t in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
        dy, dx = y[None] - y[:, None], x[None] - x[:, None]
        inside = (dy.abs() <= kept.window) & (dx.abs() <= kept.window)
        r = kept.window
        bias = kept.bias.double()[:, (dy + r).clamp(0, 2 * r), (dx + r).clamp(0, 2 * r)]
        logits[..., : h * w] = (logits[..., : h * w] + bias).masked_fill(~inside, -torch.inf)
    return logits.softmax(-1).detach()


def recorded(engine, image) -> dict[str, Kept]:
    """Return what the network leaves on the tape, in float32."""
    x = torch.from_numpy(normalize.apply(image, normalize.percentiles(image)))[None, None].expand(
        1, 3, -1, -1
    )
    tape: dict[str, Kept] = {}
    with torch.inference_mode():
        engine._model(x.contiguous(memory_format=torch.channels_last), tape, 1)
    return tape


def test_every_row_of_every_head_is_exact(engine) -> None:
    """Borders included: fp32 to 1e-5, from the fp16 tape to a hundredth of the row's maximum."""
    image = fluorescence((72, 104), seed=3)[0]
    tape, kept = engine.tape(image), recorded(engine, image)
    assert set(kept) == set(tape.network)
    for name, block in kept.items():
        full = explicit(block).numpy()
        count = block.shape[0] * block.shape[1]
        ours = tape.block(name)
        assert isinstance(ours, QKBlock)
        arrays = [t.detach().numpy() for t in (block.q[0], block.k[0], block.registers)]
        bias = None if block.bias is None else block.bias.detach().numpy()
        exact = QKBlock(name, ours.kind, ours.heads, ours.grid, *arrays, block.scale, block.window, bias)
        tokens = np.arange(count)
        for head in [*map(str, range(ours.heads)), "mean"]:
            wanted = full.mean(axis=0) if head == "mean" else full[int(head)]
            for kind, limit in ((exact, 1e-5), (ours, None)):
                weights, share = kind.weights(tokens, head)
                rows = np.zeros((count, count))
                places = kind.places(tokens)
                if places is None:
                    rows[:] = weights
                else:
                    at, column = np.nonzero(places >= 0)
                    rows[at, places[at, column]] = weights[at, column]
                gap = np.abs(rows - wanted[:, :count]).max(axis=1)
                assert (gap <= (limit or 1e-2 * wanted.max(axis=1))).all()
                np.testing.assert_allclose(rows.sum(axis=1) + share, 1, atol=1e-4)


@pytest.mark.parametrize("kind", ["local", "global", "gate"])
def test_value_rows_are_norms_of_contributions(kind: str) -> None:
    """The norm of what each position adds to the features: gain x W_o sum_h a_h v_h."""
    torch.manual_seed(1)
    block = ContextBlock(kind, 64, radius=2)
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.2 * torch.randn_like(p))
    x = torch.randn(1, 64, 7, 9)
    tape: list[Kept] = []
    with torch.no_grad():
        block(x, tape)
        kept = tape[0]
        full = explicit(kept).float()
        normed = block.norm1(x.permute(0, 2, 3, 1))
        if kind == "gate":
            parts = normed.reshape(63, 2, 32).transpose(0, 1)
            added = torch.zeros(2, 67, 64)
            for h in range(2):
                added[h, :63, 32 * h : 32 * h + 32] = parts[h] * block.gain1[32 * h : 32 * h + 32]
        else:
            attention = block.attention
            assert isinstance(attention, GlobalAttention | LocalAttention)
            v = torch.cat([attention.split(normed)[2][0], attention.register_v], dim=1)
            mix = attention.proj.weight.reshape(64, 2, 32)
            added = torch.einsum("chd,hnd->hnc", mix, v) * block.gain1
        sums = torch.einsum("hqn,hnc->qnc", full, added).norm(dim=-1)
    wanted = (sums / sums.sum(-1, keepdim=True)).numpy()
    grams = kept.grams()
    assert grams is not None
    grid = TokenGrid(1, 1.0, (7, 9), (0, 0), (7, 9))
    arrays = [t.detach().numpy() for t in (kept.q[0], kept.k[0], kept.registers)]
    bias = None if kept.bias is None else kept.bias.detach().numpy()
    ours = QKBlock(
        "b", kept.kind, 2, grid, *arrays, kept.scale, kept.window, bias, *(g.detach().numpy() for g in grams)
    )
    for query in (0, 31, 62):
        row, share = ours.row(divmod(query, 9), "mean", value=True)
        np.testing.assert_allclose(row.ravel(), wanted[query, :63], atol=1e-5)
        assert share == pytest.approx(wanted[query, 63:].sum(), abs=1e-5)


def test_the_memory_of_a_tape_is_linear(engine) -> None:
    small, large = (engine.tape(np.zeros((n, n), np.uint8)).nbytes for n in (128, 256))
    assert large <= 4.2 * small


@pytest.mark.parametrize("split", [0.0, 0.5])
def test_the_readout_block_reproduces_the_labels(split: float) -> None:
    """The pixels' choice of a seed, tidied, is what the run wrote: exactly, with the shipped weights."""
    engine = load_engine("base", "cpu")
    source = source_of(fluorescence((200, 260), seed=5)[0])
    params = SegmentParams(split=split, threshold=0.45, readout="seeds")
    encoded = drive(encode(engine, source, params))
    labels = assemble(encoded, source, params).labels
    tape = drive(record_tape(engine, source, PlaneKey(), (10, 10), encoded, params))
    found = assignment(tape)
    assert labels.max() >= 5
    np.testing.assert_array_equal(tidy(found.labels, params), labels)
    inside = labels > 0
    assert (found.margin[inside & (found.labels > 0)] > 0).mean() > 0.99


def test_the_window_and_the_tape_agree_on_zoomed_fields() -> None:
    """A tape of a resized field: the query's token, and rows that sum to one over it."""
    engine = tiny()
    image = fluorescence((90, 120), seed=1)[0]
    tape = engine.tape(image, zoom=0.5, origin=(30, 40))
    assert tape.field == ((30, 40), (90, 120))
    for name in tape.network:
        row = tape.row(name, (60, 100), "mean", value=True)
        assert row.weights.sum() + row.register_share == pytest.approx(1, abs=1e-4)


def test_outputs_are_those_of_the_maps(engine) -> None:
    image = fluorescence((64, 80), seed=2)[0]
    norm = normalize.percentiles(image)
    for zoom in (1.0, 0.7):
        raw = engine.outputs([image, image[::-1]], zoom=zoom, norm=norm)
        maps = engine.maps(image, zoom=zoom, norm=norm)
        assert raw.shape == (2, 5, 64, 80)
        assert raw.dtype == np.float32
        np.testing.assert_allclose(raw[1], engine.outputs([image[::-1]], zoom=zoom, norm=norm)[0], atol=1e-4)
        if zoom == 1.0:
            np.testing.assert_allclose(1 / (1 + np.exp(-raw[0, 0])), maps.foreground, atol=1e-4)


def test_outputs_are_float32_whatever_the_precision(engine, monkeypatch) -> None:
    image = fluorescence((48, 48), seed=2)[0]
    exact = engine.outputs([image])
    monkeypatch.setenv("NAPARI_ATTNSEG_PRECISION", "auto")
    monkeypatch.setattr(devices, "fast_bf16", lambda: True)
    np.testing.assert_array_equal(engine.outputs([image]), exact)


@pytest.mark.parametrize("zoom", [1.0, 0.6])
@pytest.mark.parametrize("colour", [False, True])
def test_the_gradient_is_the_slope_of_the_logit(zoom: float, colour: bool) -> None:
    engine, rng = tiny(), np.random.default_rng(0)
    image = rng.random((40, 48, 3) if colour else (40, 48)).astype(np.float32)
    norm = Normalisation((0.0,) * 3, (1.0,) * 3) if colour else Normalisation((0.0,), (1.0,))
    target = np.zeros((40, 48), dtype=np.float32)
    target[20, 22] = 1
    slope = engine.gradient(image, target, zoom=zoom, norm=norm)
    assert slope.shape == image.shape
    step = 1e-3 * np.sign(slope) * (np.abs(slope) > np.quantile(np.abs(slope), 0.99))
    up, down = (
        float(engine.outputs([image + s * step], zoom=zoom, norm=norm)[0, 0, 20, 22]) for s in (1, -1)
    )
    assert (up - down) / 2 == pytest.approx(float((slope * step).sum()), rel=0.05)
    again = engine.maps(image, zoom=zoom, norm=norm)  # the engine still runs without gradients
    assert np.isfinite(again.foreground).all()
