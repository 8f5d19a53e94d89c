"""Is the attention of a model load-bearing?  Replace its weights and see what the scores lose.

    python docs/recipes/substitute.py --data DIR/val --model base

Block by block the attention weights A are replaced, with values, projections and residuals kept: by uniform
ones on the same support (every position of the field or of the window, and the registers), and by the A of
another image (queries and keys of the next image of its set, cut or mirrored to the same size).  Prints the
pooled scores and their differences with 95 % bootstrap intervals over images.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from measure import EVERY, each, engine_of, options

from napari_attnseg.core.metrics import Counts, compare, pooled
from napari_attnseg.core.postprocess import read_out
from napari_attnseg.core.size import settle_for
from napari_attnseg.nn import attention
from napari_attnseg.params import SegmentParams

if TYPE_CHECKING:
    from napari_attnseg.nn.engine import TorchEngine

    Array = np.ndarray[Any, Any]

DRAWS = 2000


class Substitute:
    """Stands between the blocks and what attends for them, and hands on other queries and keys.

    Global blocks call torch's attention, local ones :func:`napari_attnseg.nn.local.attend_strips`.
    """

    def __init__(self, engine: TorchEngine) -> None:
        self.real = torch.nn.functional.scaled_dot_product_attention
        self.real_strips = attention.attend_strips
        self.block, self.how, self.now = "", "", ""
        self.kept: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self.names = list(engine._model.context)
        for name, block in engine._model.context.items():
            block.norm1.register_forward_pre_hook(lambda *_args, name=name: setattr(self, "now", name))
        attention.F.scaled_dot_product_attention = self  # type: ignore[assignment]
        attention.attend_strips = self.strips  # type: ignore[assignment]

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        scale: float = 1.0,
    ) -> torch.Tensor:
        """Attend, with what is to be replaced replaced."""
        if self.how == "record":
            self.kept[self.now, q.shape[1]] = (q, k)  # votes are gathered by one head alone
        elif self.now == self.block and self.how == "uniform":
            q = torch.zeros_like(q)
            if attn_mask is not None:
                attn_mask = attn_mask.masked_fill(attn_mask.isfinite(), 0.0)
        elif self.now == self.block and self.how == "other":
            q, k = self.kept[self.now, q.shape[1]]
        return self.real(q, k, v, attn_mask=attn_mask, scale=scale)

    def strips(
        self,
        qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        registers: tuple[torch.Tensor, torch.Tensor],
        bias: torch.Tensor,
        *rest: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend within windows, with what is to be replaced replaced."""
        q, k, v = qkv
        if self.how == "record":
            self.kept[self.now, 0] = (q, k)
        elif self.now == self.block and self.how == "uniform":
            q, bias = torch.zeros_like(q), torch.zeros_like(bias)
        elif self.now == self.block and self.how == "other":
            q, k = self.kept[self.now, 0]
        return self.real_strips((q, k, v), registers, bias, *rest)


def fitted(image: Array, shape: tuple[int, ...]) -> Array:
    """Cut or mirror an image to a shape (H, W)."""
    for axis in (0, 1):
        while image.shape[axis] < shape[axis]:
            more = [(0, 0)] * image.ndim
            more[axis] = (0, min(image.shape[axis], shape[axis] - image.shape[axis]))
            image = np.pad(image, more, mode="symmetric")
    return image[: shape[0], : shape[1]]


def counted(engine: TorchEngine, put: Substitute, pictures: list[Array], truths: list[Array]) -> Any:
    """Return what each image contributes, by (block, how)."""
    ways = [("", "")] + [(b, how) for b in put.names for how in ("uniform", "other")]
    found: dict[tuple[str, str], list[Counts]] = {way: [] for way in ways}
    params = SegmentParams()
    for n, (picture, truth) in enumerate(zip(pictures, truths, strict=True)):
        put.how = ""
        zoom, _ = settle_for(engine.card, lambda z, p=picture: engine.maps(p, zoom=z))  # type: ignore[misc]
        put.how = "record"
        engine.maps(fitted(pictures[(n + 1) % len(pictures)], picture.shape), zoom=zoom)
        for way in ways:
            put.block, put.how = way
            found[way].append(compare(read_out(engine.maps(picture, zoom=zoom), params)[0], truth))
    return found


def difference(mine: list[Counts], base: list[Counts], rng: np.random.Generator) -> dict[str, float]:
    """Return the difference of the mean AP with its interval; images are drawn in pairs."""
    drawn = []
    for _ in range(DRAWS):
        pick = rng.integers(len(mine), size=len(mine))
        a, b = (pooled([counts[n] for n in pick])["mean_ap"] for counts in (mine, base))
        drawn.append(a - b)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "change": round(pooled(mine)["mean_ap"] - pooled(base)["mean_ap"], 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def main() -> None:
    """Measure and print."""
    args = options(__doc__).parse_args()
    engine: Any = engine_of(args)
    put, rng = Substitute(engine), np.random.default_rng(0)
    sets: dict[str, tuple[list[Array], list[Array]]] = {}
    for row, picture, truth in each(args.data, EVERY):
        pictures, truths = sets.setdefault(f"{row['dataset']} {row['kind']}", ([], []))
        pictures.append(picture)
        truths.append(truth)
    lines, everything = [], {}
    for name, (pictures, truths) in sets.items():
        found = counted(engine, put, pictures, truths)
        for way, counts in found.items():
            everything.setdefault(way, []).extend(counts)
            lines.append(_line(name, way, counts, found["", ""], rng))
    lines += [_line("all", way, counts, everything["", ""], rng) for way, counts in everything.items()]
    if args.json:
        args.json.write_text(json.dumps(lines, indent=1))


def _line(
    name: str, way: tuple[str, str], counts: list[Counts], base: list[Counts], rng: np.random.Generator
) -> dict[str, Any]:
    score = pooled(counts)
    line: dict[str, Any] = {
        "set": name,
        "n": len(counts),
        "block": way[0],
        "weights": way[1] or "own",
        "ap50": round(score["ap"]["0.50"], 4),
        "mean_ap": round(score["mean_ap"], 4),
    }
    if way[1]:
        line |= difference(counts, base, rng)
    print("  ".join(f"{k} {v}" for k, v in line.items()), flush=True)
    return line


if __name__ == "__main__":
    main()
