"""Tells every open dock that a model was renamed or deleted."""

from __future__ import annotations

from qtpy.QtCore import QObject, Signal


class ModelMoves(QObject):  # type: ignore[misc]  # qtpy is untyped
    """``moved`` carries the name a model had and the one it has now, "" where it was deleted."""

    moved = Signal(str, str)


moves = ModelMoves()  # of the process: docks of several viewers share one models folder
