"""Random crops with exact targets: geometry and intensity, driven by one numpy generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_attnseg.core.objects import measure

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_attnseg.records import Sample


@dataclass(slots=True)
class Prepared:
    """A training image measured once.

    Attributes
    ----------
    image : Tensor, (3, H, W) float32
    layers : Tensor, (3, H, W) float32
        Labels, depth and known.
    diameter, seed : Tensor, (n + 1,) and (n + 1, 2)
        By label id; see :class:`napari_attnseg.core.objects.ObjectTable`.
    colour : bool
        Whether the channels differ.
    """

    image: Tensor
    layers: Tensor
    diameter: Tensor
    seed: Tensor
    colour: bool

    @property
    def median(self) -> float:
        """Median object diameter, pixels; 24 where there is none."""
        known = self.diameter[self.diameter > 0]
        return float(known.median()) if len(known) else 24.0


@dataclass(slots=True)
class Batch:
    """Crops and their truth, all (B, c, S, S): sizes in pixels, offsets (dy, dx) in pixels."""

    image: Tensor
    labels: Tensor
    depth: Tensor
    known: Tensor
    size: Tensor
    offset: Tensor


def prepare(sample: Sample) -> Prepared:
    """Measure a sample; grey images are repeated to three channels."""
    image, colour = _three_channels(sample.image)
    table = measure(sample.labels)
    layers = np.stack([sample.labels.astype(np.float32), table.depth, sample.known.astype(np.float32)])
    return Prepared(
        image,
        torch.from_numpy(layers),
        torch.from_numpy(table.diameter),
        torch.from_numpy(table.seed),
        colour,
    )


def unlabelled(image: npt.NDArray[np.float32]) -> Prepared:
    """Return an image, (C, H, W), of which nothing is known; there is nothing to measure."""
    planes, colour = _three_channels(image)
    return Prepared(planes, torch.zeros(3, *planes.shape[1:]), torch.zeros(1), torch.zeros(1, 2), colour)


def _three_channels(image: npt.NDArray[np.float32]) -> tuple[Tensor, bool]:
    """Return an image as (3, H, W), and whether its channels differ."""
    found = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    colour = found.shape[0] >= 3
    return (found[:3] if colour else found.mean(0, keepdim=True).expand(3, -1, -1)).contiguous(), colour


def choose_scale(rng: np.random.Generator, median: float, canonical: float) -> float:
    """Draw a scale so that objects come in many sizes around the canonical one.

    Half of the crops stay within a factor 2 of their own scale, the others aim at a diameter that is
    log-uniform from 0.35 to 3.5 times the canonical one; objects stay within 6 to 160 pixels.
    """
    if rng.random() < 0.5:
        scale = float(2.0 ** rng.uniform(-1, 1))
    else:
        scale = canonical * float(np.exp(rng.uniform(np.log(0.35), np.log(3.5)))) / median
    return float(np.clip(scale, 6.0 / median, 160.0 / median))


def crop(
    item: Prepared,
    size: int,
    rng: np.random.Generator,
    canonical: float = 24.0,
    *,
    scale: float | None = None,
    centre: npt.NDArray[np.float32] | None = None,
) -> Batch:
    """Cut a rotated, flipped, rescaled, sometimes stretched crop of ``size`` pixels with its truth (B = 1).

    ``scale`` and ``centre`` (y, x) are drawn where they are None; a stretch keeps areas.
    """
    scale = choose_scale(rng, item.median, canonical) if scale is None else scale
    image, layers, shrink = item.image, item.layers, 1.0
    while scale / shrink < 0.6 and min(image.shape[-2:]) >= 32:  # no aliasing: halve first
        image = F.avg_pool2d(image[None], 2)[0]
        shrink /= 2
    turn = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.integers(4) * np.pi / 2
    flip = 1.0 if rng.random() < 0.5 else -1.0
    c, s = np.cos(turn), np.sin(turn)
    matrix = np.array([[c, -s], [s, c]]) @ np.diag(
        [flip, 1.0]
    )  # crop (dy, dx) -> image (dy, dx), scale apart
    if rng.random() < 0.3:  # longer one way and narrower the other, along any direction of the crop
        matrix = matrix @ _stretch(rng)
    centre = _centre(item, size / scale, rng) if centre is None else centre
    axis = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    at = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)  # (S, S, 2) as (y, x)
    where = at @ torch.from_numpy(matrix.T.astype(np.float32)) / scale + torch.from_numpy(centre)
    picture = _sample(image, (where + 0.5) * shrink - 0.5, "bilinear", "reflection")
    flat = _sample(layers[[0, 2]], where, "nearest", "zeros")
    depth = _sample(layers[1:2], where, "bilinear", "zeros")
    labels = flat[0].round().long()
    back = torch.from_numpy(np.linalg.inv(matrix).T.astype(np.float32))
    seeds = (item.seed - torch.from_numpy(centre)) @ back * scale
    inside = labels > 0
    offset = (seeds[labels] - at).permute(2, 0, 1) * inside
    return Batch(
        picture[None],
        labels[None, None],
        (depth * inside)[None],
        flat[1:][None] > 0.5,
        (item.diameter[labels] * scale)[None, None],
        offset[None],
    )


def _stretch(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    turn, by = rng.uniform(0, np.pi), float(np.exp(rng.uniform(-0.25, 0.25)))
    c, s = np.cos(turn), np.sin(turn)
    along = np.array([[c, -s], [s, c]])
    matrix: npt.NDArray[np.float64] = along @ np.diag([by, 1 / by]) @ along.T
    return matrix


def _centre(item: Prepared, span: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return the crop's centre in the image: near an object in 7 of 10 crops."""
    shape = np.array(item.image.shape[-2:], dtype=np.float64)
    known = torch.nonzero(item.diameter > 0).ravel()
    if len(known) and rng.random() < 0.7:
        at = item.seed[known[int(rng.integers(len(known)))]].numpy() + rng.uniform(-0.3, 0.3, 2) * span
    else:
        at = rng.uniform(0, 1, 2) * shape
    margin = np.minimum(0.4 * span, shape / 2)  # most of the crop lies in the image
    return np.clip(at, margin, shape - margin).astype(np.float32)


