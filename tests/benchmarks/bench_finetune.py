"""How much of the way to a fully trained model a few corrections go; a simulated user, not a test.

    python tests/benchmarks/bench_finetune.py --data DIR/val --domain tnbc_he wbc isbi2012_em \
        --corrections 5 20 --seeds 0 1 2 --json table.json

DIR has an ``index.csv`` (columns dataset, image, labels, kind). Every second image of a domain, in the
order of the index, is for testing; the simulated user sees the others. Instances of ``wbc`` are the
connected pieces of class 2 (nucleus) of 30 pixels or more.

The user. Images are taken in a random order (the seed), ceil(k / images) corrections from each: one
image for up to 5 corrections, three for more; an image with fewer mistakes passes the rest on to the
next. In an image the mistakes are put in order, worst first: true objects by their best IoU with a
predicted one, and predicted objects of which 70 % lie on background, with theirs; equal ones by size,
the largest first. One correction is one of:

* a redraw: the true object's outline is filled with a new label over whatever was there, and a predicted
  object that lies with more than half of it in there is taken away;
* a click: a predicted object on background is erased.

Objects with an IoU of 0.8 or more are left alone. Every run goes through a run folder and the child
process, with the defaults of the window (tier quick, until it stops by itself). *full* tunes tier full
on all images that the user could see, fully labelled; ``--full-minutes`` caps it. Gap closed = (tuned -
base) / (full - base) of AP@.5 on the test images; domains where full gains less than 0.10 do not count.
Forgetting = AP@.5 on dsb2018 fluorescence, base - tuned.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from skimage.io import imread

from napari_attnseg.core import normalize
from napari_attnseg.core.corrections import make_sample
from napari_attnseg.core.metrics import compare, pooled
from napari_attnseg.core.mirror import read_maps
from napari_attnseg.core.postprocess import read_out
from napari_attnseg.engine import Engine, load_engine
from napari_attnseg.jobs import child
from napari_attnseg.params import SegmentParams, TrainParams
from napari_attnseg.records import Sample
from napari_attnseg.store import runs

Array = np.ndarray[Any, Any]
Pair = tuple[Array, Array]


def load(data: Path, domain: str, kind: str = "") -> list[Pair]:
    """Return (image, labels) of a domain in index order; grey images shown in colour become grey."""
    found = []
    with (data / "index.csv").open() as file:
        for row in csv.DictReader(file):
            if row["dataset"] != domain or (kind and row["kind"] != kind):
                continue
            image, labels = imread(data / row["image"]), imread(data / row["labels"]).astype(np.int32)
            if image.ndim == 3:
                image = image[..., :3]
                if (image == image[..., :1]).all():
                    image = image[..., 0]
            found.append((image, nuclei(labels) if domain == "wbc" else labels))
    return found


def nuclei(classes: Array) -> Array:
    """Return the connected pieces of class 2 of at least 30 pixels as instances."""
    from skimage.measure import label

    pieces = label(classes == 2, connectivity=1)
    small = np.bincount(pieces.ravel()) < 30
    return np.where(small[pieces], 0, pieces).astype(np.int32)


def segment(engine: Engine, image: Array) -> Array:
    """Segment as the window does, with its defaults."""
    _, maps = read_maps(engine.card, image, lambda seen, zoom: engine.maps(seen, zoom=zoom))
    return read_out(maps, SegmentParams())[0]


def ap50(engine: Engine, pairs: list[Pair]) -> float:
    """Return AP@.5 pooled over images."""
    return float(pooled([compare(segment(engine, i), t) for i, t in pairs])["ap"]["0.50"])


def mistakes(before: Array, truth: Array) -> list[tuple[float, int, str, int]]:
    """Return (IoU, -size, "draw" or "erase", id), worst first."""
    n, m = int(before.max()), int(truth.max())
    shared = np.zeros((n + 1, m + 1))
    np.add.at(shared, (before.ravel(), truth.ravel()), 1)
    size_n, size_m = shared.sum(1), shared.sum(0)
    iou = shared / np.maximum(size_n[:, None] + size_m[None] - shared, 1)
    found = [
        (float(iou[1:, j].max(initial=0)), -int(size_m[j]), "draw", j) for j in range(1, m + 1) if size_m[j]
    ]
    found += [
        (float(iou[i, 1:].max(initial=0)), -int(size_n[i]), "erase", i)
        for i in range(1, n + 1)
        if shared[i, 0] >= 0.7 * max(size_n[i], 1)
    ]
    return sorted(x for x in found if x[0] < 0.8)


def correct(before: Array, truth: Array, count: int) -> tuple[Array, int]:
    """Make up to ``count`` corrections; return the labels and how many were made."""
    after, fresh = before.copy(), int(before.max()) + 1
    chosen = mistakes(before, truth)[:count]
    for _, _, what, number in chosen:
        if what == "erase":
            after[before == number] = 0
            continue
        outline = truth == number
        for i in np.unique(before[outline]):
            if i and (before[outline] == i).sum() > 0.5 * (before == i).sum():
                after[after == i] = 0
        after[outline] = fresh
        fresh += 1
    return after, len(chosen)


def planes(image: Array) -> Array:
    """Normalise as a training sample: (C, H, W) float32."""
    scaled = normalize.apply(image, normalize.percentiles(image, rgb=image.ndim == 3))
    return scaled[None] if scaled.ndim == 2 else np.ascontiguousarray(np.moveaxis(scaled, -1, 0))


def user(engine: Engine, seen: list[Pair], count: int, seed: int) -> list[Sample]:
    """Return the samples of a user who makes ``count`` corrections."""
    images = 1 if count <= 5 else 3
    samples: list[Sample] = []
    left = count
    for i in np.random.default_rng(seed).permutation(len(seen)):
        image, truth = seen[i]
        before = segment(engine, image)
        after, made = correct(before, truth, min(left, -(-count // images)))
        sample = make_sample(planes(image), before, after, name=f"image {i}")
        if sample is not None:
            samples.append(sample)
        left -= made
        if not left:
            break
    return samples


def tune(samples: list[Sample], name: str, **values: Any) -> dict[str, Any]:
    """Tune through a run folder and a child; return its seconds, memory and time to the first loss."""
    run = runs.create_run(TrainParams(name=name, **values), samples)
    start = time.perf_counter()
    child.start(run)
    out: dict[str, Any] = {"first_loss_s": None, "peak_mb": 0.0}
    offset = 0
    while child.alive(run):
        lines, offset = runs.tail(run, offset)
        if out["first_loss_s"] is None and any(line["kind"] == "step" for line in lines):
            out["first_loss_s"] = round(time.perf_counter() - start, 1)
        out["peak_mb"] = max(out["peak_mb"], peak_mb(runs.state(run).pid))
        time.sleep(0.1)
    state = runs.state(run)
    if state.status != "finished":
        raise SystemExit(f"{name}: {state.status}: {state.message}")
    result = runs.read_result(run) or {}
    return {**out, "seconds": round(time.perf_counter() - start, 1), "steps": result.get("steps")}


def peak_mb(pid: int | None) -> float:
    """Return the largest resident memory of a process so far, MiB; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(x.split()[1]) / 1024 for x in text.splitlines() if x.startswith("VmHWM")), 0.0)


