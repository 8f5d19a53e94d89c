"""The command line through ``run``: exit codes, what is said, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from napari_attnseg import cli
from napari_attnseg.__main__ import main as start
from napari_attnseg.cli import common
from napari_attnseg.cli import demo as demo_module
from napari_attnseg.errors import EngineUnavailableError
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import TrainStep
from napari_attnseg.store.files import write_atomic
from napari_attnseg.store.images import read_image, write_labels, write_png, write_tiff
from tests.fakes import FakeEngine, blobs


@pytest.fixture
def engine(monkeypatch):
    """The fake engine, whatever model is asked for; ``loaded`` keeps the requests."""
    fake = FakeEngine()
    fake.loaded = []

    def load(name="base", device="auto"):
        fake.loaded.append((name, device))
        return fake

    monkeypatch.setattr("napari_attnseg.engine.load_engine", load)
    return fake


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "in" / "cells.tif"
    write_tiff(path, blobs()[0])
    return path


def call(*arguments):
    return cli.run([str(a) for a in arguments])


def refused(capsys, code, *words):
    """Check for exit code 2, and one sentence and a hint on stderr only."""
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert lines[-2].startswith("Error: ")
    assert lines[-1].startswith("Hint: ")
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err
    return captured.err


def test_segment_writes_int32_labels_of_the_same_size(engine, image, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert call("segment", image, "--out", out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    labels = read_image(out / "cells.tif").data
    assert labels.dtype == np.int32
    assert labels.shape == (96, 128)
    assert report["files"][0]["objects"] == labels.max() == 12
    assert report["files"][0]["output"] == str(out / "cells.tif")
    assert report["failed"] == []
    assert [p.name for p in out.iterdir()] == ["cells.tif"]
    assert engine.loaded == [("base", "auto")]


def test_every_parameter_is_an_option(engine, image, tmp_path, capsys):
    assert call("segment", "--help") == 0
    text = capsys.readouterr().out
    for name in SegmentParams.model_fields:
        assert "--" + name.replace("_", "-") in text
    out = tmp_path / "out"
    options = ["--min-size", 10_000, "--no-fill-holes", "--drop-edge", "--threshold", 0.4, "--model", "m"]
    assert call("segment", image, "--out", out, *options, "--device", "cpu") == 0
    assert read_image(out / "cells.tif").data.max() == 0
    assert engine.loaded == [("m", "cpu")]


@pytest.mark.parametrize("method", ["kmeans", "slic"])
def test_classic_methods_load_no_model(engine, image, tmp_path, method):
    assert call("segment", image, "--out", tmp_path / "out", "--method", method) == 0
    assert read_image(tmp_path / "out" / "cells.tif").data.max() > 1
    assert engine.loaded == []


def test_zarr_gives_zarr_and_stacks_keep_their_planes(engine, tmp_path):
    stack = np.stack([blobs()[0]] * 3)
    write_labels(tmp_path / "movie.zarr", stack.astype(np.int32), "TYX")
    write_tiff(tmp_path / "depth.tif", stack, "ZYX")
    out = tmp_path / "out"
    assert call("segment", tmp_path / "movie.zarr", tmp_path / "depth.tif", "--out", out) == 0
    movie, depth = read_image(out / "movie.zarr"), read_image(out / "depth.tif")
    assert (movie.axes, depth.axes) == ("TYX", "ZYX")
    assert movie.data.dtype == np.int32
    assert np.asarray(movie.data[...]).max() == depth.data.max() == 36


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", "2"], "threshold"),
        (["--method", "magic"], "kmeans"),
        (["--tile", "5"], "tile"),
        (["--diameter", "-3"], "diameter"),
        (["--min-size", "many"], "min-size"),
        (["--scheduler", "tcp://x"], "No such option"),
        (["--channel", "-1"], "channel"),
    ],
)
def test_wrong_options_write_nothing(engine, image, tmp_path, capsys, options, words):
    code = call("segment", image, "--out", tmp_path / "out", *options)
    refused(capsys, code, words)
    assert not (tmp_path / "out").exists()
    assert engine.loaded == []


def test_unreadable_missing_and_equal_names(engine, image, tmp_path, capsys):
    out = tmp_path / "out"
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    refused(capsys, call("segment", bad, "--out", out), "bad.png")
    refused(capsys, call("segment", tmp_path / "none.tif", "--out", out), "none.tif")
    write_png(tmp_path / "cells.png", blobs()[0])
    refused(capsys, call("segment", image, tmp_path / "cells.png", "--out", out), "same name")
    write_png(tmp_path / "CELLS.png", blobs()[0])  # one file on a disk that does not tell them apart
    refused(capsys, call("segment", image, tmp_path / "CELLS.png", "--out", out), "same name")
    (tmp_path / "no.zarr").mkdir()
    refused(capsys, call("segment", tmp_path / "no.zarr", "--out", out), "holds no zarr array")
    refused(capsys, call("segment", image, "--out", image.parent), "replaced")
    refused(capsys, call("segment", image, "--out", bad), "not a folder")
    refused(capsys, call("segment", image, "--out", out, "--channel", 4), "no channel 4")
    refused(capsys, call("segment", "--out", out), "FILES")
    assert not out.exists()
    assert engine.loaded.count(("base", "auto")) == 3  # only where the files themselves were fine


def test_some_failures_are_named_and_the_rest_is_written(engine, image, tmp_path, capsys):
    bad, out = tmp_path / "bad.png", tmp_path / "out"
    bad.write_bytes(b"no image")
    assert call("segment", bad, image, "--out", out, "--json") == 3
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert [f["input"] for f in report["failed"]] == [str(bad)]
    assert [f["input"] for f in report["files"]] == [str(image)]
    assert "1 of 2 files failed" in captured.err
    assert (out / "cells.tif").exists()
    gone, notes = tmp_path / "gone.tif", tmp_path / "notes.txt"
    notes.write_text("no image")
    assert call("segment", gone, notes, tmp_path, image, "--out", tmp_path / "more", "--json") == 3
    failed = json.loads(capsys.readouterr().out)["failed"]
    assert [f["error"].split("'")[-1] for f in failed] == [".", " cannot be read.", " is a folder."]
    assert [p.name for p in (tmp_path / "more").iterdir()] == ["cells.tif"]
    worse = tmp_path / "worse.tif"
    worse.write_bytes(b"no image")
    assert call("segment", bad, worse, "--out", tmp_path / "other") == 2
    assert not (tmp_path / "other").exists()


def test_a_full_disk_is_one_sentence(engine, image, tmp_path, capsys, monkeypatch):
    import tifffile

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    refused(capsys, call("segment", image, "--out", tmp_path / "new" / "out"), "No space left")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["attention", "demo"])
def test_files_that_belong_together_are_written_all_or_none(
    engine, image, tmp_path, capsys, monkeypatch, command
):
    from PIL import Image

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    options = [image, "--at", 5, 5] if command == "attention" else ["--no-window"]
    refused(capsys, call(command, *options, "--out", tmp_path / "out"), ".png' could", "No space left")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["segment", "attention"])
def test_unknown_model(image, tmp_path, capsys, command):
    extra = ["--at", 3, 4] if command == "attention" else []
    code = call(command, image, "--out", tmp_path / "out", "--model", "nuclei-7", *extra)
    refused(capsys, code, "no model 'nuclei-7'")
    assert not (tmp_path / "out").exists()


def test_interruption_and_bugs(engine, image, tmp_path, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "maps", stop)
    assert call("segment", image, "--out", tmp_path / "out") == 130
    assert not (tmp_path / "out").exists()

    def bug(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(engine, "maps", bug)
    with pytest.raises(ZeroDivisionError):  # main lets it through: traceback and exit code 1
        call("segment", image, "--out", tmp_path / "out")


def test_attention_contract(engine, image, tmp_path, capsys):
    out = tmp_path / "out"
    assert call("attention", image, "--at", 40, 70, "--out", out, "--json", "--diameter", 24) == 0
    report = json.loads(capsys.readouterr().out)
    wanted = {"block", "kind", "head", "stride", "zoom", "origin", "window", "register_share"}
    assert wanted <= set(report)
    assert (report["block"], report["kind"], report["head"], report["window"]) == (
        "global1",
        "global",
        "mean",
        None,
    )
    painted = read_image(out / "cells_attention.tif").data
    assert painted.dtype == np.float32
    assert painted.shape == (96, 128)
    cell = report["stride"] / report["zoom"]
    assert painted.sum() / cell**2 + report["register_share"] == pytest.approx(1, abs=1e-3)
    assert read_image(out / "cells_attention.png").data.shape == (96, 128, 3)


def test_attention_of_a_local_block_is_zero_outside_its_window(engine, tmp_path, capsys):
    write_tiff(tmp_path / "a.tif", blobs((200, 200))[0])
    out = tmp_path / "out"
    options = ["--block", "local1", "--head", "1", "--out", out, "--json", "--diameter", 24]
    assert call("attention", tmp_path / "a.tif", "--at", 100, 100, *options) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["head"], report["window"]) == ("local", "1", 2)
    painted = read_image(out / "a_attention.tif").data
    assert (painted > 0).sum() == (5 * 16) ** 2
    assert painted[100, 100] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--at", "96", "0"], "outside the image"),
        (["--at", "-1", "0"], "outside the image"),
        (["--at", "3", "4", "--head", "9"], "head '9'"),
        (["--at", "3", "4", "--block", "globul1"], "global1"),
        (["--at", "3", "4", "--plane", "2"], "no plane 2"),
        (["--at", "3"], "--at"),
    ],
)
def test_attention_refuses_in_words(engine, image, tmp_path, capsys, options, words):
    code = call("attention", image, "--out", tmp_path / "out", *options)
    refused(capsys, code, words)
    assert not (tmp_path / "out").exists()


def test_attention_on_a_plane_of_a_stack(engine, tmp_path, capsys):
    stack = np.stack([blobs()[0], np.zeros((96, 128), dtype=np.uint8)])
    write_tiff(tmp_path / "s.tif", stack, "ZYX")
    assert call("attention", tmp_path / "s.tif", "--at", 4, 5, "--plane", 1, "--out", tmp_path / "out") == 0
    assert read_image(tmp_path / "out" / "s_attention.tif").data.shape == (96, 128)
    capsys.readouterr()
    where = "attention", tmp_path / "s.tif", "--at", 4, 5, "--plane", 2, "--out", tmp_path / "out"
    refused(capsys, call(*where), "no plane 2", "2 (Z) planes")


def test_evaluate(tmp_path, capsys):
    labels = blobs()[1]
    write_labels(tmp_path / "p" / "a.tif", labels)
    write_labels(tmp_path / "t" / "a.tif", np.where(labels == 3, 0, labels))
    assert call("evaluate", "--pred", tmp_path / "p", "--truth", tmp_path / "t", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"n", "ap", "mean_ap", "f1", "pq", "dice", "per_image"}
    assert report["ap"]["0.50"] == pytest.approx(11 / 12)
    assert call("evaluate", "--pred", tmp_path / "p", "--truth", tmp_path / "t") == 0
    assert "AP@0.50" in capsys.readouterr().out
    refused(capsys, call("evaluate", "--pred", tmp_path / "none", "--truth", tmp_path / "t"), "no folder")
    file = tmp_path / "t" / "a.tif"
    refused(capsys, call("evaluate", "--pred", tmp_path / "p", "--truth", file), "a file, not a folder")


@pytest.fixture
def pairs(tmp_path):
    image, labels = blobs()
    write_tiff(tmp_path / "images" / "a.tif", image)
    write_labels(tmp_path / "labels" / "a.tif", labels)
    return [
        "--images",
        tmp_path / "images",
        "--labels",
        tmp_path / "labels",
        "--name",
        "mine",
        "--from",
        "scratch",
    ]


def test_train_reports_lines_and_one_object(pairs, capsys, monkeypatch):
    given = {}

    def train_model(samples, params, started=None):
        given.update(params.model_dump())
        yield from (TrainStep(step, 2, 1.0 / step, 0.1) for step in (1, 2))

    monkeypatch.setattr("napari_attnseg.engine.train_model", train_model)
    assert call("train", *pairs, "--steps", 2, "--seed", 9, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["steps"] == 2
    assert [json.loads(line)["step"] for line in captured.err.splitlines()] == [1, 2]
    assert (given["steps"], given["minutes"], given["seed"], given["name"]) == (2, None, 9, "mine")
    assert call("train", *pairs) == 0
    assert (given["steps"], given["minutes"]) == (None, 10.0)


def test_ctrl_c_waits_for_the_end_of_a_step_and_a_second_one_does_not(pairs, tmp_path, capsys, monkeypatch):
    ended = []

    def train_model(samples, params, started=None):
        try:
            for step in range(1, 9):
                os.kill(os.getpid(), signal.SIGINT)
                ended.append(step)  # what a step does after the key was pressed
                yield TrainStep(step, 9, 1.0, 0.1)
        except GeneratorExit:
            ended.append("saved")
            raise

    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("napari_attnseg.engine.train_model", train_model)
    before = signal.getsignal(signal.SIGINT)
    assert call("train", *pairs, "--steps", 9) == 130
    assert ended == [1, "saved"]
    assert "Stopping after this step" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before

    def stubborn(samples, params, started=None):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        ended.append("went on")
        yield TrainStep(1, 9, 1.0, 0.1)

    monkeypatch.setattr("napari_attnseg.engine.train_model", stubborn)
    assert call("train", *pairs, "--steps", 9) == 130
    assert "went on" not in ended


@pytest.mark.parametrize("learnt", [True, False])
def test_ctrl_c_tells_that_a_training_can_go_on(pairs, tmp_path, capsys, monkeypatch, learnt):
    def train_model(samples, params, started=None):
        yield TrainStep(1, 2, 1.0, 0.1)
        if learnt:
            write_atomic(tmp_path / "home" / "trainings" / "mine" / "last.safetensors", b"weights")
        raise KeyboardInterrupt

    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("napari_attnseg.engine.train_model", train_model)
    assert call("train", *pairs, "--steps", 2) == 130
    said = capsys.readouterr().err
    assert ("--resume" in said) == learnt
    assert "Interrupted" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "2", "--minutes", "1"], "Give one"),
        (["--steps", "0"], "--steps"),
        (["--minutes", "nan"], "minutes"),
        (["--minutes", "inf"], "minutes"),
        (["--known", "nowhere"], "no folder"),
        (["--name", "Base"], "'Base' exists already"),  # on some disks that is 'base'
        (["--tier", "slow"], "--tier"),
        (["--run", "x"], "cannot be given with --run"),
    ],
)
def test_train_refuses_in_words(pairs, capsys, options, words):
    refused(capsys, call("train", *pairs, *options), words)


def test_models_list_and_show(capsys):
    from napari_attnseg.store.models import list_models

    assert call("models", "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)["models"]
    assert [m["id"] for m in listed] == [card.id for card in list_models()]
    for model in listed:
        assert call("models", "show", model["id"], "--json") == 0
        card = json.loads(capsys.readouterr().out)
        assert card["blocks"] == model["blocks"]
    refused(capsys, call("models", "show", "nuclei-7"), "no model")


def test_doctor_never_fails(capsys, monkeypatch):
    def gone():
        raise EngineUnavailableError("PyTorch could not be imported.", "Install it.")

    monkeypatch.setattr("napari_attnseg.engine.devices", gone)
    assert call("doctor", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["devices"] == ["PyTorch could not be imported. Install it."]
    assert report["packages"]["numpy"] == np.__version__
    assert call("doctor") == 0
    assert "models folder" in capsys.readouterr().out


def test_demo_without_a_window(engine, tmp_path, capsys):
    out = tmp_path / "demo"
    assert call("demo", "--out", out, "--no-window", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    image, labels = read_image(out / "image.tif"), read_image(out / "labels.tif")
    assert not image.rgb
    assert min(image.shape_yx) >= 256
    assert labels.shape_yx == image.shape_yx
    assert report["objects"] == labels.data.max() > 0
    for name in ("attention.png", "overlay.png"):
        assert read_image(out / name).shape_yx == image.shape_yx
    assert len(list(out.iterdir())) == 4


def test_demo_without_a_screen_runs_itself_on_a_virtual_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo_module, "has_screen", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    refused(capsys, call("demo", "--out", tmp_path / "o"), "sudo apt install xvfb", "--no-window")
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/" + name)
    seen = []

    def child(command, env, check):
        seen.append((command, env))
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(demo_module.subprocess, "run", child)
    assert call("demo", "--out", tmp_path / "o") == 7
    command, env = seen[0]
    assert command[:4] == ["/usr/bin/xvfb-run", "-a", "-s", "-screen 0 1600x1000x24"]
    assert command[-3:] == ["demo", "--out", str(tmp_path / "o")]
    monkeypatch.setenv(demo_module.VIRTUAL, env[demo_module.VIRTUAL])
    refused(capsys, call("demo", "--out", tmp_path / "o"), "xvfb")  # no endless chain of children


def test_launch_checks_files_and_screen_first(tmp_path, capsys, monkeypatch):
    refused(capsys, call("launch", tmp_path / "none.tif"), "none.tif")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not common.has_screen()
    refused(capsys, call("launch"), "no screen")


def test_a_missing_window_is_said(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "napari_attnseg._qt.launch", None)
    monkeypatch.setattr("napari_attnseg.cli.launch.has_screen", lambda: True)
    refused(capsys, call("launch"), "napari-attnseg[all]")


def test_version_and_unknown_commands(capsys):
    assert call("--version") == 0
    assert "napari-attnseg" in capsys.readouterr().out
    for command in ("scribble", "replay", "export"):  # not built: absent
        refused(capsys, call(command), "No such command")
    assert call() == 2


def test_segment_and_train_start_without_qt_napari_and_torch(tmp_path):
    write_tiff(tmp_path / "a.tif", blobs()[0])
    arguments = ["segment", str(tmp_path / "a.tif"), "--out", str(tmp_path / "o"), "--method", "slic"]
    code = (
        f"import sys; from napari_attnseg.cli import run; rc = run({arguments!r}); "
        "bad = {'torch', 'napari', 'qtpy', 'magicgui'} & set(sys.modules); sys.exit(rc or len(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_while_the_command_line_is_imported_is_no_traceback(monkeypatch, capsys):
    class Pressed:
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "napari_attnseg.cli", Pressed())
    with pytest.raises(SystemExit) as end:
        start()
    assert end.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_python_dash_m_refuses_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "napari_attnseg", "segment", "none.tif", "--out", str(tmp_path / "o")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("value", [False, True])
def test_attention_gives_the_numbers_of_the_window(tmp_path, value):
    """With the shipped model: the file has, bit for bit, what the window's overlay shows after a run."""
    pytest.importorskip("torch")
    from napari_attnseg.core.axes import source_of
    from napari_attnseg.core.synth import fluorescence
    from napari_attnseg.engine import load_engine
    from napari_attnseg.jobs.progress import drive
    from napari_attnseg.jobs.segment import encode
    from napari_attnseg.jobs.tape import record_tape
    from napari_attnseg.records import PlaneKey

    picture = fluorescence((120, 150), seed=4)[0]
    write_tiff(tmp_path / "a.tif", picture)
    engine, source, params = load_engine("base", "cpu"), source_of(picture), SegmentParams(device="cpu")
    encoded = drive(encode(engine, source, params))
    tape = drive(record_tape(engine, source, PlaneKey(), (5, 5), encoded, params))
    for name in tape.network:
        row = tape.row(name, (60, 70), "0", value)
        options = ["--block", name, "--head", 0, "--device", "cpu", *(["--value"] if value else [])]
        assert call("attention", tmp_path / "a.tif", "--at", 60, 70, "--out", tmp_path / name, *options) == 0
        painted = read_image(tmp_path / name / "a_attention.tif").data
        np.testing.assert_array_equal(painted, row.grid.paint(row.weights, picture.shape))


