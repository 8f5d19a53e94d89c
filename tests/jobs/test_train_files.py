"""What a training from folders leaves on the disk: its folder, its lock, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_attnseg.errors import StoreError, TrainingDataError
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.train import train_folders
from napari_attnseg.params import TrainParams
from napari_attnseg.records import TrainStep
from napari_attnseg.store import runs
from napari_attnseg.store.files import write_atomic
from napari_attnseg.store.images import write_labels, write_tiff
from tests.fakes import blobs

PARAMS = TrainParams(name="mine", start="scratch", steps=2)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def data(tmp_path):
    image, labels = blobs()
    write_tiff(tmp_path / "images" / "a.tif", image)
    write_labels(tmp_path / "labels" / "a.tif", labels)
    return tmp_path / "images", tmp_path / "labels"


@pytest.fixture(autouse=True)
def trained(monkeypatch):
    """Stands in for the network: a checkpoint after the first step, gone after the last."""

    def train_model(samples, params, started=None):
        checkpoint = runs.trainings_folder() / params.name / "last.safetensors"
        yield TrainStep(1, 2, 1.0, 0.1)
        write_atomic(checkpoint, b"weights")
        yield TrainStep(2, 2, 0.5, 0.1)
        checkpoint.unlink()

    monkeypatch.setattr("napari_attnseg.engine.train_model", train_model)


def test_one_training_of_a_name_at_a_time(data):
    first = train_folders(*data, PARAMS)
    next(first)  # it reads
    with pytest.raises(StoreError, match="'mine' is already running"):
        next(train_folders(*data, PARAMS))
    next(train_folders(*data, PARAMS.model_copy(update={"name": "other"})))
    assert drive(first) == 1
    with pytest.raises(StopIteration):
        next(first)
    assert drive(train_folders(*data, PARAMS)) == 1


def test_the_folder_stays_only_with_something_to_go_on_from(data, home):
    folder = home / "trainings" / "mine"
    assert drive(train_folders(*data, PARAMS)) == 1
    assert not folder.exists()
    for steps, kept in ((1, False), (2, True)):
        seen = []
        drive(train_folders(*data, PARAMS), seen.append, lambda seen=seen, n=steps: len(seen) > n)
        assert (folder / "last.safetensors").exists() is folder.exists() is kept


def test_an_interrupted_training_is_not_begun_anew_over_what_it_learnt(data, home):
    checkpoint = home / "trainings" / "mine" / "last.safetensors"
    seen = []
    drive(train_folders(*data, PARAMS), seen.append, lambda: len(seen) > 2)
    before = checkpoint.read_bytes()
    with pytest.raises(StoreError, match="interrupted and can go on"):
        drive(train_folders(*data, PARAMS))
    assert checkpoint.read_bytes() == before
    assert drive(train_folders(*data, PARAMS.model_copy(update={"resume": True}))) == 1
    assert not checkpoint.exists()


def test_a_refused_training_writes_nothing(data, home):
    (data[1] / "a.tif").unlink()
    with pytest.raises(TrainingDataError):
        drive(train_folders(*data, PARAMS))
    assert not list(home.rglob("*"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_what_ends_a_write_leaves_no_half_written_file(tmp_path, monkeypatch, error):
    path = tmp_path / "a.json"
    write_atomic(path, b"before")

    def ended(self, data):
        self.open("wb").close()
        raise error

    monkeypatch.setattr(Path, "write_bytes", ended)
    with pytest.raises(StoreError if error is OSError else error):
        write_atomic(path, b"after")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"before"
