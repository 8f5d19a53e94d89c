"""Rows of a tape against the explicit softmax: every head, every border, random and shipped weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attnseg.core import normalize
from napari_attnseg.core.attention import QKBlock
from napari_attnseg.core.attention_maps import rollout_row
from napari_attnseg.core.attention_objects import assignment
from napari_attnseg.core.axes import source_of
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.core.synth import fluorescence
from napari_attnseg.core.tidy import tidy
from napari_attnseg.engine import load_engine
from napari_attnseg.jobs.crop_check import CheckLimits
from napari_attnseg.jobs.model_check import CheckImage, check_model
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.segment import assemble, encode
from napari_attnseg.jobs.tape import record_tape
from napari_attnseg.nn import device as devices
from napari_attnseg.nn.attention import ContextBlock, GlobalAttention, Kept, LocalAttention
from napari_attnseg.nn.engine import TorchEngine
from napari_attnseg.nn.evidence import watched
from napari_attnseg.nn.model import AttnSegNet, build_model
from napari_attnseg.nn.spread import AFTER, spreads
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


def stage(engine, image) -> tuple[dict[str, Kept], dict[str, torch.Tensor]]:
    """Return what the blocks keep and the features (N, C) that each of them adds to."""
    features: dict[str, torch.Tensor] = {}

    def hook(name):
        return lambda _module, given: features.update({name: given[0][0].flatten(0, 1).double()})

    handles = [
        block.norm1.register_forward_pre_hook(hook(name)) for name, block in engine._model.context.items()
    ]
    kept = recorded(engine, image)
    for handle in handles:
        handle.remove()
    return kept, features


def walk(mass: np.ndarray, sigma: float) -> np.ndarray:
    """Spread a mass (gh, gw) by a normal law, reflected at the border, by loops."""
    steps = range(-30, 31)
    chance = np.exp(-0.5 * (np.array(steps) / sigma) ** 2)
    for axis in (0, 1):
        n, out = mass.shape[axis], np.zeros_like(mass)
        for at in range(n):
            for step, p in zip(steps, chance / chance.sum(), strict=True):
                to = (at + step) % (2 * n)
                np.moveaxis(out, axis, 0)[min(to, 2 * n - 1 - to)] += p * np.moveaxis(mass, axis, 0)[at]
        mass = out
    return mass


def back_through(kept: Kept, features: torch.Tensor, mass: np.ndarray) -> np.ndarray:
    """Take a mass (gh, gw) back through a block, position by position in float64."""
    assert kept.v is not None
    assert kept.register_v is not None
    assert kept.mix is not None
    full, values = explicit(kept), torch.cat([kept.v[0], kept.register_v], dim=1).double()
    added = torch.einsum("chd,hnd->hnc", kept.mix.double(), values)
    out = np.zeros(mass.size)
    for n, m in enumerate(mass.ravel()):
        parts = sum(full[h, n, :, None] * added[h] for h in range(len(added)))
        parts[n] += features[n]
        norms = parts.norm(dim=1)
        out += m * (norms / norms.sum()).detach().numpy()[: mass.size]
    return out.reshape(mass.shape)


def test_the_rollout_is_that_of_a_plain_loop(engine) -> None:
    """Corners and middle, on weights of both kinds: from the fp16 tape to a hundredth of the maximum."""
    image = fluorescence((64, 96), seed=3)[0]
    tape = engine.tape(image)
    kept, features = stage(engine, image)
    spread = spreads(engine._model)
    order = [*tape.network[::-1]]
    for pixel in ((0, 0), (63, 95), (30, 41)):
        mass, sigma, stride = np.zeros((8, 12)), spread[AFTER], 8
        mass[pixel[0] // 8, pixel[1] // 8] = 1
        for name in order:
            if (block := tape.block(name)).grid.stride != stride:
                mass = walk(mass, sigma / stride).reshape(4, 2, 6, 2).sum(axis=(1, 3))
                stride = block.grid.stride
            elif sigma:
                mass = walk(mass, sigma / stride)
            mass, sigma = back_through(kept[name], features[name], mass), spread[name]
        mass = walk(mass, sigma / stride)
        row = rollout_row(tape, pixel)
        assert row.value
        np.testing.assert_allclose(row.weights, mass, atol=1e-2 * mass.max())
        assert row.weights.sum() + row.register_share == pytest.approx(1, abs=1e-5)


def test_the_spread_of_convolutions_is_a_random_walk() -> None:
    """By hand: 2/3 of the squared stride a 3 x 3 convolution, half of it in a residual block."""
    found = spreads(build_model("attnseg"))
    before = 2 / 3 * (2 * 2**2 + 2**2 + 4**2 + 4**2 + 8**2 + 8**2 + 16**2)
    wanted = {"global16a": before, "local8": 2 / 3 * 8**2, AFTER: 2 / 3 * (4**2 + 2 * 2**2)}
    assert {k: v**2 for k, v in found.items()} == pytest.approx(wanted)
    early = spreads(build_model("attnseg", local_in="encoder", depth=2))
    assert list(early) == ["local8", "global16a", "global16b", AFTER]
    assert early["local8"] ** 2 + early["global16a"] ** 2 == pytest.approx(before)
    assert early["global16b"] == 0
    plain = build_model("article", context="local")
    assert spreads(plain) == pytest.approx({"local2": (2 / 3 * 8) ** 0.5, AFTER: (2 / 3 * 8) ** 0.5})
    assert spreads(torch.nn.Linear(2, 2)) == {}
    # two averaging convolutions spread a point by as much
    with torch.no_grad():
        for conv in (m for m in plain.inward.modules() if isinstance(m, torch.nn.Conv2d)):
            conv.weight.fill_(1 / (9 * conv.in_channels))
    x = torch.zeros(1, 12, 15, 15)
    x[..., 7, 7] = 1
    seen = plain.inward.eval()(x)[0, 0].detach()
    at = torch.arange(15) - 7.0
    assert float((seen.sum(0) * at**2).sum() / seen.sum()) * 2**2 == pytest.approx(2 / 3 * 8, rel=1e-3)


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


def test_evidence_is_what_a_place_keeps_and_hands_on(engine) -> None:
    image = fluorescence((48, 56), seed=2)[0]
    target = np.zeros(image.shape, dtype=np.float32)
    target[20:24, 22] = 0.25
    found = engine.evidence(image, target)
    tape: dict[str, Kept] = {}
    with watched(engine._loaded()) as ends:
        _, said = engine._said(image, target, 1.0, None, tape)
    slopes = torch.autograd.grad(said, [after for _, after in ends.values()])
    assert set(found) == set(engine.tape(image).network)
    with torch.no_grad():
        for (name, (features, _)), slope in zip(ends.items(), slopes, strict=True):
            kept, x, g = tape[name], features.flatten(1, 2)[0].double(), slope.flatten(1, 2)[0].double()
            weights = explicit(kept)[..., : len(x)]
            values = torch.einsum("chd,hnd->hnc", kept.mix.double(), kept.v[0].double())
            handed = torch.einsum("hij,hjc,ic->j", weights, values - values.mean(1, keepdim=True), g)
            wanted = (((x - x.mean(0)) * g).sum(1) + handed).reshape(found[name].shape).numpy()
            np.testing.assert_allclose(found[name], wanted, atol=1e-4 * np.abs(wanted).max())
            assert (wanted < 0).any()
            assert (wanted > 0).any()


def test_a_network_without_attention_gives_no_evidence(engine) -> None:
    bare = TorchEngine(engine.card, AttnSegNet("none", (32, 32, 32, 32)), torch.device("cpu"))
    assert bare.evidence(np.zeros((20, 24)), np.ones((20, 24), dtype=np.float32)) == {}


def test_a_check_of_a_model_has_the_rollout_with_its_sign(engine) -> None:
    image, labels = fluorescence((96, 96), seed=2)
    limits = CheckLimits(side=96, queries=2, objects=1, cells=3, draws=3, orders=1)
    params = SegmentParams(diameter=engine.card.diameter)
    report = drive(check_model(engine, [CheckImage(source_of(image), labels=labels)], params, limits=limits))
    signed, plain = report.score("rollout", "signed"), report.score("rollout", "value")
    assert signed.deletion is not None
    assert signed.deletion != plain.deletion
    assert signed.same_object is None  # shares of a map with a sign mean nothing
