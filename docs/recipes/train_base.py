"""Train the shipped weights: the recipe behind ``base``.

Run it from the project root on a folder with an ``index.csv`` (columns dataset, image, labels, task,
kind, n_objects; paths relative to the folder):

    python docs/recipes/train_base.py --data DIR/train --work WORKDIR --minutes 100 --seed 0
    python docs/recipes/train_base.py --data DIR/train --work WORKDIR --minutes 100 --seed 0 --resume
    python docs/recipes/train_base.py --data DIR/train --work WORKDIR --minutes 120 --seed 1 --start base

Only rows of task ``instance`` are used; each kind gets a fixed share of the crops, and a share of the
steps trains on scenes of the generator in ``napari_attnseg.core.synth``.  The result is a model folder
(weights and card) in WORKDIR/model.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from skimage.io import imread

from napari_attnseg import __version__
from napari_attnseg.core import normalize, synth
from napari_attnseg.nn.augment import Prepared, prepare
from napari_attnseg.nn.checkpoint import read_tensors, save_model
from napari_attnseg.nn.model import build_model
from napari_attnseg.nn.train import Recipe, train_steps
from napari_attnseg.records import ModelCard, Sample
from napari_attnseg.store.models import find, read_card

if TYPE_CHECKING:
    from collections.abc import Sequence

# share of the crops by kind: common kinds are held down, rare ones lifted
SHARES = {
    "fluo": 0.45,
    "rgb_purple_on_white": 0.19,
    "rgb_tissue": 0.07,
    "brightfield_gray": 0.08,
    "phase_contrast": 0.19,
    "EM_chloroplast": 0.02,
}
HELD_OUT = 20  # every 20th image of a kind is kept for calibration and never trained on
# what a card tells of a segment that others went on from
_TOLD = (
    "version", "averaged", "seed", "steps", "crops", "fields", "frozen", "often", "hours", "rate", "finished",
)  # fmt: skip


def to_sample(image: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Sample:
    """Normalise an image (H, W) or (H, W, 3+) as the engine does; grey images in colour become grey."""
    if image.ndim == 3:
        image = image[..., :3]
        if np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 1], image[..., 2]):
            image = image[..., 0]
    return Sample(normalize.planes(image), labels.astype(np.int32), np.ones(labels.shape, bool))


def load(folder: Path) -> tuple[list[Prepared], np.ndarray[Any, Any], list[str]]:
    """Read the training images; return them, their probabilities and the held-out image paths."""
    items, kinds, objects, held, seen = [], [], [], [], dict.fromkeys(SHARES, 0)
    with (folder / "index.csv").open() as file:
        for row in csv.DictReader(file):
            kind = row["kind"]
            if row["task"] != "instance" or kind not in SHARES:
                continue
            seen[kind] += 1
            if seen[kind] % HELD_OUT == 0:
                held.append(row["image"])
                continue
            items.append(prepare(to_sample(imread(folder / row["image"]), imread(folder / row["labels"]))))
            kinds.append(kind)
            objects.append(max(1, int(row["n_objects"])))
    # within a kind by the root of the number of objects: a crowded field has more to teach than a sparse one
    weights = np.sqrt(objects)
    for kind, share in SHARES.items():
        of = np.array([k == kind for k in kinds])
        weights[of] *= share / weights[of].sum()
    return items, weights / weights.sum(), held


def scene(rng: np.random.Generator, size: int, often: Sequence[str] = ()) -> Prepared:
    """Make one generated image for crops of a side, three times as likely one of ``often`` as another."""
    names = [*synth.SCENES, *often, *often]
    make = synth.SCENES[names[rng.integers(len(names))]]
    image, labels = make(
        (size + 32, size + 32),
        int(rng.integers(2**31)),
        diameter=float(np.exp(rng.uniform(np.log(10), np.log(60)))),
        density=float(rng.uniform(0.05, 0.6)),
        kind=str(rng.choice(["blob", "ellipse", "rod", "spread"], p=[0.35, 0.15, 0.25, 0.25])),
        clustered=float(rng.uniform(0.2, 0.9)),
    )
    return prepare(to_sample(image, labels))


def go_on(model: torch.nn.Module, start: str) -> list[dict[str, Any]]:
    """Take over the weights that fit by name and shape; return the training segments behind them.

    A network with fewer global blocks takes the last one of the other.
    """
    folder = Path(start)
    card = read_card(folder / "card.json") if folder.is_dir() else find(start).card
    weights = folder / "weights.safetensors" if folder.is_dir() else find(start).weights
    tensors, _ = read_tensors(weights, card.sha256)
    last = max((n.split(".")[1] for n in tensors if n.startswith("context.global")), default="")
    mine = model.state_dict()
    wanted = max((n.split(".")[1] for n in mine if n.startswith("context.global")), default="")
    if last != wanted:
        tensors |= {n.replace(last, wanted): t for n, t in tensors.items() if last and last in n}
    fitting = {n: t for n, t in tensors.items() if n in mine and mine[n].shape == t.shape}
    if card.architecture.get("local_in", "decoder") != getattr(model, "local_in", "decoder"):
        fitting = {n: t for n, t in fitting.items() if ".local8." not in n}  # it stands elsewhere now
    if "guess.weight" in mine and "guess.weight" not in tensors:  # the head starts by refining nothing
        start_votes(model, fitting)
    model.load_state_dict(fitting, strict=False)
    print(f"{len(fitting)} of {len(mine)} tensors taken from '{start}'", file=sys.stderr)
    training = dict(card.training)
    before = training.pop("segments_before", [])
    return [*before, {k: training[k] for k in _TOLD if k in training}]


def start_votes(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Let the dense head's offsets start at zero: what it said before is now the consensus' part."""
    classes = model.head.counts[0]
    for part in ("weight", "bias"):
        blocks = tensors[f"head.dense.{part}"].unflatten(0, (-1, 4))  # 4 pixels of each output channel
        blocks[classes + 2 :] = 0


