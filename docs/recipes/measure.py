"""Measure a model on a folder of labelled images and print one table: how the card's scores were made.

    python docs/recipes/measure.py --data DIR/val --model base
    python docs/recipes/measure.py --data DIR/val --model base --readout watershed --classic

The folder has an ``index.csv`` (columns dataset, image, labels, task, kind); rows whose task starts with
``instance`` count, and those of ``CLASSES``: there each connected piece of the named classes is an object.
Scores are pooled per dataset and kind: AP = TP / (TP + FP + FN) after Hungarian matching; dice is that of
all objects against the rest.  ``--classic`` adds Otsu's threshold and a watershed as a baseline.
``--folder`` measures a model folder that is not installed.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.io import imread

from napari_attnseg.core.axes import source_of
from napari_attnseg.core.metrics import Counts, compare, pooled
from napari_attnseg.engine import Engine, load_engine
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.segment import segment
from napari_attnseg.params import THRESHOLD, SegmentParams

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    Array = np.ndarray[Any, Any]


# what the checks of one model share: every n-th image of the sets that show most
EVERY = {"dsb2018": 1, "usiigaci": 1, "tnbc_he": 2, "isbi2012_em": 6}

# sets labelled by class, and the classes whose connected pieces of 30 pixels or more are taken as objects
CLASSES = {"wbc": (2,), "nasa_ebc": (2, 3)}


def pieces(classes: Array, wanted: Collection[int]) -> Array:
    """Return the connected pieces of some classes as objects."""
    from skimage.measure import label

    found = label(np.isin(classes, list(wanted)), connectivity=1)
    found[np.bincount(found.ravel())[found] < 30] = 0
    return found.astype(np.int32)


def each(
    folder: Path, every: Mapping[str, int] | None = None, wanted: Collection[str] | None = None
) -> Iterator[tuple[dict[str, str], Array, Array]]:
    """Yield (row, image, labels) of the images with instances, or with classes that stand for them.

    Parameters
    ----------
    folder : Path
        With ``index.csv``.
    every : mapping of str to int, or None
        Takes every n-th image of these datasets and no others; None takes all of all.
    wanted : collection of str, or None
        Takes only these (column ``image``).
    """
    seen: dict[str, int] = {}
    with (folder / "index.csv").open() as file:
        for row in csv.DictReader(file):
            name = row["dataset"]
            if every is not None and name not in every:
                continue
            by_class = row["task"] == "semantic" and name in CLASSES
            if not (row["task"].startswith("instance") or by_class):
                continue
            if wanted is not None and row["image"] not in wanted:
                continue
            seen[name] = seen.get(name, -1) + 1
            if every is not None and seen[name] % every[name]:
                continue
            image = imread(folder / row["image"])
            image = image[..., :3] if image.ndim == 3 else image
            labels = imread(folder / row["labels"]).astype(np.int32)
            yield row, image, pieces(labels, CLASSES[name]) if by_class else labels


def rescaled(image: Array, labels: Array, factor: float) -> tuple[Array, Array] | None:
    """Resize an image and its labels; None where the median object then leaves 8 to 200 pixels."""
    from skimage.transform import rescale

    areas = np.bincount(labels.ravel())[1:]
    diameter = factor * float(np.sqrt(np.median(areas[areas > 0]) * 4 / np.pi)) if areas.any() else 0.0
    if not 8 <= diameter <= 200:
        return None
    if factor == 1:
        return image, labels
    axis = 2 if image.ndim == 3 else None
    big = rescale(image.astype(np.float32), factor, order=1, anti_aliasing=factor < 1, channel_axis=axis)
    names = rescale(labels, factor, order=0, preserve_range=True, anti_aliasing=False)
    return big, names.astype(np.int32)


def network(engine: Engine, params: SegmentParams) -> Callable[[Array], Array]:
    """Return the function from an image to labels by the model, with the tiles of a run in the window."""

    def run(image: Array) -> Array:
        found, _ = drive(segment(engine, source_of(image), params))
        return found.labels

    return run


def classic(image: Array) -> Array:
    """Segment by Otsu's threshold (the rarer side is foreground) and a watershed on the distance map."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter, label
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.segmentation import watershed

    grey = gaussian_filter(image.mean(axis=2) if image.ndim == 3 else image.astype(float), 1)
    mask = grey > threshold_otsu(grey)
    if mask.mean() > 0.5:
        mask = ~mask
    depth = distance_transform_edt(mask)
    peaks = peak_local_max(gaussian_filter(depth, 1), min_distance=5, labels=label(mask)[0])
    markers = np.zeros(mask.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, markers, mask=mask)


