"""What a user corrected: labels beside their images, what changed in them, and what counts as known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from napari.layers import Labels, Shapes

from napari_attnseg._napari.layers import META, axes_choices, images, source_of
from napari_attnseg._napari.marks import checked
from napari_attnseg._napari.shown import plane_indices
from napari_attnseg.core import normalize
from napari_attnseg.core.axes import name_plane, plane_keys
from napari_attnseg.core.corrections import (
    CONTEXT,
    Changes,
    compare_labels,
    known_mask,
    make_sample,
)
from napari_attnseg.errors import AttnSegError
from napari_attnseg.jobs.planes import open_plane
from napari_attnseg.records import PlaneKey, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    import numpy.typing as npt
    from napari.components import LayerList
    from napari.layers import Image

    from napari_attnseg._napari.kept import Kept
    from napari_attnseg._napari.session import Session
    from napari_attnseg._napari.shown import Plane
    from napari_attnseg.params import Task
    from napari_attnseg.records import ImageSource, Sample

Pixels = Literal["objects", "regions", "done", "all"]
DONE = "attnseg_done"  # our key in a Labels layer's metadata: planes that the user ticked as done
_CELL = 2048  # side of the pieces into which a wide known area is cut, pixels


@dataclass(frozen=True, slots=True)
class How:
    """What counts as known.

    Attributes
    ----------
    pixels : {"objects", "regions", "done", "all"}
        For labels whose prediction is kept.
    foreign : same, or ""
        For labels without one; "" while the user has not said.
    regions : tuple of ndarray, (n, d) float
        Outlines of the regions in world coordinates.
    task : {"instances", "classes"}
        What the labels are.
    names : tuple of (int, str)
        Names of class numbers.
    """

    pixels: Pixels = "objects"
    foreign: Pixels | Literal[""] = ""
    regions: tuple[npt.NDArray[np.float64], ...] = ()
    task: Task = "instances"
    names: tuple[tuple[int, str], ...] = ()

    def of(self, pair: Pair) -> Pixels | Literal[""]:
        """Return what counts for a pair."""
        return self.foreign if pair.kept is None else self.pixels


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and labels drawn on it.

    Attributes
    ----------
    axes : str
        What the axes of the image mean.
    channel : int or None
        The channel that was segmented.
    kept : Kept or None
        What was predicted; None for labels from elsewhere.
    """

    image: Image
    labels: Labels
    axes: str
    channel: int | None = None
    kept: Kept | None = None

    @property
    def source(self) -> ImageSource:
        """The image as jobs take it."""
        return source_of(self.image, self.axes)

    @property
    def key(self) -> str:
        """The same for the same two layers, whatever their names."""
        return f"{self.image.unique_id} {self.labels.unique_id}"

    def index(self, key: PlaneKey) -> Plane:
        """Return where a plane lies in the labels."""
        if self.labels.ndim - 2 == len(key.index):
            return tuple(key.index)
        (index,) = plane_indices(self.axes, [key.index]) or ((),)
        return index

    def after(self, key: PlaneKey) -> npt.NDArray[np.int32]:
        """Return what the labels hold now on a plane, (H, W); a copy."""
        return np.array(self.labels.data[self.index(key)]).astype(np.int32, copy=False)

    def exact(self, key: PlaneKey) -> npt.NDArray[np.integer]:
        """Return the same in int64 where the layer may hold ids that are too large for int32."""
        found = np.array(self.labels.data[self.index(key)])
        return found.astype(np.int32 if np.can_cast(found.dtype, np.int32) else np.int64, copy=False)

    def before(self, key: PlaneKey, after: npt.NDArray[np.integer]) -> npt.NDArray[np.int32] | None:
        """Return what was predicted there; None where it is not known."""
        return None if self.kept is None else self.kept.before(self.index(key), after)

    def changes(self, before: npt.NDArray[np.int32] | None, after: npt.NDArray[np.integer]) -> Changes:
        """Return what the user corrected or accepted between two states of a plane."""
        return compare_labels(before, after, checked(self.labels))

    def done(self, key: PlaneKey) -> bool:
        """Tell whether the user ticked the plane as done."""
        return list(key.index) in self.labels.metadata.get(DONE, [])

    def title(self, key: PlaneKey) -> str:
        """Return image and plane in words."""
        plane = name_plane(self.source, key)
        return f"{self.image.name}, {plane}" if plane else str(self.image.name)


@dataclass(frozen=True, slots=True)
class Found:
    """One plane that can be learnt from.

    Attributes
    ----------
    changes : Changes
        Between prediction and labels.
    objects : int
        Objects that the labels hold there.
    pixels : int
        Pixels that count as known.
    numbers : tuple of (int, int)
        Class numbers and their known pixels, where the labels are classes.
    trouble : str
        Why the labels cannot be classes.
    """

    pair: Pair
    key: PlaneKey
    changes: Changes
    objects: int
    pixels: int
    done: bool = False
    numbers: tuple[tuple[int, int], ...] = ()
    trouble: str = ""

    @property
    def teaching(self) -> int:
        """Objects and erased objects that the plane teaches."""
        if self.pixels == 0:
            return 0
        return self.changes.count or self.objects