def _sample(x: Tensor, where: Tensor, mode: str, padding: str) -> Tensor:
    h, w = x.shape[-2:]
    grid = torch.stack([(where[..., 1] + 0.5) * 2 / w - 1, (where[..., 0] + 0.5) * 2 / h - 1], dim=-1)
    return F.grid_sample(x[None], grid[None], mode=mode, padding_mode=padding, align_corners=False)[0]


def jitter(x: Tensor, rng: np.random.Generator, colour: bool) -> Tensor:
    """Change the intensities of a crop (1, 3, S, S): colour, contrast, gamma, inversion, blur, noise."""
    x = _colour(x, rng) if colour else x
    if rng.random() < 0.15:
        x = 1 - x
    if rng.random() < 0.6:
        x = x.clamp(0, 1.5) ** float(np.exp(rng.normal() * 0.35))
    if rng.random() < 0.6:
        x = (x - 0.5) * float(rng.uniform(0.55, 1.3)) + 0.5 + float(rng.normal() * 0.08)
    if rng.random() < 0.15:  # uneven light
        light = torch.from_numpy(rng.uniform(0.6, 1.2, (1, 1, 3, 3)).astype(np.float32))
        x = x * F.interpolate(light, x.shape[-2:], mode="bicubic", align_corners=True)
    if rng.random() < 0.12:
        x = _resample(x, float(rng.uniform(0.4, 0.8)))
    if rng.random() < 0.2:
        x = _blur(x, float(rng.uniform(0.4, 1.6)))
    if rng.random() < 0.4:
        per_channel = 3 if colour and rng.random() < 0.5 else 1
        noise = rng.standard_normal((1, per_channel, *x.shape[-2:]), dtype=np.float32)
        x = x + float(rng.uniform(0.01, 0.12)) * torch.from_numpy(noise)
    if not colour and rng.random() < 0.08:  # a grey image shown in colour
        tint = torch.from_numpy(rng.uniform(0.2, 1, (1, 3, 1, 1)).astype(np.float32))
        x = x * tint
    return x.clamp(-0.3, 1.6)


def _colour(x: Tensor, rng: np.random.Generator) -> Tensor:
    draw = rng.random()
    if draw < 0.2:
        weights = torch.from_numpy(rng.dirichlet([2.0, 2.0, 2.0]).astype(np.float32))
        return (x * weights.view(1, 3, 1, 1)).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    if draw < 0.3:
        return x[:, rng.permutation(3).tolist()]
    if draw < 0.75:  # stain jitter: mix and scale the optical densities
        density = -torch.log(x.clamp(0.02, 1.5))
        mix = np.eye(3) + rng.normal(size=(3, 3)) * float(rng.uniform(0.03, 0.18))
        mixed = torch.einsum("cd,bdhw->bchw", torch.from_numpy(mix.astype(np.float32)), density)
        return torch.exp(-mixed * float(rng.uniform(0.6, 1.45)))
    return x


def _blur(x: Tensor, sigma: float) -> Tensor:
    r = max(1, round(2.5 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-r, r + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    x = F.conv2d(F.pad(x, (r, r, 0, 0), mode="reflect"), kernel, groups=3)
    return F.conv2d(F.pad(x, (0, 0, r, r), mode="reflect"), kernel.transpose(2, 3), groups=3)


def _resample(x: Tensor, factor: float) -> Tensor:
    small = F.interpolate(x, scale_factor=factor, mode="bilinear", antialias=True)
    return F.interpolate(small, x.shape[-2:], mode="bilinear")


def make_batch(
    items: list[Prepared],
    weights: npt.NDArray[np.float64] | None,
    count: int,
    size: int,
    rng: np.random.Generator,
    canonical: float,
    jittered: float = 1.0,
) -> Batch:
    """Draw ``count`` augmented crops; the intensities of a share ``jittered`` of them are changed."""
    picks = rng.choice(len(items), count, p=weights)
    parts = []
    for pick in picks:
        part = crop(items[pick], size, rng, canonical)
        if jittered >= 1 or rng.random() < jittered:
            part.image = jitter(part.image, rng, items[pick].colour)
        parts.append(part)
    stack = [torch.cat([getattr(p, name) for p in parts]) for name in Batch.__slots__]
    return Batch(*stack)
