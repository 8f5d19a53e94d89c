"""Does attention earn its place?  Train the arms of an ablation alike and compare them on unseen images.

    python docs/recipes/ablate.py train --data DIR/train --work WORKDIR --steps 1256 --seeds 0 1
    python docs/recipes/ablate.py score --data DIR/val --work WORKDIR
    python docs/recipes/ablate.py table --work WORKDIR
    python docs/recipes/ablate.py compare --data DIR/val --models MODEL OTHER ...

Every arm is trained from scratch by the recipe of ``base`` with the same seeds, hence the same crops; only
the network differs.  Each run keeps its averaged weights every eighth of its length with the processor
seconds spent, so that arms are read at equal steps (the end) and at equal processor time (the newest
weights that the cheapest arm's time pays for; the learning rate has not yet come down there).  ``train``
goes on where it was stopped.  Differences to the arm ``none`` carry 95 % bootstrap intervals over images,
paired by image, both seeds pooled.  The last arm is the shipped network without generated scenes: its
difference is to ``local+global``, and is what the generator costs or brings.

``compare`` scores model folders (of longer runs of ``train_base.py``) and compares each with the first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import EVERY, each, network
from torch.utils.flop_counter import FlopCounterMode
from train_base import load, scene

from napari_attnseg.core.metrics import Counts, compare, pooled
from napari_attnseg.nn.checkpoint import load_weights, read_tensors, write_tensors
from napari_attnseg.nn.engine import TorchEngine
from napari_attnseg.nn.model import build_model, count_parameters
from napari_attnseg.nn.train import Recipe, train_steps
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import ModelCard
from napari_attnseg.store.models import read_card

ARMS: dict[str, dict[str, Any]] = {
    "none": {"context": "none"},
    "gate": {"context": "gate"},
    "local": {"context": "local"},
    "global": {"context": "global"},
    "local+global": {"context": "local+global"},
    "local in encoder+global": {"context": "local+global", "local_in": "encoder"},
    "article": {"architecture": "article"},
    "local+global, no generator": {"context": "local+global"},
}
GENERATED = {"local+global, no generator": 0.0}  # share of steps with generated scenes, where not 0.4
AGAINST = {"local+global, no generator": "local+global"}  # whom an arm is compared with, where not `none`
DRAWS = 2000


def train(args: argparse.Namespace) -> None:
    """Train every arm with every seed; a finished run is left alone."""
    items, weights, _ = load(args.data)
    for seed in args.seeds:
        for arm in args.arms:
            folder = args.work / name_of(arm, seed)
            if not (folder / "done.json").exists():
                run(folder, arm, seed, args.steps, items, weights)


def run(folder: Path, arm: str, seed: int, steps: int, items: list[Any], weights: Any) -> None:
    """Train one arm, keeping averaged weights and processor seconds on the way."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = build_model(**ARMS[arm])
    clock = folder / "seconds.json"
    spent: dict[str, float] = json.loads(clock.read_text()) if clock.exists() else {}
    before = max(spent.values(), default=0.0)
    start = time.process_time()

    def keep(step: int, average: dict[str, torch.Tensor]) -> None:
        if step % (steps // 8) == 0:
            write_tensors(folder / f"{step}.safetensors", average)
            spent[str(step)] = before + time.process_time() - start
            clock.write_text(json.dumps(spent))

    recipe = Recipe(steps=steps, seed=seed, attention=0.1, calm=0.15, save_every=60)
    steps_done = train_steps(
        model,
        items,
        recipe,
        device="cpu",
        weights=weights,
        checkpoint=folder / "last.safetensors",
        resume=True,
        fresh=scene,
        fresh_share=GENERATED.get(arm, 0.4),
        watch=keep,
    )
    losses = [done.loss for done in steps_done]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 256, 256))
    about = {
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "crops": steps * recipe.batch,
        "parameters": count_parameters(model),
        "gflop_256": round(counter.get_total_flops() / 1e9, 3),
        "seconds": round(max(spent.values()), 1),
        "loss": round(float(np.mean(losses[-100:])), 4) if losses else None,
    }
    (folder / "done.json").write_text(json.dumps(about))
    (folder / "last.safetensors").unlink(missing_ok=True)
    print(json.dumps(about), flush=True)


def chosen(work: Path) -> list[tuple[dict[str, Any], int, str]]:
    """Return (run, step, reading) of the weights to score: the end, and what the least time pays for."""
    runs = [json.loads(p.read_text()) for p in sorted(work.glob("*/done.json"))]
    found = []
    for seed in sorted({r["seed"] for r in runs}):
        mine = [r for r in runs if r["seed"] == seed and r["arm"] != "article"]
        budget = min((r["seconds"] for r in mine), default=0.0)
        for one in (r for r in runs if r["seed"] == seed):
            spent = json.loads((folder_of(work, one) / "seconds.json").read_text())
            paid = [int(s) for s, t in spent.items() if t <= budget * 1.02]
            found.append((one, one["steps"], "steps"))
            if paid:
                found.append((one, max(paid), "time"))
    return found


def name_of(arm: str, seed: int) -> str:
    """Return the name of a run's folder."""
    return f"{arm.replace(' ', '_')}-{seed}"


def folder_of(work: Path, one: dict[str, Any]) -> Path:
    """Return the folder of a run."""
    return work / name_of(one["arm"], one["seed"])


def score(args: argparse.Namespace) -> None:
    """Score the chosen weights of all finished runs; what is scored already is left alone."""
    images = list(each(args.data, EVERY | {"tnbc_he": 3}))
    for one, step, _ in chosen(args.work):
        out = folder_of(args.work, one) / f"scores-{step}.json"
        if out.exists():
            continue
        card = ModelCard("arm", "arm", ARMS[one["arm"]])
        out.write_text(json.dumps(scored_by(card, out.with_name(f"{step}.safetensors"), images)))
        print(f"{one['arm']} seed {one['seed']} step {step}", file=sys.stderr, flush=True)


