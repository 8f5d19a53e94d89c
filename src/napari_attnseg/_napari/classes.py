"""Labels layers that hold class numbers: what is known in them, how the classes are called, their colours."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_attnseg._napari.corrections import Found, cells, region_mask, samples
from napari_attnseg._napari.layers import META
from napari_attnseg.core import normalize
from napari_attnseg.core.axes import plane_keys
from napari_attnseg.core.classes import MOST, class_names, default_name, numbered_names
from napari_attnseg.core.corrections import CONTEXT, Changes
from napari_attnseg.errors import AttnSegError
from napari_attnseg.jobs.planes import open_plane
from napari_attnseg.records import Progress, Sample
from napari_attnseg.store import models

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from napari_attnseg._napari.corrections import How, Pair
    from napari_attnseg.records import PlaneKey

NAMES = "attnseg_classes"  # our key in a Labels layer's metadata: pairs of class number and name


# -- names and colours ----------------------------------------------------------------------------


def names_of(layer: Labels) -> dict[int, str]:
    """Return the names of the class numbers of a layer: those the user gave, else its table of features."""
    given = layer.metadata.get(NAMES)
    if given is not None:
        return {int(number): str(name) for number, name in given}
    table = layer.features
    if "index" not in table or "class" not in table or not of_classes(layer):
        return {}
    rows = zip(table["index"], table["class"], strict=True)
    found: dict[int, str] = {int(number): str(name) for number, name in rows if name}
    return found


def set_name(layers: Iterable[Labels], number: int, name: str) -> None:
    """Call a class number by a name, in the metadata of layers."""
    for layer in layers:
        names = {**names_of(layer), number: name}
        layer.metadata[NAMES] = [[n, names[n]] for n in sorted(names)]


def parent_classes(model: str) -> tuple[str, ...]:
    """Return the classes that a model tells apart; () where it knows objects only, or is not there."""
    try:
        return class_names(models.find(model).card)
    except AttnSegError:
        return ()


def numbers_of(pair: Pair, how: How, classes: Sequence[str]) -> tuple[int, ...]:
    """Return the number that each class of a model has in a layer: that of its name, else a free one."""
    held = {int(n) for key in plane_keys(pair.source) for n in np.unique(pair.after(key)) if n}
    names = {**{n: default_name(n) for n in sorted(held)}, **dict(how.names), **names_of(pair.labels)}
    of_name = {name: number for number, name in sorted(names.items(), reverse=True)}
    free = (n for n in count(1) if n not in names)
    return tuple(of_name[name] if name in of_name else next(free) for name in classes)


def name_filled(layer: Labels, names: Mapping[int, str]) -> None:
    """Note the names of classes that were filled into a layer, and show them in its table."""
    for number, name in names.items():
        set_name([layer], number, name)
    if set(layer.features) <= {"index", "class", "pixels"}:
        every = names_of(layer)
        layer.features = {"index": list(every), "class": list(every.values())}


def show_as_painted(layer: Labels, layers: Sequence[Any]) -> None:
    """Give the classes of a result the colours in which the user painted classes of the same names."""
    names = names_of(layer)
    if not names or not of_classes(layer):
        return
    colours: dict[str, Any] = {}
    for other in layers:
        if isinstance(other, Labels) and other is not layer and NAMES in other.metadata:
            shown = ((name, other.get_color(number)) for number, name in names_of(other).items())
            colours |= {name: colour for name, colour in shown if colour is not None and colour[3] > 0}
    wanted = {number: colours[name] for number, name in names.items() if name in colours}
    if all(np.allclose(layer.get_color(number), colour) for number, colour in wanted.items()):
        return
    every: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    every |= {number: wanted.get(number, layer.get_color(number)) for number in range(1, MOST + 1)}
    layer.colormap = DirectLabelColormap(color_dict=every)


def holds_classes(pair: Pair) -> bool:
    """Tell whether labels hold the class numbers of a run, or were filled with them."""
    filled = pair.kept is not None and pair.kept.params.task == "classes"
    return filled or of_classes(pair.labels)


def of_classes(layer: Labels) -> bool:
    """Tell whether a layer holds the class numbers of a run, or classes that the user named or had filled.

    A name that was emptied again, so that it says "class 1", does not count.
    """
    if META in layer.metadata:
        return bool(layer.metadata[META].get("params", {}).get("task") == "classes")
    given = layer.metadata.get(NAMES, ())
    named = any(name != default_name(int(number)) for number, name in given)
    return named or (bool(given) and "class" in layer.features)


# -- what is known --------------------------------------------------------------------------------


def class_pairs(listed: Sequence[Pair]) -> list[Pair]:
    """Return the pairs whose labels may be classes: all but the objects that a run found."""
    return [pair for pair in listed if META not in pair.labels.metadata or holds_classes(pair)]


def scan_classes(listed: Sequence[Pair], how: How) -> Generator[Progress, None, list[Found]]:
    """Count the known pixels of every class on every plane; every pair has a row, if only an empty one."""
    found: list[Found] = []
    for number, pair in enumerate(listed):
        rows = []
        for key in plane_keys(pair.source):
            yield Progress(number, len(listed), f"Looking at {pair.labels.name}")
            one = _look(pair, key, how)
            if one.pixels or one.done or one.trouble:
                rows.append(one)
        found.extend(rows or [Found(pair, plane_keys(pair.source)[0], Changes(), 0, 0)])
    return found


def _look(pair: Pair, key: PlaneKey, how: How) -> Found:
    after, done = pair.after(key), pair.done(key)
    values = np.unique(after)
    if np.count_nonzero(values) > MOST or values.max(initial=0) > 1000 or values.min(initial=0) < 0:
        trouble = f"{np.count_nonzero(values):,} numbers: these look like objects"
        return Found(pair, key, Changes(), 0, 0, done, trouble=trouble)
    mask = known_classes(pair, key, how, after)
    if mask is None:
        return Found(pair, key, Changes(), 0, 0, done)
    kinds, pixels = np.unique(after[mask], return_counts=True)
    numbers = tuple((int(k), int(n)) for k, n in zip(kinds, pixels, strict=True))
    count = sum(1 for kind, _ in numbers if kind)
    return Found(pair, key, Changes(), count, int(mask.sum()), done, numbers)


def known_classes(
    pair: Pair, key: PlaneKey, how: How, after: npt.NDArray[np.int32]
) -> npt.NDArray[np.bool_] | None:
    """Return where the numbers teach, (H, W) bool: what was painted or changed, or what the user says."""
    mode = how.of(pair)
    if mode == "" or (mode == "done" and not pair.done(key)):
        return None
    if mode == "regions":
        mask = region_mask(pair, key, how.regions)
    elif mode == "objects":
        before = pair.before(key, after)
        mask = after != 0 if before is None else after != before
    else:
        mask = np.ones(after.shape, dtype=bool)
    return mask if mask.any() else None


def class_samples(chosen: Sequence[Found], how: How) -> Generator[Progress, None, list[Sample]]:
    """Cut the training samples of the chosen planes out of the images."""
    return samples(chosen, how, _samples)


def _samples(pair: Pair, key: PlaneKey, how: How) -> Iterator[Sample]:
    after = pair.after(key)
    mask = known_classes(pair, key, how, after)
    if mask is None:
        return
    names: Mapping[int, str] = {**dict(how.names), **names_of(pair.labels)}
    count = int(after[mask].max(initial=0))
    classes = numbered_names(max(count, 1), [names.get(n, "") for n in range(1, count + 1)])
    plane = open_plane(pair.source, key, channel=pair.channel)
    for cell in cells(mask):
        y, x = (
            slice(max(0, s.start - CONTEXT), min(n, s.stop + CONTEXT))
            for s, n in zip(cell, mask.shape, strict=True)
        )
        known = np.zeros(mask.shape, dtype=bool)
        known[cell] = mask[cell]
        image = normalize.planes(plane.read((y, x)), plane.norm)
        yield Sample(image, after[y, x], known[y, x], pair.title(key), (y.start, x.start), classes=classes)
