"""When a fine-tuning ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_attnseg.params import TrainParams


class Stopped(Exception):
    """The run was cancelled before its first step."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a run stands.

    Attributes
    ----------
    step : int
        Steps taken.
    learning, wall : float
        Seconds that they and the validations took, without getting ready, and seconds since the start.
    stale : int
        The validations since the best one; 0 where nothing is judged.
    turned : int
        The step at which its second part began, 0 before.
    closing : float
        Share of the run that is its second part, 0..1; 0 where it has none.
    """

    step: int
    learning: float
    wall: float
    stale: int
    turned: int
    closing: float


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

    def total(self, at: Stand, per_step: float) -> int:
        """Return the number of steps that the run will take at most, at ``per_step`` seconds a step."""
        if self.steps is not None:
            return self.steps
        if self.free and at.turned:
            return self.last(at)
        seconds = self.longest if self.seconds is None else self.seconds
        steps = max(1, int(seconds / max(per_step, 1e-6)))
        return steps if self.seconds is not None else min(self.most, steps)

    @property
    def free(self) -> bool:
        """Tell whether the run may end before its time."""
        return self.steps is None and self.seconds is None

    def share(self, at: Stand) -> float:
        """Return how much of the run is over, 0..1; with ``steps`` it depends on nothing else."""
        if at.turned and self.free:
            return 1 - at.closing * (self.last(at) - at.step) / (self.last(at) - at.turned)
        return self._spent(at)

    def over(self, at: Stand) -> bool:
        """Tell whether the run is at its end."""
        if at.step == 0:
            return False
        spent = self._spent(at) >= 1
        if spent or not self.free:
            return spent
        return at.step >= self.last(at) if at.turned else self._tired(at) and not at.closing

    def turns(self, at: Stand) -> bool:
        """Tell whether the second part is to begin."""
        if at.turned or not at.closing or at.step == 0:
            return False
        return (self.free and self._tired(at)) or self.share(at) >= 1 - at.closing

    def last(self, at: Stand) -> int:
        """Return the last step of the second part of a run that may end early: as long as the first was."""
        return at.turned + max(1, round(at.turned * at.closing / (1 - at.closing)))

    def _tired(self, at: Stand) -> bool:
        return at.stale >= self.patience

    def _spent(self, at: Stand) -> float:
        if self.steps is not None:
            return at.step / self.steps
        if self.seconds is not None:
            return at.wall / self.seconds
        return max(at.step / self.most, at.learning / self.longest)


def limits_of(params: TrainParams, corrections: int) -> Limits:
    """Return when a run of these parameters ends; a quick one is given more time for more corrections."""
    seconds = None if params.minutes is None else 60 * params.minutes
    if params.tier == "full":
        return Limits(params.steps, seconds, most=3000, longest=1500.0, every=50, patience=8)
    longest = float(np.clip(15 + 5 * corrections, 30, 120))
    if params.task == "classes":
        return Limits(params.steps, seconds, most=300, longest=longest, every=20, patience=5)
    most = int(np.clip(24 * corrections, 120, 480))  # a few have taught all they can by then
    return Limits(params.steps, seconds, most=most, longest=longest, every=20, patience=8)
