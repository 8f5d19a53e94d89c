from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_attnseg.core import size, thin
from napari_attnseg.core.mirror import Look, Mean, looks_at, mirrored, read_maps, steady_zoom
from napari_attnseg.core.thin import by_width, elongation
from napari_attnseg.records import DenseMaps, ModelCard

CARD = ModelCard("fake", "Fake", {}, diameter=24.0)
MIRRORS = ((0,), (1,), (0, 1))
NAMES = ("foreground", "distance", "size", "offset", "classes")


def mean_of(*seen: tuple[DenseMaps, tuple[int, ...]]) -> Mean:
    mean = Mean()
    for maps, axes in seen:
        mean.add(maps, axes)
    return mean


def random_maps(shape: tuple[int, int], classes: int = 0, seed: int = 0) -> DenseMaps:
    rng = np.random.default_rng(seed)
    planes = rng.random((5, *shape)).astype(np.float32)
    kinds = rng.random((classes, *shape)).astype(np.float32) if classes else None
    return DenseMaps(planes[0], planes[1], planes[2], planes[3:] - 0.5, kinds)


def seen_in(maps: DenseMaps, axes: tuple[int, ...]) -> DenseMaps:
    """What a network that treats all alike says of the mirror image."""
    found = {
        n: None if getattr(maps, n) is None else np.flip(getattr(maps, n), tuple(a - 2 for a in axes)).copy()
        for n in NAMES
    }
    for axis in axes:
        found["offset"][axis] *= -1
    return DenseMaps(**found)


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 9)), classes=st.sampled_from([0, 3]))
def test_a_network_that_treats_mirror_images_alike_gains_nothing(shape, classes):
    maps = random_maps(shape, classes)
    kept = {n: None if getattr(maps, n) is None else getattr(maps, n).copy() for n in NAMES}
    mean = mean_of((maps, ()), *((seen_in(maps, axes), axes) for axes in MIRRORS))
    found = mean.maps()
    for name in NAMES:
        if kept[name] is None:
            assert getattr(found, name) is None
            continue
        np.testing.assert_allclose(getattr(found, name), kept[name], atol=1e-6)
        np.testing.assert_array_equal(getattr(maps, name), kept[name])  # the first is not written over
        assert getattr(found, name).dtype == np.float32


def test_the_mean_of_either_is_that_of_all():
    maps = [random_maps((3, 5), 2, seed) for seed in range(3)]
    seen = [(maps[0], ()), (maps[1], (1,)), (maps[2], (0, 1))]
    both = mean_of(seen[0]), mean_of(*seen[1:])
    whole = mean_of(*seen)
    one, other = (both[0] | both[1]).maps(), whole.maps()
    for name in NAMES:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-6)
    np.testing.assert_allclose(both[0].maps().foreground, maps[0].foreground)  # neither is changed


def test_four_looks_show_all_mirror_images_beside_the_zoom():
    looks = looks_at(1.0)
    assert sorted(look.axes for look in looks) == [(), (0,), (0, 1), (1,)]
    assert sorted(round(look.zoom, 3) for look in looks) == [0.841, 0.841, 1.189, 1.189]
    assert looks[0].axes == ()
    assert {look.zoom for look in looks_at(4.0)} == {4.0, 4.0 * 2**-0.25}  # no finer than the limit


def test_the_mean_of_two_by_hand():
    zero = np.zeros((1, 2), np.float32)
    first = DenseMaps(
        np.array([[0.2, 0.8]], np.float32), zero, zero, np.array([[[1, 2]], [[3, 4]]], np.float32)
    )
    second = DenseMaps(
        np.array([[0.4, 0.6]], np.float32), zero, zero, np.array([[[5, 6]], [[7, 8]]], np.float32)
    )
    found = mean_of((first, ()), (second, (1,))).maps()  # of the image, and with left and right exchanged
    np.testing.assert_allclose(found.foreground, [[0.4, 0.6]])
    np.testing.assert_allclose(found.offset, [[[3.5, 3.5]], [[-2.5, -1.5]]])


