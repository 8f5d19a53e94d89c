"""``evaluate``: predicted against true labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from napari_attnseg.cli.common import FILE, json_option, progress_bar, report

if TYPE_CHECKING:
    from pathlib import Path


@click.command("evaluate")
@click.option("--pred", required=True, type=FILE, help="Folder of predicted labels.")
@click.option("--truth", required=True, type=FILE, help="Folder of true labels, paired by file name.")
@json_option
def evaluate_command(pred: Path, truth: Path, as_json: bool) -> None:
    """Score label images: average precision, F1, panoptic quality and Dice, pooled over all images.

    AP at an IoU threshold is TP / (TP + FP + FN) with objects paired one to one.
    """
    from napari_attnseg.jobs.evaluate import evaluate_folders
    from napari_attnseg.jobs.progress import drive

    with progress_bar() as show:
        found = drive(evaluate_folders(pred, truth), show)
    assert found is not None  # nothing cancels this run
    report(found, as_json, _table(found))


def _table(found: dict[str, Any]) -> str:
    lines = [f"{found['n']} images"]
    lines += [f"AP@{threshold}  {value:.4f}" for threshold, value in found["ap"].items()]
    lines += [f"{name:8} {found[name]:.4f}" for name in ("mean_ap", "f1", "pq", "dice")]
    return "\n".join(lines)
