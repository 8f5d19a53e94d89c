"""Check a model's attention on a set of images: whether it tells what matters to the network.

One crop of every image is measured (:mod:`napari_attnseg.jobs.crop_check`); the means are the report.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core import faithfulness as math
from napari_attnseg.core.axes import check, plane_keys
from napari_attnseg.core.faithfulness_report import MapScore, ModelReport, interval
from napari_attnseg.core.postprocess import read_out
from napari_attnseg.errors import InputError
from napari_attnseg.jobs.crop_check import MIN_PIXELS, CheckLimits, Crop, Tally, measure
from napari_attnseg.jobs.encode import default_readout, find_zoom, tile_side
from napari_attnseg.jobs.kept_check import KeptCheck
from napari_attnseg.jobs.planes import Plane, centre, open_plane
from napari_attnseg.records import PlaneKey, Progress

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from napari_attnseg.engine import Engine
    from napari_attnseg.params import SegmentParams
    from napari_attnseg.records import ImageSource

_STEPS = 6  # of progress, per image


@dataclass(frozen=True, slots=True)
class CheckImage:
    """One image to check on; the model's own objects stand in where ``labels`` (H, W) is None."""

    source: ImageSource
    plane: PlaneKey = field(default_factory=PlaneKey)
    labels: npt.NDArray[np.int32] | None = None


def check_model(
    engine: Engine,
    images: Sequence[CheckImage],
    params: SegmentParams,
    *,
    seed: int = 0,
    limits: CheckLimits | None = None,
    work: Path | None = None,
) -> Generator[Progress, None, ModelReport]:
    """Measure how far the attention of a model tells what matters to it.

    Parameters
    ----------
    images : sequence of CheckImage
        Images without an object are passed over.
    params : SegmentParams
        Channel and diameter count.
    work : Path or None
        A folder for what was measured on each image: images that are there already, with the same model
        and settings, are not measured again.

    Raises
    ------
    InputError
        No image has an object.
    StoreError
        ``work`` cannot be written.
    """
    limits = limits or CheckLimits()
    made_with = {
        "sha256": engine.card.sha256,
        "seed": seed,
        **asdict(limits),
        **params.model_dump(mode="json"),
    }
    kept = KeptCheck(work, made_with)
    tally, total = Tally(), len(images) * _STEPS
    for number, image in enumerate(images):
        note = f"Image {number + 1} of {len(images)}"
        yield Progress(number * _STEPS, total, f"{note}: {image.source.name}")
        measured = kept.load(number, image.source.name)
        if measured is None:
            one = Tally()
            rng = np.random.default_rng((seed, number))
            crop = yield from _crop_of(engine, image, params, limits, rng)
            if crop is not None:
                one.images.append({})
                for step, what in enumerate(measure(crop, one, limits, rng)):
                    done = number * _STEPS + min(1 + step // 4, _STEPS - 1)
                    yield Progress(done, total, f"{note}: {what}")
            measured = one.images
            kept.save(number, image.source.name, measured)
        tally.images += measured
    if not tally.images:
        raise InputError("None of the images has an object to check on.", "Choose images with objects.")
    return _report(engine, tally, limits, seed)


def _crop_of(
    engine: Engine,
    image: CheckImage,
    params: SegmentParams,
    limits: CheckLimits,
    rng: np.random.Generator,
) -> Generator[Progress, None, Crop | None]:
    """Return a crop around a random pixel of an object of an image, or None where there is none."""
    check(image.source)
    plane = open_plane(image.source, image.plane, None, params.channel)
    zoom, _ = yield from find_zoom(engine, plane, params)
    labels, start = image.labels, (0, 0)
    if labels is None:
        labels, start = _own_labels(engine, plane, params, zoom)
    inside = np.argwhere(labels > 0)
    if not len(inside):
        return None
    at, side = inside[rng.integers(len(inside))], round(limits.side / zoom)
    low = [int(np.clip(p - side // 2, 0, max(n - side, 0))) for p, n in zip(at, labels.shape, strict=True)]
    part = tuple(slice(v, min(v + side, n)) for v, n in zip(low, labels.shape, strict=True))
    here = labels[part]
    shape = int(here.shape[0]), int(here.shape[1])
    cells = math.cell_grid(zoom, (0, 0), shape)
    if min(cells.shape) < 3 or np.bincount(here.ravel())[1:].max(initial=0) < MIN_PIXELS:
        return None
    y, x = (slice(p.start + s, p.stop + s) for p, s in zip(part, start, strict=True))
    pixels = np.asarray(plane.read((y, x)), dtype=np.float32)
    tape = engine.tape(pixels, zoom=zoom, norm=plane.norm)
    return Crop(engine, pixels, here, zoom, plane.norm, tape, cells, math.fill_of(pixels, cells.cell))


def _own_labels(
    engine: Engine, plane: Plane, params: SegmentParams, zoom: float
) -> tuple[npt.NDArray[np.int32], tuple[int, int]]:
    """Return the model's objects in the middle of a plane, and where that begins."""
    window = centre(plane, tile_side(params, zoom))
    maps = engine.maps(plane.read(window), zoom=zoom, norm=plane.norm)
    labels, _ = read_out(maps, params, default_readout(engine))
    return labels, (window[0].start, window[1].start)


def _report(engine: Engine, tally: Tally, limits: CheckLimits, seed: int) -> ModelReport:
    """Return the means of what was measured."""
    names = dict.fromkeys(k[:2] for image in tally.images for k in image if k[2:] == ("spearman",))
    scores = []
    for name, variant in names:
        mean, low, high = interval([image.get((name, variant, "spearman"), []) for image in tally.images])

        def of(what: str, name: str = name, variant: str = variant) -> float | None:
            return tally.mean((name, variant, what))

        scores.append(
            MapScore(
                name, variant, mean, low, high, of("vote") or 0.0, of("partial"), of("same"), of("any"),
                of("deletion"), of("insertion"), of("beats"), of("significant"),
            )
        )  # fmt: skip
    return ModelReport(
        model=engine.card.id,
        sha256=engine.card.sha256,
        images=len(tally.images),
        queries=len(tally.all(("", "area same"))),
        objects=len(tally.all(("random", "", "deletion"))),
        area_same=tally.mean(("", "area same")) or 0.0,
        area_objects=tally.mean(("", "area any")) or 0.0,
        scores=tuple(scores),
        settings={"seed": seed, **asdict(limits)},
    )


def images_of(folder: Path) -> list[CheckImage]:
    """Return the first plane of every image of a folder, without labels.

    Raises
    ------
    InputError
        The folder has no image, or one cannot be read.
    """
    from napari_attnseg.store.images import images_in, read_image

    found = [read_image(path) for path in images_in(folder).values()]
    if not found:
        raise InputError(f"'{folder}' has no images.", "Choose a folder with TIFF, PNG, JPEG or zarr images.")
    return [CheckImage(source, plane_keys(source)[0]) for source in found]


def save_report(report: ModelReport, folder: Path) -> tuple[Path, Path]:
    """Write ``faithfulness_<model>.json`` and ``.md`` into a folder, both or none, and return their paths.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """
    from napari_attnseg.store.images import replacing

    paths = tuple(folder / f"faithfulness_{report.model}.{ending}" for ending in ("json", "md"))
    with replacing(paths[0]) as one, replacing(paths[1]) as two:
        one.write_text(report.to_json(), encoding="utf-8")
        two.write_text(report.markdown(), encoding="utf-8")
    return paths[0], paths[1]
