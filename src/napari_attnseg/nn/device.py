"""Which device runs the network, in words and with its memory."""

from __future__ import annotations

import contextlib
import os

import torch

from napari_attnseg.errors import EngineUnavailableError

_GIB = 1024**3
_NARROW = 16  # width of a field, pixels, up to which bf16 is not used on a CPU


def available() -> list[str]:
    """Return the device types that can be used here, best first."""
    found = []
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def choose(wanted: str = "auto") -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "mps".

    Raises
    ------
    EngineUnavailableError
        The device asked for is not there.
    """
    found = available()
    if wanted == "auto":
        return torch.device(found[0])
    if wanted.split(":")[0] not in found:
        raise EngineUnavailableError(
            f"The device '{wanted}' is not available on this computer.",
            f"Available: {', '.join(found)}; 'auto' takes the first of them.",
        )
    return torch.device(wanted)


def describe(device: torch.device) -> str:
    """Return a device in words, with its memory: "CUDA: NVIDIA H100, 78.1 of 79.2 GiB free"."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return f"CUDA: {torch.cuda.get_device_name(device)}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if device.type == "mps":
        return f"Apple GPU (MPS), up to {torch.mps.recommended_max_memory() / _GIB:.1f} GiB"
    count = torch.get_num_threads()
    words = f"CPU, {count} thread{'s' if count > 1 else ''}"
    return f"{words}, bfloat16" if precision() == "auto" and fast_bf16() else words


def fast_bf16() -> bool:
    """Tell whether this processor multiplies bf16 in hardware (AMX or AVX512-BF16).

    Without it, bf16 on a CPU is tens of times slower than float32.
    """
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        test = getattr(torch.cpu, name, None)
        if test is not None and test():
            return True
    return False


def precision() -> str:
    """Return what ``NAPARI_ATTNSEG_PRECISION`` asks for: "auto" or "float32".

    Raises
    ------
    EngineUnavailableError
        It asks for something else.
    """
    wanted = os.environ.get("NAPARI_ATTNSEG_PRECISION", "auto").strip().lower() or "auto"
    if wanted not in ("auto", "float32"):
        raise EngineUnavailableError(
            f"The precision '{wanted}' is not known.", "Set NAPARI_ATTNSEG_PRECISION to auto or float32."
        )
    return wanted


def autocast(
    device: torch.device, *, training: bool = False, width: int | None = None
) -> contextlib.AbstractContextManager[object]:
    """Return the autocast for a device: bf16 or fp16 on CUDA, bf16 on a CPU that multiplies it in hardware.

    Set ``NAPARI_ATTNSEG_PRECISION=float32`` to run in float32 on every processor: results are then
    the same on all of them, at 2 to 3 times the time where bf16 is there.

    Fields of a ``width`` of at most 16 pixels run in float32 on a CPU: oneDNN, as PyTorch 2.13 brings it,
    reads past the end of bf16 images of one or two columns in convolutions of stride 2.
    """
    if precision() == "float32" and not training:
        return contextlib.nullcontext()
    if device.type == "cuda":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.autocast("cuda", dtype)
    if device.type == "cpu" and fast_bf16() and (width is None or width > _NARROW):
        return torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext()


def release(device: torch.device) -> None:
    """Give cached memory back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
