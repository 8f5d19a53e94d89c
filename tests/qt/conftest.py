"""A viewer with the dock on a fake engine."""

from __future__ import annotations

import time

import pytest

from napari_attnseg._napari import settings
from napari_attnseg.records import ModelCard
from tests.fakes import FakeEngine


class SlowEngine(FakeEngine):
    """Takes ``pause`` seconds for every tile."""

    pause = 0.0

    def maps(self, image, *, zoom=1.0, norm=None):
        time.sleep(self.pause)
        return super().maps(image, zoom=zoom, norm=norm)


@pytest.fixture
def engine(monkeypatch):
    """The engine that the dock will load; its card is the only one there is."""
    made = SlowEngine()
    card = ModelCard("base", "Fake base", {}, description="Numbers only.", blocks=made.card.blocks)
    made.card = card
    monkeypatch.setattr("napari_attnseg.engine.load_engine", lambda name, device: made)
    monkeypatch.setattr("napari_attnseg.store.models.list_models", lambda: [card])
    monkeypatch.setattr(settings, "read", lambda: settings.Settings(tile=128))
    return made


@pytest.fixture
def open_dock(make_napari_viewer, qtbot, engine):
    """Return a function that opens a viewer with the dock, shown and loaded."""
    from napari_attnseg._qt.dock import AttentionDock

    def start(*, loaded=True, show=True):
        viewer = make_napari_viewer(show=show)
        dock = AttentionDock(viewer)
        viewer.window.add_dock_widget(dock, name="Attention Segmentation")
        if loaded and show:
            qtbot.waitUntil(lambda: dock.session.state.engine is engine, timeout=20_000)
        return viewer, dock

    return start
