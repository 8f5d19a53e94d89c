"""The live curves of a training: the loss, and the scores on what was held out."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_attnseg._qt.widgets import note, set_note

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari.components import ViewerModel

_LOSS = "#8a8f98"
_COLOURS = ("#2fa36b", "#3d8fe0", "#d98a2b", "#b45fc9", "#d9483b", "#4bb8b0", "#9a9a3c")  # of the scores
_SMOOTH = 0.85  # of the moving average over steps


class Curve(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Two plots over the steps; pyqtgraph is imported when they are first drawn."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self._plots: list[Any] = []
        self._steps: dict[int, float] = {}
        self._scores: dict[int, dict[str, float]] = {}
        self._lines: dict[str, Any] = {}  # of the scores, by name
        self._view: Any = None
        self.legend = note(name="attnseg_curve_legend")  # wraps, which a plot's title does not
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        viewer.events.theme.connect(self._paint)

    def release(self) -> None:
        """Let go of the viewer."""
        self._viewer.events.theme.disconnect(self._paint)

    def clear(self) -> None:
        """Forget all points."""
        self._steps, self._scores = {}, {}
        self.draw()
        self.setVisible(False)

    def add_step(self, step: int, loss: float) -> None:
        """Add the loss of a step; one that comes again (a resumed run) takes the place of the first."""
        self._steps[step] = loss

    def add_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Add the scores of a validation, 0..1, by name; the first is drawn thickest."""
        self._scores[step] = dict(scores)

    def points(self) -> tuple[int, int]:
        """Return the numbers of steps and of validations that are drawn."""
        return len(self._steps), len(self._scores)

    def _build(self) -> None:
        import pyqtgraph as pg  # type: ignore[import-untyped]

        self._view = pg.GraphicsLayoutWidget()
        self._view.setFixedHeight(250)
        self._view.setObjectName("attnseg_curve")
        self._plots = [self._view.addPlot(row=row, col=0) for row in (0, 1)]
        self._loss = self._plots[0].plot(pen=pg.mkPen(_LOSS, width=1))
        self._mean = self._plots[0].plot(pen=pg.mkPen(_LOSS, width=3))
        for plot in self._plots:
            plot.setMenuEnabled(False)
            plot.setMouseEnabled(x=False, y=False)
            plot.hideButtons()
            plot.getAxis("left").setWidth(44)
        self._plots[1].setYRange(0, 1, padding=0.05)
        self._plots[1].setXLink(self._plots[0])
        self.layout().addWidget(self._view)
        self.layout().addWidget(self.legend)
        self._paint()

    def _paint(self, event: Any = None) -> None:
        """Take the colours of napari's theme."""
        if not self._plots:
            return
        from napari.utils.theme import get_theme

        theme = get_theme(self._viewer.theme)
        text = theme.text.as_hex()
        self._view.setBackground(theme.background.as_hex())
        names = " · ".join(
            f"<span style='color:{colour}'>{escape(name)}</span>" for name, colour in self._named()
        )
        set_note(self.legend, names)
        for plot, title in zip(self._plots, ("Loss", "Held out"), strict=True):
            plot.setTitle(title, color=text, size="9pt")
            for side in ("left", "bottom"):
                plot.getAxis(side).setPen(text)
                plot.getAxis(side).setTextPen(text)

    def draw(self) -> None:
        """Draw what was added."""
        if not self._plots:
            if not self._steps:
                return
            self._build()
        self.setVisible(True)
        steps = np.array(sorted(self._steps), dtype=float)
        loss = np.array([self._steps[int(s)] for s in steps], dtype=float)
        self._loss.setData(steps, loss)
        self._mean.setData(steps, _smooth(loss))
        self._draw_scores()
        self._plots[1].setVisible(bool(self._scores))

    def _named(self) -> list[tuple[str, str]]:
        """Return the names of the scores and their colours."""
        names = dict.fromkeys(name for scores in self._scores.values() for name in scores)
        return list(zip(names, _COLOURS * (1 + len(names) // len(_COLOURS)), strict=False))

    def _draw_scores(self) -> None:
        """Draw one line per score, making and removing lines as the names change."""
        import pyqtgraph as pg

        named = self._named()
        if list(self._lines) != [name for name, _ in named]:
            for line in self._lines.values():
                self._plots[1].removeItem(line)
            dots = {"symbol": "o", "symbolSize": 6, "symbolPen": None}
            self._lines = {
                name: self._plots[1].plot(pen=pg.mkPen(c, width=2 if n else 3), symbolBrush=c, **dots)
                for n, (name, c) in enumerate(named)
            }
            self._paint()
        for name, line in self._lines.items():
            at = [step for step in sorted(self._scores) if name in self._scores[step]]
            line.setData(np.array(at, dtype=float), np.array([self._scores[step][name] for step in at]))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the moving average, unbiased at its start."""
    out, mean, weight = np.empty_like(values), 0.0, 0.0
    for n, value in enumerate(values):
        mean = _SMOOTH * mean + (1 - _SMOOTH) * float(value)
        weight = _SMOOTH * weight + 1 - _SMOOTH
        out[n] = mean / weight
    return out