@given(
    image=hnp.arrays(np.uint8, st.sampled_from([(3, 5), (4, 4, 3)])),
    axes=st.sampled_from(MIRRORS),
)
def test_mirrored_twice_is_the_image(image, axes):
    once = mirrored(image, axes)
    assert once.flags.c_contiguous
    np.testing.assert_array_equal(mirrored(once, axes), image)
    np.testing.assert_array_equal(once[0, 0], image[-1 if 0 in axes else 0, -1 if 1 in axes else 0])


class Eye:
    """Sees one disc of 24 pixels; at some zooms not the same one in every mirror image."""

    def __init__(self, unlike=(), nothing=(), large=(), chance=0.85):
        self.unlike, self.nothing, self.large, self.chance = unlike, nothing, large, chance
        self.looks = []

    def __call__(self, look: Look) -> DenseMaps:
        self.looks.append((round(look.zoom, 3), look.axes))
        y, x = np.indices((40, 40))
        middle = 19.5
        radius = 12 - 3 * len(look.axes) * (round(look.zoom, 3) in self.unlike)
        if round(look.zoom, 3) in self.nothing:
            radius = 0
        inside = (y - middle) ** 2 + (x - middle) ** 2 < radius**2
        size = np.full(inside.shape, 200 if round(look.zoom, 3) in self.large else 24, np.float32)
        foreground = np.where(inside, self.chance, 0).astype(np.float32)
        offset = np.stack([middle - y, middle - x]).astype(np.float32)  # turned round it is the same
        return DenseMaps(foreground, foreground, size, offset)


def settled(eye: Eye, card: ModelCard = CARD) -> float:
    """Return the zoom that is settled on from zoom 1 on."""
    search = steady_zoom(card, 1.0, eye(Look(1.0)))
    look = next(search)
    while True:
        try:
            look = search.send(eye(look))
        except StopIteration as stop:
            zoom, maps = stop.value
            beside = {round(x.zoom, 3) for x in looks_at(zoom)}
            seen = [axes for at, axes in eye.looks if at in beside]
            assert sorted(seen) == [(), (0,), (0, 1), (1,)]  # the mean is of them
            assert len(set(eye.looks)) == len(eye.looks)  # nothing is looked at twice
            assert maps.foreground[20, 20] == pytest.approx(eye.chance)
            return round(zoom, 3)


def test_the_zoom_is_that_at_which_mirror_images_are_seen_alike():
    assert settled(Eye()) == 1.0  # all as good: nothing is changed
    assert settled(Eye(unlike=(0.841,))) == 1.414
    assert settled(Eye(unlike=(1.189,))) == 0.707
    assert settled(Eye(unlike=(0.595, 0.841, 1.189, 1.682))) == 1.0


def test_a_zoom_at_which_nothing_is_found_does_not_win_by_saying_nothing():
    assert settled(Eye(unlike=(0.841, 1.189), nothing=(0.595, 1.682))) == 1.0
    faint = Eye(unlike=(0.841, 1.189), chance=0.7)  # foreground, but no object is clear enough to be kept
    assert settled(faint) == 1.0


def test_a_zoom_at_which_objects_look_too_large_does_not_count():
    assert settled(Eye(unlike=(0.841,), large=(1.682,))) == 1.0


def test_a_tuned_model_stays_at_the_zoom_of_the_objects_that_it_was_tuned_on():
    for usual, zoom in ((24.0, 1.0), (None, 1.414), (80.0, 1.414)):
        eye = Eye(unlike=(0.841,))
        assert settled(eye, replace(CARD, usual_diameter=usual)) == zoom
        assert len(eye.looks) == 1 + (4 if usual == 24.0 else 8)


