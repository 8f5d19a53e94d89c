"""A model as an ONNX file, for programs without PyTorch."""

from __future__ import annotations

import json
import math
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_attnseg.errors import EngineError, EngineUnavailableError
from napari_attnseg.nn.attention import TRAINED_TOKENS, GlobalAttention
from napari_attnseg.nn.checkpoint import load_weights, read_tensors
from napari_attnseg.nn.classes import chances
from napari_attnseg.nn.model import CANONICAL, build_model, fold

if TYPE_CHECKING:
    from pathlib import Path

    from napari_attnseg.nn.model import Outputs
    from napari_attnseg.records import ModelCard

OUTPUTS = ("foreground", "distance", "size", "offset")
MULTIPLE = 64  # of the sides of an image: the windows of local attention are traced without padding
_TRACED = 256  # side of the image that is traced


class _Maps(nn.Module):
    """The network with its outputs in the units of ``DenseMaps``, at the zoom of its input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        out: Outputs = self.model(image)
        many = out.foreground.shape[1] > 1
        chance = chances(out.foreground) if many else torch.sigmoid(out.foreground)
        size = torch.exp2(out.size.clamp(-6, 8)) * CANONICAL
        return chance, torch.sigmoid(out.distance), size, out.offset * size


class _AnyField(nn.Module):
    """Global attention whose logit scale is computed in the file, from the field that it is given.

    Keys are not shared, however large the field.
    """

    def __init__(self, block: GlobalAttention) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, tape: None = None, pool: int = 1) -> Tensor:
        block, (b, h, w, _) = self.block, x.shape
        q, k, v = block.project(x)
        many = torch.ones_like(x[0, :, :, 0]).sum()
        scale = (many.log() / math.log(TRAINED_TOKENS)).clamp(min=1.0)
        k = torch.cat([k, block.register_keys().expand(b, -1, -1, -1)], dim=2)
        v = torch.cat([v, block.register_v.expand(b, -1, -1, -1)], dim=2)
        return block.merge(functional.scaled_dot_product_attention(q * scale, k, v, scale=1.0), (h, w))


def _of_any_field(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, part in parent.named_children():
            if isinstance(part, GlobalAttention):
                setattr(parent, name, _AnyField(part))
    return model


def onnx_bytes(card: ModelCard, weights: Path) -> bytes:
    """Return a model as the bytes of an ONNX file.

    Input ``image``, (1, 3, H, W) float32: intensities scaled so that the 1st percentile is 0 and the 99.8th
    is 1 (grey images three times), resized so that objects are ``card.diameter`` pixels across; H and W are
    multiples of 64; above 1024 x 1024 pixels every position keeps its key, which the engine's share.
    Outputs, of the same H and W: ``foreground`` (1, K, H, W) probability (of the classes, background first,
    where the model has several), ``distance`` 0..1, ``size`` and ``offset`` in pixels.

    Raises
    ------
    EngineUnavailableError
        The packages that write ONNX are not installed.
    EngineError
        The network cannot be written as ONNX.
    CheckpointError
        The model's files are damaged.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as err:
        raise EngineUnavailableError(
            f"ONNX files cannot be written here: the package '{err.name}' is missing.",
            "Install it with: pip install 'napari-attnseg[onnx]'.",
        ) from err
    model = build_model(**card.architecture)
    load_weights(model, read_tensors(weights, card.sha256)[0])
    network = _Maps(_of_any_field(fold(model))).eval()
    auto = torch.export.Dim.AUTO
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's own, about its own code
            program = torch.onnx.export(
                network,
                (torch.rand(1, 3, _TRACED, _TRACED),),
                dynamo=True,
                verbose=False,
                optimize=False,  # the optimiser of onnxscript 0.7 gives two nodes one name
                input_names=["image"],
                output_names=list(OUTPUTS),
                dynamic_shapes=({2: auto, 3: auto},),
            )
    except Exception as err:  # torch.onnx raises its own, many kinds
        line = (str(err).strip().splitlines() or [type(err).__name__])[0]
        raise EngineError(
            f"The network cannot be written as ONNX by this version of PyTorch: {line[:120]}",
            "Export it as a zip file, or update PyTorch.",
        ) from err
    assert program is not None
    proto = program.model_proto
    proto.producer_name = "napari-attnseg"
    for key in ("id", "diameter", "classes", "licence", "sha256"):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(card.to_json()[key])
    entry = proto.metadata_props.add()
    entry.key, entry.value = "sides_are_multiples_of", str(MULTIPLE)
    data: bytes = proto.SerializeToString()
    return data
