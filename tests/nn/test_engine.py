"""TorchEngine: numpy in and out, zoom, tape, memory ladder, and one clear sentence for every failure."""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from napari_attnseg.core import normalize
from napari_attnseg.core.synth import fluorescence
from napari_attnseg.engine import Engine, load_engine
from napari_attnseg.errors import (
    CheckpointError,
    EngineError,
    EngineUnavailableError,
    InputError,
    OutOfMemoryError,
    StoreError,
    UnknownModelError,
)
from napari_attnseg.nn import device as devices
from napari_attnseg.nn.checkpoint import save_model
from napari_attnseg.nn.engine import TorchEngine
from napari_attnseg.nn.memory import Ladder, is_out_of_memory
from napari_attnseg.nn.model import build_model
from napari_attnseg.records import ModelCard

ARCHITECTURE = {"architecture": "attnseg", "widths": (32, 32, 32, 32), "depth": 1}
CPU = torch.device("cpu")


@pytest.fixture
def engine() -> TorchEngine:
    torch.manual_seed(0)
    return TorchEngine(ModelCard("tiny", "Tiny", ARCHITECTURE), build_model(**ARCHITECTURE), CPU)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    return tmp_path


def test_it_is_an_engine(engine: TorchEngine) -> None:
    assert isinstance(engine, Engine)
    assert engine.device.startswith("CPU")


IMAGES = {
    "one pixel": np.zeros((1, 1), np.uint8),
    "thin": np.arange(90, dtype=np.uint16).reshape(2, 45),
    "bool": np.eye(20, dtype=bool),
    "rgb": np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8),
    "rgba": np.random.default_rng(0).integers(0, 255, (20, 30, 4), np.uint8),
    "five channels": np.random.default_rng(0).random((20, 30, 5)),
    "constant": np.full((20, 20), 7.0),
    "not finite": np.where(np.eye(20) > 0, np.nan, np.inf),
    "not contiguous": np.arange(1600, dtype=np.int32).reshape(40, 40)[::2, ::-2],
    "read-only": np.broadcast_to(np.float64(3), (16, 16)),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_every_dtype_and_form(engine: TorchEngine, image: np.ndarray) -> None:
    before = image.copy()
    maps = engine.maps(image)
    assert maps.foreground.shape == image.shape[:2]
    assert maps.offset.shape == (2, *image.shape[:2])
    for array in (maps.foreground, maps.distance, maps.size, maps.offset):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    np.testing.assert_array_equal(image, before)


def test_what_cannot_be_run_is_said(engine: TorchEngine) -> None:
    with pytest.raises(InputError, match=r"shape \(0, 5\)"):
        engine.maps(np.zeros((0, 5)))
    with pytest.raises(InputError, match="Complex"):
        engine.maps(np.zeros((5, 5), complex))


def test_lists_are_images_and_words_are_not(engine: TorchEngine) -> None:
    assert engine.maps([[0, 1], [2, 3]]).foreground.shape == (2, 2)
    with pytest.raises(InputError, match="dtype"):
        engine.tape(np.array([["a", "b"]]))
    engine.close()
    with pytest.raises(EngineError, match="was closed"):
        engine.maps(np.zeros((4, 4)))


@pytest.mark.parametrize("zoom", [0.31, 24 / 17.3, 2**0.25, 2.7])
@pytest.mark.parametrize("side", [33, 64, 97])
def test_every_token_holds_a_pixel(engine: TorchEngine, zoom: float, side: int) -> None:
    """Else its weight could not be painted, and the painted row would not add up."""
    tape = engine.tape(np.random.default_rng(0).random((side, 50)), zoom=zoom)
    for block in tape.blocks.values():
        rows, cols = block.grid.index_maps()
        assert set(rows) == set(range(block.grid.shape[0]))
        assert set(cols) == set(range(block.grid.shape[1]))


