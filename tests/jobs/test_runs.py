"""Run folders, their lock, and the shelf: no torch here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from napari_attnseg.errors import AttnSegError, CheckpointError, StoreError
from napari_attnseg.jobs import child
from napari_attnseg.jobs.finetune import tune_run
from napari_attnseg.jobs.progress import drive
from napari_attnseg.params import TrainParams
from napari_attnseg.records import Sample, TrainEvent, TrainStep
from napari_attnseg.store import run_names, runs
from napari_attnseg.store.locks import held, owner, take
from napari_attnseg.store.samples import read_sample, shelf, take_off_shelf, write_sample
from tests.fakes import blobs


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    return tmp_path


def sample(name: str = "cells 0", objects: tuple[int, ...] = (2, 3)) -> Sample:
    image, labels = blobs()
    return Sample(image[None] / np.float32(200), labels, labels > 0, name, (5, 7), labels * 0, objects)


def new_run(name: str = "mine", **params) -> object:
    return runs.create_run(TrainParams(name=name, start="base", **params), [sample(), sample("b", ())])


def lines(run):
    return runs.tail(run)[0]


def test_a_run_folder_gives_back_what_was_put_in():
    run = runs.create_run(TrainParams(name="mine", steps=7, tier="full"), [sample()], preview=sample().image)
    request = runs.read_request(run)
    assert (request.params.name, request.params.steps, request.params.tier) == ("mine", 7, "full")
    assert request.parent == "base"
    assert len(request.parent_sha256) == 64
    (back,) = runs.read_samples(run)
    for field in ("image", "labels", "known", "before"):
        np.testing.assert_array_equal(getattr(back, field), getattr(sample(), field))
    assert (back.name, back.origin, back.objects) == ("cells 0", (5, 7), (2, 3))
    np.testing.assert_array_equal(runs.read_preview(run), sample().image)
    assert runs.state(run).status == "new"
    assert [s.name for s in runs.list_runs()] == ["mine"]


def test_a_name_is_used_once():
    new_run()
    with pytest.raises(StoreError, match="training named 'mine' exists"):
        new_run()
    with pytest.raises(StoreError, match="model named 'base' exists"):
        new_run("base")


def test_a_home_that_cannot_be_written_is_said_at_once(home, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(StoreError, match="Nothing can be stored"):
        new_run()
    assert not (home / "runs").exists()


def test_a_folder_appears_whole_or_not_at_all(home, monkeypatch):
    def full(path, data):
        if path.name == "request.json":
            raise StoreError("'request.json' could not be written: No space left on device.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    monkeypatch.setattr(runs, "write_atomic", full)
    with pytest.raises(StoreError, match="No space left"):
        new_run()
    assert not list((home / "runs").iterdir())
    assert not shelf()


def test_a_newer_or_foreign_folder_is_refused():
    run = new_run()
    raw = json.loads((run / "request.json").read_text())
    (run / "request.json").write_text(json.dumps({**raw, "schema_version": 99}))
    with pytest.raises(CheckpointError, match="newer version"):
        runs.read_request(run)
    for text in ("", "[]", "{}", json.dumps({**raw, "params": {"name": 3}})):
        (run / "request.json").write_text(text)
        with pytest.raises(CheckpointError, match="not a run folder"):
            runs.read_request(run)


def test_a_half_written_line_waits_and_a_killed_childs_is_left_out():
    run = new_run()
    runs.append_progress(run, {"kind": "step", "step": 1})
    with (run / "progress.jsonl").open("ab") as file:
        file.write(b'{"kind": "st')
    found, offset = runs.tail(run)
    assert [line["step"] for line in found] == [1]
    runs.append_progress(run, {"kind": "step", "step": 2})  # the next child
    found, offset = runs.tail(run, offset)
    assert [line["step"] for line in found] == [2]
    assert runs.tail(run, offset) == ([], offset)


def test_a_damaged_sample_is_named(tmp_path):
    path = tmp_path / "a.npz"
    write_sample(path, sample())
    data = path.read_bytes()
    for bad in (b"", b"PK", data[: len(data) // 2]):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"'a\.npz'"):
            read_sample(path)


def test_the_shelf_keeps_samples_by_content():
    new_run("one")
    new_run("two")
    found = shelf()
    assert sorted(k.name for k in found) == ["b", "cells 0"]
    assert {k.name: k.objects for k in found} == {"cells 0": 2, "b": 12}
    assert read_sample(found[0].path).labels.shape == found[0].shape
    runs.remove(runs.runs_folder() / "one")
    assert len(shelf()) == 2
    take_off_shelf(found[0].key)
    assert [k.key for k in shelf()] == [found[1].key]
    (found[1].path.parent / "broken.npz").write_bytes(b"x")
    assert len(shelf()) == 1


def test_a_lock_is_free_again_when_its_owner_is_killed(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from napari_attnseg.store.locks import take; "
        f"f = take(Path({str(path)!r})); print('locked', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        assert held(path)
        assert owner(path) == other.pid
        with pytest.raises(StoreError, match="already running"):
            take(path, wait=0.1)
        os.utime(path, (0, 0))  # a clock that jumps makes no difference
        assert held(path)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert not held(path)
    with take(path, wait=1.0):
        assert owner(path) == os.getpid()


@pytest.fixture
def trained(monkeypatch):
    """Stands in for the network: three steps, stops when asked; keeps what it was given."""
    given = {}

    def train_model(samples, params, *, started, run, stop, preview, on_preview):
        given.update(samples=samples, params=params, run=run)
        cancelled = False
        for step in range(1, 4):
            yield TrainStep(step, 3, 1 / step, 0.1, None, step / 10)
            if cancelled := stop():
                break
        on_preview(np.ones((4, 5), np.int32))
        stored = not cancelled or given.get("improved", False)
        yield TrainEvent("result", {"stored": stored, "cancelled": cancelled, "steps": step})

    monkeypatch.setattr("napari_attnseg.engine.train_model", train_model)
    return given


def test_a_run_writes_its_course(trained):
    run = new_run(steps=3)
    end = drive(tune_run(run))
    assert [line["kind"] for line in lines(run)] == ["start", "step", "step", "step", "end"]
    assert lines(run)[2] == {
        "kind": "step", "step": 2, "total": 3, "loss": 0.5, "lr": 0.1, "seconds": 0.2, "left": 0.1,
        "parts": {},
    }  # fmt: skip
    assert (end["status"], end["model"]) == ("finished", "mine")
    assert runs.read_result(run)["steps"] == 3
    np.testing.assert_array_equal(runs.read_preview_labels(run), np.ones((4, 5), np.int32))
    state = runs.state(run)
    assert (state.status, state.step, state.total, state.pid) == ("finished", 3, 3, None)
    assert len(trained["samples"]) == 2
    with pytest.raises(StoreError, match="started before"):
        drive(tune_run(run))


@pytest.mark.parametrize("improved", [False, True])
def test_cancel_stops_after_a_step_and_keeps_what_improved(trained, improved):
    trained["improved"] = improved
    run = new_run()
    seen = []

    def on(said):
        seen.append(said)
        runs.cancel(run)

    end = drive(tune_run(run), on)
    assert sum(isinstance(s, TrainStep) for s in seen) == 1
    assert (end["status"], end["model"]) == ("cancelled", "mine" if improved else None)
    assert runs.state(run).status == "cancelled"


def test_a_paused_run_waits_and_can_still_be_cancelled(trained):
    run = new_run()

    def on(said):
        if isinstance(said, TrainStep):
            runs.pause(run)
        elif dict(said.data).get("note") == "Paused":
            assert runs.state(run).status == "paused"
            assert runs.state(run).pid == os.getpid()
            runs.cancel(run)

    assert drive(tune_run(run), on)["status"] == "cancelled"
    assert "Paused" in [line.get("note") for line in lines(run)]


def test_a_failure_is_the_last_line(trained, monkeypatch):
    def failing(*args, **kwargs):
        yield TrainStep(1, 3, 1.0, 0.1)
        raise StoreError("The disk is full.", "Delete something.")

    monkeypatch.setattr("napari_attnseg.engine.train_model", failing)
    run = new_run()
    with pytest.raises(StoreError):
        drive(tune_run(run))
    state = runs.state(run)
    assert (state.status, state.message) == ("failed", "The disk is full. Delete something.")

    def broken(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("napari_attnseg.engine.train_model", broken)
    with pytest.raises(ZeroDivisionError):
        drive(tune_run(run, resume=True))
    assert "log.txt" in runs.state(run).message


def test_a_run_that_stopped_without_an_end_is_interrupted_and_goes_on(trained):
    run = new_run()
    job = tune_run(run)
    next(job)
    assert runs.state(run).status == "running"
    assert child.alive(run)
    with pytest.raises(StoreError, match="still running"):
        runs.remove(run)
    with pytest.raises(StoreError, match="already running"):
        child.start(run)
    job.close()
    assert runs.state(run).status == "interrupted"
    assert drive(tune_run(run, resume=True))["status"] == "finished"
    assert trained["params"].resume
    assert [line["kind"] for line in lines(run)].count("start") == 2


def test_a_parent_that_was_exchanged_is_noticed(trained):
    run = new_run()
    raw = json.loads((run / "request.json").read_text())
    (run / "request.json").write_text(json.dumps({**raw, "parent_sha256": "0" * 64}))
    with pytest.raises(AttnSegError, match="not the one"):
        drive(tune_run(run))


def test_a_folder_that_is_gone_counts_as_cancelled(tmp_path):
    assert runs.wishes(tmp_path / "gone") == (False, True)


def test_a_child_that_does_not_listen_is_killed(monkeypatch):
    """The child is any program here: what counts is that it is started apart and ended in time."""
    run = new_run()
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: real(sleeper, **options))
    started = child.start(run)
    assert started.pid > 0
    assert child.alive(run)
    if hasattr(os, "getsid"):
        assert os.getsid(started.pid) == started.pid  # a session of its own: it outlives the window
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, started.pid) == min(19, own + 10)
    begin = time.monotonic()
    assert child.stop(run, grace=0.2) is False
    assert time.monotonic() - begin < 2
    assert not child.alive(run)
    assert child.stop(run) is True


@pytest.mark.parametrize(
    ("status", "over"), [("finished", True), ("cancelled", True), ("failed", False), ("", False)]
)
def test_the_name_of_a_run_is_free_when_nothing_of_it_is_waited_for(home, status, over):
    run = new_run()
    assert not run_names.over(run)  # its child may be about to start
    runs.append_progress(run, {"kind": "step", "step": 1, "total": 2})
    if status:
        runs.append_progress(run, {"kind": "end", "status": status})
    assert run_names.over(run) is over
    (home / "models" / "mine").mkdir(parents=True)
    assert not run_names.over(run)  # it left a model
    assert not run_names.over(runs.runs_folder() / "none")


def test_a_run_that_is_put_aside_loses_nothing():
    for number in (1, 2):
        run = new_run()
        aside = run_names.put_aside(run)
        assert aside.name == f"mine.{number}"
        assert len(runs.read_samples(aside)) == 2
        assert not run.exists()


def test_runs_follow_a_parent_that_is_renamed_unless_they_learn_now(home):
    one, two = new_run("one"), new_run("two")
    with take(two / "lock"):
        run_names.follow("base", "better")
    run_names.follow("other", "odd")
    assert [runs.read_request(run).parent for run in (one, two)] == ["better", "base"]
    assert runs.read_request(one).params.start == "better"
