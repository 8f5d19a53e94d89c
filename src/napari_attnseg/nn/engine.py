"""TorchEngine: the network behind numpy.  Errors of torch become ours here."""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_attnseg.core import normalize
from napari_attnseg.core.attention import AttentionTape, Block, QKBlock
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.core.seedblock import seed_block
from napari_attnseg.errors import (
    CheckpointError,
    EngineError,
    InputError,
    ModelError,
    NumericalError,
    OutOfMemoryError,
)
from napari_attnseg.nn import device as devices
from napari_attnseg.nn.checkpoint import load_weights, read_tensors, save_model
from napari_attnseg.nn.classes import chances
from napari_attnseg.nn.evidence import spoken, watched
from napari_attnseg.nn.finish import finish_outputs
from napari_attnseg.nn.memory import Ladder, is_out_of_memory
from napari_attnseg.nn.model import ArticleNet, AttnSegNet, Outputs, build_model, fold, to_channels_last
from napari_attnseg.nn.spread import AFTER, spreads
from napari_attnseg.records import DenseMaps, ModelCard, Normalisation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from napari_attnseg.nn.attention import Kept

_LOG = logging.getLogger(__name__)
_BATCH = 8  # images that are checked at a time


class TorchEngine:
    """A loaded model; see :class:`napari_attnseg.engine.Engine` for the contract.

    Parameters
    ----------
    card : ModelCard
    model : module
        With its weights, not folded; the engine keeps the state and runs a folded copy.
    device : torch.device
    """

    def __init__(self, card: ModelCard, model: AttnSegNet | ArticleNet, device: torch.device) -> None:
        self._card = card
        self._device = device
        self._state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        self._strides = model.blocks
        self._spreads = spreads(model)
        self._model: Any = to_channels_last(fold(model)).to(device)
        self._here = device  # where the weights are now: the memory ladder may move them
        self._ladder = Ladder(self._forward, device)

    @classmethod
    def from_files(cls, card: ModelCard, weights: Path, device: str = "auto") -> TorchEngine:
        """Build the network of a card and load its weights.

        Raises
        ------
        CheckpointError
            Weights or card are damaged, foreign or of another architecture.
        EngineUnavailableError
            The device is not there.
        """
        where = devices.choose(device)
        try:
            model = build_model(**card.architecture)
        except (ModelError, TypeError) as err:
            raise CheckpointError(
                f"The card of model '{card.id}' names an unknown network: {err}", "Update napari-attnseg."
            ) from err
        tensors, _ = read_tensors(weights, card.sha256)
        load_weights(model, tensors)
        _LOG.info("Model '%s' runs on %s.", card.id, devices.describe(where))
        return cls(card, model, where)

    @property
    def card(self) -> ModelCard:
        """The model's card, with the names of its blocks."""
        return self._card

    @property
    def device(self) -> str:
        """Where it runs, in words."""
        return devices.describe(self._here)

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be given up for lack of memory, one sentence each."""
        return tuple(self._ladder.notes)

    def maps(
        self, image: npt.NDArray[np.generic], *, zoom: float = 1.0, norm: Normalisation | None = None
    ) -> DenseMaps:
        """Run the network on a plane or tile; see the protocol."""
        out = self._ladder.run(as_input(image, zoom, norm))
        devices.release(self._here)
        return _dense_maps(out, np.shape(image)[:2], zoom)

    def tape(
        self,
        image: npt.NDArray[np.generic],
        *,
        zoom: float = 1.0,
        norm: Normalisation | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> AttentionTape:
        """Record queries and keys of all attention blocks and the seeds of the readout."""
        kept: dict[str, Kept] = {}
        out = self._whole(as_input(image, zoom, norm), kept, finished=True)
        field = np.shape(image)[:2]
        field = (int(field[0]), int(field[1]))
        blocks: dict[str, Block] = {}
        for name, block in kept.items():
            grid = TokenGrid(self._strides[name], zoom, block.shape, origin, field)
            blocks[name] = _qk_block(name, block, grid, self._spreads.get(name, 0.0))
        maps = _dense_maps(out.cpu(), field, zoom)
        blocks["readout"] = seed_block(maps, TokenGrid(1, 1.0, field, origin, field))
        devices.release(self._here)
        return AttentionTape(blocks, zoom, self._card.id, self._spreads.get(AFTER, 0.0))

    def features(
        self, image: npt.NDArray[np.generic], *, zoom: float = 1.0, norm: Normalisation | None = None
    ) -> npt.NDArray[np.float32]:
        """Return unit-length pixel embeddings, (16, H, W) float32, bilinear from stride 2."""
        out = self._whole(as_input(image, zoom, norm))
        big = _restored(out.embedding.float().cpu(), np.shape(image)[:2], zoom / 2)  # it lies at stride 2
        found: npt.NDArray[np.float32] = F.normalize(big, dim=1)[0].numpy()
        return found

    def outputs(
        self,
        images: Sequence[npt.NDArray[np.generic]],
        *,
        zoom: float = 1.0,
        norm: Normalisation | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return raw outputs of images of one shape, (n, 5, H, W), always in float32; see the protocol."""
        model = self._loaded()
        shape, found = np.shape(images[0])[:2], []
        with torch.inference_mode(), _told_memory():
            for start in range(0, len(images), _BATCH):
                x = torch.cat([as_input(image, zoom, norm) for image in images[start : start + _BATCH]])
                out = model(self._to_device(x, self._here), None, 1)
                raw = [out.foreground[:, :1], out.distance, out.size, out.offset]
                found.append(_restored(torch.cat(raw, dim=1).float().cpu(), shape, zoom).numpy())
        joined: npt.NDArray[np.float32] = np.concatenate(found)
        return joined

    def gradient(
        self,
        image: npt.NDArray[np.generic],
        target: npt.NDArray[np.float32],
        *,
        zoom: float = 1.0,
        norm: Normalisation | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the derivative of the foreground logit, weighted by ``target``; see the protocol."""
        with _told_memory():
            x, said = self._said(image, target, zoom, norm)
            (slope,) = torch.autograd.grad(said, [x])
        found: npt.NDArray[np.float32] = slope[0].permute(1, 2, 0).numpy()
        return found if found.shape[2] == 3 else found[..., 0]

    def evidence(
        self,
        image: npt.NDArray[np.generic],
        target: npt.NDArray[np.float32],
        *,
        zoom: float = 1.0,
        norm: Normalisation | None = None,
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Return what each place speaks for at every attention block; see the protocol."""
        tape: dict[str, Kept] = {}
        with _told_memory(), watched(self._loaded()) as ends:
            _, said = self._said(image, target, zoom, norm, tape)
            return spoken(ends, tape, said)

    def _said(
        self,
        image: npt.NDArray[np.generic],
        target: npt.NDArray[np.float32],
        zoom: float,
        norm: Normalisation | None,
        tape: dict[str, Kept] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the scaled intensities (1, c, H, W), and ``sum(target * foreground logit)`` of them."""
        model = self._loaded().requires_grad_(False)
        colour = np.ndim(image) == 3 and np.shape(image)[2] in (3, 4)
        x = as_input(image, 1.0, norm)[:, : 3 if colour else 1].clone().requires_grad_()
        seen = x.expand(1, 3, -1, -1)
        seen = seen if zoom == 1.0 else _resized(seen, zoom)
        seen = seen.to(self._here).contiguous(memory_format=torch.channels_last)
        logit = _restored(model(seen, tape, 1).foreground[:, :1].float().cpu(), np.shape(target), zoom)
        return x, (logit[0, 0] * torch.from_numpy(np.asarray(target, dtype=np.float32))).sum()

    def _loaded(self) -> Any:
        if self._model is None:
            raise EngineError("This engine was closed.", "Load the model again.")
        return self._model

    def save(self, folder: Path) -> ModelCard:
        """Write weights and card into a new folder, whole or not at all."""
        model = build_model(**self._card.architecture)
        model.load_state_dict(self._state)
        return save_model(folder, model, self._card)

    def close(self) -> None:
        """Give the device's memory back; the engine cannot be used afterwards."""
        self._model = None
        devices.release(self._device)

    def _to_device(self, x: Tensor, device: torch.device) -> Tensor:
        if device.type == "cuda":
            x = x.pin_memory()
        return x.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)

    def _whole(self, x: Tensor, tape: dict[str, Kept] | None = None, finished: bool = False) -> Any:
        """Run a field in one piece; where the device has no memory for it, the processor does it."""
        try:
            return self._on(self._here, x, tape, finished=finished)
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err):
                raise
            if self._here.type == "cpu":
                raise OutOfMemoryError(
                    "There is not enough memory for this field.", "Zoom in first."
                ) from err
        devices.release(self._here)
        if tape is not None:
            tape.clear()
        self._ladder.notes.append("The GPU ran out of memory: the processor recorded the attention.")
        return self._on(torch.device("cpu"), x, tape, finished=finished)

    def _on(
        self,
        device: torch.device,
        x: Tensor,
        tape: dict[str, Kept] | None,
        pool: int = 1,
        finished: bool = False,
    ) -> Any:
        """Return the outputs of the network, or its maps in pixels where they are asked for."""
        model = self._loaded()
        if device != self._here:
            model.to(device)
            self._here = device
        with torch.inference_mode(), devices.autocast(device, width=x.shape[-1]):
            x = self._to_device(x, device)
            if finished and isinstance(model, AttnSegNet):
                return model(x, tape, pool, finished=True)
            out: Outputs = model(x, tape, pool)
            return finish_outputs(out) if finished else out

    def _forward(self, x: Tensor, device: torch.device, pool: int) -> Tensor:
        maps: Tensor = self._on(device, x, None, pool, finished=True)
        return maps.cpu()


