"""``doctor`` tells where things are."""

from __future__ import annotations

import json

from napari_attnseg.cli import run
from napari_attnseg.store import models


def test_the_folder_of_models_is_the_one_that_they_are_in(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    card = {"schema_version": 1, "id": "mine", "name": "Mine", "architecture": {}}
    (folder / "card.json").write_text(json.dumps(card))
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["models folder"] == str(folder.parent) == str(models.models_folder())
    assert "mine" in report["models"]
