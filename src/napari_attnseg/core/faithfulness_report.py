"""The result of checking a model's attention on a set of images, as JSON and as a Markdown page."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCHEMA_VERSION = 1
BASELINES = ("nearness", "random", "gradient", "influence")
_HOW = """
How it was measured: one crop of {side} x {side} pixels (of the resized image) of each of {images} images, {queries}
foreground pixels. Every cell of 16 x 16 pixels was covered in turn by its blurred surroundings and the network was
run again: that is the influence of a cell on a pixel. *Rank correlation* compares a map with that influence over
all cells but the pixel's own (95 % interval over images; *given distance*: with the ranks of the distance taken
out; *on the vote*: with the influence on where the pixel seeks the middle of its object). *Same object* is the
share of a row on the pixel's own object (spread evenly it would be {same:.1%}), *on objects* on any object (evenly:
{any:.1%}). *Deletion* and *insertion* cover or show the cells in the order of the map and take the area under the
object's foreground probability: low deletion and high insertion are good. *Beats random*: share of the {objects}
objects whose deletion is below the mean of random orders. *p < 0.05*: share of these objects where covering the
{cells} cells that the object's middle attends to most changes more than {draws} random draws do. *Influence* is
the measured influence itself taken as a map, and *signed*, as the fall of the logit or of the object's probability:
a ceiling for maps that take each cell by itself. A map without a sign cannot tell cells that hold an object up from
those that hold it down. *Rollout, signed* is the rollout by values with the sign of what each cell speaks for: the
slope of the logit along what the cell keeps and hands on at the attention blocks.

Attention is not causation: a high weight says that a value entered a mean, not that it decided anything. A map
that does not beat *nearness* tells no more than that near things matter.
"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class MapScore:
    """How one map fares; None where it was not measured.

    Attributes
    ----------
    name : str
        Block, "rollout", or a baseline of ``BASELINES``.
    variant : str
        "weights", "value", "signed", "head N" or "".
    spearman, low, high : float
        Rank correlation with the influence on the foreground logit, mean over queries, and the 95 %
        interval of it over images.
    vote : float
        The same with the influence on the vote (where the pixel's object has its middle).
    partial : float
        ``spearman`` with the distance taken out.
    same_object, on_objects : float or None
        Share of the row on the query's own object, and on all objects.
    deletion, insertion : float or None
        Areas under the curves, mean over objects.
    beats_random, significant : float or None
        Shares of objects, 0..1.
    """

    name: str
    variant: str
    spearman: float
    low: float
    high: float
    vote: float
    partial: float | None
    same_object: float | None = None
    on_objects: float | None = None
    deletion: float | None = None
    insertion: float | None = None
    beats_random: float | None = None
    significant: float | None = None

    @property
    def words(self) -> str:
        """Name and variant."""
        return f"{self.name}, {self.variant}" if self.variant else self.name


@dataclass(frozen=True, slots=True)
class ModelReport:
    """The faithfulness of a model on a set of images.

    Attributes
    ----------
    images, queries, objects : int
        How many of each were measured.
    area_same, area_objects : float
        Mean share of the crop that the query's object, and all objects, cover.
    settings : mapping
        What decides the numbers: seed, side, draws, cells.
    scores : tuple of MapScore
        Blocks in network order, then baselines.
    """

    model: str
    sha256: str
    images: int
    queries: int
    objects: int
    area_same: float
    area_objects: float
    scores: tuple[MapScore, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def score(self, name: str, variant: str = "") -> MapScore:
        """Return the line of a map; ``KeyError`` where there is none."""
        for line in self.scores:
            if (line.name, line.variant) == (name, variant):
                return line
        raise KeyError(f"{name}, {variant}")

    @property
    def best(self) -> MapScore | None:
        """The block's map that agrees best with influence; None without blocks."""
        own = [s for s in self.scores if s.name not in (*BASELINES, "readout")]
        return max(own, key=lambda s: s.spearman, default=None)

    @property
    def headline(self) -> str:
        """One sentence for a panel."""
        best, near = self.best, self.score("nearness")
        if best is None:
            return "This network has no attention blocks to check."
        more = best.spearman - near.spearman
        told = "more than" if more >= 0.05 else ("about as much as" if more > -0.05 else "less than")
        return (
            f"Best map: {best.words}. It agrees with what matters at rank correlation {best.spearman:.2f}, "
            f"{told} plain nearness ({near.spearman:.2f})."
        )

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), indent=1)

    def markdown(self) -> str:
        """Return the report as a Markdown page."""
        lines = [
            f"# Does the attention of '{self.model}' tell what matters?",
            "",
            self.headline,
            "",
            "| map | rank correlation | given distance | on the vote | same object | on objects | deletion | "
            "insertion | beats random | p < 0.05 |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for s in self.scores:
            cells = [
                s.words,
                f"{s.spearman:.3f} ({s.low:.3f} to {s.high:.3f})",
                _number(s.partial),
                _number(s.vote),
                _share(s.same_object),
                _share(s.on_objects),
                _number(s.deletion),
                _number(s.insertion),
                _share(s.beats_random, 0),
                _share(s.significant, 0),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        known = {name: self.settings.get(name, "?") for name in ("side", "cells", "draws")}
        how = _HOW.format(
            images=self.images,
            queries=self.queries,
            objects=self.objects,
            same=self.area_same,
            any=self.area_objects,
            **known,
        )
        told = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        about = f"Model '{self.model}' (sha256 {self.sha256[:16]}), {self.images} images; {told}."
        return "\n".join([*lines, how, about, ""])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _share(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}%}"


def interval(
    groups: Sequence[Sequence[float]], seed: int = 0, draws: int = 500
) -> tuple[float, float, float]:
    """Return the mean of all values and the 95 % interval of it when groups (images) are drawn anew."""
    sums = np.array([sum(group) for group in groups])
    sizes = np.array([len(group) for group in groups])
    if not sizes.sum():
        return 0.0, 0.0, 0.0
    index = np.random.default_rng(seed).integers(0, len(groups), (draws, len(groups)))
    means = sums[index].sum(axis=1) / np.maximum(sizes[index].sum(axis=1), 1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sums.sum() / sizes.sum()), float(low), float(high)
