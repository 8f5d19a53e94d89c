"""``attention`` on the readout: what it shows is what the labels of a run are read from."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg import cli
from napari_attnseg.core.axes import source_of
from napari_attnseg.core.synth import fluorescence
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.segment import encode
from napari_attnseg.jobs.tape import record_tape
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import PlaneKey
from napari_attnseg.store.images import read_image, write_tiff


def test_the_readout_is_that_of_the_mean_over_mirror_images(tmp_path):
    pytest.importorskip("torch")
    from napari_attnseg.engine import load_engine

    picture = fluorescence((120, 150), seed=4)[0]
    write_tiff(tmp_path / "a.tif", picture)
    engine, source, at = load_engine("base", "cpu"), source_of(picture), (60, 70)
    shown = {}
    for mirror in ("always", "never"):
        params = SegmentParams(device="cpu", mirror=mirror)
        encoded = drive(encode(engine, source, params))
        tape = drive(record_tape(engine, source, PlaneKey(), at, encoded, params))
        row = tape.row("readout", at, "mean")
        shown[mirror] = row.grid.paint(row.weights, picture.shape)
        out = tmp_path / mirror
        options = ["--block", "readout", "--mirror", mirror, "--device", "cpu", "--out", str(out)]
        assert cli.run(["attention", str(tmp_path / "a.tif"), "--at", *map(str, at), *options]) == 0
        painted = read_image(out / "a_attention.tif").data
        np.testing.assert_array_equal(painted, shown[mirror])
    assert (shown["always"] != shown["never"]).any()
