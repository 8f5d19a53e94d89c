"""``train`` with tiers, masks and run folders; a real child that is killed."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from napari_attnseg.cli import run as call_cli
from napari_attnseg.core.corrections import make_sample
from napari_attnseg.jobs import child
from napari_attnseg.nn.checkpoint import read_tensors, save_model
from napari_attnseg.nn.finetune import train_and_store
from napari_attnseg.nn.model import AttnSegNet
from napari_attnseg.params import TrainParams
from napari_attnseg.records import ModelCard, TrainEvent, TrainStep
from napari_attnseg.store import models, runs
from napari_attnseg.store.images import write_labels, write_tiff
from tests.fakes import blobs


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    torch.manual_seed(0)
    card = ModelCard("tiny", "Tiny", {"widths": [32, 32, 32, 32], "depth": 1}, diameter=18.0)
    save_model(tmp_path / "models" / "tiny", AttnSegNet(widths=(32, 32, 32, 32), depth=1), card)
    return tmp_path


@pytest.fixture
def folders(tmp_path):
    image, labels = blobs()
    write_tiff(tmp_path / "images" / "a.tif", image)
    write_labels(tmp_path / "labels" / "a.tif", labels)
    mask = np.zeros(labels.shape, np.uint8)
    mask[:, :64] = 1
    write_labels(tmp_path / "masks" / "a.tif", mask.astype(np.int32))
    return [
        "--images",
        tmp_path / "images",
        "--labels",
        tmp_path / "labels",
        "--name",
        "mine",
        "--from",
        "tiny",
    ]


def call(*arguments: object) -> int:
    return call_cli([str(a) for a in arguments])


def new_run(name: str = "mine", **values):
    image, labels = blobs()
    before = np.where(labels <= 4, 0, labels)
    sample = make_sample(image[None] / np.float32(200), before, labels, name="blobs")
    params = TrainParams(**{"name": name, "start": "tiny", "device": "cpu", **values})
    return runs.create_run(params, [sample])


@pytest.fixture
def given(monkeypatch):
    """Stands in for the network; keeps what it was given."""
    kept = {}

    def train_model(samples, params, *, started=None, **more):
        kept.update(samples=samples, params=params, **more)
        yield TrainStep(1, 1, 0.5, 0.1)
        scores = {"ap50": 0.5, "objects": 3}
        yield TrainEvent(
            "result",
            {
                "before": scores,
                "after": {**scores, "ap50": 0.75},
                "reason": "",
                "closing": 2 if params.tier == "quick" else 0,
                "stored": True,
                "cancelled": False,
            },
        )

    monkeypatch.setattr("napari_attnseg.engine.train_model", train_model)
    return kept


def test_folders_are_tuned_fully_until_it_stops_by_itself(folders, given, capsys):
    assert call("train", *folders) == 0
    assert (given["params"].tier, given["params"].steps, given["params"].minutes) == ("full", None, None)
    assert "3 held-out objects: 0.50 before, 0.75 after.\n" in capsys.readouterr().out
    assert call("train", *folders, "--tier", "quick") == 0
    assert "0.75 after. Then it learnt from them, too." in capsys.readouterr().out
    assert call("train", *folders, "--tier", "quick", "--json") == 0
    assert given["params"].tier == "quick"
    assert json.loads(capsys.readouterr().out)["after"]["ap50"] == 0.75


def test_what_is_known_is_all_or_objects_or_a_folder_of_masks(folders, given, tmp_path):
    call("train", *folders)
    assert given["samples"][0].known.all()
    call("train", *folders, "--known", "objects")
    (sample,) = given["samples"]
    assert sample.known[sample.labels > 0].all()
    assert 0.3 < sample.known.mean() < 0.9
    assert call("train", *folders, "--known", tmp_path / "masks") == 0
    (sample,) = given["samples"]
    assert sample.known[:, :60].all()
    assert not sample.known[:, 64:].any()


def test_a_mask_that_is_missing_or_of_another_shape_is_refused(folders, given, tmp_path, capsys):
    write_labels(tmp_path / "masks" / "a.tif", np.ones((5, 5), np.int32))
    assert call("train", *folders, "--known", tmp_path / "masks") == 2
    assert "does not have the shape" in capsys.readouterr().err
    (tmp_path / "masks" / "a.tif").rename(tmp_path / "masks" / "b.tif")
    assert call("train", *folders, "--known", tmp_path / "masks") == 2
    assert "no mask" in capsys.readouterr().err
    assert not given


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", "x"], "--labels is missing"),
        (["--run", "x", "--name", "a"], "--name cannot be given"),
        (["--run", "nowhere"], "not a run folder"),
    ],
)
def test_what_is_missing_or_too_much_is_named(arguments, words, capsys):
    assert call("train", *arguments) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Hint:" in err


def test_a_run_folder_is_carried_out(given, capsys):
    folder = new_run(steps=1)
    assert call("train", "--run", folder, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "finished"
    assert [json.loads(line)["kind"] for line in captured.err.splitlines()] == ["step"]
    assert call("train", "--run", folder) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_paused_run_says_that_it_waits(monkeypatch, capsys):
    folder = new_run(steps=1)

    def train_model(samples, params, **more):
        runs.pause(folder)
        yield TrainStep(1, 1, 0.5, 0.1)

    monkeypatch.setattr("napari_attnseg.engine.train_model", train_model)
    monkeypatch.setattr("napari_attnseg.jobs.finetune.time.sleep", lambda seconds: runs.unpause(folder))
    assert call("train", "--run", folder) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["Paused", "Learning"]
    assert captured.out == "The model 'mine' is ready.\n"


def test_a_damaged_run_says_so_in_one_sentence(capsys):
    folder = new_run(steps=2)
    (folder / "last.safetensors").write_bytes(b"rubbish")
    assert call("train", "--run", folder, "--resume") == 2
    assert "not a readable safetensors" in capsys.readouterr().err
    state = runs.state(folder)
    assert state.status == "failed"
    assert "last.safetensors" in state.message


def wait_for(condition, seconds: float = 200.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_child_goes_on_and_ends_with_the_same_weights(home):
    folder = new_run("mine", steps=6, seed=1)
    child.start(folder)
    wait_for(lambda: runs.state(folder).step >= 2 and (folder / "last.safetensors").exists())
    child.kill(folder)
    wait_for(lambda: not child.alive(folder))
    assert runs.state(folder).status == "interrupted"
    assert [p.name for p in (home / "models").iterdir()] == ["tiny"]  # nothing half-written
    child.start(folder, resume=True)
    wait_for(lambda: not child.alive(folder))
    state = runs.state(folder)
    assert (state.status, state.step) == ("finished", 6), (folder / "log.txt").read_text()
    params = TrainParams(name="whole", start="tiny", device="cpu", steps=6, seed=1)
    list(train_and_store(runs.read_samples(folder), params, models.find("tiny")))
    mine, whole = (read_tensors(models.find(n).weights)[0] for n in ("mine", "whole"))
    assert all(torch.equal(value, whole[name]) for name, value in mine.items())
    # the model was stored, but the child died before it could say so: nothing is learnt twice
    text = (folder / "progress.jsonl").read_text().splitlines()
    (folder / "progress.jsonl").write_text("\n".join(x for x in text if '"end"' not in x) + "\n")
    assert runs.state(folder).status == "interrupted"
    assert call("train", "--run", folder, "--resume") == 0
    assert runs.state(folder).status == "finished"


@pytest.mark.slow
def test_a_cancelled_child_is_gone_soon(home):
    folder = new_run("mine")
    child.start(folder)
    wait_for(lambda: runs.state(folder).step >= 2)
    assert child.stop(folder, grace=20) is True  # it ended by itself
    assert runs.state(folder).status == "cancelled"
    assert [p.name for p in (home / "models").iterdir()] == ["tiny"]
