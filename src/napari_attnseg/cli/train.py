"""``train``: a new model from a folder of images and one of labels, or from the run folder of a window."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from napari_attnseg.cli.common import FILE, json_option, progress_bar, report, say, stop_asked
from napari_attnseg.errors import InputError
from napari_attnseg.params import Device, Known, Task, Tier, TrainParams, checked
from napari_attnseg.records import Progress, TrainEvent, TrainStep

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    Said = Progress | TrainStep | TrainEvent

MINUTES = 10.0  # from scratch, when neither --steps nor --minutes is given


@click.command("train")
@click.option("--images", type=FILE, help="Folder of images.")
@click.option("--labels", type=FILE, help="Folder of labels, paired by file name.")
@click.option("--run", "run", type=FILE, help="Run folder of a window, instead of the two folders.")
@click.option("--from", "start", help="'scratch', or the model to start from.  [default: base]")
@click.option("--name", help="Name of the new model.")
@click.option(
    "--tier",
    type=click.Choice(get_args(Tier)),
    help="quick: a minute or two; full: more crops at a time, until it stops getting better.  "
    "[default: full, which serves fully labelled folders best; not used from scratch]",
)
@click.option("--steps", type=click.IntRange(1), help="Number of training steps.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Wall time instead of --steps.  [default: until it stops getting better; 10 from scratch]",
)
@click.option("--seed", type=click.IntRange(0), help="Of all random choices.  [default: 0]")
@click.option("--device", type=click.Choice(get_args(Device)), help="Where.  [default: auto]")
@click.option(
    "--task",
    type=click.Choice(get_args(Task)),
    help="What the labels are: instances, or classes: 1, 2... for each class.  [default: instances]",
)
@click.option(
    "--classes", help="Names of the class numbers: 'nucleus,cytoplasm'.  [default: class 1, class 2...]"
)
@click.option(
    "--known",
    help="Pixels that teach. all: every pixel, 0 is background. objects: labelled objects and their borders. "
    "DIR: a folder of masks, paired by file name, not 0 where known.  [default: all]",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted training of that name.")
@json_option
def train_command(as_json: bool, run: Path | None, resume: bool, **values: Any) -> int:
    """Train a model on labelled images, or carry out a run folder.

    With --steps the same seed gives the same weights on a CPU, also across --resume.  With --json every
    step is a JSON line on stderr and the result one object on stdout.
    """
    given = {name: value for name, value in values.items() if value is not None}
    if run is not None:
        if given:
            option = "--from" if "start" in given else f"--{min(given)}"
            raise InputError(f"{option} cannot be given with --run.", "The run folder says it all.")
        return _train_run(run, resume, as_json)
    for option in ("images", "labels", "name"):
        if option not in given:
            raise InputError(f"--{option} is missing.", "Give --images, --labels and --name, or --run.")
    _train_folders(given, resume, as_json)
    return 0


def _train_folders(given: dict[str, Any], resume: bool, as_json: bool) -> None:
    from napari_attnseg.core.classes import check_names
    from napari_attnseg.jobs.train import train_folders
    from napari_attnseg.store.runs import trainings_folder

    if "steps" in given and "minutes" in given:
        raise InputError("Both --steps and --minutes are given.", "Give one of them.")
    images, labels = given.pop("images"), given.pop("labels")
    if given.get("task") != "classes" and "classes" in given:
        raise InputError("--classes is given without --task classes.", "Give both.")
    listed = str(given.pop("classes", ""))
    names = tuple(name.strip() for name in listed.split(",")) if listed.strip() else ()
    check_names(names)
    known, masks = given.pop("known", "all"), None
    if known not in get_args(Known):
        known, masks = "all", Path(known)
    options = {"tier": "full", **given, "classes": names, "known": known, "resume": resume}
    params = checked(TrainParams, **options)
    if params.start == "scratch" and params.steps is None and params.minutes is None:
        params = params.model_copy(update={"minutes": MINUTES})
    with _kept_is_said(trainings_folder() / params.name):
        planes, last, outcome = _drive(train_folders(images, labels, params, masks), as_json)
    result = {
        "name": params.name,
        "from": params.start,
        "planes": planes,
        "steps": last.step if last else 0,
        "loss": last.loss if last else None,
        "seconds": round(last.seconds, 2) if last else 0.0,
        **({k: outcome[k] for k in ("before", "after", "reason")} if outcome else {}),
    }
    text = f"Model '{params.name}' is trained: {result['steps']} steps on {planes} planes."
    report(result, as_json, text + _judged(outcome))


def _train_run(run: Path, resume: bool, as_json: bool) -> int:
    from napari_attnseg.jobs.finetune import tune_run

    with _kept_is_said(run):
        end, _, outcome = _drive(tune_run(run, resume=resume), as_json)
    report({**end, **outcome}, as_json, str(end["message"]) + _judged(outcome))
    return 0


@contextmanager
def _kept_is_said(run: Path) -> Iterator[None]:
    """On Ctrl+C say that the run can go on, where it has a checkpoint."""
    try:
        yield
    except KeyboardInterrupt:
        if (run / "last.safetensors").exists():
            say("What was learnt so far is kept: the same command with --resume goes on from there.")
        raise


def _judged(outcome: dict[str, Any]) -> str:
    """Return the scores on what was held out, in words."""
    if not outcome:
        return ""
    if outcome["before"] and "per_class" in (outcome["after"] or {}):
        return _judged_classes(outcome["before"], outcome["after"])
    if outcome["before"] and outcome["after"]:
        before, after = outcome["before"]["ap50"], outcome["after"]["ap50"]
        count = outcome["after"]["objects"]
        closing = " Then it learnt from them, too." if outcome.get("closing") else ""
        return f" AP@.5 on {count} held-out objects: {before:.2f} before, {after:.2f} after.{closing}"
    return f" How good it is was not measured: {outcome['reason'] or 'it was stopped before'}."


def _judged_classes(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return the Dice of every class, and the mean before and after of those that were known before."""
    from napari_attnseg.core.classes import shared_dice

    old = before["per_class"]
    each = ", ".join(
        f"{name} {dice:.2f}{'' if old.get(name) is not None else ' (new)'}"
        for name, dice in after["per_class"].items()
        if dice is not None
    )
    shared = shared_dice(before, after)
    known = f" Of those known before: {shared[0]:.2f} before, {shared[1]:.2f} after." if shared else ""
    return f" Mean Dice of classes on held-out areas: {after['dice']:.2f} ({each}).{known}"


