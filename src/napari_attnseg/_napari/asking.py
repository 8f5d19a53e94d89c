"""Jobs of the Attention tab: record a tape, make a map, check; each with the model that made the run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from napari_attnseg import engine as door
from napari_attnseg._napari import settings
from napari_attnseg._napari.objects import labels_plane, question_mask
from napari_attnseg._napari.question import PIXEL, map_kind, of_pixel, widest_block
from napari_attnseg._napari.units import spacing_of
from napari_attnseg._napari.views import TITLES
from napari_attnseg.core.attention_maps import ROLLOUT
from napari_attnseg.jobs import attention_maps
from napari_attnseg.jobs.tape import record_other, record_tape
from napari_attnseg.records import Progress
from napari_attnseg.store.cache import shared_cache
from napari_attnseg.store.models import home

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from napari_attnseg._napari.question import Question
    from napari_attnseg._napari.session import Run
    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.core.attention_maps import FieldMap
    from napari_attnseg.core.faithfulness import QueryCheck
    from napari_attnseg.core.faithfulness_report import ModelReport
    from napari_attnseg.engine import Engine
    from napari_attnseg.records import PlaneKey
    from napari_attnseg.store.cache import TapeCache

T = TypeVar("T")


def cache() -> TapeCache:
    """Return the process's cache of tapes, as large as the preferences say."""
    chosen = settings.read()
    return shared_cache(chosen.tape_bytes, chosen.tape_disk_bytes)