def test_grey_equals_equal_channels(engine: TorchEngine) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
    a, b = engine.maps(grey), engine.maps(np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_allclose(a.foreground, b.foreground, atol=5e-5)


@pytest.mark.parametrize("zoom", [0.5, 1.7])
def test_zoom_is_undone(engine: TorchEngine, zoom: float) -> None:
    image = np.random.default_rng(0).random((50, 70))
    maps = engine.maps(image, zoom=zoom)
    assert maps.foreground.shape == (50, 70)
    big = engine.maps(np.kron(image, np.ones((2, 2))), zoom=0.5)
    plain = engine.maps(image)
    # the same scene sampled twice as finely: sizes and offsets double, probabilities stay
    assert np.median(big.size) == pytest.approx(2 * np.median(plain.size), rel=0.1)


@pytest.mark.parametrize("zoom", [0.5, 2 / 3, 2**-0.25, 1.5])
def test_a_tile_is_resized_as_the_whole_is(zoom: float) -> None:
    """Pixels far from the cut get the same maps, whatever rounding the tile's size would ask for."""
    torch.manual_seed(0)
    architecture = {**ARCHITECTURE, "context": "none"}
    plain = TorchEngine(ModelCard("t", "t", architecture), build_model(**architecture), CPU)
    image = np.random.default_rng(0).random((420, 40))
    norm = normalize.percentiles(image)
    whole = plain.maps(image, zoom=zoom, norm=norm)
    part = plain.maps(image[:333], zoom=zoom, norm=norm)
    keep = slice(0, 333 - int(120 / zoom))
    np.testing.assert_allclose(part.foreground[keep], whole.foreground[keep], atol=1e-4)
    np.testing.assert_allclose(part.offset[:, keep], whole.offset[:, keep], atol=1e-2)


def test_tape_names_its_blocks_and_rows_sum_to_one(engine: TorchEngine) -> None:
    image = np.random.default_rng(0).random((50, 70))
    tape = engine.tape(image, origin=(100, 10))
    assert list(tape.blocks) == ["global16a", "local8", "readout"]
    row = tape.row("global16a", (120, 30), 0)
    assert row.weights.shape == (4, 5)
    assert row.weights.sum() + row.register_share == pytest.approx(1, abs=1e-3)
    assert np.asarray(row).shape == (4, 5)
    with pytest.raises(InputError, match="outside the field"):
        tape.row("global16a", (0, 0))
    with pytest.raises(InputError, match="'local8'"):
        tape.row("local", (120, 30))
    with pytest.raises(InputError, match="head '9'"):
        tape.row("local8", (120, 30), 9)


def test_save_and_load_are_bit_equal(engine: TorchEngine, home) -> None:
    image = np.random.default_rng(0).random((40, 40))
    card = engine.save(home / "models" / "tiny")
    assert card.blocks == ("global16a", "local8", "readout")
    again = load_engine("tiny", "cpu")
    np.testing.assert_array_equal(engine.maps(image).foreground, again.maps(image).foreground)
    with pytest.raises(StoreError, match="exists already"):
        engine.save(home / "models" / "tiny")


def test_unknown_model_gets_a_hint(engine: TorchEngine, home) -> None:
    engine.save(home / "models" / "tiny")
    with pytest.raises(UnknownModelError) as caught:
        load_engine("tny")
    assert "Did you mean 'tiny'?" in str(caught.value)


def damage_bytes(folder) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_card(folder) -> None:
    (folder / "card.json").write_text("{")


def change_architecture(folder) -> None:
    card = json.loads((folder / "card.json").read_text())
    card["architecture"]["widths"] = [32, 32, 32, 64]
    (folder / "card.json").write_text(json.dumps(card))


def foreign_architecture(folder) -> None:
    card = json.loads((folder / "card.json").read_text())
    card["architecture"] = {"architecture": "unet"}
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_bytes, "damaged"),
        (damage_card, "cannot be read"),
        (change_architecture, "do not fit"),
        (foreign_architecture, "unknown network"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "cannot be read"),
    ],
)
def test_damaged_models_are_named(engine: TorchEngine, home, damage, message: str) -> None:
    engine.save(home / "models" / "tiny")
    damage(home / "models" / "tiny")
    with pytest.raises(CheckpointError, match=message):
        load_engine("tiny", "cpu")