def _drive(job: Generator[Said, None, Any], as_json: bool) -> tuple[Any, TrainStep | None, dict[str, Any]]:
    """Run the job and show what it says; return its result, the last step and what a tuning came to."""
    from napari_attnseg.jobs.finetune import line_of
    from napari_attnseg.jobs.progress import drive

    last: TrainStep | None = None
    outcome: dict[str, Any] = {}
    with progress_bar() as show:
        line: Callable[[Said], None] = lambda said: show(_as_progress(said, last))  # noqa: E731

        def on_step(said: Said) -> None:
            nonlocal last, outcome
            if isinstance(said, TrainStep):
                last = said
            if isinstance(said, TrainEvent) and said.kind == "result":
                outcome = dict(said.data)
            elif as_json and not isinstance(said, Progress):
                say(json.dumps(line_of(said)))
            elif isinstance(said, TrainEvent) and said.kind == "note":
                say(str(said.data["text"]))
            elif not as_json or isinstance(said, Progress):
                if isinstance(said, TrainEvent) and said.kind == "phase":
                    say(str(said.data["note"]))
                line(said)

        with stop_asked() as asked:
            result = drive(job, on_step, asked.is_set)
    if result is None:
        raise KeyboardInterrupt
    return result, last, outcome


def _as_progress(said: Said, last: TrainStep | None) -> Progress:
    if isinstance(said, Progress):
        return said
    step, total = (last.step, last.total) if last else (0, 0)
    if isinstance(said, TrainStep):
        return Progress(step, total, f"loss {said.loss:.3f}")
    words = {"val": "AP@.5 {ap50:.2f} on held-out objects", "estimate": "about {seconds:.0f} s in all"}
    if "per_class" in said.data:
        words["val"] = "mean Dice {dice:.2f} on held-out areas"
    text = words.get(said.kind, "{note}" if "note" in said.data else said.kind)
    return Progress(step, total, text.format(**said.data))