def with_engine(
    engine: Engine | None, run: Run, work: Callable[[Engine], Generator[Progress, None, T]]
) -> Generator[Progress, None, T]:
    """Do a job with the model of a run: the loaded one, or, where another is loaded, a fresh one."""
    if engine is not None and engine.card.id == run.segmentation.card_id:
        return (yield from work(engine))
    yield Progress(0, 0, f"Loading the model '{run.segmentation.card_id}'")
    own = door.load_engine(run.segmentation.card_id, run.params.device)
    try:
        return (yield from work(own))
    finally:
        own.close()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a recording gave.

    Attributes
    ----------
    tape : AttentionTape
    other : AttentionTape or None
        That of the second model.
    made : FieldMap or None
        The map that the question needs.
    question : Question
        The question the map answers: its block is one that the tape has.
    """

    tape: AttentionTape
    other: AttentionTape | None
    made: FieldMap | None
    question: Question


def record(
    engine: Engine | None,
    run: Run,
    plane: PlaneKey,
    question: Question,
    second: str | None = None,
) -> Generator[Progress, None, Recorded]:
    """Record the tape around the asked pixel of a plane, and make the map that the question needs.

    Parameters
    ----------
    second : str or None
        A model to compare with: its tape is recorded too.
    """

    def work(own: Engine) -> Generator[Progress, None, AttentionTape]:
        return record_tape(own, run.source, plane, question.pixel, run.encoded, run.params, cache())

    tape = yield from with_engine(engine, run, work)
    if question.block not in tape.blocks:
        question = replace(question, block=widest_block(tape), head="mean")
    other = made = None
    if second is not None:
        other = yield from record_second(run, plane, tape, second)
    kind = map_kind(question)
    if kind in TITLES and not (question.what == PIXEL and question.pixel is not None):
        made = yield from make_map(None, run, tape, question)
    return Recorded(tape, other, made, question)


def record_second(
    run: Run, plane: PlaneKey, tape: AttentionTape, model: str
) -> Generator[Progress, None, AttentionTape]:
    """Record the tape of another model for the field of a tape, at the same zoom and scaling."""
    (y, x), (h, w) = tape.field
    middle = y + h // 2, x + w // 2
    return record_other(model, run.params.device, run.source, plane, middle, run.encoded, run.params, cache())


def make_map(
    engine: Engine | None, run: Run, tape: AttentionTape, question: Question, *, whole: bool = False
) -> Generator[Progress, None, FieldMap]:
    """Make the map that a question needs, over the tape's field.

    Parameters
    ----------
    whole : bool
        Over all tiles, where the plane was cut into some; the tape's plane is then that of the run.
    """
    kind = map_kind(question)
    spacing, unit = spacing_of(run.source)
    block = "readout" if kind == "uncertainty" else question.block
    if kind == "rollout":
        return attention_maps.rollout(tape, _start(run, tape, question), question.head)
    if whole and block != "readout" and tiled(run, tape):

        def work(own: Engine) -> Generator[Progress, None, FieldMap]:
            return attention_maps.plane_map(
                own, run.source, run.plane, kind, block, question.head, run.encoded, run.params,
                cache(), spacing, unit,
            )  # fmt: skip

        return with_engine(engine, run, work)
    return attention_maps.field_map(tape, kind, block, question.head, spacing, unit)


def _start(
    run: Run, tape: AttentionTape, question: Question
) -> tuple[int, int] | npt.NDArray[np.bool_] | None:
    """Return where a rollout starts: the chosen object, the asked pixel, or the whole field."""
    if question.label:
        return question_mask(run, question.label)
    if question.pixel is not None and tape.block(tape.network[-1]).grid.contains(question.pixel):
        return question.pixel
    return None


def tiled(run: Run, tape: AttentionTape) -> bool:
    """Tell whether the tape holds one tile of several."""
    height, width = run.source.shape_yx
    if run.encoded is not None:
        height, width = (part.stop - part.start for part in run.encoded.field)
    return tape.field[1] != (height, width)


def check_pixel(engine: Engine | None, run: Run, question: Question) -> Generator[Progress, None, QueryCheck]:
    """Check whether hiding what the asked pixel attends to changes its result more than hiding chance."""
    from napari_attnseg.jobs.faithfulness import check_query

    pixel = question.pixel
    assert pixel is not None

    def work(own: Engine) -> Generator[Progress, None, QueryCheck]:
        return check_query(
            own, run.source, run.plane, pixel, run.params,
            encoded=run.encoded, block=_block(question), head=question.head, value=question.value,
            cache=cache(),
        )  # fmt: skip

    return with_engine(engine, run, work)


def _block(question: Question) -> str:
    """Return what stands for the block: "rollout" when it is about all of them."""
    return ROLLOUT if question.what == ROLLOUT else question.block


def check_images(
    engine: Engine | None, run: Run, runs: Sequence[Run], folder: Path | None
) -> Generator[Progress, None, tuple[ModelReport, Path]]:
    """Check the model on the images of a folder, or on the open ones that were run; save the report.

    Returns
    -------
    tuple of ModelReport and Path
        The report, and the file to read, in a new folder under ``reports`` in the folder of models and runs.
    """
    from napari_attnseg.jobs.model_check import CheckImage, check_model, images_of, save_report

    def work(own: Engine) -> Generator[Progress, None, ModelReport]:
        yield Progress(0, 0, "Reading the images")
        if folder is not None:
            images = images_of(folder)
        else:
            images = [CheckImage(one.source, one.plane, labels_plane(one)) for one in runs]
        return (yield from check_model(own, images, run.params))

    report = yield from with_engine(engine, run, work)
    out = home() / "reports" / f"attention-{run.segmentation.card_id}-{datetime.now():%Y%m%d-%H%M%S}"
    return report, save_report(report, out)[1]


def command(run: Run, question: Question) -> str:
    """Return the command that writes the asked pixel's row to files; "" where no pixel is asked.

    An image that is not a file of its own is named FILE.
    """
    if not of_pixel(question):
        return ""
    path = run.image.source.path
    words = ["napari-attnseg", "attention", str(path) if path else "FILE"]
    words += ["--at", *map(str, question.pixel or ()), "--model", run.segmentation.card_id]
    words += ["--block", _block(question), "--head", question.head]
    if question.value and question.what != ROLLOUT:
        words.append("--value")
    if run.plane.index:
        words += ["--plane", ",".join(map(str, run.plane.index))]
    for name in ("diameter", "channel", "tile"):
        if (value := getattr(run.params, name)) is not None:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    if run.params.mirror != "auto":
        words += ["--mirror", run.params.mirror]
    return shlex.join([*words, "--out", "attention"])
