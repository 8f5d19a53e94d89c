"""Draw the best, the median and the worst image of each set: what the scores look like.

    python docs/recipes/pictures.py --data DIR/val --out docs/images/how-good --sets dsb2018 usiigaci

Images are ranked by AP at IoU 0.5.  A picture shows a square of each image (true outlines green, found ones
orange), scaled to the same side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from measure import each, engine_of, network, options
from skimage.segmentation import find_boundaries
from skimage.transform import resize

from napari_attnseg.core.metrics import compare, scores
from napari_attnseg.params import SegmentParams

Array = np.ndarray[Any, Any]
SIDE = 300  # pixels of the picture
LEAST = 160  # pixels of the image, at least


def tile(image: Array, truth: Array, found: Array) -> Array:
    """Return a square of the image beside the same with outlines, (SIDE, 2 SIDE + 4, 3) uint8."""
    side = min(max(LEAST, round(9 * np.sqrt((truth > 0).sum() / max(truth.max(), 1)))), *truth.shape)
    rows, columns = (np.arange(0, n, 32) for n in truth.shape)
    busy = np.add.reduceat(np.add.reduceat(truth > 0, rows), columns, axis=1)
    y, x = (32 * int(n) for n in np.unravel_index(busy.argmax(), busy.shape))
    y, x = (int(np.clip(c + 16 - side // 2, 0, n - side)) for c, n in zip((y, x), truth.shape, strict=True))
    cut = slice(y, y + side), slice(x, x + side)
    low, high = np.percentile(image, [1, 99.8])
    plain = np.clip((image[cut].astype(float) - low) / max(high - low, 1), 0, 1) ** 0.8
    plain = np.repeat(plain[..., None], 3, axis=2) if plain.ndim == 2 else plain
    plain = resize(plain, (SIDE, SIDE), order=1)
    drawn = plain.copy()
    for labels, colour in ((truth, (0.1, 0.85, 0.2)), (found, (1.0, 0.55, 0.0))):
        big = resize(labels[cut], (SIDE, SIDE), order=0, preserve_range=True, anti_aliasing=False)
        drawn[find_boundaries(big.astype(int), mode="inner")] = colour
    both = np.concatenate([plain, np.ones((SIDE, 4, 3)), drawn], axis=1)
    return (both * 255).astype(np.uint8)


def main() -> None:
    """Segment, rank, draw."""
    parser = options(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    args = parser.parse_args()
    engine = engine_of(args)
    segment = network(engine, SegmentParams())
    ranked: dict[str, list[tuple[float, Array, Array, Array]]] = {}
    for row, image, truth in each(args.data, dict.fromkeys(args.sets, 1)):
        found = segment(image)
        ap = scores(compare(found, truth))["ap"]["0.50"]
        ranked.setdefault(f"{row['dataset']}-{row['kind']}", []).append((ap, image, truth, found))
    args.out.mkdir(parents=True, exist_ok=True)
    for name, images in ranked.items():
        images.sort(key=lambda one: -one[0])
        shown = [images[0], images[len(images) // 2], images[-1]]
        gap = np.full((SIDE, 12, 3), 255, np.uint8)
        row_of = [part for one in shown for part in (tile(*one[1:]), gap)][:-1]
        imageio.imwrite(args.out / f"{name}.jpg", np.concatenate(row_of, axis=1), quality=82)
        print(name, "AP@.5 best, median, worst:", ", ".join(f"{one[0]:.2f}" for one in shown), flush=True)


if __name__ == "__main__":
    main()
