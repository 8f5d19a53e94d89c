"""Stands in for the child process that fine-tunes: keeps the protocol of the run folder, learns nothing.

    python tests/fake_child.py RUN MODELS [--steps N] [--deaf] [--reading]

``--deaf``: does not hear the wish to stop.  ``--reading``: nor does it come to a first step.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from napari_attnseg.store import runs
from napari_attnseg.store.locks import take


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--reading", action="store_true")
    args = parser.parse_args()
    run, name = args.run, args.run.name
    with take(run / "lock"):
        done = runs.state(run).step
        runs.append_progress(run, {"kind": "start"})
        runs.append_progress(run, {"kind": "phase", "note": "Learning"})
        if args.reading:
            time.sleep(60)
        for step in range(done + 1, args.steps + 1):
            one_step(run, step, args.steps)
            while not args.deaf and runs.wishes(run) == (True, False):
                time.sleep(0.02)
            if runs.wishes(run)[1] and not args.deaf:
                runs.append_progress(
                    run, {"kind": "end", "status": "cancelled", "message": "Cancelled: nothing is stored."}
                )
                return
            time.sleep(0.05)
        scores = {"ap50": 0.5, "pq": 0.4, "dice": 0.7, "objects": 3}
        better = {"ap50": 0.75, "pq": 0.6, "dice": 0.8, "objects": 3}
        if runs.read_request(run).params.task == "classes":
            scores = {**class_scores(None, None), "pixels": 40}
            better = {**class_scores(0.6, 0.8), "pixels": 40}
        result = {"before": scores, "after": better, "reason": "", "steps": 10, "seconds": 4}
        runs.write_result(run, {**result, "task": runs.read_request(run).params.task})
        store(args.models / name, runs.read_request(run).parent)
        runs.append_progress(run, {"kind": "end", "status": "finished", "message": "Ready.", "model": name})


def one_step(run: Path, step: int, total: int) -> None:
    line = {"kind": "step", "step": step, "total": total, "loss": 1 / step, "lr": 1e-3}
    runs.append_progress(run, {**line, "seconds": 0.1 * step, "left": 0.1 * (total - step)})
    if step == 3:
        runs.append_progress(run, {"kind": "estimate", "seconds": 5, "memory_mb": 512, "steps": total})
    if step % 4 == 0:
        val = {"kind": "val", "step": step, "ap50": step / total, "dice": 0.5, "best": True}
        if runs.read_request(run).params.task == "classes":
            val |= class_scores(step / total, 0.5)
        runs.append_progress(run, val)
        image = runs.read_preview(run)
        if image is not None:
            runs.write_preview(run, (image[0] > 0.5).astype(np.int32))
            runs.append_progress(run, {"kind": "preview", "step": step})


def class_scores(one: float | None, mean: float | None) -> dict[str, object]:
    return {"per_class": {"nucleus": one, "rim": None}, "dice": mean, "foreground": 0.9}


def store(folder: Path, parent: str) -> None:
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"")
    card = {"schema_version": 1, "id": folder.name, "name": folder.name, "architecture": {}, "parent": parent}
    (folder / "card.json").write_text(json.dumps(card))


if __name__ == "__main__":
    main()
