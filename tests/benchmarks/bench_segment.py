"""How long a segmentation takes, as a ratio to a matrix product of the same run; not a test.

    python tests/benchmarks/bench_segment.py [--sizes 512 1024] [--repeats 5] [--device cpu] [--crowd]
    python tests/benchmarks/bench_segment.py --first | --memory 2048

The unit is one 1024 x 1024 float32 ``torch`` matrix product in processor seconds (on a GPU: wall seconds).
Network and readout are timed apart, warm, on a new generated image for each repetition; the median counts.
``--first`` and ``--memory`` measure nothing else: what a fresh process needs for its first image, PyTorch
loaded, and how far the memory of a run rises above that of the loaded program (Linux).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from napari_attnseg import segment
from napari_attnseg.core.postprocess import read_out
from napari_attnseg.core.synth import fluorescence
from napari_attnseg.engine import load_engine
from napari_attnseg.params import ReadoutParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_attnseg.engine import Engine


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
    parser.add_argument("--crowd", action="store_true", help="also: the readout of few and of many objects")
    parser.add_argument("--first", action="store_true", help="only: the first result for 512 x 512")
    parser.add_argument("--memory", type=int, metavar="SIDE", help="only: the peak for SIDE x SIDE")
    args = parser.parse_args()
    if args.first or args.memory:
        first(args.device) if args.first else memory(args.memory, args.device)
        return
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
    if args.crowd:
        crowd(engine)


def first(device: str) -> None:
    """Time the first segmentation of this process: model, size estimate, network, readout."""
    image = fluorescence((512, 512), 0)[0]
    wall, cpu = time.perf_counter(), time.process_time()
    labels = segment(image, device=device)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"first result for 512 x 512: {wall:.2f} s, {cpu:.2f} processor seconds ({labels.max()} objects)")


def memory(side: int, device: str) -> None:
    """Print how far the memory of network and readout rises above that of the loaded program."""
    engine = load_engine("base", device)
    image = fluorescence((side, side), 0)[0]
    read_out(engine.maps(image[:64, :64]), ReadoutParams())  # imports scipy and scikit-image
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    count = int(read_out(engine.maps(image), ReadoutParams())[0].max())
    more = (status("VmHWM") - before) / 2**20
    print(f"{side} x {side}: {more:.2f} GiB above the loaded program at its peak ({count} objects)")


def status(name: str) -> int:
    """Return an entry of this process's status, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def crowd(engine: Engine, side: int = 2048) -> None:
    """Time the readout of a field with few big and with many small objects that cover as much."""
    seconds = {}
    for diameter in (200.0, 20.0):
        image, _ = fluorescence((side, side), 0, diameter=diameter, density=0.38, kind="ellipse")
        maps = engine.maps(image, zoom=24 / diameter if diameter > 50 else 1.0)
        read_out(maps, ReadoutParams())
        start = time.process_time()
        count = int(read_out(maps, ReadoutParams())[0].max())
        seconds[count] = time.process_time() - start
    (few, a), (many, b) = sorted(seconds.items())
    print(f"readout of {side} x {side}: {many} objects take {b / a:.2f} times as long as {few}")


if __name__ == "__main__":
    main()
