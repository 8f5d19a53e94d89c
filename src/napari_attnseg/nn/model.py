"""The compact encoder-decoder: convolutions at strides 2 to 16, attention as context, dense heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_attnseg.errors import ModelError
from napari_attnseg.nn import fused
from napari_attnseg.nn.attention import ContextBlock, Kept
from napari_attnseg.nn.finish import CANONICAL as CANONICAL
from napari_attnseg.nn.finish import finish_dense
from napari_attnseg.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

CONTEXTS = ("none", "gate", "local", "global", "local+global")
EMBEDDING = 16
_OWN = 0.01  # weight of a position's own guess in the consensus


@dataclass(slots=True)
class Outputs:
    """Raw head outputs, (B, c, H, W): logits, log sizes and offsets in object diameters.

    ``embedding`` is at stride 2, (B, 16, ceil(H / 2), ceil(W / 2)).
    """

    foreground: Tensor
    distance: Tensor
    size: Tensor
    offset: Tensor
    embedding: Tensor


class Features(NamedTuple):
    """Feature maps of the encoder, (B, C, h, w) at strides 2, 4, 8 and 16, and the (H, W) they came from."""

    s2: Tensor
    s4: Tensor
    s8: Tensor
    s16: Tensor
    shape: tuple[int, int]


class ConvBN(nn.Sequential):
    """3 x 3 convolution, batch normalisation and (unless told otherwise) ReLU."""

    def __init__(self, cin: int, cout: int, stride: int = 1, relu: bool = True) -> None:
        layers = [nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if relu else []))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map (B, cin, H, W) to (B, cout, h, w); a residual is added and the sum rectified."""
        if isinstance(self[1], nn.Identity) and fused.usable(x):
            return fused.convolve(
                cast("nn.Conv2d", self[0]), x, residual, residual is not None or len(self) > 2
            )
        out = super().forward(x)
        return out if residual is None else F.relu(residual + out)


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions with a residual path."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.a = ConvBN(dim, dim)
        self.b = ConvBN(dim, dim, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return cast("Tensor", self.b(self.a(x), x))


class Up(nn.Module):
    """Double the resolution (nearest), add the skip connection, refine."""

    def __init__(self, cin: int, cout: int, refine: nn.Module) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(cin, cout, 1)
        self.refine = refine

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, cin, h, w) and a skip (B, cout, H, W), h = ceil(H / 2), to (B, cout, H, W)."""
        big = F.interpolate(self.reduce(x), scale_factor=2, mode="nearest")
        big = big[..., : skip.shape[-2], : skip.shape[-1]]
        if torch.is_grad_enabled() or big.dtype != torch.float32:
            return cast("Tensor", self.refine(big + skip))
        # touching fresh memory would cost as much again; in bfloat16 adding in place is slower
        return cast("Tensor", self.refine(big.add_(skip)))


class DenseHead(nn.Module):
    """1 x 1 to foreground, distance, size and offset at full resolution, embedding at stride 2.

    With K > 1 classes the foreground has 1 + K logits: its own, and those by which it is shared out among
    the classes; see :func:`napari_attnseg.nn.classes.chances`.
    """

    def __init__(self, dim: int, classes: int = 1) -> None:
        super().__init__()
        self.classes = classes
        logits = 1 if classes == 1 else classes + 1
        self.counts = (logits, 1, 1, 2)
        self.dense = nn.Conv2d(dim, 4 * sum(self.counts), 1)
        self.embedding = nn.Conv2d(dim, EMBEDDING, 1)

    def forward(self, x: Tensor, shape: tuple[int, int]) -> Outputs:
        """Map (B, dim, h, w) at stride 2 to maps of ``shape``."""
        full = F.pixel_shuffle(self.dense(x), 2)[..., : shape[0], : shape[1]].float()
        fg, distance, size, offset = full.split(self.counts, dim=1)
        return Outputs(fg, distance, size, offset, self.embedding(x).float())


class AttnSegNet(nn.Module):
    """Convolutions at strides 2, 4, 8 and 16; global attention at stride 16, local in the decoder at 8.

    Local attention stands in the decoder, where a position already knows its wider surroundings.  Every
    position there guesses where the seed of its object lies; the first local head gathers the guesses of
    those it attends to, and this consensus is the vote that the dense head refines.

    Parameters
    ----------
    context : {"none", "gate", "local", "global", "local+global"}
        Which attention blocks are built in: one flag for an ablation.
    widths : sequence of int
        Channels at strides 2, 4, 8, 16; the last two multiples of 32.
    depth : int
        Number of context blocks at stride 16.
    radius : int
        Half-width of the local window, positions at stride 8.
    classes : int
        Foreground classes.
    local_in : {"decoder", "encoder"}
        Where the local block stands.
    """

    def __init__(
        self,
        context: str = "local+global",
        widths: tuple[int, int, int, int] = (32, 48, 96, 160),
        depth: int = 1,
        radius: int = 3,
        classes: int = 1,
        local_in: str = "decoder",
    ) -> None:
        super().__init__()
        if local_in not in ("decoder", "encoder"):
            raise ValueError(f"local_in must be 'decoder' or 'encoder', not {local_in!r}")
        if context not in CONTEXTS:
            raise ValueError(f"context must be one of {CONTEXTS}, not {context!r}")
        w2, w4, w8, w16 = widths
        self.stem = nn.Sequential(ConvBN(12, 3 * w2 // 4), ConvBN(3 * w2 // 4, w2))
        self.enc4 = nn.Sequential(ConvBN(w2, w4, 2), ResBlock(w4))
        self.enc8 = nn.Sequential(ConvBN(w4, w8, 2), ResBlock(w8))
        self.enc16 = nn.Sequential(ConvBN(w8, w16, 2), ResBlock(w16))
        deep = "gate" if context == "gate" else "global"
        self.context = nn.ModuleDict()  # in network order
        self.local_in = local_in
        if "local" in context and local_in == "encoder":
            self.context["local8"] = ContextBlock("local", w8, radius)
        if "global" in context or context == "gate":
            for n in range(depth):
                self.context[f"{deep}16{'abcdefgh'[n]}"] = ContextBlock(deep, w16)
        if "local" in context and local_in == "decoder":
            self.context["local8"] = ContextBlock("local", w8, radius)
            self.guess = nn.Conv2d(w8, 2, 1)
        self.dec8 = Up(w16, w8, ResBlock(w8))
        self.dec4 = Up(w8, w4, ResBlock(w4))
        self.dec2 = Up(w4, w2, nn.Sequential(ConvBN(w2, w2), ConvBN(w2, w2)))
        self.head = DenseHead(w2, classes)

    @property
    def blocks(self) -> dict[str, int]:
        """Names of the attention blocks and their strides, in network order."""
        return {name: 8 if name.startswith("local") else 16 for name in self.context}

    def forward(
        self, x: Tensor, tape: dict[str, Kept] | None = None, pool: int = 1, finished: bool = False
    ) -> Outputs | Tensor:
        """Map (B, 3, H, W), any size, to dense outputs of the same size.

        Parameters
        ----------
        tape : dict or None
            Filled with what every attention block keeps.
        pool : int
            Pools keys and values of global attention (memory).
        finished : bool
            Return the maps of :func:`napari_attnseg.nn.finish.finish_dense` (no gradients).
        """
        maps = self.encode(x, tape, pool)
        if not finished:
            return self.decode(maps, tape, pool)
        fine, votes = self._refine(maps, tape, pool)
        return finish_dense(self.head.dense(fine), votes, maps.shape)

    def encode(self, x: Tensor, tape: dict[str, Kept] | None = None, pool: int = 1) -> Features:
        """Map (B, 3, H, W) to the feature maps that the deep context and the decoder read."""
        shape = int(x.shape[-2]), int(x.shape[-1])
        if shape[0] % 2 or shape[1] % 2:
            x = F.pad(x, (0, shape[1] % 2, 0, shape[0] % 2), mode="replicate")
        s2 = self.stem(F.pixel_unshuffle(x, 2))
        s4 = self.enc4(s2)
        s8 = self.enc8(s4)
        if self.local_in == "encoder":
            s8 = self._attend("local", s8, tape, pool)
        return Features(s2, s4, s8, self.enc16(s8), shape)

    def decode(self, maps: Features, tape: dict[str, Kept] | None = None, pool: int = 1) -> Outputs:
        """Map the encoder's feature maps to dense outputs."""
        fine, votes = self._refine(maps, tape, pool)
        out: Outputs = self.head(fine, maps.shape)
        if votes is not None:
            out.offset = out.offset + consensus(votes, out.size.detach())
        return out

    def _refine(
        self, maps: Features, tape: dict[str, Kept] | None, pool: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return what the head reads, (B, w2, H / 2, W / 2), and the consensus votes of stride 8."""
        s16 = self._attend(("global", "gate"), maps.s16, tape, pool)
        d8, votes = self.dec8(s16, maps.s8), None
        if self.local_in == "decoder" and "local8" in self.context:
            d8, votes = self._vote(d8, tape)
        return self.dec2(self.dec4(d8, maps.s4), maps.s2), votes

    def _vote(self, x: Tensor, tape: dict[str, Kept] | None) -> tuple[Tensor, Tensor]:
        """Run the local block on (B, C, h, w); return features and consensus votes, (B, 2, h, w) positions.

        A guess counts as much as it is attended to; who attends to registers alone keeps their own.
        """
        axes = (torch.arange(n, device=x.device) for n in x.shape[-2:])
        guess = torch.stack(torch.meshgrid(*axes, indexing="ij")) + self.guess(x).float()
        kept: list[Kept] | None = None if tape is None else []
        block = cast("ContextBlock", self.context["local8"])
        x, found = block.gather(x, torch.cat([guess, torch.ones_like(guess[:, :1])], dim=1), kept)
        votes = (found[:, :2] + _OWN * guess) / (found[:, 2:] + _OWN)
        if tape is not None and kept:
            kept[0].votes = votes
            tape["local8"] = kept[0]
        return x, votes

    def _attend(
        self, kinds: str | tuple[str, ...], x: Tensor, tape: dict[str, Kept] | None, pool: int
    ) -> Tensor:
        for name, block in self.context.items():
            if name.startswith(kinds):
                kept: list[Kept] | None = None if tape is None else []
                x = block(x, kept, pool)
                if tape is not None and kept:
                    tape[name] = kept[0]
        return x


def consensus(votes: Tensor, size: Tensor) -> Tensor:
    """Turn votes of stride-8 positions into offsets of pixels in object diameters.

    Parameters
    ----------
    votes : Tensor, (B, 2, h, w) float32
        Seed (y, x), in positions.
    size : Tensor, (B, 1, H, W) float32
        log2 of the object's diameter over ``CANONICAL``.

    Returns
    -------
    Tensor, (B, 2, H, W) float32
    """
    shape = size.shape[-2:]
    seed = F.interpolate(8 * votes + 3.5, scale_factor=8, mode="nearest")[..., : shape[0], : shape[1]]
    at = torch.meshgrid(*(torch.arange(n, device=size.device) for n in shape), indexing="ij")
    return (seed - torch.stack(at)) / (torch.exp2(size.clamp(-6, 8)) * CANONICAL)


class ArticleNet(nn.Module):
    """The small network by which attention segmentation is often taught: the baseline of the ablation.

    Two 3 x 3 convolutions to 128 channels, one attention block, two 3 x 3 convolutions to the maps, all at
    stride 2, which keeps it affordable on a processor (receptive field without attention: 18 pixels); the
    heads are those of the big network.

    Parameters
    ----------
    width : int
        Channels at the attention block, a multiple of 32.
    classes : int
        Foreground classes.
    context : {"gate", "local", "global"}
        The attention block.
    """

    def __init__(self, width: int = 128, classes: int = 1, context: str = "gate") -> None:
        super().__init__()
        self.inward = nn.Sequential(ConvBN(12, width // 2), ConvBN(width // 2, width))
        self.context = nn.ModuleDict({f"{context}2": ContextBlock(context, width)})
        self.outward = nn.Sequential(ConvBN(width, width // 2), ConvBN(width // 2, 32))
        self.head = DenseHead(32, classes)

    @property
    def blocks(self) -> dict[str, int]:
        """Name of the attention block and its stride."""
        return dict.fromkeys(self.context, 2)

    def forward(self, x: Tensor, tape: dict[str, Kept] | None = None, pool: int = 1) -> Outputs:
        """Map (B, 3, H, W) to dense outputs of the same size."""
        shape = int(x.shape[-2]), int(x.shape[-1])
        x = F.pad(x, (0, shape[1] % 2, 0, shape[0] % 2), mode="replicate")
        x = self.inward(F.pixel_unshuffle(x, 2))
        for name, block in self.context.items():
            kept: list[Kept] | None = None if tape is None else []
            x = block(x, kept, pool)
            if tape is not None and kept:
                tape[name] = kept[0]
        return cast("Outputs", self.head(self.outward(x), shape))


def fold(model: nn.Module) -> nn.Module:
    """Fold every batch normalisation into its convolution, in place, and return the model (eval only)."""
    model.eval()
    for module in model.modules():
        if isinstance(module, ConvBN) and isinstance(module[1], nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(cast("nn.Conv2d", module[0]), module[1])
            module[0], module[1] = fused, nn.Identity()
    return model


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())


BACKBONES: Registry[Callable[..., nn.Module]] = Registry("architecture", "napari_attnseg.backbones")
BACKBONES.add("attnseg", AttnSegNet)
BACKBONES.add("article", ArticleNet)


def build_model(architecture: str = "attnseg", **options: object) -> AttnSegNet | ArticleNet:
    """Build a network from the ``architecture`` entry of a model card.

    Parameters
    ----------
    architecture : str
        A name in ``BACKBONES``: "attnseg", "article", or one that another package registers.
    **options
        Keyword arguments of the class; lists become tuples.

    Raises
    ------
    ModelError
        Unknown architecture or option.
    """
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    builder = BACKBONES.get(architecture, ModelError)
    try:
        return cast("AttnSegNet | ArticleNet", builder(**plain))
    except (TypeError, ValueError) as err:
        raise ModelError(f"The architecture '{architecture}' cannot be built: {err}.") from err


def to_channels_last(model: nn.Module) -> nn.Module:
    """Lay the weights out for channels_last convolutions."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
