"""The network: any size, interchangeable context, folding, size limits, overfitting one image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attnseg.core.synth import fluorescence
from napari_attnseg.errors import ModelError
from napari_attnseg.nn.attention import Kept
from napari_attnseg.nn.augment import Batch, prepare
from napari_attnseg.nn.engine import TorchEngine, as_input
from napari_attnseg.nn.losses import _rows, attention_loss, dense_loss, vote_loss
from napari_attnseg.nn.model import CONTEXTS, ArticleNet, AttnSegNet, build_model, count_parameters, fold
from napari_attnseg.nn.train import Recipe, train_steps
from napari_attnseg.records import ModelCard, Sample

SMALL = (32, 32, 32, 32)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (17, 33), (64, 48)])
@pytest.mark.parametrize("context", CONTEXTS)
def test_any_size_any_context(context: str, shape: tuple[int, int]) -> None:
    model = AttnSegNet(context, SMALL).eval()
    tape: dict[str, object] = {}
    with torch.no_grad():
        out = model(torch.randn(1, 3, *shape), tape)
    assert out.foreground.shape == (1, 1, *shape)
    assert out.offset.shape == (1, 2, *shape)
    assert list(tape) == list(model.blocks)
    for name, stride in model.blocks.items():
        assert tape[name].shape == tuple(-(-n // stride) for n in shape)


def test_article_network_is_the_taught_one() -> None:
    model = ArticleNet().eval()
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [c.out_channels for c in convs] == [64, 128, 64, 32]
    assert list(model.blocks) == ["gate2"]
    assert model(torch.randn(1, 3, 21, 30)).foreground.shape == (1, 1, 21, 30)


def test_folded_equals_unfolded() -> None:
    torch.manual_seed(0)
    model = AttnSegNet(widths=SMALL).train()
    for _ in range(3):  # statistics that differ from 0 and 1
        model(torch.randn(2, 3, 48, 48) * 2 + 1)
    model.eval()
    x = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        before = model(x)
        after = fold(model)(x)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    for name in ("foreground", "distance", "size", "offset", "embedding"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), atol=1e-5, rtol=1e-5)


def test_shipped_architecture_is_small() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = build_model("attnseg").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 256, 256))
    assert count_parameters(model) * 4 <= 10e6
    assert counter.get_total_flops() <= 3.5e9


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match="Unknown architecture 'unet'"):
        build_model("unet")
    with pytest.raises(ModelError, match="unexpected keyword argument 'wide'"):
        build_model("attnseg", wide=True)
    with pytest.raises(ModelError, match="context must be one of"):
        build_model("attnseg", context="everything")


def test_empty_and_unknown_targets_give_a_finite_loss() -> None:
    model = AttnSegNet(widths=SMALL)
    shape = (2, 1, 32, 32)
    nothing = torch.zeros(shape, dtype=torch.long)
    for known in (torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)):
        batch = Batch(
            image=torch.randn(2, 3, 32, 32),
            labels=nothing,
            depth=torch.zeros(shape),
            known=known,
            size=torch.zeros(shape),
            offset=torch.zeros(2, 2, 32, 32),
        )
        loss, _ = dense_loss(model(batch.image), batch)
        loss.backward()
        assert torch.isfinite(loss)
    assert loss < 1.01  # nothing known: only the Dice of two empty sets may remain


@pytest.mark.parametrize("place", ["encoder", "decoder"])
def test_blocks_are_named_in_network_order(place: str) -> None:
    model = AttnSegNet(widths=SMALL, depth=2, local_in=place).eval()
    tape: dict[str, object] = {}
    model(torch.randn(1, 3, 32, 32), tape)
    order = ["global16a", "global16b"]
    wanted = ["local8", *order] if place == "encoder" else [*order, "local8"]
    assert list(model.blocks) == list(tape) == wanted
    with pytest.raises(ModelError, match="local_in must be"):
        build_model("attnseg", local_in="stem")


def _kept(kind: str, q: torch.Tensor, k: torch.Tensor, shape: tuple[int, int], window: int | None) -> Kept:
    heads, width = q.shape[1], q.shape[-1]
    return Kept(kind, q, k, torch.zeros(heads, 1, width), 1.0, shape, window)


def test_attention_loss_by_hand() -> None:
    """Four positions in a row, objects 1 1 2 and ground; all logits 0: each weight is 1 / 5."""
    labels = torch.tensor([1, 1, 2, 0]).view(1, 1, 1, 4)
    known = torch.ones_like(labels, dtype=torch.bool)
    zero = torch.zeros(1, 2, 4, 8)
    loss = attention_loss({"g": _kept("global", zero, zero, (1, 4), None)}, labels, known)
    same = np.log(0.2 / 0.8)  # positions 0 and 1 see one partner each; 2 has none
    either = (np.log(0.4 / 0.8) * 3) / 3  # each of the three object positions sees two others
    assert float(loss) == pytest.approx(-(same + either) / 2, abs=1e-3)
    near = attention_loss({"l": _kept("local", zero, zero, (1, 4), 1)}, labels, known)
    first, second = np.log((1 / 3) / (2 / 3)), np.log((1 / 4) / (3 / 4))  # 2 and 3 in the window, 1 register
    assert float(near) == pytest.approx(-(first + second) / 2, abs=1e-3)
    nothing = attention_loss({"g": _kept("global", zero, zero, (1, 4), None)}, labels, ~known)
    assert float(nothing) == 0.0


def test_attention_loss_follows_the_attention() -> None:
    """Keys that differ by object, queries equal to them: sharper queries lower the loss."""
    labels = torch.tensor([1, 1, 2, 2]).view(1, 1, 1, 4)
    keys = torch.eye(2)[torch.tensor([0, 0, 1, 1])].expand(1, 1, 4, 2)
    known = torch.ones_like(labels, dtype=torch.bool)
    values = [
        float(attention_loss({"l": _kept("local", s * keys, keys, (1, 4), 3)}, labels, known))
        for s in (0.0, 2.0, 8.0)
    ]
    assert values[0] > values[1] > values[2]
    assert values[2] < 0.1


def test_rows_of_the_loss_are_those_of_the_network() -> None:
    torch.manual_seed(0)
    model = AttnSegNet(widths=SMALL).eval()
    engine = TorchEngine(ModelCard("t", "t", {"widths": SMALL}), model, torch.device("cpu"))
    image = fluorescence((64, 80), 0)[0]
    tape = engine.tape(image)
    kept: dict[str, Kept] = {}
    engine._model(as_input(image, 1.0, None), kept)
    for name, block in kept.items():
        rows = _rows(block, 0)[0]
        gh, gw = block.shape
        weights = tape.row(name, (33, 41), 0).weights
        token = tape.blocks[name].grid.token_of((33, 41))
        np.testing.assert_allclose(
            rows[token[0] * gw + token[1], : gh * gw].reshape(gh, gw).detach(), weights, atol=2e-3
        )


@pytest.mark.parametrize("architecture", ["attnseg", "article"])
def test_learns_one_image(architecture: str) -> None:
    image, labels = fluorescence((96, 96), 3, diameter=20.0)
    scaled = image.astype(np.float32)[None] / image.max()
    item = prepare(Sample(scaled, labels, np.ones(labels.shape, bool)))
    torch.manual_seed(0)
    options = {"widths": SMALL} if architecture == "attnseg" else {"width": 32}
    model = build_model(architecture, **options)
    recipe = Recipe(
        steps=80, batch=4, size=64, warmup=5, lr=5e-3, canonical=20.0, seed=1, attention=0.1, calm=0.2
    )
    steps = list(train_steps(model, [item], recipe, device="cpu"))
    first, last = steps[:15], steps[-15:]
    for name in ("foreground", "offset"):
        before, after = (np.mean([s.parts[name] for s in part]) for part in (first, last))
        assert after < 0.8 * before, name


def test_votes_are_what_the_first_local_head_gathers() -> None:
    """Against the explicit rows: a position's seed is the mean of the guesses it attends to."""
    torch.manual_seed(0)
    model = AttnSegNet(widths=SMALL).eval()
    guesses = []
    model.guess.register_forward_hook(lambda _module, _args, out: guesses.append(out))
    tape: dict[str, Kept] = {}
    with torch.no_grad():
        out = model(torch.randn(2, 3, 90, 75), tape)
    kept = tape["local8"]
    gh, gw = kept.shape
    places = torch.stack(torch.meshgrid(torch.arange(gh), torch.arange(gw), indexing="ij"))
    guess = (places + guesses[0]).flatten(2).transpose(1, 2)
    weights = _rows(kept, 0)[..., : gh * gw]
    votes = (weights @ guess + 0.01 * guess) / (weights.sum(-1, keepdim=True) + 0.01)
    np.testing.assert_allclose(
        kept.votes.flatten(2).transpose(1, 2).numpy(), votes.detach().numpy(), atol=1e-4
    )
    # what a pixel is told: the seed of its position, less its own place, in diameters
    model.head.dense.weight.data[8:] = 0  # the head's own offsets (two channels of 4 pixels come last)
    model.head.dense.bias.data[8:] = 0
    with torch.no_grad():
        alone = model(torch.randn(1, 3, 64, 64), tape)
    seed = 8 * tape["local8"].votes[0, :, 3, 5] + 3.5
    diameter = 2 ** alone.size[0, 0, 30, 44] * 32
    wanted = (seed - torch.tensor([30.0, 44.0])) / diameter
    np.testing.assert_allclose(alone.offset[0, :, 30, 44].numpy(), wanted.numpy(), rtol=1e-4)
    assert out.offset.shape == (2, 2, 90, 75)


