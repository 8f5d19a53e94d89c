"""What is measured on one crop of an image when a model's attention is checked.

The crop is run with each of its cells covered in turn (influence), with the cells that a pixel attends to
most covered, and with cells covered or shown in the order of each map (deletion, insertion).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core import faithfulness as math
from napari_attnseg.core import normalize
from napari_attnseg.core.attention_maps import ROLLOUT, has_parts, rollout_row
from napari_attnseg.core.attention_objects import mass_on, object_row
from napari_attnseg.core.regrid import regrid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.core.grid import TokenGrid
    from napari_attnseg.engine import Engine
    from napari_attnseg.records import AttentionRow, Normalisation

    Doubles = npt.NDArray[np.float64]
    Name = tuple[str, str]  # of a map, and its variant

_FRACTIONS = (0.0, 0.03, 0.1, 0.25, 0.5, 1.0)
MIN_PIXELS = 12
SIGNED = "signed"  # a map that tells what holds the result up from what holds it down


@dataclass(frozen=True, slots=True)
class CheckLimits:
    """How much is measured.

    Attributes
    ----------
    side : int
        Side of the crop of each image, pixels of the resized image, a multiple of 16.
    queries : int
        Foreground pixels a crop for the rank correlation.
    objects : int
        Objects a crop for deletion, insertion and the test against random cells; 0 leaves those out.
    cells, draws : int
        Cells covered in that test, and random draws of as many.
    orders : int
        Random orders for deletion and insertion.
    """

    side: int = 192
    queries: int = 12
    objects: int = 2
    cells: int = 8
    draws: int = 20
    orders: int = 3


class Tally:
    """Numbers by (map, variant, what), one list per image."""

    def __init__(self) -> None:
        self.images: list[dict[tuple[str, ...], list[float]]] = []

    def add(self, key: tuple[str, ...], value: float) -> None:
        """Add a number to the last image."""
        self.images[-1].setdefault(key, []).append(value)

    def all(self, key: tuple[str, ...]) -> list[float]:
        """Return the numbers of all images."""
        return [value for image in self.images for value in image.get(key, [])]

    def mean(self, key: tuple[str, ...]) -> float | None:
        """Return the mean over everything; None where nothing was measured."""
        values = self.all(key)
        return float(np.mean(values)) if values else None


@dataclass(slots=True)
class Crop:
    """One crop of an image with all that is measured on it."""

    engine: Engine
    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    zoom: float
    norm: Normalisation
    tape: AttentionTape
    cells: TokenGrid
    fill: npt.NDArray[np.float32]

    def outputs(self, chosen: Sequence[npt.NDArray[np.intp]]) -> npt.NDArray[np.float32]:
        """Return the raw outputs (n, 5, H, W) with each set of cells covered."""
        images = [math.covered(self.image, self.fill, self.cells, cells) for cells in chosen]
        return self.engine.outputs(images, zoom=self.zoom, norm=self.norm)


def measure(crop: Crop, tally: Tally, limits: CheckLimits, rng: np.random.Generator) -> Iterator[str]:
    """Measure one crop into the tally; yields what it does."""
    count = crop.cells.shape[0] * crop.cells.shape[1]
    before = crop.outputs([np.array([], dtype=np.intp)])[0]
    queries = _queries(crop, limits.queries, rng)
    change = np.zeros((3, count, len(queries)))
    ys, xs = np.array(queries).T
    objects = _objects(crop, limits.objects)
    influence = {label: np.zeros((2, count)) for label in objects}
    for start in range(0, count, 16):
        yield "influence of every cell"
        there = crop.outputs([np.array([c]) for c in range(start, min(start + 16, count))])
        gap = there[..., ys, xs] - before[..., ys, xs]
        change[0, start : start + 16] = np.abs(gap[:, 0])
        change[1, start : start + 16] = np.hypot(gap[:, 3], gap[:, 4])
        change[2, start : start + 16] = -gap[:, 0]
        for label, found in influence.items():
            mask = crop.labels == label
            old, new = before[0, mask].astype(np.float64), there[:, 0, mask].astype(np.float64)
            found[0, start : start + 16] = np.abs(new - old).mean(axis=1)
            found[1, start : start + 16] = (_sigmoid(old) - _sigmoid(new)).mean(axis=1)
    for n, query in enumerate(queries):
        yield "agreement with influence"
        _agreement(crop, tally, query, change[:, :, n], rng)
    for label in objects:
        yield "covering what objects attend to"
        _significance(crop, tally, label, before, limits, rng)
        yield "deletion and insertion"
        _curves(crop, tally, label, influence[label], limits, rng)


def _sigmoid(logits: Doubles) -> Doubles:
    found: Doubles = 1 / (1 + np.exp(-logits))
    return found


def _queries(crop: Crop, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return random pixels of objects, each object as likely as any other."""
    ids = [int(i) for i in np.unique(crop.labels) if i]
    found = []
    for label in rng.choice(ids, count):
        inside = np.argwhere(crop.labels == label)
        y, x = inside[rng.integers(len(inside))]
        found.append((int(y), int(x)))
    return found