def test_weights_that_are_not_finite_are_refused(home) -> None:
    model = build_model(**ARCHITECTURE)
    with torch.no_grad():
        next(model.parameters())[0] = torch.nan
    save_model(home / "models" / "bad", model, ModelCard("bad", "Bad", ARCHITECTURE))
    with pytest.raises(CheckpointError, match="not finite"):
        load_engine("bad", "cpu")


def test_a_failed_save_leaves_nothing(engine: TorchEngine, home, monkeypatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StoreError, match="No space left"):
        engine.save(home / "models" / "tiny")
    assert not list((home / "models").glob("*"))


def test_a_device_that_is_not_there_is_said(engine: TorchEngine, home) -> None:
    engine.save(home / "models" / "tiny")
    missing = next((d for d in ("cuda", "mps") if d not in devices.available()), None)
    if missing is None:
        pytest.skip("this machine has every kind of device")
    with pytest.raises(EngineUnavailableError, match=f"'{missing}' is not available"):
        load_engine("tiny", missing)


# --- devices that are not here: the calls of torch are replaced, our branches run ---


def test_cuda_is_described_with_its_memory(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 1024**3, 16 * 1024**3))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Test GPU")
    assert devices.choose("auto").type == "cuda"
    assert devices.describe(torch.device("cuda")) == "CUDA: Test GPU, 8.0 of 16.0 GiB free"


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_cuda_autocasts_to_what_it_has(monkeypatch, bf16: bool, dtype: torch.dtype) -> None:
    asked = []
    monkeypatch.setenv("NAPARI_ATTNSEG_PRECISION", "auto")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch, "autocast", lambda *a: asked.append(a))
    devices.autocast(torch.device("cuda"))
    assert asked == [("cuda", dtype)]


def test_a_processor_autocasts_only_with_fast_bf16_and_where_it_is_wanted(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(torch, "autocast", lambda *a: asked.append(a))
    monkeypatch.setattr(devices, "fast_bf16", lambda: False)
    monkeypatch.setenv("NAPARI_ATTNSEG_PRECISION", "auto")
    devices.autocast(CPU)
    devices.autocast(CPU, training=True)
    monkeypatch.setattr(devices, "fast_bf16", lambda: True)
    monkeypatch.setenv("NAPARI_ATTNSEG_PRECISION", "float32")
    devices.autocast(CPU)
    assert asked == []
    monkeypatch.delenv("NAPARI_ATTNSEG_PRECISION")
    devices.autocast(CPU)
    devices.autocast(CPU, training=True)
    devices.autocast(CPU, width=16)  # convolutions of narrow fields are wrong in bfloat16
    assert asked == [("cpu", torch.bfloat16)] * 2
    devices.autocast(CPU, width=17)
    assert asked == [("cpu", torch.bfloat16)] * 3
    assert devices.describe(CPU).endswith("bfloat16")
    monkeypatch.setenv("NAPARI_ATTNSEG_PRECISION", "float8")
    with pytest.raises(EngineUnavailableError, match="'float8' is not known"):
        devices.autocast(CPU)


@pytest.mark.parametrize("shape", [(200, 6), (200, 16), (200, 17)])
def test_narrow_images_give_the_same_twice_and_what_float32_gives(monkeypatch, shape) -> None:
    image, _ = fluorescence(shape, 1, diameter=10.0)
    engine = load_engine("base", "cpu")
    first = engine.maps(image).foreground
    for _ in range(3):
        scraps = [np.full(n, np.nan, np.float32) for n in (1000, 40000, 300000)]  # what lies in freed memory
        del scraps
        np.testing.assert_array_equal(engine.maps(image).foreground, first)
    monkeypatch.setenv("NAPARI_ATTNSEG_PRECISION", "float32")
    assert np.abs(engine.maps(image).foreground - first).mean() < 0.02


def test_bf16_changes_little(monkeypatch) -> None:
    image, labels = fluorescence((96, 96), 1, diameter=20.0)
    engine = load_engine("base", "cpu")
    exact = engine.maps(image)
    monkeypatch.setenv("NAPARI_ATTNSEG_PRECISION", "auto")
    monkeypatch.setattr(devices, "fast_bf16", lambda: True)
    rough = engine.maps(image)
    assert rough.foreground.dtype == np.float32
    differ = np.abs(rough.foreground - exact.foreground)
    assert 0 < differ.mean() < 0.01
    assert ((rough.foreground > 0.5) != (exact.foreground > 0.5)).mean() < 0.01
    miss = np.hypot(*(rough.offset - exact.offset))[labels > 0]
    assert np.median(miss) < 0.5  # pixels


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", True),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.", True),
        ("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.", True),  # Windows
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", True),
        ("The size of tensor a (3) must match the size of tensor b (4)", False),
    ],
)
def test_every_way_to_say_that_memory_ran_out_is_known(text: str, expected: bool) -> None:
    assert is_out_of_memory(RuntimeError(text)) is expected


