"""The Engine Protocol, and ``load_engine``: the only door to ``nn``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from napari_attnseg.errors import EngineUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.params import TrainParams
    from napari_attnseg.records import DenseMaps, ModelCard, Normalisation, Sample, TrainEvent, TrainStep


@runtime_checkable
class Engine(Protocol):
    """A network behind numpy.

    ``image`` is a raw plane, (H, W) grey or (H, W, C) with any C, any integer, float or bool dtype;
    C == 3 or 4 is taken as RGB(A), any other C is averaged after scaling.  ``norm`` is the scaling of
    the whole plane when ``image`` is a tile of it; None measures it on ``image``.
    """

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        ...

    @property
    def device(self) -> str:
        """Where it runs, in words: "CPU, 2 threads", "CUDA: NVIDIA H100, 78 GiB free"."""
        ...

    def maps(
        self, image: npt.NDArray[np.generic], *, zoom: float = 1.0, norm: Normalisation | None = None
    ) -> DenseMaps:
        """Run the network on a plane or tile resized by ``zoom``; the maps come back in image pixels."""
        ...

    def tape(
        self,
        image: npt.NDArray[np.generic],
        *,
        zoom: float = 1.0,
        norm: Normalisation | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> AttentionTape:
        """Record queries and keys of every attention block for a plane or tile at ``origin``."""
        ...

    def features(
        self, image: npt.NDArray[np.generic], *, zoom: float = 1.0, norm: Normalisation | None = None
    ) -> npt.NDArray[np.float32]:
        """Return pixel embeddings, (C, H, W) float32 in image pixels, each of unit length."""
        ...

    def outputs(
        self,
        images: Sequence[npt.NDArray[np.generic]],
        *,
        zoom: float = 1.0,
        norm: Normalisation | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return what the network says before it is scaled, of several images of one shape, in float32.

        For checks that compare small changes: (n, 5, H, W) in image pixels, foreground logit, distance
        logit, log2 of the size, and the vote (dy, dx) in object diameters.
        """
        ...

    def gradient(
        self,
        image: npt.NDArray[np.generic],
        target: npt.NDArray[np.float32],
        *,
        zoom: float = 1.0,
        norm: Normalisation | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the derivative of ``sum(target * foreground logit)`` by the scaled intensities.

        ``target`` is (H, W), in image pixels; the result is (H, W), or (H, W, 3) for colour.
        """
        ...

    def evidence(
        self,
        image: npt.NDArray[np.generic],
        target: npt.NDArray[np.float32],
        *,
        zoom: float = 1.0,
        norm: Normalisation | None = None,
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Return what each place speaks for at the attention blocks, (gh, gw) by block.

        To first order, attention weights held still: how far ``sum(target * foreground logit)`` would fall
        if what the place keeps and hands to others by its value were the mean over the field.
        """
        ...

    def save(self, folder: Path) -> ModelCard:
        """Write weights and card into ``folder`` (whole or not at all)."""
        ...

    def close(self) -> None:
        """Give memory back."""
        ...


def load_engine(name: str = "base", device: str = "auto") -> Engine:
    """Load a model by name and return it ready to run.

    Parameters
    ----------
    name : str
        A shipped model or one of the models folder.
    device : {"auto", "cpu", "cuda", "mps"}

    Raises
    ------
    UnknownModelError
        No model of that name; the hint says what was probably meant.
    CheckpointError
        Its files are corrupt or of another version.
    EngineUnavailableError
        torch cannot be imported, or the device is not there.
    """
    from napari_attnseg.store import models

    stored = models.find(name)
    engine: Engine = _nn().TorchEngine.from_files(stored.card, stored.weights, device)
    return engine


def train_model(
    samples: Sequence[Sample],
    params: TrainParams,
    *,
    started: float | None = None,
    run: Path | None = None,
    stop: Callable[[], bool] | None = None,
    preview: npt.NDArray[np.float32] | None = None,
    on_preview: Callable[[npt.NDArray[np.int32]], None] | None = None,
) -> Iterator[TrainStep | TrainEvent]:
    """Train a model on samples and store it under ``params.name``; yields after every step.

    Parameters
    ----------
    samples : sequence of Sample
    params : TrainParams
        Without ``steps`` and ``minutes`` a tuning stops early by itself.
    started : float or None
        ``time.monotonic()`` from which ``params.minutes`` count; now when None.
    run : Path or None
        Folder of the checkpoints; one that is removed at the end when None.
    stop : callable or None
        Asked after every step; True ends a tuning, which then stores its best only if that improved.
    preview : ndarray or None, (C, H, W) float32
        A field that a tuning segments after every validation; ``on_preview`` is given the labels, (H, W).

    Yields
    ------
    TrainStep, TrainEvent

    Raises
    ------
    TrainingDataError
        Nothing to learn from.
    StoreError
        The name is taken, or the disk is full.
    CheckpointError
        The run to resume was another one.
    NumericalError
        The loss stopped being finite.
    OutOfMemoryError
        Even the smallest crops do not fit.
    """
    from napari_attnseg.store import models

    parent = None if params.start == "scratch" else models.find(params.start)
    _nn()
    from napari_attnseg.nn.finetune import train_and_store

    return train_and_store(
        samples, params, parent, started, run=run, stop=stop, preview=preview, on_preview=on_preview
    )


def onnx_bytes(name: str) -> bytes:
    """Return a model as the bytes of an ONNX file; see ``nn.onnx_export`` for its inputs and outputs.

    Raises
    ------
    UnknownModelError
        No model of that name.
    EngineUnavailableError
        torch, or the packages that write ONNX, are not installed.
    EngineError, CheckpointError
        The network cannot be written as ONNX; the model's files are damaged.
    """
    from napari_attnseg.store import models

    stored = models.find(name)
    _nn()
    from napari_attnseg.nn import onnx_export

    return onnx_export.onnx_bytes(stored.card, stored.weights)


def devices() -> list[str]:
    """Describe the devices that the network can use here, best first; imports torch."""
    _nn()
    from napari_attnseg.nn import device

    return [device.describe(device.choose(name)) for name in device.available()]


def torch_state() -> str:
    """Return "ready" (imported), "installed" or "missing", without importing torch."""
    import sys
    from importlib.util import find_spec

    if "torch" in sys.modules:
        return "ready"
    return "installed" if find_spec("torch") is not None else "missing"


def _nn() -> Any:
    try:
        from napari_attnseg.nn import engine
    except (ImportError, OSError) as err:  # OSError: a DLL that does not load on Windows
        raise EngineUnavailableError(
            f"PyTorch could not be imported ({err}).",
            "Install it with 'pip install torch', or see pytorch.org for your machine.",
        ) from err
    return engine
