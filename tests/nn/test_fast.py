"""The short ways that a network takes without gradients give what the plain operations give."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_attnseg.core.postprocess import read_out
from napari_attnseg.core.synth import fluorescence
from napari_attnseg.nn import fused
from napari_attnseg.nn.engine import _dense_maps, as_input
from napari_attnseg.nn.finish import finish_outputs
from napari_attnseg.nn.model import AttnSegNet, Outputs, fold, to_channels_last
from napari_attnseg.params import ReadoutParams

SMALL = (32, 32, 32, 32)


def folded(classes: int = 1) -> AttnSegNet:
    torch.manual_seed(0)
    model = AttnSegNet(widths=SMALL, classes=classes).train()
    for _ in range(2):  # statistics that differ from 0 and 1
        model(torch.randn(2, 3, 48, 48) * 2 + 1)
    return to_channels_last(fold(model))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (33, 17), (64, 48)])
def test_finished_maps_equal_those_of_the_outputs(shape: tuple[int, int], classes: int) -> None:
    model = folded(classes)
    x = torch.randn(2, 3, *shape)
    long = finish_outputs(model(x)).detach()  # with gradients: no short way anywhere
    with torch.inference_mode():
        short = model(x, finished=True)
    assert short.shape == (2, 5 if classes == 1 else 5 + classes, *shape)
    torch.testing.assert_close(short, long, atol=1e-3, rtol=1e-4)


def test_outputs_of_half_precision_are_finished_in_float32() -> None:
    short = [torch.randn(1, c, 6, 7).to(torch.bfloat16) for c in (1, 1, 1, 2, 16)]
    long = finish_outputs(Outputs(*(t.float() for t in short)))
    assert torch.equal(finish_outputs(Outputs(*short)), long)


@pytest.mark.skipif(not fused._works(), reason="this PyTorch has no such operators here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_convolutions_equal_plain_ones(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(12, 20, 3, stride=2, padding=1)
    x, residual = torch.randn(2, 12, 15, 18).to(dtype), torch.randn(2, 20, 8, 9).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    with torch.no_grad():
        plain = conv(x.float())
        assert fused.usable(x)
        one, two = fused.convolve(conv.to(dtype), x), fused.convolve(conv, x, residual)
        bare = fused.convolve(conv, x, relu=False)
    assert one.dtype == two.dtype == dtype
    torch.testing.assert_close(one.float(), F.relu(plain), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(two.float(), F.relu(plain + residual.float()), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(bare.float(), plain, atol=tolerance, rtol=tolerance)
    assert not fused.usable(x)  # gradients are on again


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="x86 only")
def test_a_folded_network_uses_them_and_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, calls = folded(), torch.randn(1, 3, 40, 56), []
    real = fused.convolve
    monkeypatch.setattr(fused, "convolve", lambda *a: calls.append(1) or real(*a))
    with torch.inference_mode():
        fast = model(x, finished=True)
        assert len(calls) == (17 if fused._works() else 0)  # every 3 x 3 convolution
        monkeypatch.setattr(fused, "_works", lambda: False)
        plain = model(x, finished=True)
    torch.testing.assert_close(fast, plain, atol=1e-3, rtol=1e-4)


def test_labels_of_the_shipped_model_are_those_of_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_attnseg.engine import load_engine

    monkeypatch.setenv("NAPARI_ATTNSEG_PRECISION", "float32")
    engine = load_engine("base", "cpu")
    image, _ = fluorescence((200, 172), 3)
    x = as_input(image, 1.0, None).contiguous(memory_format=torch.channels_last)
    long = finish_outputs(engine._model(x)).detach()  # with gradients
    plain = _dense_maps(long, image.shape[:2], 1.0)
    fast = engine.maps(image)
    np.testing.assert_allclose(fast.foreground, plain.foreground, atol=1e-4)
    np.testing.assert_allclose(fast.size, plain.size, rtol=1e-3)
    a, b = (read_out(maps, ReadoutParams())[0] for maps in (fast, plain))
    assert a.max() == b.max() > 3
    assert (a != b).mean() < 1e-3
