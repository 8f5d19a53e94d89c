"""Ranking objects and fields by how much they want a correction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core import normalize, ranking
from napari_attnseg.core.axes import check, clip_field
from napari_attnseg.core.render import outline
from napari_attnseg.errors import InputError, ModelError
from napari_attnseg.jobs.encode import default_readout, encode_part, find_zoom, noted, shown, tiles_of
from napari_attnseg.jobs.planes import BLOCK, Plane, open_plane
from napari_attnseg.jobs.segment import plane_labels
from napari_attnseg.records import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping

    import numpy.typing as npt

    from napari_attnseg.core.ranking import Suspect
    from napari_attnseg.engine import Engine
    from napari_attnseg.params import SegmentParams
    from napari_attnseg.records import DenseMaps, Encoded, ImageSource, PlaneKey

    Labels = npt.NDArray[np.int32]
    _Turn = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

# Flips and turns that the plane is looked at in, and how each is undone.
VIEWS: tuple[tuple[_Turn, _Turn], ...] = (
    (np.fliplr, np.fliplr),
    (np.flipud, np.flipud),
    (np.rot90, lambda a: np.rot90(a, -1)),
)
THUMBNAIL = 56  # pixels
_LISTED = 100  # of each kind that get a thumbnail
_NEAR = 1.6  # a thumbnail shows this many times the object's extent


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a ranking found.

    Attributes
    ----------
    suspects : tuple of Suspect
        Objects, and places where one may be missing, most suspect first; done objects are left out.
    fields : tuple of Suspect
        The same of fields.
    doubts : mapping of PlaneKey to Doubts
        The doubts about every object that was looked at, done ones too.
    """

    suspects: tuple[Suspect, ...]
    fields: tuple[Suspect, ...]
    doubts: Mapping[PlaneKey, ranking.Doubts]

    @property
    def scores(self) -> dict[int, float]:
        """The score of every object by its id; the highest where an id lies on several planes."""
        found: dict[int, float] = {}
        for doubts in self.doubts.values():
            for label, score in zip(doubts.index, doubts.score, strict=True):
                found[int(label)] = max(float(score), found.get(int(label), 0.0))
        return found


@dataclass(slots=True)
class _Looked:
    """What one plane gave."""

    plane: Plane
    labels: npt.NDArray[np.integer]
    doubts: ranking.Doubts
    missed: list[Suspect]
    embedding: npt.NDArray[np.float32] | None


def rank(
    engine: Engine | None,
    source: ImageSource,
    params: SegmentParams,
    labels: Mapping[PlaneKey, npt.NDArray[np.integer]],
    *,
    encoded: Encoded | None = None,
    done: Mapping[PlaneKey, Collection[int]] | None = None,
    thorough: bool = True,
) -> Generator[Progress, None, Ranking]:
    """Rank the objects of some planes.

    Parameters
    ----------
    engine : Engine or None
        May be None where ``encoded`` has all planes and ``thorough`` is off.
    params : SegmentParams
        Those of the run that made the labels.
    labels : mapping of PlaneKey to ndarray, (H, W) int
        The planes to look at, as they are labelled now.
    encoded : Encoded, optional
        What the run kept; planes that are not in it go through the network.
    done : mapping of PlaneKey to collection of int, optional
        Objects that the user drew, corrected or accepted: not listed, and what novelty is measured from.
    thorough : bool
        Look at flipped and turned views, and at novelty, too.

    Raises
    ------
    InputError
        There is nothing to look at, or a plane is too large to be held.
    ModelError
        The network is needed and not there.
    """
    check(source)
    if not labels:
        raise InputError("There is no plane to look at.", "Choose a Labels layer over an image.")
    done = done or {}
    looked: dict[PlaneKey, _Looked] = {}
    for number, (key, plane) in enumerate(labels.items()):
        job = _look(engine, source, params, key, plane, encoded, thorough)
        looked[key] = yield from _share(job, number, len(labels))
    if thorough:
        _add_novelty(looked, done)
    yield Progress(len(labels), len(labels), "Drawing the list")
    return _ranking(looked, done)


def _share(
    job: Generator[Progress, None, _Looked], number: int, count: int
) -> Generator[Progress, None, _Looked]:
    """Pass progress on as a share of all planes."""
    lead = f"Plane {number + 1} of {count}: " if count > 1 else ""
    try:
        while True:
            step = next(job)
            yield Progress(step.done + number * step.total, step.total * count, lead + step.note)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        job.close()


def _look(
    engine: Engine | None,
    source: ImageSource,
    params: SegmentParams,
    key: PlaneKey,
    labels: npt.NDArray[np.integer],
    encoded: Encoded | None,
    thorough: bool,
) -> Generator[Progress, None, _Looked]:
    """Return the doubts about one plane; novelty is added when all planes are known."""
    total = 2 + (len(VIEWS) + 1) * thorough
    kept = encoded if encoded is not None and key in encoded.maps else None
    yield Progress(0, total, "Reading the image")
    plane = open_plane(source, key, clip_field(source, kept.field if kept else None), params.channel)
    if plane.big:
        raise InputError(
            f"A plane of more than {BLOCK} x {BLOCK} pixels is too large to be ranked.",
            "Segment the visible field, then rank that.",
        )
    if engine is None and (thorough or kept is None):
        raise ModelError("The network is needed for this.", "Wait until it is loaded.")
    if kept is not None:
        maps, zoom = kept.maps[key], kept.zoom[key]
    else:
        assert engine is not None
        zoom, whole = yield from find_zoom(engine, plane, params, 0, total)
        if whole is None:
            whole = yield from _encode(engine, plane, zoom, params, (0, total), "Running the network")
        maps = whole
    here = labels[plane.field]
    yield Progress(1, total, "Reading the margins")
    ids = ranking.ids_of(here)
    doubt = ranking.pixel_doubt(maps, params.threshold, params.split)
    doubts = ranking.Doubts(ids, ranking.mean_by_object(doubt, here, ids))
    views: list[Labels] = []
    embedding = None
    if thorough and engine is not None:
        for number, (turn, back) in enumerate(VIEWS):
            note = f"Flipped view {number + 1} of {len(VIEWS)}"
            other = shown(plane, np.ascontiguousarray(turn(plane.read())))
            seen = yield from _encode(engine, other, zoom, params, (2 + number, total), note)
            views.append(back(plane_labels(seen, params, default_readout(engine))[0]))
        doubts = replace(doubts, views=ranking.disagreement(here, views))
        yield Progress(total - 1, total, "Comparing objects")
        embedding = _embedding(engine, plane, zoom, params, here, ids)
    lost = ranking.missed(maps, here, views, params.threshold, params.min_size)
    return _Looked(plane, here, doubts, lost, embedding)