@pytest.mark.parametrize(
    ("chance", "agreed", "readout", "runs"),
    [
        pytest.param(0.95, 0.98, "seeds", 1, id="sure"),
        pytest.param(0.95, 0.96, "seeds", 5, id="sure, votes disagree"),
        pytest.param(0.95, 0.96, "watershed", 1, id="votes do not count"),
        pytest.param(0.85, 0.98, "seeds", 5, id="unsure"),
        pytest.param(0.1, 0.0, "seeds", 1, id="nothing"),
    ],
)
def test_mirror_images_are_run_where_the_network_is_unsure(monkeypatch, chance, agreed, readout, runs):
    monkeypatch.setattr(size, "agreement", lambda _maps: agreed)
    card = replace(CARD, training={"readout": readout})
    image = np.arange(48, dtype=np.float32).reshape(6, 8)
    seen = []

    def run(picture, zoom):
        seen.append((float(picture[0, 0]), zoom))
        size = np.full(picture.shape, 24, np.float32)
        flat = np.full(picture.shape, chance, np.float32)
        return DenseMaps(flat, np.zeros_like(flat), size, np.zeros((2, *flat.shape), np.float32))

    zoom, maps = read_maps(replace(card, usual_diameter=24.0), image, run)
    assert zoom == 1.0
    assert [(corner, round(at, 3)) for corner, at in seen[-runs:]] == [
        (0.0, 1.0), (0.0, 1.189), (7.0, 1.189), (40.0, 0.841), (47.0, 0.841)
    ][:runs]  # fmt: skip
    assert maps.foreground == pytest.approx(chance)
    seen.clear()
    read_maps(card, image, run)
    assert len([at for _, at in seen if round(at, 3) in (0.595, 0.841, 1.189, 1.682)]) == (
        8 if runs == 5 else 0
    )


def rods(width: int) -> DenseMaps:
    """Three rods of 10 widths beside each other, whose pixels vote for the middle."""
    shape = (12 * width, 12 * width)
    found = DenseMaps(*(np.zeros(shape, np.float32) for _ in range(3)), np.zeros((2, *shape), np.float32))
    y, x = np.mgrid[: shape[0], : shape[1]]
    for number in range(3):
        top = width + 3 * width * number
        at = slice(top, top + width), slice(width, 11 * width)
        found.foreground[at] = 0.95
        found.size[at] = np.sqrt(4 / np.pi * 10) * width
        found.offset[0][at] = (top + (width - 1) / 2 - y)[at]
        found.offset[1][at] = (6 * width - 0.5 - x)[at]
    return found


def test_length_and_width_are_those_of_the_ellipse_with_the_same_moments():
    length, width = elongation(rods(8))
    assert length == pytest.approx(10, rel=0.01)
    assert width == pytest.approx(4 / np.sqrt(12) * 8, rel=0.01)
    assert elongation(replace(rods(8), foreground=np.zeros((96, 96), np.float32))) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("width", "worse_at", "canonical", "zoom"),
    [
        pytest.param(8, None, 24.0, 2.0, id="two steps at most"),
        pytest.param(14, None, 24.0, 1.414, id="wide enough after one"),
        pytest.param(18, None, 24.0, 1.0, id="wide enough"),
        pytest.param(8, 2.0, 24.0, 1.414, id="votes agree less"),
        pytest.param(8, None, 9.0, 1.0, id="too large for the network"),
    ],
)
def test_long_thin_objects_are_looked_at_closer(monkeypatch, width, worse_at, canonical, zoom):
    monkeypatch.setattr(thin, "agreement", lambda maps: float(maps.distance[0, 0]))

    def run(at):
        found = rods(width)
        found.distance[0, 0] = 0.8 if round(at, 3) == worse_at else 0.9
        return found

    search, asked = by_width(1.0, run(1.0), canonical), []
    try:
        at = next(search)
        while True:
            asked.append(at)
            at = search.send(run(at))
    except StopIteration as stop:
        found = round(stop.value[0], 3)
    assert found == zoom
    assert len(asked) <= 2


def test_round_objects_are_not_looked_at_closer():
    flat = np.zeros((60, 60), np.float32)
    found = DenseMaps(flat.copy(), flat.copy(), flat + 9, np.zeros((2, 60, 60), np.float32))
    found.foreground[20:28, 20:28] = 0.95
    assert list(by_width(1.0, found, 24.0)) == []


def test_mirror_images_of_long_thin_objects_are_looked_at_closer(monkeypatch):
    monkeypatch.setattr(thin, "agreement", lambda _maps: 0.9)
    zooms, search = [], steady_zoom(CARD, 1.0, rods(14))
    look = next(search)
    try:
        while True:
            zooms.append(round(look.zoom, 3))
            look = search.send(seen_in(rods(14), look.axes))
    except StopIteration as stop:
        found = round(stop.value[0], 3)
    assert zooms[0] == found == 1.414
    assert sorted(set(zooms[1:])) == [0.841, 1.189, 1.682, 2.378]