def _objects(crop: Crop, count: int) -> list[int]:
    """Return the objects nearest to the middle of the crop that are not tiny."""
    size = np.bincount(crop.labels.ravel())
    middle = [(n - 1) / 2 for n in crop.labels.shape]
    away = {}
    for label in np.flatnonzero(size >= MIN_PIXELS):
        if label:
            centre = np.argwhere(crop.labels == label).mean(axis=0)
            away[int(label)] = float(np.hypot(*(centre - middle)))
    return sorted(away, key=lambda label: away[label])[:count]


def _rows(crop: Crop, query: tuple[int, int]) -> dict[Name, AttentionRow]:
    """Return all rows of a pixel: per block the mean, every head, and weighed by values; the readout."""
    rows: dict[Name, AttentionRow] = {}
    for name, block in crop.tape.blocks.items():
        rows[name, "weights"] = crop.tape.row(name, query)
        if crop.tape.has_values(name):
            rows[name, "value"] = crop.tape.row(name, query, "mean", value=True)
        for head in range(block.heads if block.heads > 1 else 0):
            rows[name, f"head {head}"] = crop.tape.row(name, query, head)
    return rows


def _rollouts(crop: Crop, start: tuple[int, int] | npt.NDArray[np.bool_]) -> dict[Name, AttentionRow]:
    """Return the rollouts of a pixel or an object, plain and weighed by values."""
    rows: dict[Name, AttentionRow] = {}
    if crop.tape.exposed:
        rows[ROLLOUT, "weights"] = rollout_row(crop.tape, start, value=False)
    if has_parts(crop.tape):
        rows[ROLLOUT, "value"] = rollout_row(crop.tape, start, value=True)
    return rows


def _signed(crop: Crop, rollout: Doubles, target: npt.NDArray[np.bool_]) -> Doubles:
    """Return a rollout on cells with the sign of what each cell's features speak for."""
    weight = (target / max(int(target.sum()), 1)).astype(np.float32)
    spoken = crop.engine.evidence(crop.image, weight, zoom=crop.zoom, norm=crop.norm)
    total = np.zeros(crop.cells.shape)
    for name, values in spoken.items():
        total += regrid(values, crop.tape.block(name).grid, crop.cells)
    found: Doubles = rollout * np.sign(total.ravel())
    return found


def _gradient(crop: Crop, target: npt.NDArray[np.bool_]) -> Doubles:
    """Return what covering each cell would change, by the gradient: the first-order estimate, absolute."""
    weight = (target / max(int(target.sum()), 1)).astype(np.float32)
    slope = crop.engine.gradient(crop.image, weight, zoom=crop.zoom, norm=crop.norm)
    step = normalize.apply(crop.fill, crop.norm) - normalize.apply(crop.image, crop.norm)
    moved = slope * step
    rows, cols = crop.cells.index_maps()
    flat = (rows[:, None] * crop.cells.shape[1] + cols).ravel()
    per_pixel = moved.reshape(*target.shape, -1).sum(axis=2).ravel()
    found: Doubles = np.abs(np.bincount(flat, per_pixel, minlength=crop.cells.shape[0] * crop.cells.shape[1]))
    return found


def _agreement(
    crop: Crop, tally: Tally, query: tuple[int, int], change: Doubles, rng: np.random.Generator
) -> None:
    """Compare every map of a pixel with the influence of the cells on it."""
    others = np.arange(change.shape[1]) != _own(crop, query)
    near = -math.distances(crop.cells, query)
    target = np.zeros(crop.labels.shape, dtype=bool)
    target[query] = True
    mine, any_ = crop.labels == crop.labels[query], crop.labels > 0
    tally.add(("", "area same"), float(mine.mean()))
    tally.add(("", "area any"), float(any_.mean()))
    maps: dict[Name, Doubles] = {}
    for name, row in {**_rows(crop, query), **_rollouts(crop, query)}.items():
        maps[name] = math.on_cells(row, crop.cells)
        tally.add((*name, "same"), mass_on(row, mine))
        tally.add((*name, "any"), mass_on(row, any_))
    if (ROLLOUT, "value") in maps:
        maps[ROLLOUT, SIGNED] = _signed(crop, maps[ROLLOUT, "value"], target)
    maps["gradient", ""] = _gradient(crop, target)
    maps["influence", ""], maps["influence", SIGNED] = change[0], change[2]
    maps["nearness", ""] = near
    maps["random", ""] = rng.random(len(near))
    for name, values in maps.items():
        kept = values[others], change[0][others]
        tally.add((*name, "spearman"), math.spearman(*kept))
        tally.add((*name, "vote"), math.spearman(values[others], change[1][others]))
        if name[0] != "nearness":
            tally.add((*name, "partial"), math.partial_spearman(*kept, near[others]))


