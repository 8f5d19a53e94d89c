"""``train``: a new model from a folder of images and one of labels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

import click

from napari_attnseg.cli.common import FILE, json_option, progress_bar, report, say
from napari_attnseg.errors import InputError
from napari_attnseg.params import Device, TrainParams
from napari_attnseg.records import Progress, TrainStep

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

MINUTES = 10.0  # when neither --steps nor --minutes is given


@click.command("train")
@click.option("--images", required=True, type=FILE, help="Folder of images.")
@click.option("--labels", required=True, type=FILE, help="Folder of labels, paired by file name.")
@click.option(
    "--from", "start", default="base", show_default=True, help="'scratch', or the model to start from."
)
@click.option("--name", required=True, help="Name of the new model.")
@click.option("--steps", type=click.IntRange(1), help="Number of training steps.")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), help="Wall time instead of --steps.  [default: 10]"
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all random choices.")
@click.option(
    "--device", type=click.Choice(get_args(Device)), default="auto", show_default=True, help="Where."
)
@click.option(
    "--known",
    type=click.Choice(["all"]),
    default="all",
    show_default=True,
    help="Pixels that teach: 0 is background.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted training of that name.")
@json_option
def train_command(as_json: bool, known: str, **values: Any) -> None:
    """Train a model on labelled images.

    With --steps the same seed gives the same weights on a CPU, also across --resume.  With --json every
    step is a JSON line on stderr and the result one object on stdout.
    """
    if values["steps"] is not None and values["minutes"] is not None:
        raise InputError("Both --steps and --minutes are given.", "Give one of them.")
    if values["steps"] is None and values["minutes"] is None:
        values["minutes"] = MINUTES
    del known  # "all" is the only choice so far
    planes, last = _run_training(as_json=as_json, **values)
    result = {
        "name": values["name"],
        "from": values["start"],
        "planes": planes,
        "steps": last.step if last else 0,
        "loss": last.loss if last else None,
        "seconds": round(last.seconds, 2) if last else 0.0,
    }
    text = f"Model '{values['name']}' is trained: {result['steps']} steps on {planes} planes."
    report(result, as_json, text)


def _run_training(*, as_json: bool, **values: Any) -> tuple[int, TrainStep | None]:
    """Run the job and show its steps; return the number of planes and the last step."""
    from napari_attnseg.jobs.progress import drive
    from napari_attnseg.jobs.train import train_folders

    images, labels = values.pop("images"), values.pop("labels")
    job: Generator[Progress | TrainStep, None, int] = train_folders(images, labels, TrainParams(**values))
    last: TrainStep | None = None
    with progress_bar() as show:
        line: Callable[[TrainStep], None] = _json_line if as_json else lambda step: show(_as_progress(step))

        def on_step(step: Progress | TrainStep) -> None:
            nonlocal last
            if isinstance(step, TrainStep):
                last = step
                line(step)
            else:
                show(step)

        planes = drive(job, on_step)
    assert planes is not None  # nothing cancels this run
    return planes, last


def _json_line(step: TrainStep) -> None:
    say(json.dumps({"step": step.step, "total": step.total, "loss": step.loss, "lr": step.lr,
                    "val": step.val, "seconds": round(step.seconds, 2)}))  # fmt: skip


def _as_progress(step: TrainStep) -> Progress:
    return Progress(step.step, step.total, f"loss {step.loss:.3f}")
