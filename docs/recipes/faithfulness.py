"""Measure whether a model's attention tells what matters to it, on a folder of labelled images.

    python docs/recipes/faithfulness.py --data DIR/val --model base --out OUT
    python docs/recipes/faithfulness.py --data DIR/val --model base --sets dsb2018 --images 40 --out OUT

The folder has an ``index.csv`` (columns dataset, image, labels, task, kind); rows whose task starts with
``instance`` count, ``--images`` takes that many of them, evenly spread.  Writes OUT/faithfulness_MODEL.json
and .md, the table of the page "Attention explained".

With ``--work WORK`` what was measured on an image stays in that folder: the same command, started again after
an interruption, goes on with the next image and gives the same numbers.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.engine import load_engine
from napari_attnseg.jobs.crop_check import CheckLimits
from napari_attnseg.jobs.model_check import CheckImage, check_model, save_report
from napari_attnseg.jobs.progress import drive
from napari_attnseg.params import SegmentParams
from napari_attnseg.store.images import read_image

if TYPE_CHECKING:
    from napari_attnseg.core.faithfulness_report import ModelReport


def images_of(
    data: Path, sets: list[str] | None, kinds: list[str] | None, count: int | None
) -> list[CheckImage]:
    """Return labelled images of an index, evenly spread."""
    with (data / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["task"].startswith("instance")]
    rows = [r for r in rows if (not sets or r["dataset"] in sets) and (not kinds or r["kind"] in kinds)]
    if count is not None and count < len(rows):
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, count).round().astype(int)]
    found = []
    for row in rows:
        labels = np.asarray(read_image(data / row["labels"], labels=True).data).astype(np.int32)
        found.append(CheckImage(read_image(data / row["image"]), labels=labels))
    return found


def verdicts(report: ModelReport) -> list[str]:
    """Say in one line each whether the targets are met."""
    values = [s for s in report.scores if s.variant == "value"]
    if not values:
        return ["This network keeps no values: there is nothing to hold against the targets."]
    near, best = report.score("nearness"), max(values, key=lambda s: s.spearman)
    lines = [
        (
            best.spearman >= 0.5 and best.spearman >= near.spearman + 0.05,
            f"value-weighted attention ({best.name}) agrees with influence at {best.spearman:.3f},"
            f" nearness at {near.spearman:.3f} (target .5 and .05 above nearness)",
        )
    ]
    cuts = [s for s in report.scores if s.variant in ("value", "signed") and s.name != "influence"]
    if any(s.beats_random is not None for s in cuts):
        cut = max(cuts, key=lambda s: s.beats_random or 0.0)
        lines.append(
            (
                (cut.beats_random or 0.0) >= 0.9,
                f"deletion by {cut.words} beats random on {cut.beats_random:.0%} of objects (target 90 %; the"
                f" measured influence itself {report.score('influence').beats_random:.0%}, signed"
                f" {report.score('influence', 'signed').beats_random:.0%})",
            )
        )
    plain = [s for s in report.scores if s.same_object is not None and s.name != "readout"]
    mass = max(plain, key=lambda s: s.same_object or 0.0)
    ratio = (mass.same_object or 0.0) / max(report.area_same, 1e-9)
    lines.append((ratio >= 3, f"{mass.words} puts {ratio:.1f} x the area share on its object (target 3)"))
    return [f"{'met' if met else 'missed'}: {text}" for met, text in lines]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="base")
    parser.add_argument("--sets", nargs="*", help="datasets; all by default")
    parser.add_argument("--kinds", nargs="*", help="kinds of image; all by default")
    parser.add_argument("--images", type=int, help="how many images; all by default")
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--objects", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, help="keep what was measured on each image here, and go on")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    images = images_of(args.data, args.sets, args.kinds, args.images)
    engine = load_engine(args.model, args.device)
    limits = CheckLimits(side=args.side, objects=args.objects)
    job = check_model(engine, images, SegmentParams(), seed=args.seed, limits=limits, work=args.work)
    report = drive(job, lambda p: print(f"\r{p.done}/{p.total} {p.note[:60]:60}", end="", file=sys.stderr))
    assert report is not None  # nothing cancels it
    _, page = save_report(report, args.out)
    print(page.read_text(encoding="utf-8"))
    print("\n".join(verdicts(report)))


if __name__ == "__main__":
    main()
