"""Running a new model on labels that the user corrected: the corrections stay, the rest is filled anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

from napari_attnseg._napari.classes import known_classes, name_filled, numbers_of
from napari_attnseg._napari.corrections import Pair, known_pixels
from napari_attnseg._napari.edits import not_writable, put
from napari_attnseg._napari.kept import Kept
from napari_attnseg._napari.layers import META
from napari_attnseg._napari.marks import checked
from napari_attnseg._napari.orders import Order, run_orders
from napari_attnseg._napari.shown import copy_planes
from napari_attnseg.core.axes import clip_field, plane_keys
from napari_attnseg.core.merge import Merged, merge, merge_classes, territory
from napari_attnseg.errors import InputError
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import PlaneKey, Progress

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    import numpy.typing as npt

    from napari_attnseg._napari.corrections import How
    from napari_attnseg._napari.orders import Outcome
    from napari_attnseg._napari.session import Session
    from napari_attnseg.engine import Engine
    from napari_attnseg.params import Task
    from napari_attnseg.records import Segmentation


@dataclass(frozen=True, slots=True)
class Refill:
    """The planes of one Labels layer with a new prediction around the user's objects.

    Attributes
    ----------
    planes : mapping of PlaneKey to (labels, Merged)
        What the plane held when it was merged, and what it becomes.
    numbers : dict of int to str, or None
        Number in the layer and name of every class of the model, in its order; None where objects are filled.
    accepted : frozenset of int
        Ids in the layer that were marked as accepted when it was merged.
    """

    pair: Pair
    how: How
    params: SegmentParams
    segmentation: Segmentation
    field: tuple[slice, slice]
    planes: dict[PlaneKey, tuple[npt.NDArray[np.int32], Merged]]
    numbers: dict[int, str] | None = None
    accepted: frozenset[int] = frozenset()


def order_of(pair: Pair, model: str, device: str, task: Task = "instances") -> Order:
    """Return the order that runs a model on what a Labels layer was made from, or on all of its image."""
    about = pair.labels.metadata.get(META, {})
    source = pair.source
    keys = plane_keys(source)
    named = about.get("planes")
    planes = keys if named is None else [PlaneKey(tuple(index)) for index in named]
    planes = [*planes, *(key for key in keys if key not in planes and pair.after(key).any())]
    part = about.get("field")
    window = None if part is None else (slice(*part[0]), slice(*part[1]))
    params = pair.kept.params if pair.kept is not None else SegmentParams()
    params = params.model_copy(update={"model": model, "device": device, "method": "attention", "task": task})
    return Order(pair.image, source, params, tuple(planes), window, planes[0], "whole layer")


def rerun(
    engine: Engine | None, listed: Sequence[Pair], how: How, model: str, device: str
) -> Generator[Progress, None, tuple[Engine | None, list[Refill]]]:
    """Segment the images of all pairs with a model and merge the results; nothing is written yet.

    Where ``how`` says that the labels are classes, classes are filled, else objects.
    """
    orders = [order_of(pair, model, device, how.task) for pair in listed]
    engine, outcomes = yield from run_orders(engine, orders)
    made = []
    for number, (pair, outcome) in enumerate(zip(listed, outcomes, strict=True)):
        yield Progress(number, len(listed), f"Keeping your corrections in {pair.labels.name}")
        made.append(_refill(pair, how, outcome))
    return engine, made


def _refill(pair: Pair, how: How, outcome: Outcome) -> Refill:
    order = outcome.order
    window = clip_field(order.source, order.field)
    named = None
    if how.task == "classes":
        classes = [str(name) for name in outcome.segmentation.features.get("class", ())]
        if not classes:
            raise InputError(
                f"'{order.params.model}' tells no classes apart.", "Choose a model that learnt classes."
            )
        named = dict(zip(numbers_of(pair, how, classes), classes, strict=True))
    accepted = frozenset(checked(pair.labels))
    made = Refill(pair, how, order.params, outcome.segmentation, window, {}, named, accepted)
    top = _top(pair)
    for key in order.planes or plane_keys(order.source):
        current = pair.after(key)
        merged = _merged(made, key, current, top)
        made.planes[key] = current, merged
        top = max(top, *merged.ids.values(), 0)  # ids are unique across planes
    return made


def _merged(made: Refill, key: PlaneKey, current: npt.NDArray[np.int32], top: int) -> Merged:
    pair = made.pair
    before = pair.before(key, current)
    outside = np.ones(current.shape, dtype=bool)
    outside[made.field] = False
    new = np.asarray(made.segmentation.labels[key.index])
    if made.numbers is not None:
        painted = current != (0 if before is None else before)
        known = known_classes(pair, key, made.how, current)
        decided = painted | outside if known is None else painted | outside | known
        return merge_classes(current, before, new, decided, list(made.numbers))
    changes = pair.changes(before, current)  # what was accepted is the user's, too
    decided = territory(before, current, changes.kept)
    known = known_pixels(pair, key, made.how)  # regions and planes that the user called complete
    if known is not None:
        decided |= known
    return merge(current, before, new, decided | outside, top)


def _top(pair: Pair) -> int:
    """Return the largest id that the layer holds or that was ever predicted for it."""
    known = () if pair.kept is None else pair.kept.versions
    return max(int(np.max(labels)) for labels in (pair.labels.data, *known))


def apply(session: Session, made: Refill) -> int:
    """Write a refill into its layer as one step that ctrl+z takes back; return the pixels that changed.

    What the user drew or accepted since the merge is looked at again.  A hidden layer is shown: napari
    keeps no history of one that it never drew.

    Raises
    ------
    InputError
        The layer's numbers are too small for the new objects, or its data cannot be written.
    """
    pair, layer = made.pair, made.pair.labels
    if why := not_writable(layer):
        raise InputError(why)
    where: list[tuple[npt.NDArray[np.int64], ...]] = []
    values: list[npt.NDArray[np.int32]] = []
    version = _version(pair, made.planes)
    top = max(_top(pair), *(id_ for _, merged in made.planes.values() for id_ in merged.ids.values()), 0)
    ids: dict[int, int] = {}  # in the prediction: in the layer
    marked = checked(layer) != made.accepted
    for key, (then, merged) in made.planes.items():
        now, result = pair.after(key), merged
        if marked or not np.array_equal(then, now):
            result = _merged(made, key, now, top)
            top = max(top, *result.ids.values(), 0)
        index = pair.index(key)
        changed = np.nonzero(result.labels != now)
        where.append((*(np.full(changed[0].size, i) for i in index), *changed))
        values.append(result.labels[changed])
        version[index] = result.before
        ids |= result.ids
    flat = np.concatenate(values)
    if flat.size and int(flat.max()) > np.iinfo(layer.data.dtype).max:
        raise InputError(
            f"The layer '{layer.name}' can hold numbers up to {np.iinfo(layer.data.dtype).max} only.",
            "Right-click it, convert it to int32, and run again.",
        )
    if flat.size and not layer.visible:
        layer.visible = True
    put(layer, tuple(np.concatenate(parts) for parts in zip(*where, strict=True)), flat)
    if made.numbers is not None:
        name_filled(layer, made.numbers)
    _rename_features(layer, made.segmentation, ids)
    kept = pair.kept
    if kept is None:
        nothing = np.zeros(version.shape, dtype=np.int32)  # what it resembles after ctrl+z
        kept = Kept(ref(pair.image), pair.axes, made.params, version, (version, nothing))
    else:
        kept = kept.renewed(version, made.params)
    session.keep(layer, kept)
    if META in layer.metadata:
        layer.metadata[META] = {**layer.metadata[META], "model": made.params.model}
    return int(flat.size)


def _version(pair: Pair, planes: Iterable[PlaneKey]) -> npt.NDArray[np.int32]:
    """Return a copy of what is compared with; planes that hold nothing take no memory."""
    if pair.kept is None:
        return np.zeros(pair.labels.data.shape, dtype=np.int32)
    return copy_planes(pair.kept.versions[0], tuple(pair.index(key) for key in planes))


def _rename_features(layer: Any, segmentation: Segmentation, ids: dict[int, int]) -> None:
    """Give the new objects their rows in the layer's table; the rows of others stay."""
    features = segmentation.features
    if "index" not in features or "index" not in layer.features or not ids:
        return
    taken = np.isin(np.asarray(features["index"]), list(ids))
    rows = [ids[int(i)] for i in np.asarray(features["index"])[taken]]
    table = layer.features.drop_duplicates("index").set_index("index")
    if "class" in features and "class" not in table:
        table["class"] = ""
    flags = [name for name in table if table[name].dtype == bool]
    table = table.reindex(sorted({*table.index.tolist(), *rows}))
    for name in table:
        if name in features:
            table.loc[rows, name] = np.asarray(features[name])[taken]
        elif name in flags:
            table[name] = table[name].eq(True)  # new objects have no flag
            table.loc[rows, name] = False
        elif table[name].dtype.kind == "f":
            table.loc[rows, name] = np.nan  # what was said of another object
    layer.features = table.reset_index()
