"""napari finds the plugin: the manifest is valid, every use is a command, samples open, settings are read."""

from __future__ import annotations

import importlib.metadata
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from npe2 import PluginManifest

from napari_attnseg._napari import samples, settings


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_file(Path(str(resources.files("napari_attnseg") / "napari.yaml")))


def test_it_is_announced_to_napari():
    points = importlib.metadata.entry_points(group="napari.manifest")
    assert "napari-attnseg" in points.names


def test_every_command_is_used_and_every_use_is_a_command(manifest):
    parts = manifest.contributions
    used = {w.command for w in parts.widgets} | {s.command for s in parts.sample_data}
    used |= {item.command for items in parts.menus.values() for item in items}
    assert used == {c.id for c in parts.commands}
    assert [w.display_name for w in parts.widgets] == ["Attention Segmentation"]
    assert list(parts.menus) == ["napari/layers/segment"]


SAMPLES = [
    "tissue", "nuclear_stain", "cell", "retina", "coins", "coffee",
    "fluorescence", "phase_contrast", "photo", "time_series", "z_stack",
]  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_open_without_a_network(name, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a sample went to the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    viewer = ViewerModel()
    for data in getattr(samples, name)():
        viewer.add_layer(Layer.create(*data))
    image = viewer.layers[0]
    assert isinstance(image, Image)
    assert min(image.data.shape[:2]) > 0
    if len(viewer.layers) > 1:
        truth = viewer.layers[1]
        assert isinstance(truth, Labels)
        assert not truth.visible
        assert truth.data.shape == image.data.shape[: truth.ndim]
        assert truth.data.max() > 5
        np.testing.assert_allclose(truth.scale, image.scale)


def test_a_drifting_object_keeps_its_id():
    (images, _, _), (labels, _, _) = samples.time_series()
    assert images.shape == labels.shape == (samples.FRAMES, 256, 256)
    np.testing.assert_array_equal(labels[0, 6:, 6:], labels[1, :-6, :-6])


def test_settings_have_defaults_and_are_read(manifest, tmp_path, monkeypatch):
    from types import SimpleNamespace

    kept = SimpleNamespace(
        engine=SimpleNamespace(device="cpu", tile_size=100),
        models=SimpleNamespace(folder=str(tmp_path)),
        cache=SimpleNamespace(limit_gb=0.5, tape_gb=0.25, tape_disk_gb=0),
    )
    monkeypatch.setattr("napari.settings.get_plugin_settings", lambda name: kept)
    assert settings.read() == settings.Settings("cpu", 128, tmp_path, 512 * 1024**2, 256 * 1024**2, 0)

    def unknown(name):
        raise KeyError(name)

    monkeypatch.setattr("napari.settings.get_plugin_settings", unknown)
    assert settings.read() == settings.Settings()
    declared = {
        section: set(conf.properties) for section, conf in manifest.contributions.configurations.items()
    }
    assert declared == {
        "engine": {"device", "tile_size"},
        "models": {"folder"},
        "cache": {"limit_gb", "tape_gb", "tape_disk_gb"},
    }
