"""A finished run to ask about, made without a network: blobs, their maps, a tape with a readout."""

from __future__ import annotations

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels

from napari_attnseg._napari.explorer import Explorer
from napari_attnseg._napari.layers import labels_geometry, source_of
from napari_attnseg._napari.session import Run, Session
from napari_attnseg._napari.shown import watched
from napari_attnseg.core.attention import AttentionTape
from napari_attnseg.core.normalize import percentiles
from napari_attnseg.core.postprocess import read_out
from napari_attnseg.jobs.tape import readout_of
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import DenseMaps, Encoded, PlaneKey, Segmentation
from tests.fakes import FakeEngine, blobs


def maps_of(labels: np.ndarray) -> DenseMaps:
    """Return maps in which every pixel of an object votes for the object's middle."""
    offset = np.zeros((2, *labels.shape), dtype=np.float32)
    grid = np.stack(np.indices(labels.shape)).astype(np.float32)
    for label in np.unique(labels[labels > 0]):
        mine = labels == label
        offset[:, mine] = (grid[:, mine].mean(axis=1)[:, None] - grid[:, mine]).astype(np.float32)
    inside = (labels > 0).astype(np.float32)
    return DenseMaps(inside, inside, np.full(labels.shape, 19.0, dtype=np.float32), offset)


class ReadoutEngine(FakeEngine):
    """The fake engine with a readout in its tape, as the network has one."""

    def tape(self, image, *, zoom=1.0, norm=None, origin=(0, 0)):
        tape = super().tape(image, zoom=zoom, norm=norm, origin=origin)
        maps = maps_of(np.zeros(image.shape[:2], np.int32))
        key = PlaneKey()
        encoded = Encoded({key: maps}, {}, {key: zoom}, tuple(slice(0, n) for n in image.shape[:2]), "fake")
        readout = readout_of(encoded, key, SegmentParams())
        return AttentionTape({**tape.blocks, "readout": readout}, zoom, self.card.id)


def finished(viewer: ViewerModel, image, plane: PlaneKey | None = None, truth=None) -> tuple[Session, Run]:
    """Put a finished run on an image layer into a session of its own."""
    source = source_of(image)
    plane = plane if plane is not None else PlaneKey((0,) * len(source.plane_axes))
    truth = truth if truth is not None else blobs(source.shape_yx)[1]
    maps, params = maps_of(truth), SegmentParams(min_size=0)
    labels, _ = read_out(maps, params)
    field = tuple(slice(0, n) for n in source.shape_yx)
    encoded = Encoded({plane: maps}, {plane: percentiles(truth)}, {plane: 1.0}, field, "fake")
    whole = np.zeros([n for a, n in zip(source.axes, source.data.shape, strict=False) if a != "C"], np.int32)
    whole[plane.index] = labels
    shown = Labels(whole.copy(), name="labels", **labels_geometry(image, source.axes))
    viewer.add_layer(shown)
    tape = FakeEngine().tape(np.zeros(source.shape_yx))
    tape = AttentionTape({**tape.blocks, "readout": readout_of(encoded, plane, params)}, 1.0, "fake")
    run = Run(
        image=image,
        source=source,
        params=params,
        segmentation=Segmentation(whole, {}, {"method": "attention"}, "fake", "0", 0.1),
        encoded=encoded,
        shown=watched(shown, whole, None),
        replaced=None,
        plane=plane,
        tape=tape,
    )
    session = Session()
    session.update(image=image)
    session.put_run(run, 10**9)
    return session, session.state.run


def explorer_on(viewer: ViewerModel, image, **asked) -> Explorer:
    """Return an explorer of a finished run, asked something."""
    session, _ = finished(viewer, image)
    explorer = Explorer(viewer, session)
    explorer.change(**{"block": "global1", **asked})
    return explorer