def _own(crop: Crop, query: tuple[int, int]) -> int:
    row, col = crop.cells.token_of(query)
    return row * crop.cells.shape[1] + col


def _object_maps(crop: Crop, mask: npt.NDArray[np.bool_]) -> dict[Name, Doubles]:
    """Return the maps of an object: mean rows of its pixels, rollout, gradient, nearness to its middle."""
    maps: dict[Name, Doubles] = {}
    for name in crop.tape.blocks:
        maps[name, "weights"] = math.on_cells(object_row(crop.tape, name, mask), crop.cells)
        if crop.tape.has_values(name):
            maps[name, "value"] = math.on_cells(object_row(crop.tape, name, mask, value=True), crop.cells)
    for key, row in _rollouts(crop, mask).items():
        maps[key] = math.on_cells(row, crop.cells)
    if (ROLLOUT, "value") in maps:
        maps[ROLLOUT, SIGNED] = _signed(crop, maps[ROLLOUT, "value"], mask)
    maps["gradient", ""] = _gradient(crop, mask)
    middle = np.argwhere(mask).mean(axis=0)
    maps["nearness", ""] = -math.distances(crop.cells, (float(middle[0]), float(middle[1])))
    return maps


def _significance(
    crop: Crop,
    tally: Tally,
    label: int,
    before: npt.NDArray[np.float32],
    limits: CheckLimits,
    rng: np.random.Generator,
) -> None:
    """Cover the cells that an object's middle pixel attends to most, and as many random ones."""
    inside = np.argwhere(crop.labels == label)
    y, x = inside[((inside - inside.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    query = int(y), int(x)
    eligible = np.flatnonzero(np.arange(crop.cells.shape[0] * crop.cells.shape[1]) != _own(crop, query))
    count = min(limits.cells, max(1, len(eligible) // 3))
    rows = {**_rows(crop, query), **_rollouts(crop, query)}
    maps = {n: math.on_cells(r, crop.cells) for n, r in rows.items() if "head" not in n[1]}
    target = np.zeros(crop.labels.shape, dtype=bool)
    target[query] = True
    if (ROLLOUT, "value") in maps:
        maps[ROLLOUT, SIGNED] = _signed(crop, maps[ROLLOUT, "value"], target)
    maps["gradient", ""] = _gradient(crop, target)
    maps["nearness", ""] = -math.distances(crop.cells, query)
    sets = [math.top(values, count, eligible) for values in maps.values()]
    sets += [rng.choice(eligible, count, replace=False) for _ in range(limits.draws)]
    change = np.abs(crop.outputs(sets)[:, 0, query[0], query[1]] - before[0, query[0], query[1]])
    random = change[len(maps) :].tolist()
    for name, value in zip(maps, change.tolist(), strict=False):
        tally.add((*name, "significant"), float(math.p_value(value, random) < math.LEVEL))


def _curves(
    crop: Crop,
    tally: Tally,
    label: int,
    influence: Doubles,
    limits: CheckLimits,
    rng: np.random.Generator,
) -> None:
    """Cover, and show, the cells in the order of each map, and follow the object's foreground probability."""
    mask = crop.labels == label
    maps = _object_maps(crop, mask)
    maps["influence", ""], maps["influence", SIGNED] = influence
    count = crop.cells.shape[0] * crop.cells.shape[1]
    orders: dict[Name, npt.NDArray[np.intp]] = {n: np.argsort(-v, kind="stable") for n, v in maps.items()}
    for number in range(limits.orders):
        orders["random", str(number)] = rng.permutation(count)
    steps = [round(f * count) for f in _FRACTIONS]
    sets = [order[:n] for order in orders.values() for n in steps[1:-1]]
    sets += [order[n:] for order in orders.values() for n in steps[1:-1]]
    sets += [np.array([], dtype=np.intp), np.arange(count)]
    raw = crop.outputs(sets)[:, 0][:, mask]
    held = _sigmoid(raw.astype(np.float64)).mean(axis=1)
    full, empty = held[-2], held[-1]
    curves = (held[:-2] / max(float(full), 1e-6)).reshape(2, len(orders), len(steps) - 2)
    ends = float(empty / max(float(full), 1e-6))
    areas = {
        name: (
            math.area_under(_FRACTIONS, [1.0, *curves[0, n], ends]),
            math.area_under(_FRACTIONS, [ends, *curves[1, n], 1.0]),
        )
        for n, name in enumerate(orders)
    }
    chance = [np.mean([a[k] for name, a in areas.items() if name[0] == "random"]) for k in (0, 1)]
    tally.add(("random", "", "deletion"), float(chance[0]))
    tally.add(("random", "", "insertion"), float(chance[1]))
    for name in maps:
        tally.add((*name, "deletion"), areas[name][0])
        tally.add((*name, "insertion"), areas[name][1])
        tally.add((*name, "beats"), float(areas[name][0] < chance[0]))
