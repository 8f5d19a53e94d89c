"""How long a row and a map of attention take, and how much memory a large image's attention needs: no test.

    python tests/benchmarks/bench_attention.py [--sizes 1024 2048] [--model base] [--repeats 200]
    python tests/benchmarks/bench_attention.py --memory 4096

The first form records one tape per size and times rows of every block (from the query to an array that a
layer can take), plain and weighed by values, and the maps over the field.  ``--memory`` maps a generated
image of that side tile by tile through the cache, as the window does, and prints what is held then.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from napari_attnseg.core.attention_maps import kinds_of
from napari_attnseg.core.axes import source_of
from napari_attnseg.core.synth import fluorescence
from napari_attnseg.engine import Engine, load_engine
from napari_attnseg.jobs.attention_maps import field_map, plane_map
from napari_attnseg.jobs.encode import tiles_of
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.tape import default_block, record_tape
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import PlaneKey
from napari_attnseg.store.cache import TapeCache

MIB = 2**20


def times(engine: Engine, side: int, repeats: int) -> None:
    """Time rows and maps of one tape."""
    image = fluorescence((side, side), 0)[0]
    tape = engine.tape(image)
    print(f"{side} x {side}: tape {tape.nbytes / MIB:.1f} MiB")
    rng = np.random.default_rng(0)
    for name in tape.blocks:
        shape = tape.block(name).grid.shape
        for value in (False, True) if tape.has_values(name) else (False,):
            tape.row(name, (0, 0), value=value)  # keys are promoted once
            taken, used = [], []
            for _ in range(repeats):
                pixel = int(rng.integers(side)), int(rng.integers(side))
                start, cpu = time.perf_counter(), time.process_time()
                row = tape.row(name, pixel, value=value)
                np.ascontiguousarray(row.weights.reshape(1, *row.weights.shape))
                taken.append((time.perf_counter() - start) * 1e3)
                used.append((time.process_time() - cpu) * 1e3)
            words = "by values" if value else "plain"
            print(
                f"  row {name} ({shape[0] * shape[1]} tokens, {words}): median {median(taken):.2f} ms,"
                f" 95 % below {np.percentile(taken, 95):.2f} ms, processor {median(used):.2f} ms"
            )
        for kind in kinds_of(tape, name):
            start = time.perf_counter()
            drive(field_map(tape, kind, name))
            print(f"  map {kind} of {name}: {time.perf_counter() - start:.2f} s")


def memory(engine: Engine, side: int) -> None:
    """Map a large image tile by tile and say what its attention takes."""
    corner = fluorescence((1024, 1024), 0)[0]
    image = np.tile(corner, (side // 1024 + 1, side // 1024 + 1))[:side, :side]
    source, params = source_of(image), SegmentParams(diameter=engine.card.diameter)
    drive(record_tape(engine, source, PlaneKey(), None, None, params))  # the network's own memory is taken
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        cache = TapeCache(memory_bytes=2**40, disk_bytes=0, folder=Path(folder))
        tape = drive(record_tape(engine, source, PlaneKey(), None, None, params, cache))
        assert tape is not None
        block = default_block(tape)
        found = drive(plane_map(engine, source, PlaneKey(), "received", block, "mean", None, params, cache))
        assert found is not None
        tiles = len(tiles_of((side, side), params, tape.zoom))
        print(
            f"{side} x {side}, {tiles} tiles: coarse blocks of all tiles and all of the last one"
            f" {cache.nbytes / MIB:.0f} MiB; one whole tile {tape.nbytes / MIB:.1f} MiB;"
            f" map of {found.values.shape[0]} x {found.values.shape[1]} tokens"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"  peak memory of the process grew by {(peak - before) / 1024:.0f} MiB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--model", default="base")
    parser.add_argument("--memory", type=int, metavar="SIDE")
    args = parser.parse_args()
    engine = load_engine(args.model, "cpu")
    if args.memory:
        memory(engine, args.memory)
    else:
        for side in args.sizes:
            times(engine, side, args.repeats)


if __name__ == "__main__":
    main()
