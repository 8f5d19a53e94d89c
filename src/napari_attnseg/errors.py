"""The error family: every failure a user can cause or cure, as one sentence and a hint.

``AttnSegError`` is an ``Exception`` and never a ``RuntimeError``: napari's generator worker swallows
``RuntimeError``, which would leave a panel busy for ever.  Cancelling is not an error.
"""

from __future__ import annotations


class AttnSegError(Exception):
    """Base of all errors shown to the user as one sentence and a hint.

    Parameters
    ----------
    message : str
        What went wrong, one sentence.
    hint : str
        What the user can do about it, one sentence; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InputError(AttnSegError):
    """An image, layer, axis, size or dtype that cannot be used."""


class ModelError(AttnSegError):
    """A model that cannot be found, read or used for the request."""


class UnknownModelError(ModelError):
    """No model of that name; the hint says what was probably meant."""


class CheckpointError(ModelError):
    """Weights or a model card that are corrupt, foreign or of another version."""


class EngineError(AttnSegError):
    """The network could not run."""


class EngineUnavailableError(EngineError):
    """torch or the device asked for is not there."""


class OutOfMemoryError(EngineError):
    """Neither the device nor the processor had memory enough, even after shrinking the work."""


class NumericalError(EngineError):
    """A loss or an output stopped being finite."""


class TrainingDataError(AttnSegError):
    """Nothing, or not enough, to learn from."""


class StoreError(AttnSegError):
    """A file or folder that cannot be read or written."""