def mark_done(pair: Pair, key: PlaneKey, on: bool) -> None:
    """Note in the layer's metadata that everything on a plane is labelled, or that it is not."""
    planes = [index for index in pair.labels.metadata.get(DONE, []) if index != list(key.index)]
    pair.labels.metadata[DONE] = [*planes, list(key.index)] if on else planes


def pairs(layers: LayerList, session: Session) -> list[Pair]:
    """Return every Labels layer that fits an image, top first, but those that only show something."""
    found = []
    for layer in reversed(layers):
        if not isinstance(layer, Labels) or layer.multiscale:
            continue
        if layer.metadata.get(META, {}).get("kind", "labels") != "labels":
            continue
        pair = _pair(layers, layer, session)
        if pair is not None:
            found.append(pair)
    return found


def _pair(layers: LayerList, labels: Labels, session: Session) -> Pair | None:
    kept = session.kept(labels)
    image = kept.image() if kept is not None else None
    if kept is not None and image is not None and image in layers:
        return Pair(image, labels, kept.axes, kept.params.channel, kept)
    name = labels.metadata.get(META, {}).get("image")
    below = layers.index(labels)

    def rank(candidate: Image) -> tuple[bool, bool, int]:
        away = abs(below - layers.index(candidate))
        return candidate.name != name, not labels.name.startswith(candidate.name), away

    for candidate in sorted(images(layers), key=rank):
        axes = _fitting_axes(candidate, labels)
        if axes is not None:
            return Pair(candidate, labels, axes)
    return None


def _fitting_axes(image: Image, labels: Labels) -> str | None:
    """Return the reading of the image's axes under which the labels have one plane for each of its planes."""
    if image.ndim < 2:
        return None
    for axes in axes_choices(image):
        try:
            source = source_of(image, axes)
        except AttnSegError:
            continue
        shape = (*source.plane_shape, *source.shape_yx)
        channel = axes.find("C")
        stepped = (*shape[:channel], 1, *shape[channel:]) if channel > 0 else shape
        if tuple(labels.data.shape) in (shape, stepped):
            return axes
    return None


# -- what is known -----------------------------------------------------------------------------------