def main() -> None:
    """Train, checkpoint, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--context", default="local+global")
    parser.add_argument("--architecture", default="attnseg", choices=["attnseg", "article"])
    parser.add_argument("--generated", type=float, default=0.4, help="share of steps with generated scenes")
    parser.add_argument(
        "--often", nargs="*", default=[], choices=list(synth.SCENES), metavar="SCENE",
        help="generated scenes that are drawn three times as often as others: " + ", ".join(synth.SCENES),
    )  # fmt: skip
    parser.add_argument("--start", help="a model to go on from, with a new warm-up: a name or a folder")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate after the warm-up")
    parser.add_argument("--attention", type=float, default=0.1, help="weight of the attention heads' loss")
    parser.add_argument(
        "--calm", type=float, default=0.15, help="last share of the run with calm intensities"
    )
    parser.add_argument(
        "--fields", nargs="*", default=[], help="crops x side, one drawn for every step: 8x192 2x384"
    )
    parser.add_argument("--frozen", action="store_true", help="keep the statistics of batch normalisation")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    if args.frozen and args.start is None:
        parser.error("--frozen keeps statistics that only a model to --start from has.")

    torch.manual_seed(args.seed)
    options = {"context": args.context} if args.architecture == "attnseg" else {}
    model = build_model(args.architecture, **options)
    items, weights, held = load(args.data)
    print(f"{len(items)} images, {len(held)} held out", file=sys.stderr)
    before = go_on(model, args.start) if args.start else []
    recipe = Recipe(
        steps=args.steps,
        minutes=args.minutes,
        seed=args.seed,
        lr=args.rate,
        calm=args.calm,
        attention=args.attention,
        fields=tuple((int(n), int(side)) for n, side in (f.split("x") for f in args.fields)),
        frozen=args.frozen,
    )
    args.work.mkdir(parents=True, exist_ok=True)
    log = (args.work / "progress.jsonl").open("a")
    run = train_steps(
        model,
        items,
        recipe,
        weights=weights,
        checkpoint=args.work / "last.safetensors",
        resume=args.resume,
        fresh=partial(scene, often=args.often),
        fresh_share=args.generated,
    )
    last = None
    for last in run:
        if last.step % 50 == 0:
            row = {
                "step": last.step,
                "of": last.total,
                "loss": last.loss,
                "lr": last.lr,
                "s": round(last.seconds, 1),
            }
            log.write(json.dumps(row | {k: round(v, 4) for k, v in last.parts.items()}) + "\n")
            log.flush()
    if last is None:
        raise SystemExit("the checkpoint is complete already")
    card = ModelCard(
        id="base",
        name="Base: nuclei and cells",
        architecture={"architecture": args.architecture, **options},
        diameter=recipe.canonical,
        description="Nuclei and whole cells in fluorescence, stained and phase-contrast images.",
        training={
            "recipe": "docs/recipes/train_base.py",
            "version": __version__,
            "seed": args.seed,
            "steps": last.step,
            "hours": round(last.seconds / 3600, 2),
            "crops": sum(recipe.crops(np.random.default_rng([args.seed, n]))[0] for n in range(last.step)),
            "fields": args.fields,
            "frozen": args.frozen,
            "rate": args.rate,
            "generated_share": args.generated,
            "often": args.often,
            "attention_loss": args.attention,
            "calm_share": args.calm,
            "shares": SHARES,
            "segments_before": before,
            "images": len(items),
            "held_out": len(held),
            "finished": time.strftime("%Y-%m-%d"),
        },
    )
    save_model(args.work / "model", model, card)
    (args.work / "held_out.json").write_text(json.dumps(held))


if __name__ == "__main__":
    main()
