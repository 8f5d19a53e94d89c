"""When a fine-tuning ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_attnseg.params import TrainParams


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run ends.

    Attributes
    ----------
    steps, seconds : int or None, float or None
        What was asked for; with neither, ``most`` steps or ``longest`` seconds at most.
    every, patience : int
        Steps between validations, and validations without a better one after which it stops.
    """

    steps: int | None
    seconds: float | None
    most: int
    longest: float
    every: int
    patience: int

    def total(self, per_step: float) -> int:
        """Return the number of steps that the run will take at ``per_step`` seconds a step."""
        if self.steps is not None:
            return self.steps
        seconds = self.longest if self.seconds is None else self.seconds
        steps = max(1, int(seconds / max(per_step, 1e-6)))
        return steps if self.seconds is not None else min(self.most, steps)

    @property
    def free(self) -> bool:
        """Tell whether the run may end before its time."""
        return self.steps is None and self.seconds is None

    def share(self, step: int, learning: float, wall: float) -> float:
        """Return how much of the run is over, 0..1.

        Parameters
        ----------
        step : int
            Steps taken.
        learning, wall : float
            Seconds that they took, and seconds since the start; with ``steps`` neither counts.
        """
        if self.steps is not None:
            return step / self.steps
        if self.seconds is not None:
            return wall / self.seconds
        return max(step / self.most, learning / self.longest)


def limits_of(params: TrainParams, objects: int) -> Limits:
    """Return when a run of these parameters ends; a quick one is given more time for more objects."""
    seconds = None if params.minutes is None else 60 * params.minutes
    if params.tier == "full":
        return Limits(params.steps, seconds, most=3000, longest=1500.0, every=50, patience=8)
    longest = float(np.clip(20 + 5 * objects, 30, 120))
    return Limits(params.steps, seconds, most=300, longest=longest, every=20, patience=5)