def outlines(layer: Shapes | None) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the outlines of the areas of a Shapes layer, world coordinates; lines have no area."""
    if layer is None:
        return ()
    found = []
    for corners, kind in zip(layer.data, layer.shape_type, strict=True):
        if kind in ("line", "path"):
            continue
        points = _round(np.asarray(corners)) if kind == "ellipse" else np.asarray(corners)
        found.append(np.array([layer.data_to_world(point) for point in points], dtype=float))
    return tuple(found)


def _round(corners: npt.NDArray[np.floating[Any]], steps: int = 64) -> npt.NDArray[np.float64]:
    """Return points on the ellipse inside four corners."""
    centre = corners.mean(axis=0)
    a, b = (corners[1] - corners[0]) / 2, (corners[2] - corners[1]) / 2
    turn = np.linspace(0, 2 * np.pi, steps, endpoint=False)[:, None]
    ellipse: npt.NDArray[np.float64] = centre + np.cos(turn) * a + np.sin(turn) * b
    return ellipse


def region_mask(
    pair: Pair, key: PlaneKey, regions: Sequence[npt.NDArray[np.float64]]
) -> npt.NDArray[np.bool_]:
    """Return which pixels of a plane lie in one of the outlines, (H, W) bool.

    An outline of fewer axes than the labels holds for every plane.
    """
    from skimage.draw import polygon2mask

    labels, index = pair.labels, pair.index(key)
    shape = tuple(int(n) for n in labels.data.shape[-2:])
    mask = np.zeros(shape, dtype=bool)
    here = np.asarray(labels.data_to_world((*index, 0, 0)), dtype=float)
    for outline in regions:
        points = outline[:, -labels.ndim :]
        lead = np.tile(here[: labels.ndim - points.shape[1]], (len(points), 1))
        inside = np.array([labels.world_to_data(p) for p in np.hstack([lead, points])])
        if (np.round(inside[:, :-2]) == np.asarray(index)).all():
            mask |= polygon2mask(shape, inside[:, -2:])
    return mask


def _known(
    pair: Pair, key: PlaneKey, how: How, before: Any, after: npt.NDArray[np.integer], changes: Changes
) -> tuple[npt.NDArray[np.bool_] | None, dict[str, Any]]:
    """Return the known pixels and the arguments that make the same for a sample; None where none are."""
    mode = how.of(pair)
    if mode == "" or (mode == "done" and not pair.done(key)):
        return None, {}
    args: dict[str, Any] = {"mode": "all" if mode == "done" else mode, "regions": None}
    if mode == "regions":
        args["regions"] = region_mask(pair, key, how.regions)
        if not args["regions"].any():
            return None, {}
    return known_mask(before, after, changes, **args), args


def known_pixels(pair: Pair, key: PlaneKey, how: How) -> npt.NDArray[np.bool_] | None:
    """Return where the user said that everything is labelled, (H, W) bool; None where nothing was said."""
    if how.of(pair) in ("", "objects"):
        return None
    after = pair.after(key)
    return _known(pair, key, how, None, after, Changes())[0]


def scan(listed: Sequence[Pair], how: How) -> Generator[Progress, None, list[Found]]:
    """Compare every plane of every pair with its kept prediction, and count.

    Planes without a correction, an object or a mark are left out, one plane per pair apart, so that
    every pair is in the list.
    """
    found: list[Found] = []
    for number, pair in enumerate(listed):
        yield Progress(number, len(listed), f"Looking at {pair.labels.name}")
        rows = []
        for key in plane_keys(pair.source):
            one = _look(pair, key, how)
            if one.pixels or one.changes.count or one.done:
                rows.append(one)
            yield Progress(number, len(listed), f"Looking at {pair.labels.name}")
        found.extend(rows or [Found(pair, plane_keys(pair.source)[0], Changes(), 0, 0)])
    return found


def _look(pair: Pair, key: PlaneKey, how: How) -> Found:
    after = pair.exact(key)
    before = pair.before(key, after)
    done = pair.done(key)
    right = np.isin(list(checked(pair.labels)), after).any()
    untouched = before is not None and not right and np.array_equal(before, after)
    if untouched and not done and how.of(pair) == "objects":
        return Found(pair, key, Changes(), 0, 0)
    changes = Changes() if untouched and before is not None else pair.changes(before, after)
    mask, _ = _known(pair, key, how, before, after, changes)
    pixels = 0 if mask is None else int(mask.sum())
    if not changes.count and not after.any() and not done:
        return Found(pair, key, Changes(), 0, 0)  # nobody worked there
    objects = int(np.unique(after[mask]).astype(bool).sum()) if mask is not None else 0
    return Found(pair, key, changes, objects, pixels, done)


def samples(
    chosen: Sequence[Found], how: How, cut: Callable[[Pair, PlaneKey, How], Iterator[Sample]] | None = None
) -> Generator[Progress, None, list[Sample]]:
    """Cut the training samples of the chosen planes out of the images; ``cut`` does it for one plane."""
    cut = _samples if cut is None else cut
    made: list[Sample] = []
    for number, found in enumerate(chosen):
        title = found.pair.title(found.key)
        yield Progress(number, len(chosen), f"Reading {title}")
        for sample in cut(found.pair, found.key, how):
            made.append(sample)
            yield Progress(number, len(chosen), f"Reading {title}")
    return made


def _samples(pair: Pair, key: PlaneKey, how: How) -> Iterator[Sample]:
    after = pair.exact(key)
    before = pair.before(key, after)
    mask, args = _known(pair, key, how, before, after, pair.changes(before, after))
    if mask is None or not mask.any():
        return
    plane = open_plane(pair.source, key, channel=pair.channel)
    regions = args.pop("regions")
    for cell in cells(mask):
        part = tuple(
            slice(max(0, s.start - CONTEXT), min(n, s.stop + CONTEXT))
            for s, n in zip(cell, mask.shape, strict=True)
        )
        sample = make_sample(
            normalize.planes(plane.read((part[0], part[1])), plane.norm),
            None if before is None else before[part],
            after[part],
            regions=None if regions is None else regions[part],
            name=pair.title(key),
            checked=checked(pair.labels),
            **args,
        )
        if sample is None:
            continue
        y, x = (part[n].start + sample.origin[n] for n in (0, 1))
        inside = tuple(
            slice(max(0, s.start - o), max(0, s.stop - o)) for s, o in zip(cell, (y, x), strict=True)
        )
        only = np.zeros(sample.known.shape, dtype=bool)
        only[inside] = sample.known[inside]
        if only.any():
            yield replace(sample, known=only, origin=(y, x))


def cells(mask: npt.NDArray[np.bool_]) -> Iterator[tuple[slice, slice]]:
    """Return boxes around what is known: one, or several where it is spread over a big plane."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    for y in range(int(rows[0]), int(rows[-1]) + 1, _CELL):
        for x in range(int(cols[0]), int(cols[-1]) + 1, _CELL):
            cell = slice(y, min(y + _CELL, int(rows[-1]) + 1)), slice(x, min(x + _CELL, int(cols[-1]) + 1))
            if mask[cell].any():
                yield cell
