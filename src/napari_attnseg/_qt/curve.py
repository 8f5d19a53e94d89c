"""The live curves of a training: the loss, and the scores on what was held out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QVBoxLayout, QWidget

if TYPE_CHECKING:
    from napari.components import ViewerModel

_LOSS, _AP, _DICE = "#8a8f98", "#2fa36b", "#3d8fe0"
_SMOOTH = 0.85  # of the moving average over steps


class Curve(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Two plots over the steps; pyqtgraph is imported when they are first drawn."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self._plots: list[Any] = []
        self._steps: dict[int, float] = {}
        self._scores: dict[int, tuple[float, float]] = {}
        self._view: Any = None
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

    def add_scores(self, step: int, ap50: float, dice: float) -> None:
        """Add the scores of a validation, 0..1."""
        self._scores[step] = ap50, dice

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
        dots = {"symbolSize": 6, "symbolPen": None}
        self._ap = self._plots[1].plot(pen=pg.mkPen(_AP, width=2), symbol="o", symbolBrush=_AP, **dots)
        self._dice = self._plots[1].plot(pen=pg.mkPen(_DICE, width=2), symbol="s", symbolBrush=_DICE, **dots)
        for plot in self._plots:
            plot.setMenuEnabled(False)
            plot.setMouseEnabled(x=False, y=False)
            plot.hideButtons()
            plot.getAxis("left").setWidth(44)
        self._plots[1].setYRange(0, 1, padding=0.05)
        self._plots[1].setXLink(self._plots[0])
        self.layout().addWidget(self._view)
        self._paint()

    def _paint(self, event: Any = None) -> None:
        """Take the colours of napari's theme."""
        if not self._plots:
            return
        from napari.utils.theme import get_theme

        theme = get_theme(self._viewer.theme)
        text = theme.text.as_hex()
        self._view.setBackground(theme.background.as_hex())
        titles = ("Loss", f"<span style='color:{_AP}'>AP@.5</span> · <span style='color:{_DICE}'>Dice</span>")
        for plot, title in zip(self._plots, (titles[0], f"{titles[1]} on held-out corrections"), strict=True):
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
        at = np.array(sorted(self._scores), dtype=float)
        self._ap.setData(at, np.array([self._scores[int(s)][0] for s in at]))
        self._dice.setData(at, np.array([self._scores[int(s)][1] for s in at]))
        self._plots[1].setVisible(bool(self._scores))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the moving average, unbiased at its start."""
    out, mean, weight = np.empty_like(values), 0.0, 0.0
    for n, value in enumerate(values):
        mean = _SMOOTH * mean + (1 - _SMOOTH) * float(value)
        weight = _SMOOTH * weight + 1 - _SMOOTH
        out[n] = mean / weight
    return out
