"""A contest of readouts: the same network, three ways from its maps to objects, accuracy and time.

    python docs/recipes/readouts.py --data DIR/val --model base

- *seeds*: every pixel attends to the seeds that the votes form (the default);
- *mutex*: affinities between pixels, the attention of their votes, partitioned by a mutex watershed (Wolf et
  al. 2020, doi 10.1109/TPAMI.2020.2980827) on every second pixel;
- *watershed*: the distance map flooded from its domes; the height of a dome is calibrated first, on the same
  images, which flatters it.

Time is processor time of the readout alone, in units of one 1024 x 1024 float32 matrix product.
The mutex watershed is plain Python: a compiled one would be faster, its accuracy would stay.
"""

from __future__ import annotations

import json
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from measure import EVERY, each, engine_of, options

from napari_attnseg.core.metrics import Counts, compare, pooled
from napari_attnseg.core.mirror import read_maps
from napari_attnseg.core.postprocess import READOUTS, SHARPNESS, read_out
from napari_attnseg.params import ReadoutParams, SegmentParams

if TYPE_CHECKING:
    from napari_attnseg.records import DenseMaps

    Array = np.ndarray[Any, Any]

NEAR = ((0, 1), (1, 0))
FAR = ((0, 3), (3, 0), (3, 3), (3, -3), (0, 8), (8, 0))  # of the grid of every second pixel
SPLITS = (-0.5, -0.25, 0.0, 0.25, 0.5)  # the height of a dome is 0.12 * 4 ** -split


def affinities(maps: DenseMaps, threshold: float) -> tuple[Array, Array, Array, Array, tuple[int, int]]:
    """Return (a, b, weight, attractive) of all edges between foreground pixels of the coarse grid."""
    inside = maps.foreground[::2, ::2] > threshold
    shape = (inside.shape[0], inside.shape[1])
    y, x = np.meshgrid(*(np.arange(n) * 2.0 for n in shape), indexing="ij")
    vote = np.stack([y + maps.offset[0, ::2, ::2], x + maps.offset[1, ::2, ::2]])
    diameter = np.maximum(maps.size[::2, ::2], 3.0)
    index = np.arange(inside.size).reshape(shape)
    parts = []
    for edges, attractive in ((NEAR, True), (FAR, False)):
        for dy, dx in edges:
            rows = slice(0, shape[0] - dy)
            cols = slice(max(0, -dx), shape[1] - max(0, dx))
            there = slice(dy, shape[0]), slice(max(0, dx), shape[1] + min(0, dx))
            here = rows, cols
            both = inside[here] & inside[there]
            miss = ((vote[(slice(None), *here)] - vote[(slice(None), *there)]) ** 2).sum(axis=0)
            affinity = np.exp(-SHARPNESS / 4 * miss / np.minimum(diameter[here], diameter[there]) ** 2)[both]
            weight = affinity if attractive else 1 - affinity
            parts.append((index[here][both], index[there][both], weight, np.full(len(weight), attractive)))
    a, b, weight, attractive_edges = (np.concatenate(p) for p in zip(*parts, strict=True))
    return a, b, weight, attractive_edges, shape


def partition(a: Array, b: Array, weight: Array, attractive: Array, count: int) -> Array:
    """Merge by falling weight where no mutex forbids it; return a cluster number for every node."""
    parent = list(range(count))
    apart: dict[int, set[int]] = {}

    def root(n: int) -> int:
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    for n in np.argsort(-weight, kind="stable").tolist():
        p, q = root(int(a[n])), root(int(b[n]))
        if p == q:
            continue
        ours, theirs = apart.get(p, set()), apart.get(q, set())
        if not attractive[n]:
            apart.setdefault(p, set()).add(q)
            apart.setdefault(q, set()).add(p)
        elif q not in ours:
            if len(ours) < len(theirs):
                p, q, ours, theirs = q, p, theirs, ours
            parent[q] = p
            for other in theirs:
                apart[other].discard(q)
                apart[other].add(p)
            if theirs:
                apart[p] = ours | theirs
                apart.pop(q, None)
    return np.array([root(n) for n in range(count)])


def mutex_readout(maps: DenseMaps, params: ReadoutParams) -> tuple[Array, Array]:
    """Label by a mutex watershed on the affinities of the votes."""
    a, b, weight, attractive, shape = affinities(maps, params.threshold)
    cluster = partition(a, b, weight, attractive, shape[0] * shape[1]).reshape(shape)
    h, w = maps.foreground.shape
    big = np.repeat(np.repeat(cluster, 2, axis=0), 2, axis=1)[:h, :w] + 1
    labels = np.where(maps.foreground > params.threshold, big, 0)
    _, labels = np.unique(labels, return_inverse=True)
    inside = labels.reshape(h, w) > 0
    return labels.reshape(h, w).astype(np.int32), maps.foreground * inside


READOUTS.add("mutex", mutex_readout)


def main() -> None:
    """Measure and print."""
    args = options(__doc__).parse_args()
    engine: Any = engine_of(args)
    read_out(engine.maps(np.zeros((64, 64), np.uint8)), SegmentParams())  # imports
    matrix = torch.randn(1024, 1024)
    unit = median(_timed(lambda: matrix @ matrix)[1] for _ in range(20))
    counts: dict[tuple[str, str], list[Counts]] = {}
    seconds: dict[tuple[str, str], list[float]] = {}
    pixels: dict[str, float] = {}
    ways = {"seeds": ("seeds", 0.0), "mutex": ("mutex", 0.0)}
    ways |= {f"watershed {s:+.2f}": ("watershed", s) for s in SPLITS}
    for row, picture, truth in each(args.data, EVERY):
        name = f"{row['dataset']} {row['kind']}"
        pixels[name] = pixels.get(name, 0.0) + truth.size / 1024**2
        _, maps = read_maps(engine.card, picture, lambda seen, zoom: engine.maps(seen, zoom=zoom))
        for way, (readout, split) in ways.items():
            params = SegmentParams.model_construct(
                **SegmentParams().model_dump() | {"readout": readout, "split": split}
            )
            (labels, _), spent = _timed(lambda m=maps, p=params: read_out(m, p))  # type: ignore[misc]
            counts.setdefault((name, way), []).append(compare(labels, truth))
            seconds.setdefault((name, way), []).append(spent)
    table = []
    for (name, way), many in sorted(counts.items()):
        score = pooled(many)
        table.append(
            {
                "set": name,
                "n": len(many),
                "readout": way,
                "ap50": round(score["ap"]["0.50"], 4),
                "mean_ap": round(score["mean_ap"], 4),
                "pq": round(score["pq"], 4),
                "units_per_megapixel": round(sum(seconds[name, way]) / unit / pixels[name], 1),
            }
        )
        print("  ".join(f"{k} {v}" for k, v in table[-1].items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


def _timed(run: Any) -> tuple[Any, float]:
    start = time.process_time()
    return run(), time.process_time() - start


if __name__ == "__main__":
    main()