@contextmanager
def _told_memory() -> Iterator[None]:
    """Turn the errors of memory that ran out into ours."""
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        if not is_out_of_memory(err):
            raise
        raise OutOfMemoryError("There is not enough memory for this check.", "Take a smaller field.") from err


def as_input(image: npt.NDArray[np.generic], zoom: float, norm: Normalisation | None) -> Tensor:
    """Scale, bring to three channels and resize: (H, W[, C]) to (1, 3, h, w) float32."""
    image = np.asarray(image)
    if image.dtype.kind not in "biufc":
        raise InputError(f"An image of dtype '{image.dtype}' cannot be run.", "Give numbers.")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise InputError(f"An image plane of shape {image.shape} cannot be run.", "Give (H, W) or (H, W, C).")
    if np.iscomplexobj(image):
        raise InputError("Complex images cannot be segmented.", "Give its magnitude.")
    if image.ndim == 3 and image.shape[2] == 4:
        image = image[..., :3]  # alpha
        norm = norm and Normalisation(norm.low[:3], norm.high[:3])
    rgb = image.ndim == 3 and image.shape[2] == 3
    scaled = normalize.apply(image, norm or normalize.percentiles(image, rgb=rgb))
    if scaled.ndim == 3 and not rgb:
        scaled = scaled.mean(axis=2)
    x = torch.from_numpy(np.ascontiguousarray(scaled))
    x = x.permute(2, 0, 1)[None] if rgb else x[None, None].expand(1, 3, -1, -1)
    return (x if zoom == 1.0 else _resized(x, zoom)).contiguous(memory_format=torch.channels_last)


