"""Models that are renamed, deleted, sent away and brought in."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attnseg.errors import AttnSegError, CheckpointError, InputError, StoreError, UnknownModelError
from napari_attnseg.records import ModelCard
from napari_attnseg.store import exchange, models


def weights(seed=0) -> bytes:
    """A safetensors file of two small tensors, made by hand."""
    data = np.random.default_rng(seed).normal(size=10).astype("<f4").tobytes()
    header = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F32", "shape": [4], "data_offsets": [24, 40]},
        "__metadata__": {"attnseg": "{}"},
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def card_of(name, data, **more) -> dict:
    sha = hashlib.sha256(data).hexdigest()
    return ModelCard(name, name, {"architecture": "attnseg"}, sha256=sha, **more).to_json()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def put(home, name, **more):
    folder = home / "models" / name
    folder.mkdir(parents=True)
    data = weights()
    (folder / "weights.safetensors").write_bytes(data)
    (folder / "card.json").write_text(json.dumps(card_of(name, data, **more)))
    return folder


def names(home):
    return sorted(path.name for path in (home / "models").iterdir())


@pytest.mark.parametrize("out", ["sent.zip", "sent"])
def test_out_and_in_again_is_the_same_model(home, tmp_path, out):
    put(home, "mine", parent="base", training={"finished": "2026-01-02"})
    path = exchange.export_model("mine", tmp_path / out)
    models.remove("mine")
    card = exchange.import_model(path, "back")
    assert (card.id, card.name, card.parent) == ("back", "back", "base")
    stored = models.find("back")
    assert stored.weights.read_bytes() == weights()
    assert stored.date == "2026-01-02"
    assert stored.size == len(weights())
    assert names(home) == ["back"]
    assert exchange.import_model(path).id == ("mine" if out.endswith(".zip") else "sent")


def test_the_shipped_model_can_leave_and_come_under_another_name(home, tmp_path):
    path = exchange.export_model("base", tmp_path / "b.zip")
    with pytest.raises(StoreError, match="exists already"):
        exchange.import_model(path)
    assert exchange.import_model(path, "copy").sha256 == models.find("base").card.sha256


def test_nothing_is_overwritten(home, tmp_path):
    put(home, "mine")
    out = exchange.export_model("mine", tmp_path / "m.zip")
    before = out.read_bytes()
    with pytest.raises(StoreError, match="exists already"):
        exchange.export_model("mine", out)
    assert out.read_bytes() == before
    for name in (None, "MINE", "base"):
        with pytest.raises(StoreError, match="exists already"):
            exchange.import_model(out, name)
    assert names(home) == ["mine"]


def pack(tmp_path, files, link=None):
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            if name == link:
                info.external_attr = 0o120777 << 16
            archive.writestr(info, data)
    return path


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"../m/card.json": None, "../m/weights.safetensors": None}, "leads out"),
        ({"/m/card.json": None, "/m/weights.safetensors": None}, "leads out"),
        ({"m\\..\\card.json": None, "m/weights.safetensors": None}, "leads out"),
        ({"c:/m/card.json": None}, "leads out"),
        ({"m/card.json": None}, "no model"),
        ({"m/weights.safetensors": None}, "no model"),
        ({f"{m}/{f}": None for m in "ab" for f in ("card.json", "weights.safetensors")}, "more than one"),
        ({"m/card.json": b"{", "m/weights.safetensors": None}, "card"),
        ({"m/card.json": b"\xff\xfe", "m/weights.safetensors": None}, "card"),
        ({"m/card.json": b'{"schema_version": 99}', "m/weights.safetensors": None}, "newer"),
        ({"m/card.json": None, "m/weights.safetensors": weights(1)}, "damaged"),
        ({"-m/card.json": None, "-m/weights.safetensors": None}, "cannot be named"),
    ],
)
def test_odd_archives_are_one_sentence_and_write_nothing(home, tmp_path, files, words):
    whole = {"card.json": json.dumps(card_of("m", weights())), "weights.safetensors": weights()}
    filled = {k: whole[k.replace("\\", "/").rsplit("/", 1)[-1]] if v is None else v for k, v in files.items()}
    with pytest.raises(AttnSegError, match=words) as caught:
        exchange.import_model(pack(tmp_path, filled))
    assert caught.value.hint
    assert not home.exists()


def test_a_link_in_an_archive_is_refused(home, tmp_path):
    whole = {"m/card.json": json.dumps(card_of("m", weights())), "m/weights.safetensors": b"/etc/passwd"}
    with pytest.raises(CheckpointError, match="leads out"):
        exchange.import_model(pack(tmp_path, whole, link="m/weights.safetensors"))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x80\x04K\x01.", b"\xff" * 40, weights()[:-1], weights() + b"0",
        (2).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]",
    ],
)  # fmt: skip
def test_weights_that_are_not_safetensors_are_refused_even_with_their_hash(home, tmp_path, data):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(data)
    (folder / "card.json").write_text(json.dumps(card_of("m", data)))
    with pytest.raises(CheckpointError, match="not safetensors"):
        exchange.import_model(folder)
    assert not home.exists()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 399))
def test_a_damaged_zip_never_gives_a_traceback(tmp_path_factory, noise, at):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/card.json", json.dumps(card_of("m", weights())))
        archive.writestr("m/weights.safetensors", weights())
    data = bytearray(buffer.getvalue())
    data[at : at + len(noise)] = noise
    folder = tmp_path_factory.mktemp("zip")
    (folder / "x.zip").write_bytes(bytes(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAPARI_ATTNSEG_HOME", str(folder / "home"))
        try:
            exchange.import_model(folder / "x.zip")
        except AttnSegError:
            assert not (folder / "home").exists()
        else:
            assert models.find("m").weights.read_bytes() == weights()


def test_what_is_not_there_is_said(home, tmp_path):
    (tmp_path / "text.zip").write_text("hello")
    (tmp_path / "empty").mkdir()
    for path, words in (
        ("none.zip", "does not exist"),
        ("text.zip", "readable zip"),
        ("empty", "cannot be read"),
    ):
        with pytest.raises(AttnSegError, match=words):
            exchange.import_model(tmp_path / path)
    with pytest.raises(UnknownModelError):
        exchange.export_model("nobody", tmp_path / "x.zip")


def test_a_full_disk_leaves_nothing_behind(home, tmp_path, monkeypatch):
    put(home, "mine")
    path = exchange.export_model("mine", tmp_path / "m.zip")
    real = type(path).write_bytes

    def full(self, data):
        if self.name.startswith(".weights"):
            real(self, data[:5])
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(StoreError, match="No space left"):
        exchange.import_model(path, "other")
    assert names(home) == ["mine"]


def test_rename_keeps_the_children_and_refuses_what_is_taken(home):
    put(home, "mine")
    put(home, "child", parent="mine")
    put(home, "named", parent="base")
    card = models.rename("mine", "better")
    assert (card.id, card.name) == ("better", "better")
    assert models.find("child").card.parent == "better"
    assert names(home) == ["better", "child", "named"]
    for new, error in (
        ("child", StoreError),
        ("base", StoreError),
        ("a/b", InputError),
        ("scratch", InputError),
    ):
        with pytest.raises(error):
            models.rename("better", new)
    with pytest.raises(StoreError, match="came with the installation"):
        models.rename("base", "mine")
    with pytest.raises(UnknownModelError):
        models.rename("mine", "x")
    assert models.rename("better", "Better").id == "Better"  # other capitals of its own name


def test_remove_takes_the_users_models_only(home):
    put(home, "mine")
    models.remove("mine")
    assert names(home) == []
    with pytest.raises(UnknownModelError):
        models.remove("mine")
    with pytest.raises(StoreError, match="came with the installation"):
        models.remove("base")
    assert models.find("base").weights.exists()


def test_a_read_only_models_folder_is_one_sentence(home, tmp_path, monkeypatch):
    put(home, "mine")
    path = exchange.export_model("mine", tmp_path / "m.zip")

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", denied)
    for do in (
        lambda: models.remove("mine"),
        lambda: models.rename("mine", "x"),
        lambda: exchange.import_model(path, "y"),
    ):
        with pytest.raises(StoreError, match="Permission denied"):
            do()
    assert names(home) == ["mine"]