@pytest.mark.parametrize("failures", range(6))
def test_out_of_memory_steps_down_and_says_so_once(monkeypatch, failures: int) -> None:
    """A fake forward that is a 3 x 3 mean: exact in every rung, so the result must not change."""
    released = []
    monkeypatch.setattr(devices, "release", released.append)
    calls = []

    def forward(x, device, pool):
        calls.append((device.type, tuple(x.shape[-2:]), pool))
        if len(calls) <= failures:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    ladder = Ladder(forward, torch.device("cuda"))
    x = torch.randn(1, 3, 200, 130)
    out = ladder.run(x)
    expected = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    assert torch.allclose(out, expected)
    assert len(released) == failures
    assert len(ladder.notes) == failures
    if failures:
        words = ["", "halved", "2 x 2", "4 x 4", "the processor took over.", "in half tiles"]
        assert words[failures] in ladder.notes[-1]
    ladder.run(x)
    assert len(ladder.notes) == failures  # said once
    if failures in (4, 5):
        assert calls[-1][0] == "cpu"


def test_a_tape_that_does_not_fit_the_gpu_goes_to_the_processor(engine: TorchEngine, monkeypatch) -> None:
    """The GPU is pretended: the first forward raises what CUDA raises, the second is real."""
    real, calls = engine._model.forward, []

    def forward(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **kwargs)

    monkeypatch.setattr(engine._model, "forward", forward)
    monkeypatch.setattr(engine, "_here", torch.device("meta"))
    monkeypatch.setattr(engine, "_to_device", lambda x, device: x)
    monkeypatch.setattr(devices, "autocast", lambda device, **k: nullcontext())
    tape = engine.tape(np.random.default_rng(0).random((32, 32)))
    assert "local8" in tape.blocks
    assert engine.notes == ("The GPU ran out of memory: the processor recorded the attention.",)


def test_no_memory_anywhere_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setattr(devices, "release", lambda device: None)

    def forward(x, device, pool):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(OutOfMemoryError, match="not enough memory"):
        Ladder(forward, CPU).run(torch.zeros(1, 3, 20, 20))


def test_other_errors_of_torch_are_not_mistaken_for_memory() -> None:
    def forward(x, device, pool):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        Ladder(forward, CPU).run(torch.zeros(1, 3, 20, 20))


@pytest.mark.gpu
def test_cuda_agrees_with_the_processor() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    torch.manual_seed(0)
    image = np.random.default_rng(0).random((256, 256))
    results = []
    for name in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = build_model(**ARCHITECTURE)
        results.append(TorchEngine(ModelCard("t", "t", ARCHITECTURE), model, torch.device(name)).maps(image))
    np.testing.assert_allclose(results[0].foreground, results[1].foreground, atol=0.02)
