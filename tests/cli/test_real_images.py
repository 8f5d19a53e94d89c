"""The shipped model on real micrographs it has never seen, through the commands that a user types."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import pytest

NEEDED = 0.75  # pooled AP at IoU 0.5 on fluorescence; Otsu and a watershed reach 0.59


def run(*args: str) -> dict:
    command = [sys.executable, "-m", "napari_attnseg", *args, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.data
@pytest.mark.slow
def test_nuclei_in_fluorescence(data_dir, tmp_path):
    folder = data_dir / "val"
    with (folder / "index.csv").open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["dataset"] == "dsb2018" and r["kind"] == "fluo"]
    assert len(rows) == 70
    truth, out = tmp_path / "truth", tmp_path / "out"
    truth.mkdir()
    for row in rows:
        shutil.copy(folder / row["labels"], truth)
    run("segment", *(str(folder / row["image"]) for row in rows), "--out", str(out), "--device", "cpu")
    scores = run("evaluate", "--pred", str(out), "--truth", str(truth))
    assert scores["n"] == 70
    assert scores["ap"]["0.50"] >= NEEDED, {k: v for k, v in scores.items() if k != "per_image"}
