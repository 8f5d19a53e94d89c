from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attnseg.core import normalize
from napari_attnseg.core.axes import source_of
from napari_attnseg.core.labels import edge_ids
from napari_attnseg.core.size import COARSE, FINE, ZOOM_LIMITS, zoom_for
from napari_attnseg.errors import InputError, ModelError
from napari_attnseg.jobs import bigimage, planes
from napari_attnseg.jobs import encode as encoding
from napari_attnseg.jobs import segment as segmenting
from napari_attnseg.jobs.planes import open_plane
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.segment import assemble, encode, segment
from napari_attnseg.jobs.tape import record_tape
from napari_attnseg.params import THRESHOLD, SegmentParams
from napari_attnseg.records import ImageSource, PlaneKey, Progress
from tests.fakes import FakeEngine, blobs

PARAMS = SegmentParams(diameter=24.0)


def same_partition(a, b):
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def run(source, params=PARAMS, engine=None, **options):
    return drive(segment(engine or FakeEngine(), source, params, **options))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_discs_are_found_in_any_dtype(dtype):
    image, truth = blobs(dtype=dtype)
    found, encoded = run(source_of(image))
    assert found.labels.dtype == np.int32
    assert same_partition(found.labels, truth)
    assert encoded is not None
    assert found.card_id == "fake"
    assert found.params["threshold"] == THRESHOLD
    assert found.features["index"].tolist() == list(range(1, truth.max() + 1))
    assert (found.features["size"] == np.bincount(truth.ravel())[1]).all()


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(20, 400), st.integers(20, 400)),
    mirror=st.sampled_from(["never", "always"]),
)
def test_maps_of_tiles_equal_maps_of_the_whole(seed, shape, mirror):
    image = np.random.default_rng(seed).random(shape)
    from scipy.ndimage import gaussian_filter

    source = source_of(gaussian_filter(image, 4))
    whole, tiled = FakeEngine(), FakeEngine()
    params = SegmentParams(diameter=24.0, mirror=mirror)
    small = params.model_copy(update={"tile": 128})
    a = drive(encode(whole, source, params)).maps[PlaneKey()]
    b = drive(encode(tiled, source, small)).maps[PlaneKey()]
    zooms = [1.0] if mirror == "never" else [1.0, 2**0.25, 2**0.25, 2**-0.25, 2**-0.25]
    assert [zoom for _, zoom in whole.calls] == zooms
    assert len(tiled.calls) == sum(len(encoding.tiles_of(shape, small, zoom)) for zoom in zooms)
    for name in ("foreground", "distance", "size", "offset"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_stacks_have_unique_ids_and_only_the_asked_planes_and_field():
    image, truth = blobs()
    source = ImageSource(np.stack([image] * 6).reshape(2, 3, *image.shape), "TZYX")
    found, _ = run(source)
    assert found.labels.shape == (2, 3, *image.shape)
    assert found.labels.max() == 6 * truth.max()
    assert len(np.unique(found.labels)) == 6 * truth.max() + 1
    np.testing.assert_array_equal(found.features["index"], np.arange(1, 6 * truth.max() + 1))
    field = slice(0, 32), slice(32, 96)
    part, encoded = run(source, planes=[PlaneKey((1, 2))], field=field)
    assert (part.labels[0] == 0).all()
    assert (part.labels[1, :2] == 0).all()
    outside = part.labels[1, 2].copy()
    outside[field] = 0
    assert (outside == 0).all()
    assert same_partition(part.labels[1, 2][field], truth[field])
    assert encoded.maps[PlaneKey((1, 2))].foreground.shape == (32, 64)


def test_readout_can_change_without_the_network():
    image, truth = blobs()
    source, engine = source_of(image), FakeEngine()
    _, encoded = run(source, engine=engine)
    calls = len(engine.calls)
    none = assemble(encoded, source, PARAMS.model_copy(update={"min_size": 10_000}))
    assert none.labels.max() == 0
    assert none.features["index"].size == 0
    again = assemble(encoded, source, PARAMS, seconds=2.0)
    assert same_partition(again.labels, truth)
    assert again.seconds > 2.0
    assert len(engine.calls) == calls


def test_the_diameter_that_the_user_names_decides_the_zoom():
    image, _ = blobs()
    engine = FakeEngine(diameter=24.0)
    _, encoded = run(source_of(image), SegmentParams(diameter=48.0), engine)
    assert [zoom for _, zoom in engine.calls] == [0.5]
    assert encoded.zoom[PlaneKey()] == 0.5
    _, encoded = run(source_of(image), SegmentParams(diameter=3000.0), FakeEngine())
    assert encoded.zoom[PlaneKey()] == ZOOM_LIMITS[0]


class Doubtful(FakeEngine):
    """Sees the same, with four fifths of the probability."""

    def maps(self, image, *, zoom=1.0, norm=None):
        found = super().maps(image, zoom=zoom, norm=norm)
        return replace(found, foreground=0.8 * found.foreground)


@pytest.mark.parametrize(("usual", "zooms"), [(None, [1.0, COARSE]), (20.0, [1.0]), (80.0, [1.0, COARSE])])
def test_a_tuned_model_does_not_search_for_objects_that_it_was_tuned_on(usual, zooms):
    image, _ = blobs((300, 300))
    engine = Doubtful(diameter=24.0, sees=24.0)
    engine.card = replace(engine.card, usual_diameter=usual)
    run(source_of(image), SegmentParams(mirror="never"), engine)
    assert [zoom for _, zoom in engine.calls][:2] == zooms


class Sided(FakeEngine):
    """An engine that is surer at the top, and has other votes on the left."""

    def __init__(self, sure):
        super().__init__(sees=24.0)
        self.sure = sure

    def maps(self, image, *, zoom=1.0, norm=None):
        found = super().maps(image, zoom=zoom, norm=norm)
        inside = found.foreground > 0.5
        p = np.where(np.arange(len(inside))[:, None] < len(inside) // 2, self.sure, self.sure - 0.2)
        offset = found.offset.copy()
        offset[0, :, : inside.shape[1] // 2] = 1.0
        return replace(found, foreground=np.where(inside, p, 0).astype(np.float32), offset=offset)


@pytest.mark.parametrize(
    ("sure", "mirror", "runs"), [(0.8, "auto", 5), (0.8, "never", 1), (0.99, "always", 5)]
)
def test_where_the_network_is_unsure_mirror_images_count_as_much(sure, mirror, runs):
    image, _ = blobs()
    engine = Sided(sure)
    params = SegmentParams(diameter=24.0, mirror=mirror)
    found, encoded = run(source_of(image), params, engine)
    maps = encoded.maps[PlaneKey()]
    zooms = [1.0, 2**0.25, 2**0.25, 2**-0.25, 2**-0.25][:runs]
    assert engine.calls == [(image.shape, zoom) for zoom in zooms]
    assert found.notes == (
        ("The model is unsure of this image: it looked at mirror images, too.",) if mirror == "auto" else ()
    )
    inside = maps.foreground > 0.5
    p = maps.foreground[inside]
    assert (np.ptp(p) < 1e-6) == (runs == 5)
    if runs == 5:  # what is said of the left of an image and of its mirror images is +1 and -1, each twice
        assert p[0] == pytest.approx(sure - 0.1)
        np.testing.assert_array_equal(maps.offset, 0)


@pytest.mark.parametrize(
    ("block", "planes_", "where"),
    [(150, 1, "this image"), (150, 2, "2 of 2 planes"), (400, 2, "2 of 2 planes")],
)
def test_what_is_read_block_by_block_says_that_the_network_was_unsure(block, planes_, where, monkeypatch):
    image, _ = blobs((200, 300))
    monkeypatch.setattr(planes, "BLOCK", block)
    monkeypatch.setattr(segmenting, "KEPT_PIXELS", 150 * 150)
    source = ImageSource(np.stack([image] * planes_), "TYX")
    for mirror, said in (("auto", True), ("always", False), ("never", False)):
        found, encoded = run(source, SegmentParams(diameter=24.0, mirror=mirror), Sided(0.8))
        assert encoded is None
        assert (f"The model is unsure of {where}: it looked at mirror images, too." in found.notes) == said


class Fickle(FakeEngine):
    """Draws other objects in mirror images, but at a fine zoom; all images begin with a dark corner."""

    def maps(self, image, *, zoom=1.0, norm=None):
        found = super().maps(image, zoom=zoom, norm=norm)
        found.foreground[:] *= 0.87
        where = np.indices(found.foreground.shape)
        found.offset[:] = 16 + 32 * (where // 32) - where  # to the middle of a disc
        turned = image[0, 0] > image[-1, -1] or image[0, -1] > image[-1, 0]
        if turned and zoom < 1.1:
            found.foreground[:, : image.shape[1] // 2] = 0.0
        return found


def cornered(shape):
    image, _ = blobs(shape)
    image = np.maximum(image, 20)
    image[0, 0] = 0
    image[0, -1] = image[-1, 0] = 10
    return image


@pytest.mark.parametrize("sample", [1024, 128])
def test_where_it_is_unsure_mirror_images_choose_the_zoom_in_the_centre(sample, monkeypatch):
    monkeypatch.setattr(encoding, "_SAMPLE", sample)
    side = min(sample, 160)
    image = cornered((160, 160))
    engine = Fickle(diameter=24.0)
    engine.card = replace(engine.card, usual_diameter=None)
    if side < 160:  # the corners of the centre tell which way round it is
        low = (160 - side) // 2
        image[low : low + side, low : low + side] = cornered((side, side))
    found, encoded = run(source_of(image), SegmentParams(), engine)
    assert encoded.zoom[PlaneKey()] == pytest.approx(2**0.5)
    beside = [shape for shape, zoom in engine.calls if zoom == pytest.approx(2**0.75)]
    assert beside[:2] == [(side, side)] * 2
    assert beside[2:] == ([] if side == 160 else [(160, 160)] * 2)  # its maps are not those of the whole
    assert encoded.doubted
    tape = drive(record_tape(engine, source_of(image), PlaneKey(), None, None, SegmentParams()))
    assert tape.zoom == encoded.zoom[PlaneKey()]  # also without a run


def test_a_named_diameter_stays_where_the_network_is_unsure():
    image = cornered((160, 160))
    engine = Fickle(diameter=24.0)
    run(source_of(image), SegmentParams(diameter=24.0), engine)
    assert [zoom for _, zoom in engine.calls] == [1.0, 2**0.25, 2**0.25, 2**-0.25, 2**-0.25]


def test_a_sure_network_sees_no_mirror_image():
    image, _ = blobs()
    engine = FakeEngine()
    run(source_of(image), PARAMS, engine)
    assert len(engine.calls) == 1


@pytest.mark.parametrize("mirror", ["never", "always", "auto"])
def test_progress_never_goes_back_nor_beyond_its_total(mirror, monkeypatch):
    image, _ = blobs((200, 300))
    params = SegmentParams(diameter=24.0, mirror=mirror, tile=128)
    source = ImageSource(np.stack([image] * 2), "TYX")
    for block in (planes.BLOCK, 150):
        monkeypatch.setattr(planes, "BLOCK", block)
        monkeypatch.setattr(segmenting, "KEPT_PIXELS", block * block)
        seen = []
        drive(segment(Sided(0.8), source, params), seen.append)
        assert len(seen) > 8
        assert all(step.done <= step.total for step in seen)
        if block > 1000:
            assert [step.done for step in seen] == sorted(step.done for step in seen)


def test_an_unknown_diameter_is_read_from_the_image():
    image, truth = blobs()
    engine = FakeEngine(diameter=24.0, sees=96.0)
    found, encoded = run(source_of(image), SegmentParams(), engine)
    # the second run is kept; its votes do not fit the sizes it tells of, so a crowd is looked for, too
    assert [zoom for _, zoom in engine.calls] == [1.0, zoom_for(96, 24), FINE]
    assert encoded.zoom[PlaneKey()] == zoom_for(96, 24)
    assert found.diameter == 96.0
    assert same_partition(found.labels, truth)


def test_a_large_plane_reads_its_size_from_the_centre():
    image, _ = blobs((300, 300))
    engine = FakeEngine(sees=24.0)
    run(source_of(image), SegmentParams(tile=128), engine)
    assert engine.calls[0] == ((300, 300), 1.0)  # whatever the tile: in less there may be too few objects
    assert len(engine.calls) == 1 + len(encoding.tiles_of((300, 300), SegmentParams(tile=128), 1.0))
    engine = FakeEngine(sees=24.0)
    run(source_of(np.zeros((2049, 1100), np.uint8)), SegmentParams(), engine)
    assert engine.calls[0] == ((1024, 1024), 1.0)


class Unsure(FakeEngine):
    """An engine to which objects of 100 pixels are texture but in the second look."""

    def maps(self, image, *, zoom=1.0, norm=None):
        found = super().maps(image, zoom=zoom, norm=norm)
        sure, size = (0.95, 100) if zoom == COARSE else (0.7, 20)
        inside = np.where(found.foreground > 0.5, sure, 0).astype(np.float32)
        return replace(found, foreground=inside, size=np.full_like(found.size, size))


@pytest.mark.parametrize(
    ("shape", "first", "last"),
    [((200, 200), (200, 200), (200, 200)), ((2100, 1100), (1024, 1024), (512, 512))],
)
def test_a_second_look_is_of_the_whole_plane_and_kept(shape, first, last):
    image, _ = blobs(shape)
    engine = Unsure()
    _, encoded = run(source_of(image), SegmentParams(), engine)
    assert engine.calls == [(first, 1.0), (shape, COARSE), (last, FINE)]
    assert encoded.zoom[PlaneKey()] == COARSE


def test_small_objects_get_smaller_tiles():
    assert encoding.tile_side(SegmentParams(), 1.0) == 2048
    assert encoding.tile_side(SegmentParams(), 4.0) == 512
    assert encoding.tile_side(SegmentParams(), 0.5) == 4096
    assert encoding.tile_side(SegmentParams(), 0.25) == 4096  # its maps are as large as the image
    assert encoding.tile_side(SegmentParams(tile=512), 4.0) == 512


@pytest.mark.parametrize(
    ("zoom", "step"), [(1.0, 16), (2 / 3, 24), (1.5, 32), (4.0, 4), (2**0.25, 16 / 2**0.25)]
)
def test_tiles_start_on_the_token_grid_of_the_resized_image(zoom, step):
    assert encoding.token_step(zoom) == pytest.approx(step, abs=1e-12)
    for tile in encoding.tiles_of((900, 700), SegmentParams(tile=256), zoom):
        for part in tile.read:
            token = part.start * zoom / 16
            assert abs(token - round(token)) * 16 / zoom <= 0.5 + 1e-9


def test_one_progress_per_tile_and_it_grows():
    image, _ = blobs((300, 200))
    steps: list[Progress] = []
    params = SegmentParams(diameter=24, tile=128)
    drive(encode(FakeEngine(), source_of(image), params), steps.append)
    tiles = len(encoding.tiles_of((300, 200), params, 1.0))
    assert len([s for s in steps if s.note.startswith("Tile")]) == tiles
    assert [s.done for s in steps] == sorted(s.done for s in steps)
    assert steps[-1].done == steps[-1].total == tiles


def test_closing_at_any_step_frees_everything():
    image, _ = blobs((300, 200))
    params = SegmentParams(tile=128)
    count = sum(1 for _ in segment(FakeEngine(), source_of(image), params))
    assert count > 4
    for stop in range(1, count + 1):
        data = image.copy()
        job = segment(FakeEngine(), source_of(data), params)
        for _ in range(stop):
            next(job)
        job.close()
        ref = weakref.ref(data)
        del data, job
        gc.collect()
        assert ref() is None


def test_drive_stops_when_told_and_closes():
    closed = []

    def job():
        try:
            for n in range(5):
                yield Progress(n, 5)
        finally:
            closed.append(True)
        return "done"

    assert drive(job()) == "done"
    seen = []
    assert drive(job(), seen.append, lambda: len(seen) == 2) is None
    assert len(seen) == 2
    assert closed == [True, True]


def test_channels_are_averaged_after_scaling_and_colours_are_not():
    image, truth = blobs(dtype=np.uint16)
    stains = ImageSource(np.stack([image, image * 0 + 5, image * 100]), "CYX")
    assert open_plane(stains, PlaneKey()).read().shape == image.shape
    found, _ = run(stains)
    assert same_partition(found.labels, truth)
    single, _ = run(stains, SegmentParams(diameter=24, channel=1))
    assert single.labels.max() == 0
    engine = FakeEngine()
    run(ImageSource(np.repeat(image[..., None], 4, axis=-1), "YX", rgb=True), engine=engine)
    assert engine.calls[0][0] == (*image.shape, 3)


def test_the_scaling_is_that_of_the_whole_field_not_of_the_tile():
    image, _ = blobs((300, 300))
    image = image.astype(float)
    image[:, 150:] *= 0.1
    found, encoded = run(source_of(image), SegmentParams(diameter=24, tile=128))
    assert found.labels[:, 160:].max() == 0  # dim objects stay below the middle of the whole image
    assert encoded.norms[PlaneKey()] == normalize.percentiles(image)


@pytest.mark.parametrize("block", [128, 200])
@pytest.mark.parametrize("drop_edge", [False, True])
def test_blocks_give_the_same_objects_as_the_whole(monkeypatch, block, drop_edge):
    image, _ = blobs((420, 350), step=40, radius=14)
    params = SegmentParams(diameter=24, drop_edge=drop_edge)
    whole, encoded = run(source_of(image), params)
    assert encoded is not None
    monkeypatch.setattr(planes, "BLOCK", block)
    monkeypatch.setattr(segmenting, "KEPT_PIXELS", block * block)
    found, nothing = run(source_of(image), params)
    assert nothing is None
    assert found.notes
    assert same_partition(found.labels, whole.labels)
    order = np.argsort(found.features["index"])
    assert found.features["index"][order].tolist() == list(range(1, whole.labels.max() + 1))
    np.testing.assert_array_equal(found.features["size"], np.bincount(found.labels.ravel())[1:])
    assert ((found.features["confidence"] > 0.5) & (found.features["confidence"] <= 1)).all()


@pytest.mark.parametrize("drop_edge", [False, True])
def test_blocks_of_classes(monkeypatch, drop_edge):
    image, truth = blobs((310, 290), step=40, radius=14)
    monkeypatch.setattr(planes, "BLOCK", 128)
    monkeypatch.setattr(segmenting, "KEPT_PIXELS", 128 * 128)
    found, _ = run(source_of(image), SegmentParams(diameter=24, task="classes", drop_edge=drop_edge))
    gone = edge_ids(truth) if drop_edge else []
    assert len(gone) > 2 or not drop_edge
    np.testing.assert_array_equal(found.labels, (truth > 0) & ~np.isin(truth, gone))


def test_what_is_too_small_after_stitching_is_dropped():
    labels = np.zeros((10, 10), dtype=np.int32)
    labels[:3, :3], labels[5:, 5:] = 1, 2
    features = {"index": np.array([1, 2]), "confidence": np.array([0.5, 0.7]), "size": np.array([30, 25])}
    found, kept = bigimage._finished(labels, np.arange(3), [(0, features)], SegmentParams(min_size=20))
    assert sorted(np.unique(found)) == [0, 1]
    assert found[6, 6] == 1
    assert kept["size"].tolist() == [25]
    assert kept["confidence"] == pytest.approx([0.7])


def test_a_big_lazy_plane_is_read_in_pieces(monkeypatch):
    image, _ = blobs((420, 350))

    class Lazy:
        shape, dtype, ndim = image.shape, image.dtype, 2
        largest = 0

        def __getitem__(self, index):
            part = image[index]
            Lazy.largest = max(Lazy.largest, part.size)
            return part

    monkeypatch.setattr(planes, "BLOCK", 128)
    monkeypatch.setattr(planes, "_PATCH", 32)
    monkeypatch.setattr(segmenting, "KEPT_PIXELS", 128 * 128)
    found, _ = run(ImageSource(Lazy(), "YX"), SegmentParams(diameter=24, tile=128))
    assert found.labels.max() > 50
    assert Lazy.largest <= 128 * 128


def test_many_planes_are_not_kept(monkeypatch):
    image, truth = blobs()
    monkeypatch.setattr(segmenting, "KEPT_PIXELS", 2 * image.size)
    found, encoded = run(source_of(np.stack([image] * 3)))
    assert encoded is None
    assert found.labels.max() == 3 * truth.max()
    assert len(found.features["index"]) == 3 * truth.max()


@pytest.mark.parametrize("task", ["instances", "classes"])
@pytest.mark.parametrize("on", ["colour", "colour+position", "features"])
def test_kmeans(task, on):
    image, truth = blobs()
    params = SegmentParams(method="kmeans", kmeans_on=on, task=task, clusters=2, diameter=24)
    found, encoded = run(source_of(image), params)
    assert encoded is None
    assert found.features == {}
    if on != "colour+position":  # position may cut the plane in two
        assert same_partition(found.labels, truth if task == "instances" else truth > 0)
    assert found.card_id == ("fake" if on == "features" else "")


def test_kmeans_on_features_by_tiles_agrees_with_the_whole():
    image, _ = blobs((300, 300))
    params = SegmentParams(method="kmeans", kmeans_on="features", diameter=24)
    a, _ = run(source_of(image), params)
    b, _ = run(source_of(image), params.model_copy(update={"tile": 128}))
    assert same_partition(a.labels, b.labels)


@pytest.mark.parametrize("task", ["instances", "classes"])
def test_slic(task):
    image, truth = blobs()
    params = SegmentParams(method="slic", task=task, segments=150, compactness=0.1)
    found = drive(segment(None, source_of(image), params))[0]
    if task == "instances":
        assert found.labels.min() == 1
        assert 50 < found.labels.max() < 300
    else:
        assert ((found.labels > 0) == (truth > 0)).mean() > 0.97


def test_a_missing_engine_is_said():
    for params in (SegmentParams(), SegmentParams(method="kmeans", kmeans_on="features")):
        with pytest.raises(ModelError):
            drive(segment(None, source_of(np.zeros((5, 5))), params))


@pytest.mark.parametrize("method", ["attention", "kmeans", "slic"])
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 1)),
        np.ones((1, 50)),
        np.ones((50, 1), dtype=np.uint8),
        np.full((20, 20), np.nan),
        np.array([[np.inf, 1.0], [-np.inf, np.nan]]),
        np.zeros((20, 20), dtype=bool),
        np.arange(600).reshape(20, 30)[::-2, ::3],
        np.asfortranarray(np.eye(30)),
        np.random.default_rng(0).random((12, 13, 4)),
    ],
    ids=["1x1", "flat", "thin", "nan", "inf", "bool", "strided", "fortran", "rgba"],
)
def test_odd_images_work(method, image):
    before = image.copy()
    source = source_of(image)
    for params in (SegmentParams(method=method), SegmentParams(method=method, task="classes")):
        found, _ = run(source, params)
        assert found.labels.shape == source.shape_yx
    np.testing.assert_array_equal(image, before)


def test_empty_images_are_refused():
    with pytest.raises(InputError, match="empty"):
        run(ImageSource(np.zeros((0, 4)), "YX"))
    with pytest.raises(InputError, match="no channel 3"):
        run(source_of(np.zeros((9, 9))), SegmentParams(channel=3))


def test_bigimage_is_only_for_what_does_not_fit(monkeypatch):
    def never(*args):
        raise AssertionError

    monkeypatch.setattr(bigimage, "_plane", never)
    run(source_of(blobs()[0]))


@pytest.mark.parametrize("kept", [True, False])
def test_what_the_engine_says_is_in_the_result(monkeypatch, kept):
    engine = FakeEngine()
    engine.notes = ("Memory ran out: half the tile.",)
    if not kept:
        monkeypatch.setattr(segmenting, "KEPT_PIXELS", 1)
    found, _ = run(source_of(blobs()[0]), engine=engine)
    assert found.notes[-1] == engine.notes[0]
    assert len(found.notes) == (1 if kept else 2)