def _encode(
    engine: Engine, plane: Plane, zoom: float, params: SegmentParams, at: tuple[int, int], note: str
) -> Generator[Progress, None, DenseMaps]:
    """Return the maps of a plane; one ``Progress`` per tile, all of the same step ``at``."""
    h, w = plane.shape
    job = encode_part(engine, plane, (slice(0, h), slice(0, w)), zoom, params)
    return (yield from noted(job, note, at))


def _embedding(
    engine: Engine,
    plane: Plane,
    zoom: float,
    params: SegmentParams,
    labels: npt.NDArray[np.integer],
    ids: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """Return the mean embedding of every object, (C, n), from the tiles' embeddings."""
    total: npt.NDArray[np.float32] | None = None
    for tile in tiles_of(plane.shape, params, zoom):
        part = engine.features(plane.read(tile.read), zoom=zoom, norm=plane.norm)[(..., *tile.crop)]
        here = labels[tile.core]
        sums = ranking.mean_by_object(part, here, ids) * ranking.sizes_of(here, ids)
        total = sums if total is None else total + sums
    assert total is not None
    return total


def _add_novelty(looked: dict[PlaneKey, _Looked], done: Mapping[PlaneKey, Collection[int]]) -> None:
    """Measure how unlike the labelled objects of all planes each object is, in place."""
    every, labelled = [], []
    for key, found in looked.items():
        assert found.embedding is not None
        every.append(found.embedding)
        labelled.append(np.isin(found.doubts.index, list(done.get(key, ()))))
    embedding = np.concatenate(every, axis=1)
    mine = np.concatenate(labelled)
    ranks = ranking.novelty(embedding, embedding[:, mine] if mine.any() else None)
    start = 0
    for found in looked.values():
        count = len(found.doubts.index)
        found.doubts = replace(found.doubts, novelty=ranks[start : start + count], labelled=bool(mine.any()))
        start += count


def _ranking(looked: dict[PlaneKey, _Looked], done: Mapping[PlaneKey, Collection[int]]) -> Ranking:
    """Return the lists, with thumbnails for their upper parts."""
    objects: list[Suspect] = []
    areas: list[Suspect] = []
    for key, found in looked.items():
        ready = set(done.get(key, ()))
        all_ = ranking.suspects(found.labels, found.doubts)
        open_ = [*(s for s in all_ if s.label not in ready), *found.missed]
        size = ranking.sizes_of(found.labels, found.doubts.index)
        diameter = float(np.median(2 * np.sqrt(size / np.pi))) if len(size) else 24.0
        corner = found.plane.field[0].start, found.plane.field[1].start
        objects += [ranking.moved(s, corner, key) for s in open_]
        areas += [ranking.moved(s, corner, key) for s in ranking.fields(found.plane.shape, open_, diameter)]
    first, rest = ranking.ordered(objects)[:_LISTED], ranking.ordered(objects)[_LISTED:]
    drawn = [_drawn(s, looked[s.plane]) for s in first]
    shown = [_drawn(s, looked[s.plane]) for s in ranking.ordered(areas)[:_LISTED]]
    return Ranking((*drawn, *rest), tuple(shown), {key: found.doubts for key, found in looked.items()})


def _drawn(suspect: Suspect, found: _Looked) -> Suspect:
    """Return the suspect with its thumbnail: the image around it, its outline in yellow."""
    corner = found.plane.field[0].start, found.plane.field[1].start
    top, left, bottom, right = (n - corner[i % 2] for i, n in enumerate(suspect.box))
    reach = max(bottom - top, right - left) * (1.0 if suspect.kind == "field" else _NEAR) / 2
    middle = (top + bottom - 1) / 2, (left + right - 1) / 2
    spots = [np.rint(np.linspace(m - reach, m + reach, THUMBNAIL)).astype(int) for m in middle]
    h, w = found.labels.shape
    inside = ((spots[0] >= 0) & (spots[0] < h))[:, None] & ((spots[1] >= 0) & (spots[1] < w))
    y, x = np.clip(spots[0], 0, h - 1), np.clip(spots[1], 0, w - 1)
    window = slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)
    grey = np.clip(normalize.apply(found.plane.read(window), found.plane.norm), 0, 1)
    grey = grey[np.ix_(y - y[0], x - x[0])]
    picture = (np.repeat(grey[..., None], 3, axis=2) if grey.ndim == 2 else grey) * 255
    here = found.labels[np.ix_(y, x)]
    line = outline((here if suspect.kind == "field" else here == suspect.label).astype(np.int32))
    if suspect.kind != "missed":
        picture[line] = (255, 213, 74)
    picture[~inside] = 0
    return replace(suspect, picture=picture.astype(np.uint8))