def test_vote_loss_by_hand() -> None:
    shape = (1, 1, 16, 16)
    labels = torch.zeros(shape, dtype=torch.long)
    labels[..., :8, :8] = 1
    offset = torch.zeros(1, 2, 16, 16)
    offset[:, 0, 4, 4], offset[:, 1, 4, 4] = 3.0, -2.0  # seed at (7, 2)
    batch = Batch(
        image=torch.zeros(1, 3, 16, 16),
        labels=labels,
        depth=torch.zeros(shape),
        known=torch.ones(shape, dtype=torch.bool),
        size=torch.full(shape, 10.0),
        offset=offset,
    )
    zero = torch.zeros(1, 1, 4, 8)
    kept = _kept("local", zero, zero, (2, 2), 1)
    kept.votes = torch.zeros(1, 2, 2, 2)
    kept.votes[0, :, 0, 0] = (torch.tensor([7.0, 2.0]) - 3.5) / 8
    kept.votes[0, :, 1, 1] = 100.0  # on the ground: it does not count
    assert float(vote_loss({"l": kept}, batch)) == pytest.approx(0.0, abs=1e-6)
    kept.votes[0, 0, 0, 0] += 5 / 8  # 5 pixels, half a diameter
    assert float(vote_loss({"l": kept}, batch)) == pytest.approx(0.5 - 0.05, abs=1e-6)
    assert float(vote_loss({"g": _kept("global", zero, zero, (2, 2), None)}, batch)) == 0.0
