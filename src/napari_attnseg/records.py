"""Frozen records that cross layers.  Arrays in them are to be treated as read-only.

Coordinates are ``(y, x)`` in pixels of the image plane with pixel centres at integers, unless a
docstring says otherwise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from napari_attnseg.core.grid import TokenGrid

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class PlaneKey:
    """Index of one YX plane along the other axes, in the order of ``ImageSource.plane_axes``."""

    index: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image as the plugin understands it.

    Attributes
    ----------
    data : array-like
        The samples; may be lazy (dask, zarr).  For ``rgb`` the last axis is colour (3 or 4).
    axes : str
        One letter per axis of ``data`` without the colour axis of ``rgb``: "YX", "CYX", "TZCYX".
    rgb : bool
        Whether a last axis of 3 or 4 colours follows ``axes``.
    name : str
        Name of the layer or file.
    scale : tuple of float
        Size of one step along each of ``axes``, in ``units``.
    units : tuple of str
        One unit per axis of ``axes``; "pixel" where unknown.
    """

    data: Any
    axes: str
    rgb: bool = False
    name: str = "image"
    scale: tuple[float, ...] = ()
    units: tuple[str, ...] = ()

    @property
    def plane_axes(self) -> str:
        """The axes that index planes: all but Y, X and C."""
        return "".join(a for a in self.axes if a not in "YXC")

    @property
    def plane_shape(self) -> tuple[int, ...]:
        """Number of planes along each of ``plane_axes``."""
        return tuple(int(self.data.shape[self.axes.index(a)]) for a in self.plane_axes)

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Height and width of a plane, pixels."""
        shape = self.data.shape
        return int(shape[self.axes.index("Y")]), int(shape[self.axes.index("X")])

    @property
    def channels(self) -> int:
        """Number of channels (3 or 4 for ``rgb``, 1 when there is no channel axis)."""
        if self.rgb:
            return int(self.data.shape[-1])
        return int(self.data.shape[self.axes.index("C")]) if "C" in self.axes else 1


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Affine intensity scaling per channel: ``(x - low) / (high - low)``.

    Attributes
    ----------
    low, high : tuple of float
        One value per channel, in image intensities.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a plan: ``out[core] = f(x[read])[crop]``; the cores partition the image.

    Attributes
    ----------
    read, crop, core : tuple of slice
        (Y, X) slices: what is read from the image, what of the result is kept, where it goes.
    """

    read: tuple[slice, slice]
    crop: tuple[slice, slice]
    core: tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model is, what it learnt from and how well it does.

    Attributes
    ----------
    id : str
        Unique name used on the command line and in folders.
    architecture : mapping
        Keyword arguments of ``nn.build.build_model``.
    diameter : float
        Object diameter, in pixels, at which the network works best (the canonical size).
    classes : tuple of str
        Names of the foreground classes.
    blocks : tuple of str
        Names of the attention blocks whose weights can be shown, in network order.
    sha256 : str
        Of the weights file.
    parent : str or None
        Model it was tuned from.
    training, metrics : mapping
        Free-form, JSON-able: data, recipe, seed, steps; scores by data set.
    usual_diameter : float or None
        Median object diameter of the images that it was tuned on, pixels; None where it was not.
    """

    id: str
    name: str
    architecture: Mapping[str, Any]
    diameter: float = 24.0
    classes: tuple[str, ...] = ("object",)
    blocks: tuple[str, ...] = ()
    sha256: str = ""
    parent: str | None = None
    licence: str = "BSD-3-Clause"
    description: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    usual_diameter: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the card as plain JSON-able values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DenseMaps:
    """Per-pixel network output for a plane or a tile of it, in image pixels (any zoom is undone).

    Attributes
    ----------
    foreground : ndarray, (H, W) float32
        Probability of being inside an object, 0..1.
    distance : ndarray, (H, W) float32
        Distance to the object's border over the object's largest such distance, 0..1.
    size : ndarray, (H, W) float32
        Predicted diameter of the object at a pixel, pixels (meaningful in the foreground).
    offset : ndarray, (2, H, W) float32
        Vote: (dy, dx) in pixels from a pixel to the seed of its object.
    classes : ndarray or None, (K, H, W) float32
        Class probabilities, background first; None for a single foreground class.
    """

    foreground: npt.NDArray[np.float32]
    distance: npt.NDArray[np.float32]
    size: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]
    classes: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The result of a run.

    Attributes
    ----------
    labels : ndarray, (..., Y, X) int32
        0 is background; ids are unique across planes.
    features : mapping of str to ndarray
        Per object, in the order of ``index`` (label ids): ``confidence`` 0..1 and ``size`` in pixels
        (area).  Empty for methods without them.
    params : mapping
        The parameters of the run (``SegmentParams.model_dump()``).
    card_id, version : str
        Model and plugin version.
    seconds : float
        Wall time of the run.
    diameter : float
        Object diameter used, pixels.
    """

    labels: npt.NDArray[np.int32]
    features: Mapping[str, Any]
    params: Mapping[str, Any]
    card_id: str
    version: str
    seconds: float
    diameter: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttentionRow:
    """What one pixel attended to in one block.

    ``np.asarray(row)`` gives ``weights``.

    Attributes
    ----------
    weights : ndarray, (gh, gw) float32
        Attention weight of every token; with ``register_share`` they sum to 1.
    register_share : float
        Weight on the learned registers: "looked at nothing".
    block, kind : str
        Name of the block; "global", "local" or "readout".  Both are "rollout" for all blocks together.
    head : str
        "mean" or the head's number.
    query : tuple of int
        The (y, x) pixel asked for.
    grid : TokenGrid
        Where the tokens lie.
    window : int or None
        Half-width of the local window in tokens; None when global.
    value : bool
        Whether the weights are shares of what the values add to the features, not of attention.
    """

    weights: npt.NDArray[np.float32]
    register_share: float
    block: str
    kind: str
    head: str
    query: tuple[int, int]
    grid: TokenGrid
    window: int | None = None
    value: bool = False

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        import numpy as np

        return np.array(self.weights, dtype=dtype, copy=copy)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.  ``total`` 0 means unknown."""

    done: int
    total: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One training image.

    Attributes
    ----------
    image : ndarray, (C, H, W) float32
        Normalised intensities.
    labels : ndarray, (H, W) int32
        Instances, or class numbers where ``classes`` names them; 0 = background.
    known : ndarray, (H, W) bool
        Where the labels may teach.
    name : str
        Image and plane it was cut from: samples of one name are one field of view.
    origin : tuple of int
        (y, x) of its first pixel in that plane.
    before : ndarray or None, (H, W) int32
        The prediction that was corrected.
    objects : tuple of int
        Ids in ``labels`` of the objects that the user corrected; empty means all of them.
    classes : tuple of str
        Names of the class numbers 1..n; empty where the labels are instances.
    """

    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    known: npt.NDArray[np.bool_]
    name: str = ""
    origin: tuple[int, int] = (0, 0)
    before: npt.NDArray[np.int32] | None = None
    objects: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainStep:
    """One step of training.  ``val`` is None except after a validation."""

    step: int
    total: int
    loss: float
    lr: float
    val: float | None = None
    seconds: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainEvent:
    """What a fine-tuning says between its steps: one line of ``progress.jsonl``.

    Attributes
    ----------
    kind : str
        "phase", "estimate", "val", "preview", "note" or "result".
    data : mapping
        JSON-able.
    """

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the slow part of a run leaves behind, so that the readout can be changed cheaply.

    Attributes
    ----------
    maps : mapping of PlaneKey to DenseMaps
        One per plane that was run, of the size of ``field``.
    norms : mapping of PlaneKey to Normalisation
        The intensity scaling used, per plane.
    zoom : mapping of PlaneKey to float
        The factor by which each plane was resized for the network.
    field : tuple of slice
        (Y, X) part of the plane that was run.
    card_id : str
        The model.
    readout : str
        The model's default readout.
    classes : tuple of str
        Names of the classes that the model tells apart; empty where it knows objects only.
    doubted : frozenset of PlaneKey
        Planes that the network was unsure of: their maps are the mean of the image and its mirror images.
    """

    maps: Mapping[PlaneKey, DenseMaps]
    norms: Mapping[PlaneKey, Normalisation]
    zoom: Mapping[PlaneKey, float]
    field: tuple[slice, slice]
    card_id: str
    readout: str = "seeds"
    classes: tuple[str, ...] = ()
    doubted: frozenset[PlaneKey] = frozenset()
