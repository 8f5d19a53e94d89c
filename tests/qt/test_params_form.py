"""Forms come from the fields of ``SegmentParams``: title, help, bounds, default."""

from __future__ import annotations

import pytest
from qtpy.QtWidgets import QFormLayout, QWidget

from napari_attnseg._qt.job_bar import time_left
from napari_attnseg._qt.params_form import ParamsForm, bounds, make_widget
from napari_attnseg.params import ReadoutParams, SegmentParams

NAMES = [
    *ReadoutParams.model_fields,
    "method",
    "clusters",
    "kmeans_on",
    "segments",
    "compactness",
    "mirror",
    "device",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_widget_has_the_fields_title_help_default_and_bounds(qapp, name):
    info, widget = SegmentParams.model_fields[name], make_widget(name)
    assert widget.label == info.title
    assert widget.tooltip == info.description
    assert widget.value == info.default
    limits = bounds(info)
    if "ge" in limits:
        assert widget.min == limits["ge"]
    if "le" in limits:
        assert widget.max == limits["le"]


@pytest.fixture
def form(qtbot):
    parent = QWidget()
    qtbot.addWidget(parent)
    yield ParamsForm(QFormLayout(parent), ReadoutParams.model_fields, slider=True)
    parent.close()


def test_values_make_valid_parameters_and_defaults_come_back(form):
    told = []
    form.changed.connect(lambda: told.append(1))
    assert SegmentParams(**form.values()) == SegmentParams()
    form.set_values({"threshold": 0.7, "min_size": 40, "drop_edge": True})
    assert len(told) == 1
    assert SegmentParams(**form.values()).threshold == pytest.approx(0.7)
    form.restore_defaults()
    assert SegmentParams(**form.values()) == SegmentParams()
    form.restore_defaults()
    assert len(told) == 2


def test_a_disabled_form_says_why(form):
    form.set_enabled(False, "because")
    assert {w.tooltip for w in form.widgets.values()} == {"because"}
    form.set_enabled(True)
    assert form.widgets["threshold"].tooltip == ReadoutParams.model_fields["threshold"].description


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (0, 10, 5, ""),
        (1, 0, 5, ""),
        (1, 10, 0.5, ""),
        (5, 10, 20, "20 s left"),
        (1, 100, 10, "16 min left"),
        (99, 100, 10, "almost done"),
    ],
)
def test_time_left(done, total, seconds, text):
    assert time_left(done, total, seconds) == text