def _resized(x: Tensor, zoom: float) -> Tensor:
    """Resize (1, C, H, W) by exactly ``zoom``, up to the pixel that holds the last centre.

    Resizing to a rounded size would stretch each tile by its own factor and shift its far end; a pixel
    more could make a token that no pixel of the image lies in.
    """
    size = [math.floor((n - 0.5) * zoom + 1e-6) + 1 for n in x.shape[-2:]]
    more = math.ceil(1 / zoom)
    x = F.pad(x, (0, more, 0, more), mode="replicate")
    big = F.interpolate(
        x, scale_factor=zoom, recompute_scale_factor=False, mode="bilinear", antialias=zoom < 1
    )
    return big[..., : size[0], : size[1]]


def _restored(maps: Tensor, shape: tuple[int, ...], zoom: float) -> Tensor:
    """Sample (b, c, h, w) at the centres of the pixels of the field before :func:`_resized`."""
    if zoom == 1.0:
        return maps
    y, x = (
        ((torch.arange(n, dtype=torch.float32) + 0.5) * zoom) * (2 / m) - 1
        for n, m in zip(shape, maps.shape[-2:], strict=True)
    )
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
    grid = grid.expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


@torch.inference_mode()
def _dense_maps(maps: Tensor, shape: tuple[int, ...], zoom: float) -> DenseMaps:
    """Turn finished maps of the resized field into maps in image pixels; ``maps`` is written over."""
    logits = maps[:, :-4]
    classes = chances(logits) if logits.shape[1] > 1 else None
    if classes is not None:
        maps = torch.cat([logits[:, :1], maps[:, -4:], classes], dim=1)
    maps[:, 0].sigmoid_()
    if zoom != 1.0:
        maps[:, 2:5] /= zoom
    found = _restored(maps, shape, zoom)[0].numpy()
    if not math.isfinite(float(found.sum())):
        raise NumericalError("The network's output is not finite.", "Try the device 'cpu'.")
    return DenseMaps(found[0], found[1], found[2], found[3:5], found[5:] if classes is not None else None)


def _qk_block(name: str, kept: Kept, grid: TokenGrid, spread: float) -> QKBlock:
    def half(t: Tensor) -> npt.NDArray[np.float16]:
        array: npt.NDArray[np.float16] = t.detach().to(torch.float16).cpu().numpy()
        return array

    bias = None if kept.bias is None else kept.bias.detach().float().cpu().numpy()
    grams = kept.grams()
    gram, register_gram = (None, None) if grams is None else (g.cpu().numpy() for g in grams)
    return QKBlock(
        name=name,
        kind=kept.kind,
        heads=kept.q.shape[1],
        grid=grid,
        q=half(kept.q[0]),
        k=half(kept.k[0]),
        registers=half(kept.registers),
        scale=kept.scale,
        window=kept.window,
        bias=bias,
        gram=gram,
        register_gram=register_gram,
        own=None if kept.own is None else kept.own.cpu().numpy(),
        spread=spread,
    )