def test_the_rollout_gives_the_numbers_of_the_window(tmp_path, capsys):
    """With the shipped model: bit for bit the map that the window's job makes, and the parts sum to 1."""
    pytest.importorskip("torch")
    from napari_attnseg.core.axes import source_of
    from napari_attnseg.core.synth import fluorescence
    from napari_attnseg.engine import load_engine
    from napari_attnseg.jobs.attention_maps import rollout
    from napari_attnseg.jobs.progress import drive
    from napari_attnseg.jobs.tape import record_tape
    from napari_attnseg.records import PlaneKey

    picture = fluorescence((120, 150), seed=4)[0]
    write_tiff(tmp_path / "a.tif", picture)
    engine, params = load_engine("base", "cpu"), SegmentParams(device="cpu")
    tape = drive(record_tape(engine, source_of(picture), PlaneKey(), (5, 5), None, params))
    made = drive(rollout(tape, (60, 70)))
    options = ["--block", "rollout", "--device", "cpu", "--json", "--out", tmp_path / "out"]
    assert call("attention", tmp_path / "a.tif", "--at", 60, 70, *options) == 0
    report = json.loads(capsys.readouterr().out)
    painted = read_image(tmp_path / "out" / "a_attention.tif").data
    np.testing.assert_array_equal(painted, made.grid.paint(made.values, picture.shape))
    assert (report["block"], report["kind"], report["window"], report["value"]) == (
        "rollout",
        "rollout",
        None,
        True,
    )
    assert made.values.sum() + report["register_share"] == pytest.approx(1, abs=1e-3)


def test_attention_can_be_checked(engine, image, tmp_path, capsys):
    code = call("attention", image, "--at", 40, 70, "--out", tmp_path, "--json", "--diameter", 24, "--check")
    assert code == 0
    captured = capsys.readouterr()
    check = json.loads(captured.out)["check"]
    assert check["verdict"] in ("yes", "no", "unclear")
    assert len(check["random"]) == 20
    assert check["words"] in captured.err.replace("\n", " ")


def test_values_of_a_block_that_has_none_are_refused(engine, image, tmp_path, capsys):
    out = tmp_path / "out"
    code = call("attention", image, "--at", 40, 70, "--out", out, "--value")
    refused(capsys, code, "no values")
    assert not out.exists()
