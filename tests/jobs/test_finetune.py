"""Wishes of another day: a run that is taken up has been asked neither to pause nor to stop."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from napari_attnseg.errors import StoreError
from napari_attnseg.jobs import child, finetune
from napari_attnseg.jobs.finetune import tune_run
from napari_attnseg.jobs.progress import drive
from napari_attnseg.params import TrainParams
from napari_attnseg.records import Sample, TrainEvent, TrainStep
from napari_attnseg.store import runs
from napari_attnseg.store.locks import take
from tests.fakes import blobs

CHILD = """
import sys, time
from pathlib import Path
from napari_attnseg import engine
from napari_attnseg.jobs.finetune import tune_run
from napari_attnseg.jobs.progress import drive
from tests.jobs.test_finetune import three_steps

run = Path(sys.argv[1])
while not (run / "cancel").exists():
    time.sleep(0.01)
engine.train_model = three_steps
drive(tune_run(run))
"""


def three_steps(samples, params, *, stop, **more):
    """Stands in for the network: three steps, stops when asked."""
    for step in range(1, 4):
        yield TrainStep(step, 3, 1 / step, 0.1, None, step / 10)
        if cancelled := stop():
            break
    yield TrainEvent("result", {"stored": not cancelled, "cancelled": cancelled, "steps": step})


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    monkeypatch.setattr("napari_attnseg.engine.train_model", three_steps)
    image, labels = blobs()
    sample = Sample(image[None] / np.float32(200), labels, labels > 0, "cells 0")
    return runs.create_run(TrainParams(name="mine", start="base"), [sample])


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("wish", [runs.pause, runs.cancel])
def test_wishes_of_an_earlier_process_are_forgotten(run, wish, resume, monkeypatch):
    monkeypatch.setattr(finetune.time, "sleep", lambda seconds: pytest.fail("it waits"))
    wish(run)
    assert drive(tune_run(run, resume=resume))["status"] == "finished"
    assert runs.wishes(run) == (False, False)


def test_who_is_refused_takes_no_wish_away(run, monkeypatch):
    monkeypatch.setattr(finetune, "take", lambda path: take(path, wait=0.05))
    job = tune_run(run)
    next(job)
    runs.pause(run)
    with pytest.raises(StoreError, match="already running"):
        drive(tune_run(run, resume=True))
    assert runs.wishes(run) == (True, False)
    job.close()
    with pytest.raises(StoreError, match="started before"):
        drive(tune_run(run))
    assert runs.wishes(run) == (True, False)


def test_a_wish_made_while_the_child_starts_is_not_lost(run, monkeypatch):
    """The child is a program that takes the run up only when it has been cancelled."""
    real = subprocess.Popen
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda command, **options: real([sys.executable, "-c", CHILD, str(run)], **options),
    )
    runs.pause(run)  # of another day
    child.start(run)
    runs.cancel(run)
    deadline = time.monotonic() + 60
    while child.alive(run):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    state = runs.state(run)
    assert (state.status, state.step) == ("cancelled", 1), (run / "log.txt").read_text()