def options(about: str | None) -> argparse.ArgumentParser:
    """Return what all recipes that read a folder with one model ask for."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="base")
    parser.add_argument("--folder", type=Path, help="a model folder instead of an installed model")
    parser.add_argument("--json", type=Path, help="write the table here")
    return parser


def engine_of(args: argparse.Namespace) -> Engine:
    """Load the model that was asked for."""
    return from_folder(args.folder) if args.folder else load_engine(args.model, "cpu")


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--sets", nargs="*", help="datasets; all by default")
    parser.add_argument("--kinds", nargs="*", help="kinds; all by default")
    parser.add_argument(
        "--scale", type=float, help="resize; only images with objects of 8 to 200 pixels then"
    )
    parser.add_argument("--images", type=Path, help="JSON list of images (column 'image') to measure on")
    parser.add_argument("--readout", default="auto", choices=["auto", "seeds", "watershed"])
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    parser.add_argument("--mirror", default="auto", choices=["auto", "always", "never"])
    parser.add_argument("--classic", action="store_true")
    parser.add_argument("--min-confidence", type=float, default=0.0)
    parser.add_argument("--tile", type=int, help="side of a tile, pixels; the default of a run without")
    args = parser.parse_args()

    params = SegmentParams(
        readout=args.readout,
        threshold=args.threshold,
        min_confidence=args.min_confidence,
        tile=args.tile,
        mirror=args.mirror,
    )
    engine = engine_of(args)
    methods = {args.model: network(engine, params)} | ({"otsu+watershed": classic} if args.classic else {})
    wanted = set(json.loads(args.images.read_text())) if args.images else None
    counts: dict[tuple[str, str, str], list[Counts]] = {}
    seconds: dict[tuple[str, str, str], float] = {}
    every = dict.fromkeys(args.sets, 1) if args.sets else None
    for row, image, truth in each(args.data, every, wanted):
        if args.kinds and row["kind"] not in args.kinds:
            continue
        if (sized := rescaled(image, truth, args.scale) if args.scale else (image, truth)) is None:
            continue
        image, truth = sized
        for name, method in methods.items():
            key = (row["dataset"], row["kind"], name)
            start = time.perf_counter()
            found = method(image)
            seconds[key] = seconds.get(key, 0.0) + time.perf_counter() - start
            counts.setdefault(key, []).append(compare(found, truth))
    table = []
    for key, values in sorted(counts.items()):
        result = pooled(values)
        per_image = [pooled([v])["ap"]["0.50"] for v in values]
        line = {
            "dataset": key[0],
            "kind": key[1],
            "method": key[2],
            "n": len(values),
            "ap50": round(result["ap"]["0.50"], 4),
            "mean_ap": round(result["mean_ap"], 4),
            "f1": round(result["f1"], 4),
            "pq": round(result["pq"], 4),
            "dice": round(result["dice"], 4),
            "ap50_mean_of_images": round(float(np.mean(per_image)), 4),
            "seconds_per_image": round(seconds[key] / len(values), 3),
        }
        table.append(line)
        print("  ".join(f"{k} {v}" for k, v in line.items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


def from_folder(folder: Path) -> Engine:
    """Load a model folder that is not installed."""
    from napari_attnseg.nn.engine import TorchEngine
    from napari_attnseg.store.models import read_card

    return TorchEngine.from_files(read_card(folder / "card.json"), folder / "weights.safetensors", "cpu")


if __name__ == "__main__":
    main()