def cancel_seconds(samples: list[Sample], name: str) -> float:
    """Return the seconds from a cancel in the midst of learning to the child's end."""
    run = runs.create_run(TrainParams(name=name), samples)
    child.start(run)
    while runs.state(run).step < 5:
        time.sleep(0.05)
    start = time.perf_counter()
    child.stop(run)
    return round(time.perf_counter() - start, 2)


def enough(before: Array, truth: Array) -> int | None:
    """Return how many corrections bring an image to AP@.5 >= 0.9; None where all of them do not."""
    for made in range(len(mistakes(before, truth)) + 1):
        if pooled([compare(correct(before, truth, made)[0], truth)])["ap"]["0.50"] >= 0.9:
            return made
    return None


def effort(
    seen: list[Pair], count: int, base: Engine, domain: str, steps: int | None, say: Callable[..., None]
) -> None:
    """Say the corrections that bring ``count`` images to AP@.5 >= 0.9, tuning after each of them or not.

    Images that need none with the base, or that no corrections bring there, are passed over. Each tuning
    starts from the base and learns from all images corrected so far.
    """
    without: list[int] = []
    tuned: list[int] = []
    samples: list[Sample] = []
    engine = base
    for number, (image, truth) in enumerate(seen):
        if len(without) == count:
            break
        if not (needed := enough(segment(base, image), truth)):
            continue
        without.append(needed)
        before = segment(engine, image)
        found = enough(before, truth)
        tuned.append(len(mistakes(before, truth)) if found is None else found)
        sample = make_sample(
            planes(image), before, correct(before, truth, tuned[-1])[0], name=f"image {number}"
        )
        say(domain=domain, image=number, without=without[-1], with_tuning=tuned[-1])
        if sample is not None:
            samples.append(sample)
        if samples and len(without) < count:
            name = f"{domain}-effort{number}"
            say(domain=domain, learnt_from=len(samples), **tune(samples, name, steps=steps))
            engine = load_engine(name, "cpu")
    saved = round(1 - sum(tuned) / sum(without), 3) if sum(without) else None
    say(domain=domain, images=len(without), without=sum(without), with_tuning=sum(tuned), saved=saved)


