"""What a user may set for a run: one pydantic model gives form, validation, file and command line.

Every field carries ``title`` (form label), ``description`` (help), bounds and a default.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_attnseg.errors import InputError

Model = TypeVar("Model", bound=BaseModel)

Method = Literal["attention", "kmeans", "slic"]
Task = Literal["instances", "classes"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Readout = Literal["auto", "seeds", "watershed"]
Mirror = Literal["auto", "always", "never"]
Tier = Literal["quick", "full"]
Known = Literal["all", "objects"]


THRESHOLD = 0.6  # of the foreground probability; as good on known kinds as .55, better on unknown ones


class ReadoutParams(BaseModel):
    """How the network's maps become objects; can be changed after a run without encoding again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    readout: Readout = Field(
        "auto",
        title="Readout",
        description="How pixels are grouped into objects: by attention to seeds, or by a watershed on "
        "the distance map. 'auto' takes the model's default.",
    )
    threshold: float = Field(
        THRESHOLD,
        ge=0.01,
        le=0.99,
        title="Foreground threshold",
        description="Lower keeps fainter objects, higher keeps only certain ones; an object must be a third "
        "above it on average, at most halfway to 1.",
    )
    min_size: int = Field(
        12, ge=0, le=1_000_000, title="Smallest size", description="Objects of fewer pixels are dropped."
    )
    min_confidence: float = Field(
        0.0,
        ge=0.0,
        le=0.99,
        title="Least confidence",
        description="Objects whose confidence, the mean over their pixels of foreground probability times "
        "attention on their seed, is lower are dropped: faint and blurred ones first.",
    )
    split: float = Field(
        0.0,
        ge=-1.0,
        le=1.0,
        title="Split or merge",
        description="Above 0 splits touching objects more eagerly, below 0 merges pieces.",
    )
    drop_edge: bool = Field(
        False, title="Drop objects at the edge", description="Leave out objects that touch the image border."
    )
    fill_holes: bool = Field(True, title="Fill holes", description="Fill holes inside each object.")


class SegmentParams(ReadoutParams):
    """Everything that decides a segmentation."""

    method: Method = Field(
        "attention",
        title="Method",
        description="The attention network, or a classic method for comparison.",
    )
    model: str = Field("base", title="Model", description="Name of the model.")
    task: Task = Field("instances", title="Task", description="Separate objects, or one label per class.")
    diameter: float | None = Field(
        None,
        ge=2.0,
        le=4096.0,
        title="Object diameter",
        description="Typical object diameter in pixels; empty estimates it from the image.",
    )
    mirror: Mirror = Field(
        "auto",
        title="Mirror images",
        description="Let the network see the image mirrored, too, and take the mean: five runs instead of "
        "one, and nine or so where it is unsure, to choose the zoom as well. 'auto' does so only there.",
    )
    channel: int | None = Field(
        None,
        ge=0,
        title="Channel",
        description="Channel to segment, counted from 0; empty takes all of them (mean, or colour for RGB).",
    )
    device: Device = Field(
        "auto", title="Device", description="Where the network runs; auto takes CUDA, then MPS, then CPU."
    )
    tile: int | None = Field(
        None,
        ge=128,
        le=8192,
        title="Tile size",
        description="Side of the square pieces in which big images are read, pixels; empty chooses.",
    )
    clusters: int = Field(
        2,
        ge=2,
        le=64,
        title="Clusters",
        description="Number of K-means clusters.",
    )
    kmeans_on: Literal["colour", "colour+position", "features"] = Field(
        "colour",
        title="K-means on",
        description="What K-means clusters: colour, colour and position, or network features.",
    )
    segments: int = Field(
        200, ge=2, le=100_000, title="Superpixels", description="Approximate number of SLIC superpixels."
    )
    compactness: float = Field(
        10.0, gt=0.0, le=1000.0, title="Compactness", description="SLIC: higher gives squarer superpixels."
    )


class TrainParams(BaseModel):
    """Everything that decides a training run but the images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(title="Name", description="Name of the new model.")
    start: str = Field("base", title="Start from", description="'scratch', or the model to start from.")
    steps: int | None = Field(
        None,
        ge=1,
        title="Steps",
        description="Length of the run; the same seed gives the same weights on a CPU.",
    )
    minutes: float | None = Field(
        None,
        gt=0.0,
        allow_inf_nan=False,
        title="Minutes",
        description="Length in wall time, reading and start-up included.",
    )
    tier: Tier = Field(
        "quick",
        title="Thoroughness",
        description="'quick' learns for a minute or two; 'full' from more crops at a time, until it stops "
        "getting better. Not used from scratch.",
    )
    task: Task = Field(
        "instances",
        title="Learn",
        description="'instances': the labels are objects. 'classes': they are class numbers.",
    )
    classes: tuple[str, ...] = Field(
        (),
        title="Class names",
        description="Names of the class numbers 1, 2 and so on; the name 'background' teaches background.",
    )
    known: Known = Field(
        "all",
        title="Known pixels",
        description="What the labels say: 'all': every pixel, 0 is background. 'objects': only the "
        "labelled objects and their borders; 0 is not known.",
    )
    seed: int = Field(0, ge=0, title="Seed", description="Of all random choices.")
    device: Device = Field("auto", title="Device", description="Where the network learns.")
    resume: bool = Field(
        False, title="Resume", description="Go on from the checkpoint of an interrupted run of that name."
    )


def checked(kind: type[Model], **values: Any) -> Model:
    """Return the parameters; ``InputError`` naming the first one that is out of bounds."""
    try:
        return kind(**values)
    except ValidationError as err:
        first = err.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "parameters"
        text = str(first["msg"])
        raise InputError(
            f"'{name}' cannot be {first.get('input')!r}.", text[:1].upper() + text[1:].rstrip(".") + "."
        ) from err
