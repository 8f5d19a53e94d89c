"""How long a segmentation takes, as a ratio to a matrix product of the same run; not a test.

    python tests/benchmarks/bench_segment.py [--sizes 512 1024] [--repeats 5] [--device cpu]

The unit is one 1024 x 1024 float32 ``torch`` matrix product in processor seconds (on a GPU: wall seconds).
Network and readout are timed apart, warm, on a new generated image for each repetition; the median counts.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import TYPE_CHECKING

import torch

from napari_attnseg.core.postprocess import read_out
from napari_attnseg.core.synth import fluorescence
from napari_attnseg.engine import load_engine
from napari_attnseg.params import ReadoutParams

if TYPE_CHECKING:
    from collections.abc import Callable


def timed(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the seconds of one call."""
    start = clock()
    run()
    return clock() - start


def main() -> None:
    """Measure and print one line per size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    engine = load_engine("base", args.device)
    on_cpu = engine.device.startswith("CPU")
    clock = time.process_time if on_cpu else time.perf_counter
    where = "cpu" if on_cpu else args.device
    a = torch.randn(1024, 1024, device=where)

    def product() -> None:
        (a @ a).sum().item()  # .item() waits for a GPU

    product()
    unit = median(timed(product, clock) for _ in range(20))
    print(f"{engine.device}; unit {unit * 1e3:.2f} ms")
    for size in args.sizes:
        images = [fluorescence((size, size), seed)[0] for seed in range(args.repeats + 1)]
        engine.maps(images[0])
        network, readout, objects = [], [], 0
        for image in images[1:]:
            start = clock()
            maps = engine.maps(image)
            middle = clock()
            labels, _ = read_out(maps, ReadoutParams())
            network.append((middle - start) / unit)
            readout.append((clock() - middle) / unit)
            objects = int(labels.max())
        total = [n + r for n, r in zip(network, readout, strict=True)]
        print(
            f"{size} x {size}: network {median(network):.1f} + readout {median(readout):.1f}"
            f" = {median(total):.1f} units ({objects} objects in the last image)"
        )


if __name__ == "__main__":
    main()