def scored_by(card: ModelCard, weights: Path, images: list[Any]) -> list[dict[str, Any]]:
    """Return what every image contributes to the scores of a network."""
    model = build_model(**card.architecture)
    load_weights(model, read_tensors(weights, card.sha256)[0])
    segment = network(TorchEngine(card, model, torch.device("cpu")), SegmentParams())
    lines = []
    for row, picture, truth in images:
        counts = compare(segment(picture), truth)
        lines.append(
            {
                "set": f"{row['dataset']} {row['kind']}",
                "tp": counts.tp.tolist(),
                "iou_sum": counts.iou_sum,
                "pred": counts.pred,
                "truth": counts.truth,
            }
        )
    return lines


def counts_of(line: dict[str, Any]) -> Counts:
    """Read back what an image contributed."""
    return Counts(np.array(line["tp"]), line["iou_sum"], line["pred"], line["truth"], 0, 0, 0)


def mean_ap(lines: list[dict[str, Any]]) -> float:
    """Return pooled AP, mean over IoU .50 to .90."""
    return float(pooled(counts_of(line) for line in lines)["mean_ap"])


def table(args: argparse.Namespace) -> None:
    """Print a Markdown table per reading."""
    rng = np.random.default_rng(0)
    scored: dict[str, dict[str, list[list[dict[str, Any]]]]] = {"steps": {}, "time": {}}
    runs: dict[str, list[dict[str, Any]]] = {}
    for one, step, reading in chosen(args.work):
        path = folder_of(args.work, one) / f"scores-{step}.json"
        if path.exists():
            scored[reading].setdefault(one["arm"], []).append(json.loads(path.read_text()))
            if reading == "steps":
                runs.setdefault(one["arm"], []).append(one)
    for reading, arms in scored.items():
        sets = sorted({line["set"] for many in arms.values() for lines in many for line in lines})
        print(f"\nMean AP .50 to .90 at equal {reading}; difference to `none` [95 % interval]")
        print("(of the arm without generator: to `local+global`)\n")
        print("| arm | parameters | GFLOP at 256² | processor s | " + " | ".join(sets) + " |")
        print("|---" * (4 + len(sets)) + "|")
        for arm, many in arms.items():
            about = runs[arm][0]
            seconds = np.mean([r["seconds"] for r in runs[arm]])
            cells = []
            for name in sets:
                mine = [[x for x in lines if x["set"] == name] for lines in many]
                base = [
                    [x for x in lines if x["set"] == name] for lines in arms.get(AGAINST.get(arm, "none"), [])
                ]
                value = mean_ap([x for lines in mine for x in lines])
                cells.append(f"{value:.3f}{against(mine, base, rng) if arm != 'none' else ''}")
            print(
                f"| {arm} ({len(many)} seeds) | {about['parameters'] / 1e6:.2f} M | {about['gflop_256']:.2f} "
                f"| {seconds:.0f} | " + " | ".join(cells) + " |"
            )


def against(mine: list[list[Any]], base: list[list[Any]], rng: np.random.Generator) -> str:
    """Return the difference to the baseline with its interval; images are drawn, seeds stay together."""
    seeds = min(len(mine), len(base))
    if not seeds:
        return ""
    count = len(mine[0])
    differences = []
    for _ in range(DRAWS):
        pick = rng.integers(count, size=count)
        a = mean_ap([mine[s][n] for s in range(seeds) for n in pick])
        b = mean_ap([base[s][n] for s in range(seeds) for n in pick])
        differences.append(a - b)
    whole = mean_ap(list(chain(*mine[:seeds]))) - mean_ap(list(chain(*base[:seeds])))
    low, high = np.percentile(differences, [2.5, 97.5])
    return f" {whole:+.3f} [{low:+.3f}, {high:+.3f}]"


def compare_models(args: argparse.Namespace) -> None:
    """Print mean AP and AP@.5 of model folders by set, with the differences of mean AP to the first."""
    images = list(each(args.data, EVERY | {"tnbc_he": 1}))
    rng = np.random.default_rng(0)
    sets = sorted({f"{row['dataset']} {row['kind']}" for row, _, _ in images})
    print("| model | " + " | ".join(sets) + " |")
    print("|---" * (1 + len(sets)) + "|")
    first: list[dict[str, Any]] = []
    for folder in args.models:
        lines = scored_by(read_card(folder / "card.json"), folder / "weights.safetensors", images)
        cells = []
        for name in sets:
            mine, base = ([x for x in all_lines if x["set"] == name] for all_lines in (lines, first))
            ap = pooled(counts_of(line) for line in mine)["ap"]["0.50"]
            cells.append(f"{ap:.3f} / {mean_ap(mine):.3f}{against([mine], [base], rng) if base else ''}")
        first = first or lines
        print(f"| {folder} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Run one of the four parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["train", "score", "table", "compare"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, help="folder of the runs")
    parser.add_argument("--models", type=Path, nargs="+", help="model folders to compare")
    parser.add_argument("--steps", type=int, default=1256, help="of 8 crops each; a multiple of 8")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    args = parser.parse_args()
    parts = {"train": train, "score": score, "table": table, "compare": compare_models}
    needed = {"table": ("work",), "compare": ("data", "models")}.get(args.part, ("data", "work"))
    for name in needed:
        if getattr(args, name) is None:
            parser.error(f"'{args.part}' needs --{name}")
    parts[args.part](args)


if __name__ == "__main__":
    main()
