"""How well a model learns classes from a few strokes; a simulated user, not a test.

    python tests/benchmarks/bench_classes.py --data DIR/val --images 1 3 --seeds 0 1 --json table.json

DIR has an ``index.csv`` (columns dataset, image, labels, kind); the domain ``wbc`` has class labels, 1 is
cytoplasm and 2 is nucleus of white blood cells.  Every second image, in the order of the index, is for
testing; the simulated user sees the others.

The user. Images are taken in a random order (the seed).  In each, three strokes of every class and of the
background are painted: from a random pixel that lies 3 pixels or deeper in the class, straight on for up to
30 pixels, as long as the stroke, 3 pixels wide, stays in the class.  Nothing else is known.  With
``--whole`` all pixels of the images are known instead.

Printed: Dice per class and their mean, pooled over the pixels of the test images; the share of pixels that
were painted; AP@.5 of the objects (foreground of both classes, against the pieces of both classes together)
with base and with the new model, and what the run cost.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bench_finetune import Array, planes, segment, teller, tune
from scipy import ndimage
from skimage.draw import line
from skimage.io import imread

from napari_attnseg.core.classes import class_map, class_scores, count_classes
from napari_attnseg.core.metrics import compare, pooled
from napari_attnseg.core.mirror import read_maps
from napari_attnseg.engine import Engine, load_engine
from napari_attnseg.params import THRESHOLD
from napari_attnseg.records import Sample

NAMES = ("cytoplasm", "nucleus", "background")
STROKES, LENGTH = 3, 30


def load(data: Path, domain: str) -> list[tuple[Array, Array]]:
    """Return (image, classes) of a domain in index order."""
    with (data / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == domain]
    return [(imread(data / r["image"])[..., :3], imread(data / r["labels"]).astype(np.int32)) for r in rows]


def painted(truth: Array, rng: np.random.Generator) -> Array:
    """Return strokes, (H, W) int32: 0 nothing, 1 and 2 the classes, 3 background."""
    out = np.zeros(truth.shape, np.int32)
    for number in (1, 2, 3):
        inside = truth == (0 if number == 3 else number)
        deep = np.argwhere(ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1] >= 3)
        for _ in range(STROKES if len(deep) else 0):
            y, x = deep[rng.integers(len(deep))]
            turn = rng.uniform(0, 2 * np.pi)
            to = np.round([y + LENGTH * np.sin(turn), x + LENGTH * np.cos(turn)]).astype(int)
            for a, b in zip(*line(int(y), int(x), *to), strict=True):
                spot = np.s_[max(a - 1, 0) : a + 2, max(b - 1, 0) : b + 2]
                if not (1 <= a < len(truth) - 1 and 1 <= b < truth.shape[1] - 1) or not inside[spot].all():
                    break
                out[spot] = number
    return out


def user(seen: list[tuple[Array, Array]], count: int, seed: int, whole: bool) -> list[Sample]:
    """Return the samples of a user who paints in ``count`` images."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in rng.permutation(len(seen))[:count]:
        image, truth = seen[i]
        labels = truth if whole else painted(truth, rng)
        known = np.ones(truth.shape, bool) if whole else labels > 0
        samples.append(Sample(planes(image), labels, known, f"image {i}", classes=NAMES))
    return samples


def measure(engine: Engine, pairs: list[tuple[Array, Array]]) -> dict[str, Any]:
    """Return Dice per class, pooled over images, and AP@.5 of objects."""
    counts, objects = np.zeros((3, 3), np.int64), []
    for image, truth in pairs:
        _, maps = read_maps(engine.card, image, lambda seen, zoom: engine.maps(seen, zoom=zoom))
        whole = Sample(planes(image), truth, np.ones(truth.shape, bool), classes=NAMES[:2])
        counts += count_classes(class_map(maps, THRESHOLD), whole)
        objects.append(compare(segment(engine, image), ndimage.label(truth > 0)[0].astype(np.int32)))
    found = class_scores(counts, NAMES[:2], engine.card.classes)
    return {
        "mean": found["dice"], **found["per_class"], "foreground": found["foreground"],
        "objects_ap50": round(float(pooled(objects)["ap"]["0.50"]), 4),
    }  # fmt: skip


def main() -> None:
    """Measure and print one line per run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--domain", default="wbc")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--test", type=int, help="test on the first so many images only")
    parser.add_argument("--whole", action="store_true", help="all pixels of the images are known")
    parser.add_argument("--tier", default="quick")
    parser.add_argument("--steps", type=int, help="so many steps instead of the defaults (on a busy machine)")
    parser.add_argument("--json", type=Path, help="write all lines here")
    args = parser.parse_args()
    say = teller(args.json)
    home = tempfile.mkdtemp(prefix="bench-classes-")
    os.environ["NAPARI_ATTNSEG_HOME"] = home
    try:
        base = load_engine("base", "cpu")
        pairs = load(args.data, args.domain)
        seen, test = pairs[0::2], pairs[1::2][: args.test]
        say(machine=base.device, base=base.card.sha256[:12], test_images=len(test), **measure(base, test))
        for count in args.images:
            means = []
            for seed in args.seeds:
                samples = user(seen, count, seed, args.whole)
                share = float(np.mean([s.known.mean() for s in samples]))
                name = f"{args.domain}-{count}-{seed}"
                cost = tune(samples, name, seed=seed, steps=args.steps, task="classes", tier=args.tier)
                found = measure(load_engine(name, "cpu"), test)
                means.append(found["mean"])
                say(images=count, seed=seed, painted=f"{share:.3%}", **found, **cost)
            say(images=count, mean_of=len(means), mean=f"{np.mean(means):.3f} +- {np.std(means):.3f}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
