"""Layers that show what fine-tuning does: a preview while it learns, then before, after and difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_attnseg._napari.classes import parent_classes
from napari_attnseg._napari.layers import META, labels_geometry
from napari_attnseg._napari.rerun import order_of
from napari_attnseg._napari.shown import plane_indices
from napari_attnseg.core.classes import class_difference
from napari_attnseg.core.merge import CHANGED, FOUND, LOST, common, difference
from napari_attnseg.jobs.segment import segment
from napari_attnseg.jobs.warmup import warmup
from napari_attnseg.records import Progress

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy.typing as npt
    from napari.components import LayerList

    from napari_attnseg._napari.corrections import Found, Pair
    from napari_attnseg._napari.tuning import Place
    from napari_attnseg.engine import Engine
    from napari_attnseg.params import Task
    from napari_attnseg.records import PlaneKey

    Plane = npt.NDArray[np.int32]

COLOURS: dict[int | None, str] = {LOST: "#e0523f", FOUND: "#3fae5a", CHANGED: "#3d8fe0"}
LEGEND = "Red: {lost} only before · green: {found} only after · blue: the border moved"
CLASS_LEGEND = "Red: a class only before · green: only after · blue: another class"
_SHARE, _FEWEST = 0.75, 3  # a model that finds fewer of the user's objects, by so many at least, is warned of


@dataclass(frozen=True, slots=True)
class Compared:
    """One plane as the old and as the new model segment it.

    Attributes
    ----------
    before, after : ndarray, (H, W) int32
    legend : str
        What the colours of the difference mean.
    missed : str
        A warning where the new model misses many of the user's objects; "" else.
    """

    found: Found
    before: Plane
    after: Plane
    task: Task = "instances"
    legend: str = CLASS_LEGEND
    missed: str = ""


def legend(before: Plane, after: Plane) -> str:
    """Return what the colours of the difference mean, and how many objects have the first two."""
    both = len(common(before, after))
    lost, found = (_number(plane) - both for plane in (before, after))
    return LEGEND.format(lost=f"{lost} object{'' if lost == 1 else 's'}", found=found)


def missed(mine: npt.NDArray[np.integer], before: Plane, after: Plane) -> str:
    """Return what is to be said where the new model finds far fewer of the user's objects; "" else.

    Parameters
    ----------
    mine : ndarray, (H, W) int
        The user's labels; another shape tells nothing.
    before, after : ndarray, (H, W) int32
        What the old and the new model find.
    """
    if mine.shape != before.shape:
        return ""
    old, new = (len(common(mine, plane)) for plane in (before, after))
    if new > min(_SHARE * old, old - _FEWEST):
        return ""
    return (
        f"Of your {_number(mine)} objects on this plane the model before finds {old}, the new one {new}. "
        "If those that it misses are right, roll back, accept some of them (A in Correct) and train anew."
    )


def _number(labels: npt.NDArray[np.integer]) -> int:
    """Return how many objects there are."""
    return int(np.count_nonzero(np.unique(labels)))


def compare_models(
    engine: Engine | None, found: Found, parent: str, model: str, device: str, task: Task = "instances"
) -> Generator[Progress, None, Compared]:
    """Segment one plane with both models, with the same parameters.

    Parameters
    ----------
    engine : Engine or None
        Of the parent, where it is loaded.
    """
    results = []
    for name, loaded in ((parent, engine), (model, None)):
        made = yield from warmup(name, device) if loaded is None else _as_is(loaded)
        try:
            order = order_of(found.pair, name, device, task)
            result, _ = yield from segment(
                made, order.source, order.params, planes=[found.key], field=order.field
            )
        finally:
            if loaded is None:
                made.close()
        results.append(np.asarray(result.labels[found.key.index]))
    before, after = results
    if task == "classes":
        return Compared(found, before, after, task)
    mine = found.pair.exact(found.key)
    return Compared(found, before, after, task, legend(before, after), missed(mine, before, after))


def _as_is(engine: Engine) -> Generator[Progress, None, Engine]:
    yield Progress(0, 1, "Segmenting with the model before")
    return engine


@dataclass(slots=True)
class Comparison:
    """The layers of a comparison, of which one is looked at; what else lies over the image is hidden.

    Attributes
    ----------
    shown : mapping of str to Labels
        "before", "after", "difference" and, where it is there still, "labels": what the user corrected.
    hidden : list of layer
        Made visible again at the end.
    """

    layers: LayerList
    shown: dict[str, Labels]
    hidden: list[Any]

    def look(self, which: str) -> None:
        """Show one of the layers."""
        for name, layer in self.shown.items():
            layer.visible = name == which

    def close(self) -> None:
        """Remove what was made for the comparison and show the rest as it was."""
        remove(self.layers, ("comparison", "difference"))
        for layer in {*self.hidden, *self.shown.values()}:
            layer.visible = layer in self.hidden


def show_comparison(layers: LayerList, compared: Compared, names: tuple[str, str]) -> Comparison | None:
    """Put both results and their difference over the image; None if the image is gone.

    Parameters
    ----------
    names : tuple of str
        Of the model before and of the new one.
    """
    pair, key = compared.found.pair, compared.found.key
    if pair.image not in layers:
        return None
    made = {}
    classes = compared.task == "classes"
    planes = (
        (f"before ({names[0]})", compared.before, "comparison"),
        (f"after ({names[1]})", compared.after, "comparison"),
        ("difference", _difference(compared, names[0]), "difference"),
    )
    over = [one for one in layers if one.visible and (META in one.metadata or one is pair.labels)]
    selected = set(layers.selection)
    at = layers.index(pair.labels) + 1 if pair.labels in layers else len(layers)
    for number, (word, plane, kind) in enumerate(planes):
        layer = _layer(pair, key, f"{pair.image.name} · {word}", kind)
        layer.data[_at(pair, key)] = plane
        if kind == "difference":
            layer.colormap = _colormap()
        if kind == "comparison" and not classes:
            layer.contour = 2
        layers.insert(at + number, layer)
        made[word.split()[0]] = layer
    layers.selection = selected & set(layers)
    for other in over:
        other.visible = False
    if pair.labels in layers:
        made["labels"] = pair.labels
    found = Comparison(layers, made, over)
    found.look("difference")
    return found


def _difference(compared: Compared, parent: str) -> Plane:
    """Return where both results differ; a parent that knows objects only tells no class from another."""
    if compared.task == "classes":
        return class_difference(compared.before, compared.after, told=bool(parent_classes(parent)))
    return difference(compared.before, compared.after)


def _colormap() -> DirectLabelColormap:
    return DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", **COLOURS})


def show_preview(layers: LayerList, place: Place, labels: Plane | None = None) -> Labels | None:
    """Show the preview field as the learning model segments it; None if the image is gone.

    Without ``labels`` the layer is made, empty: napari takes a third of a second to add one, which is better
    spent when Start is pressed than while somebody paints.
    """
    pair, index = place.found.pair, _at(place.found.pair, place.found.key)
    if pair.image not in layers:
        return None
    layer = _ours(layers, "preview")
    shape = tuple(s.stop - s.start for s in place.field)
    if labels is None:
        labels = np.zeros(shape, dtype=np.int32)
    if labels.shape != shape:
        return layer
    if layer is None or layer.metadata[META].get("of") != pair.key:
        remove(layers, ("preview",))
        layer = _layer(pair, place.found.key, f"{pair.image.name} · fine-tuning preview", "preview")
        layer.contour = 2
        layer.data[(*index, *place.field)] = labels
        selected = set(layers.selection)
        layers.append(layer)
        layers.selection = selected
        return layer
    layer.data[(*index, *place.field)] = labels
    layer.refresh()
    return layer


def remove(layers: LayerList, kinds: tuple[str, ...]) -> None:
    """Remove the layers of some kinds that this plugin made."""
    for layer in [one for one in layers if one.metadata.get(META, {}).get("kind") in kinds]:
        layers.remove(layer)


def _ours(layers: LayerList, kind: str) -> Any:
    return next((one for one in layers if one.metadata.get(META, {}).get("kind") == kind), None)


def _at(pair: Pair, key: PlaneKey) -> tuple[int, ...]:
    """Return where a plane lies in a layer of :func:`_layer`."""
    (index,) = plane_indices(pair.axes, [key.index]) or ((),)
    return index


def _layer(pair: Pair, key: PlaneKey, name: str, kind: str) -> Labels:
    """Return an empty Labels layer that lies over the image; pages nobody writes take no memory."""
    source = pair.source
    shape: tuple[int, ...] = (*source.plane_shape, *source.shape_yx)
    channel = pair.axes.find("C")
    if channel > 0:
        shape = (*shape[:channel], 1, *shape[channel:])
    return Labels(
        np.zeros(shape, dtype=np.int32),
        name=name,
        metadata={META: {"kind": kind, "image": source.name, "plane": list(key.index), "of": pair.key}},
        **labels_geometry(pair.image, pair.axes),
    )