def teller(path: Path | None) -> Callable[..., None]:
    """Return a function that prints a line of named values and writes all lines so far to ``path``."""
    table: list[dict[str, Any]] = []

    def say(**line: Any) -> None:
        table.append(line)
        print("  ".join(f"{k} {v}" for k, v in line.items()), flush=True)
        if path:
            path.write_text(json.dumps(table, indent=1))

    return say


def main() -> None:
    """Measure and print one line per run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--domain", nargs="+", default=["tnbc_he", "wbc", "isbi2012_em"])
    parser.add_argument("--corrections", type=int, nargs="*", default=[5, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--test", type=int, help="test on the first so many images only")
    parser.add_argument("--forget", type=int, default=1000, help="images of dsb2018 to measure forgetting on")
    parser.add_argument("--full-minutes", type=float, help="cap of the full training; 0 leaves it out")
    parser.add_argument(
        "--steps", type=int, nargs="+",
        help="so many steps for each of --corrections instead of the defaults (on a busy machine)",
    )  # fmt: skip
    parser.add_argument("--full-steps", type=int, help="the same for the full training")
    parser.add_argument("--effort", type=int, default=0, help="images of the effort measure; 0 leaves it out")
    parser.add_argument("--json", type=Path, help="write all lines here")
    args = parser.parse_args()
    say = teller(args.json)
    home = tempfile.mkdtemp(prefix="bench-finetune-")
    os.environ["NAPARI_ATTNSEG_HOME"] = home
    try:
        base = load_engine("base", "cpu")
        old = load(args.data, "dsb2018", "fluo")[: args.forget]
        base_old = ap50(base, old)
        say(machine=base.device, base=base.card.sha256[:12], dsb2018=round(base_old, 4), images=len(old))
        for domain in args.domain:
            measure_domain(domain, base, old, base_old, args, say)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def measure_domain(
    domain: str, base: Engine, old: list[Pair], base_old: float, args: argparse.Namespace, say: Any
) -> None:
    """Measure one domain."""
    pairs = load(args.data, domain)
    seen, test = pairs[0::2], pairs[1::2][: args.test]
    start = ap50(base, test)
    full = None
    if args.full_minutes != 0:
        whole = [Sample(planes(i), t, np.ones(t.shape, bool), f"image {n}") for n, (i, t) in enumerate(seen)]
        minutes = None if args.full_steps else args.full_minutes
        cost = tune(whole, f"{domain}-full", tier="full", minutes=minutes, steps=args.full_steps)
        full = ap50(load_engine(f"{domain}-full", "cpu"), test)
        say(domain=domain, run="full", base=round(start, 4), full=round(full, 4), **cost)
    lengths = args.steps if args.steps and args.corrections else [None] * len(args.corrections)
    for count, steps in zip(args.corrections, lengths, strict=True):
        rows = []
        for seed in args.seeds:
            name = f"{domain}-{count}-{seed}"
            samples = user(base, seen, count, seed)
            cost = tune(samples, name, seed=seed, steps=steps)
            engine = load_engine(name, "cpu")
            tuned, lost = ap50(engine, test), base_old - ap50(engine, old)
            closed = None if full is None or full - start < 0.1 else (tuned - start) / (full - start)
            rows.append((tuned, closed, lost))
            say(
                domain=domain, corrections=count, seed=seed, base=round(start, 4), tuned=round(tuned, 4),
                gap_closed=None if closed is None else round(closed, 3), forgot=round(lost, 4), **cost,
            )  # fmt: skip
        means = [None if any(v is None for v in c) else np.asarray(c, float) for c in zip(*rows, strict=True)]
        said = {
            name: None if v is None else f"{v.mean():.3f} +- {v.std():.3f}"
            for name, v in zip(("tuned", "gap_closed", "forgot"), means, strict=True)
        }
        say(domain=domain, corrections=count, mean_of=len(rows), **said)
    if args.corrections:
        say(domain=domain, cancel_to_gone_s=cancel_seconds(user(base, seen, 5, 0), f"{domain}-cancelled"))
    if args.effort:
        effort(seen, args.effort, base, domain, args.steps[-1] if args.steps else None, say)


if __name__ == "__main__":
    main()
