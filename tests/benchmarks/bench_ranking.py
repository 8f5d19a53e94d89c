"""Does "Correct this next" put what is wrong first?  Prints one line per data set.

    python tests/benchmarks/bench_ranking.py DATA [--sets dsb2018,tnbc_he] [--images 12] [--model base]

DATA is a folder of sets, each with ``images/`` and ``labels/``.  Every image is segmented and ranked as in
the window.  An object is *wrong* where no true object has an IoU of 0.5 or more with it.  Printed are the
area under the ROC curve of each doubt and of the joined score for telling wrong objects from right ones
(0.5 is chance), and the share of wrong ones among the first 10 listed of each image and among all.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from napari_attnseg.core.metrics import overlaps
from napari_attnseg.core.ranking import ids_of
from napari_attnseg.engine import load_engine
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.rank import rank
from napari_attnseg.jobs.segment import segment
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import PlaneKey
from napari_attnseg.store.images import read_image


def wrong(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return for every object (ids ascending) whether no true object matches it."""
    ids, others = ids_of(labels), ids_of(truth)
    a = np.searchsorted(np.append(0, ids), labels).astype(np.int32)
    b = np.searchsorted(np.append(0, others), truth).astype(np.int32)
    best = np.zeros(len(ids) + 1)
    rows, _, iou = overlaps(a, b, len(ids), len(others))
    np.maximum.at(best, rows, iou)
    return best[1:] < 0.5


def auc(score: np.ndarray, bad: np.ndarray) -> float:
    """Return the probability that a wrong object has a higher score than a right one."""
    if bad.all() or not bad.any():
        return float("nan")
    order = np.argsort(np.argsort(score))
    return float((order[bad].mean() - (bad.sum() - 1) / 2) / (~bad).sum())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="dsb2018")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--model", default="base")
    args = parser.parse_args()
    engine, params = load_engine(args.model, "cpu"), SegmentParams(model=args.model)
    print("set          objects wrong | AUC margin views novelty score | wrong of first 10, of all | s/image")
    for name in args.sets.split(","):
        doubts, bads, first, spent = [], [], [], 0.0
        folder = args.data / name
        for path in sorted((folder / "images").iterdir())[: args.images]:
            truth = np.asarray(read_image(next((folder / "labels").glob(f"{path.stem}.*")), labels=True).data)
            source = read_image(path)
            result, encoded = drive(segment(engine, source, params))
            labels = result.labels
            start = time.perf_counter()
            ranking = drive(rank(engine, source, params, {PlaneKey(): labels}, encoded=encoded))
            spent += time.perf_counter() - start
            if not len(ids_of(labels)):
                continue
            bad = wrong(labels, truth)
            found = ranking.doubts[PlaneKey()]
            doubts.append(np.stack([found.margin, found.views, found.novelty, found.score]))
            bads.append(bad)
            rank_of = {int(n): b for n, b in zip(found.index, bad, strict=True)}
            first += [rank_of[s.label] for s in ranking.suspects if s.label][:10]
        bad, kept = np.concatenate(bads), np.concatenate(doubts, axis=1)
        areas = " ".join(f"{auc(row, bad):6.2f}" for row in kept)
        print(
            f"{name:12} {len(bad):7} {bad.sum():5} | {areas} | {np.mean(first):.2f} {bad.mean():.2f}"
            f" | {spent / args.images:.1f}"
        )


if __name__ == "__main__":
    main()
