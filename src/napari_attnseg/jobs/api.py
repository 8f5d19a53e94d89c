"""The public ``segment``: one image array in, one label array out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_attnseg import engine as door
from napari_attnseg.core.axes import source_of
from napari_attnseg.errors import InputError, UnknownModelError
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.segment import needs_engine
from napari_attnseg.jobs.segment import segment as segment_job
from napari_attnseg.params import SegmentParams, checked
from napari_attnseg.store.models import find

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_attnseg.engine import Engine
    from napari_attnseg.params import Device, Method, Task

_engines: dict[tuple[str, str, str], Engine] = {}  # one engine per process; pixels are never kept


def segment(
    image: Any,
    *,
    model: str = "base",
    method: Method = "attention",
    task: Task = "instances",
    diameter: float | None = None,
    device: Device = "auto",
    tile: int | None = None,
) -> npt.NDArray[np.int32]:
    """Segment one image.

    Parameters
    ----------
    image : array-like, (Y, X) or (Y, X, 3 or 4)
        Any integer, float or bool dtype; NaN and infinities are taken as dark.
    model : str
        Name of a model; ``list_models()`` lists them.
    method : {"attention", "kmeans", "slic"}
        The network, or a classic method for comparison.
    task : {"instances", "classes"}
        One label per object, or one per class.
    diameter : float, optional
        Typical object diameter in pixels; estimated when None.
    device : {"auto", "cpu", "cuda", "mps"}
    tile : int, optional
        Side of the pieces in which a large image is run, pixels.

    Returns
    -------
    ndarray, (Y, X) int32
        0 is background.

    Raises
    ------
    AttnSegError
        One sentence and a hint.
    """
    source = source_of(image, single=True)
    if source.plane_shape:
        raise InputError(
            f"An array of shape {tuple(source.data.shape)} is a stack.",
            "Give one (Y, X) or (Y, X, 3) plane at a time.",
        )
    params = checked(
        SegmentParams, model=model, method=method, task=task, diameter=diameter, device=device, tile=tile
    )
    found = drive(segment_job(_engine(params), source, params))
    assert found is not None  # nothing cancels this run
    return found[0].labels


def _version(model: str) -> str:
    """Return the checksum of a model's weights: another model may have got its name meanwhile."""
    try:
        return find(model).card.sha256
    except UnknownModelError:
        return ""  # loading it says so


def _engine(params: SegmentParams) -> Engine | None:
    if not needs_engine(params):
        return None
    wanted = params.model, params.device, _version(params.model)
    if wanted not in _engines:
        loaded = door.load_engine(params.model, params.device)
        for old in _engines.values():
            old.close()
        _engines.clear()
        _engines[wanted] = loaded
    return _engines[wanted]
