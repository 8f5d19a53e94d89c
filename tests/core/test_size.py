from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.core import size
from napari_attnseg.core.size import (
    AGREED,
    AIM,
    BETTER,
    COARSE,
    COMFORT,
    FINE,
    GAIN,
    STEADY,
    SURE,
    ZOOM_LIMITS,
    agreement,
    estimate_diameter,
    settle_zoom,
    sureness,
    zoom_for,
)
from napari_attnseg.records import DenseMaps


@pytest.fixture(autouse=True)
def votes_agree(monkeypatch):
    """Let only tests of votes ask for them: the maps here have none."""
    monkeypatch.setattr(size, "agreement", lambda _maps: 1.0)


def maps(size, foreground=1.0, shape=(32, 32)):
    flat = np.full(shape, 1.0, dtype=np.float32)
    return DenseMaps(flat * foreground, flat, flat * size, np.zeros((2, *shape), dtype=np.float32))


def test_every_object_counts_once():
    found = maps(1.0, shape=(100, 100))
    found.size[:50] = 40  # four objects of 40 px
    found.size[50:] = 10  # many of 10 px on the same area
    assert estimate_diameter(found) == 10


def test_an_empty_image_has_no_diameter():
    assert estimate_diameter(maps(20, foreground=0.1)) is None
    assert settle_zoom(lambda zoom: maps(20, foreground=0.1), 24)[0] == 1.0


@pytest.mark.parametrize("ratio", [1.01 * COMFORT[0], 1.0, 0.99 * COMFORT[1]])
def test_the_network_is_at_ease_near_its_size(ratio):
    assert zoom_for(24 * ratio, 24) == 1.0


@pytest.mark.parametrize("diameter", [3, 6, 10, 80, 150, 400])
def test_zoom_brings_objects_to_the_nearer_end(diameter):
    zoom = zoom_for(diameter, 24)
    if ZOOM_LIMITS[0] < zoom < ZOOM_LIMITS[1]:
        aim = AIM[0] if diameter < 24 else AIM[1]
        assert 0.91 <= diameter * zoom / (24 * aim) <= 1.1
        assert COMFORT[0] < diameter * zoom / 24 < COMFORT[1]


def test_zoom_is_limited():
    assert zoom_for(1e6, 24) == ZOOM_LIMITS[0]
    assert zoom_for(0.1, 24) == ZOOM_LIMITS[1]


def test_a_size_that_is_seen_right_settles_after_one_change():
    runs = []

    def run(zoom):
        runs.append(zoom)
        return maps(96)

    zoom, found = settle_zoom(run, 24)
    assert runs == [1.0, zoom]
    assert zoom == zoom_for(96, 24)
    assert found.size[0, 0] == 96


def test_a_size_that_is_seen_too_small_at_first_is_corrected_once():
    seen = {1.0: 80.0, zoom_for(80, 24): 220.0}
    runs = []

    def run(zoom):
        runs.append(zoom)
        return maps(seen.get(zoom, 220.0))

    assert settle_zoom(run, 24)[0] == zoom_for(220, 24)
    assert len(runs) == 3


def test_a_zoom_at_whose_own_scale_objects_are_at_ease_is_kept():
    """At zoom 1 they look too large; at the zoom that follows, like such as would need none."""
    runs = []

    def run(zoom):
        runs.append(zoom)
        return maps(96 if zoom == 1 else 60)

    assert settle_zoom(run, 24)[0] == zoom_for(96, 24)
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("seen", "kept"),
    [
        pytest.param(12.0, True, id="objects"),
        pytest.param(9.5, True, id="objects seen a little smaller"),
        pytest.param(9.0, False, id="hardly larger"),
        pytest.param(12 / 1.68, False, id="as small at every zoom"),
    ],
)
def test_specks_that_are_as_small_at_a_finer_zoom_are_texture(seen, kept):
    """Objects of 12 pixels ask for zoom 1.68; what is found there must look larger in the resized image."""
    asked = zoom_for(12, 24)
    assert asked == pytest.approx(1.68, abs=0.01)
    zoom, found = settle_zoom(lambda at: maps(12 if at == 1 else seen), 24)
    assert zoom == (asked if kept else 1)
    assert found.size[0, 0] == pytest.approx(seen if kept else 12)


def test_a_finer_look_at_a_part_of_a_plane_is_compared_on_that_part():
    """Around the centre there are objects of 12 pixels, farther out specks that would lower the median."""

    def run(zoom):
        found = maps(12, shape=(64, 64) if zoom == 1 else (32, 32))
        if zoom == 1:
            found.size[:16] = found.size[48:] = 8.0
        else:
            found.size[:] = 6.5
        return found

    assert settle_zoom(run, 24)[0] == 1  # 12 became 6.5; against a median of 8 it would have grown


def test_nothing_at_a_finer_zoom_leads_back():
    assert settle_zoom(lambda at: maps(12, 1.0 if at == 1 else 0.1), 24)[0] == 1


def test_sureness_is_the_mean_probability_of_the_foreground():
    found = maps(20, foreground=0.2)
    found.foreground[:8] = 0.6
    found.foreground[8:16] = 1.0
    assert sureness(found.foreground) == pytest.approx(0.8)
    assert sureness(maps(20, foreground=0.3).foreground) == 0.0


def looks(table, side=256, ground=0.25):
    """Return what ``settle_zoom`` finds where each zoom shows (diameter, probability), and its zooms.

    The share ``ground`` of the image is background.
    """
    runs = []

    def run(zoom):
        runs.append(zoom)
        found = maps(*table(zoom), (side, side))
        found.foreground[: round(ground * side)] = 0.1
        return found

    return settle_zoom(run, 24), runs


@pytest.mark.parametrize(
    ("usual", "seen", "sure", "expected", "looked"),
    [
        (30, lambda _z: 34, 0.8, 1.0, [1.0]),  # as on its images: no second look, no neighbours
        (30, lambda _z: 34, 0.95, 1.0, [1.0]),  # sure: nothing to try either
        (10, lambda z: 9 if z > 1 else 14, 0.8, zoom_for(10, 24), [1.0, zoom_for(10, 24)]),
    ],
)
def test_objects_like_those_it_was_tuned_on_are_read_at_its_zoom(usual, seen, sure, expected, looked):
    runs = []

    def run(zoom):
        runs.append(zoom)
        return maps(seen(zoom), sure if zoom in looked else 0.99, (256, 256))

    assert settle_zoom(run, 24, usual=usual)[0] == expected
    assert runs == looked


@pytest.mark.parametrize(
    ("usual", "first"),
    [
        (60, [1.0, COARSE]),  # other objects than on its images: the search as without
        (100, [1.0, COARSE]),  # far from those, at zoom 1 already: their zoom is not tried
        (12, [1.0, zoom_for(12, 24), COARSE]),  # their zoom is tried, and they are not there
    ],
)
def test_other_objects_than_it_was_tuned_on_are_searched_for(usual, first):
    runs = []

    def run(zoom):
        runs.append(zoom)
        return maps(30, 0.8 if zoom != COARSE else 0.95, (256, 256))

    settle_zoom(run, 24, usual=usual)
    assert runs[: len(first)] == first


def test_what_is_sure_of_small_objects_goes_where_their_size_asks_for():
    """A sure look follows the sizes, whatever the model was tuned on."""
    assert settle_zoom(lambda _zoom: maps(10, 0.99), 24, usual=13)[0] == zoom_for(10, 24)


def test_nothing_found_is_nothing_like_the_usual_objects():
    assert settle_zoom(lambda _zoom: maps(20, 0.1), 24, usual=20)[0] == 1.0


def test_huge_objects_that_look_like_texture_are_found_by_a_second_look():
    (zoom, found), runs = looks(lambda zoom: (10, 0.7) if zoom > 0.5 else (120, 0.93))
    assert runs[-1] == zoom == COARSE  # objects of 42 pixels are at ease there
    assert found.size[0, 0] == 120


def test_nothing_found_gets_a_second_look_too():
    assert looks(lambda zoom: (120, 0.1 if zoom > 0.5 else 0.9))[0][0] == COARSE


def test_the_second_look_goes_on_to_the_zoom_that_its_sizes_ask_for():
    (zoom, _), runs = looks(lambda zoom: (50, 0.7) if zoom == 1 else (35, 0.95))
    assert runs == [1.0, COARSE, zoom]
    assert AIM[0] * 24 / 1.1 <= 35 * zoom <= AIM[0] * 24 * 1.1


@pytest.mark.parametrize(
    ("fine", "coarse", "image", "taken"),
    [
        pytest.param((20, SURE + 0.01), (120, 1.0), {}, False, id="sure at once"),
        pytest.param((20, 0.8), (120, 0.8 + GAIN - 0.005), {}, True, id="not much surer"),
        pytest.param((20, 0.7), (20, 0.99), {}, True, id="small objects merge"),
        pytest.param((20, 0.7), (300, 0.99), {}, True, id="one object of all of them"),
        pytest.param((20, 0.7), (120, 0.1), {}, True, id="nothing there"),
        pytest.param((20, 0.6), (120, 0.7), {}, True, id="surer, but not sure"),
        pytest.param((20, 0.7), (60, 0.99), {"ground": 0}, True, id="all is foreground"),
        pytest.param((20, 0.7), (120, 0.99), {"side": 128}, False, id="too few pixels are left"),
        pytest.param((90, 0.7), (120, 0.99), {}, False, id="much the same zoom"),
    ],
)
def test_the_second_look_is_not_believed(fine, coarse, image, taken):
    (zoom, found), runs = looks(lambda zoom: coarse if zoom == COARSE else fine, **image)
    assert zoom == zoom_for(fine[0], 24)
    assert found.size[0, 0] == fine[0]
    assert (COARSE in runs) == taken


def test_the_search_goes_back_to_the_second_look_where_what_follows_is_less_sure():
    looked = {1.0: (35, 0.6), COARSE: (30, 0.9)}
    (zoom, found), runs = looks(lambda zoom: looked.get(zoom, (10, 0.55)))
    assert zoom == COARSE
    assert found.size[0, 0] == 30
    assert len(runs) > 2


@pytest.mark.parametrize(("inside", "zoom"), [(60, COARSE), (9, 1.0)])
def test_a_few_pixels_are_no_second_look(inside, zoom):
    """An image that is blank at its own scale, with a patch of so many pixels a side in the second look."""

    def run(at):
        found = maps(120, 0.1, (256, 256))
        if at == COARSE:
            found.foreground[100 : 100 + inside, 100 : 100 + inside] = 0.95
        return found

    assert settle_zoom(run, 24)[0] == zoom


@pytest.mark.parametrize(("where", "zoom"), [(300, COARSE), (20, 1.0)])
def test_looks_are_compared_on_what_both_saw(where, zoom):
    """The second look sees more of a large plane than its centre, and is sure there or elsewhere."""

    def run(at):
        if at == 1.0:
            return maps(20, 0.7, (256, 256))
        found = maps(120, 0.1, (700, 700))
        found.foreground[where : where + 100, where : where + 100] = 0.95
        return found

    assert settle_zoom(run, 24)[0] == zoom


def test_votes_agree_where_all_of_an_object_go_to_one_place():
    found = maps(16, foreground=0.1, shape=(64, 64))
    found.foreground[8:24, 8:24] = 0.95
    y, x = np.mgrid[:64, :64]
    found.offset[:] = np.stack([15.5 - y, 15.5 - x])
    together = agreement(found)
    assert together > 0.95
    found.offset[:] = np.random.default_rng(0).uniform(-16, 16, (2, 64, 64))
    assert agreement(found) < 0.5 * together
    assert agreement(maps(16, foreground=0.1)) == 0.0


def votes(monkeypatch, agreed, probability=0.8):
    """Return the zoom where each one's votes agree as ``agreed`` says (nearest zoom), and the zooms tried."""
    runs = []

    def run(zoom):
        runs.append(round(zoom, 2))
        found = maps(24, probability)
        found.distance[:] = agreed[min(agreed, key=lambda z: abs(z - zoom))]
        return found

    monkeypatch.setattr(size, "agreement", lambda found: float(found.distance[0, 0]))
    return round(settle_zoom(run, 24)[0], 2), runs


@pytest.mark.parametrize(
    ("agreed", "zoom", "tried"),
    [
        pytest.param({1: AGREED + 0.01, 0.71: 1}, 1, [1], id="they agree"),
        pytest.param({1: 0.5, 0.71: 0.8, 0.5: 0.7, 1.41: 1}, 0.71, [1, 0.71, 0.5], id="coarser"),
        pytest.param({1: 0.5, 0.71: 0.7, 0.5: 0.8, 0.35: 1}, 0.5, [1, 0.71, 0.5], id="two steps at most"),
        pytest.param({1: 0.5, 0.71: 0.95, 0.5: 1}, 0.71, [1, 0.71], id="good enough"),
        pytest.param({1: 0.5, 0.71: 0.4, 1.41: 0.6, 2: 0.5}, 1.41, [1, 0.71, 1.41, 2], id="finer"),
        pytest.param(
            {1: 0.5, 0.71: 0.5 + BETTER - 0.01, 1.41: 0.5}, 1, [1, 0.71, 1.41], id="not much better"
        ),
    ],
)
def test_zooms_beside_are_tried_where_votes_do_not_agree(monkeypatch, agreed, zoom, tried):
    agreed = {np.sqrt(2) ** round(2 * np.log2(z)): a for z, a in agreed.items()}
    assert votes(monkeypatch, agreed) == (zoom, tried)


def test_votes_for_one_blob_do_not_count(monkeypatch):
    """At 0.71 objects look 100 pixels large in the resized image."""
    runs = []

    def run(at):
        runs.append(round(at, 2))
        found = maps(100 / at if at < 1 else 24, 0.8)
        found.distance[:] = {1.0: 0.5, 0.71: 1.0, 1.41: 0.8, 2.0: 0.7}[round(at, 2)]
        return found

    monkeypatch.setattr(size, "agreement", lambda found: float(found.distance[0, 0]))
    assert round(settle_zoom(run, 24)[0], 2) == 1.41
    assert runs == [1, 0.71, 1.41, 2]


@pytest.mark.parametrize(
    ("finest", "zoom"),
    [
        pytest.param(24, 2, id="objects"),
        pytest.param(10, 2, id="a crowd of small ones"),
        pytest.param(8, 1.41, id="specks"),
    ],
)
def test_votes_for_specks_do_not_count(monkeypatch, finest, zoom):
    """At 2 the votes agree best; 8 pixels of the image are 16 there."""
    agreed = {1.0: 0.5, 0.71: 0.4, 1.41: 0.7, 2.0: 0.8}

    def run(at):
        found = maps(24 if at < 1.9 else finest, 0.8)
        found.distance[:] = agreed[round(at, 2)]
        return found

    monkeypatch.setattr(size, "agreement", lambda found: float(found.distance[0, 0]))
    assert round(settle_zoom(run, 24)[0], 2) == zoom


def test_specks_are_tried_coarser_than_zoom_1(monkeypatch):
    """Sizes of 10 pixels ask for zoom 2, where the votes agree no better."""
    runs = []

    def run(at):
        runs.append(round(at, 2))
        found = maps(10 if at >= 1 else 30, 0.8)
        found.distance[:] = {2.0: 0.4, 0.71: 0.7, 0.5: 0.6}.get(round(at, 2), 0.2)
        return found

    monkeypatch.setattr(size, "agreement", lambda found: float(found.distance[0, 0]))
    assert round(settle_zoom(run, 24)[0], 2) == 0.71
    assert runs == [1, 2, 0.71, 0.5]


@pytest.mark.parametrize(
    ("first", "fine", "probability", "zoom"),
    [
        pytest.param(0.7, 0.86, 0.92, FINE, id="a crowd of small ones"),
        pytest.param(AGREED + 0.01, 1.0, 0.92, None, id="the first look was right"),
        pytest.param(0.7, 0.84, 0.92, None, id="no crowd either"),
        pytest.param(0.7, 0.86, 0.79, None, id="not sure of the crowd"),
    ],
)
def test_large_things_whose_votes_disagree_may_be_crowds(monkeypatch, first, fine, probability, zoom):
    runs = []

    def run(at):
        runs.append(at)
        found = maps(20 if at == FINE else 150, probability if at == FINE else 0.95)
        found.distance[:] = first if at == 1 else fine if at == FINE else 1.0
        return found

    monkeypatch.setattr(size, "agreement", lambda found: float(found.distance[0, 0]))
    assert settle_zoom(run, 24)[0] == (zoom or zoom_for(150, 24))
    assert (FINE in runs) == (first < AGREED)


@pytest.mark.parametrize(
    ("seen", "probability", "agreed", "large", "zoom"),
    [
        pytest.param(35, 0.88, 0.92, 180, 1, id="a crowd at first sight"),
        pytest.param(35, 0.88, 0.92, 68, COARSE, id="hardly smaller"),
        pytest.param(35, 0.79, 0.92, 180, COARSE, id="not sure of the crowd"),
        pytest.param(35, 0.88, 0.84, 180, COARSE, id="votes that do not agree"),
    ],
)
def test_a_coarser_look_does_not_hide_the_crowd_of_the_first(
    monkeypatch, seen, probability, agreed, large, zoom
):
    def votes_of(found):
        return {probability: agreed, 0.95: 1.0}.get(round(float(found.foreground[-1, 0]), 2), 0.5)

    monkeypatch.setattr(size, "agreement", votes_of)
    found, _ = looks(lambda at: (seen, probability) if at == 1 else (large, 0.95 if at < 1 else 0.7))
    assert found[0] == zoom


@pytest.mark.parametrize(
    ("large", "agreed", "small", "zoom", "looked"),
    [
        pytest.param(60, 0.93, 22, FINE, True, id="bundles of a crowd"),
        pytest.param(60, 0.93, 31, 1, True, id="hardly smaller"),
        pytest.param(60, STEADY, 22, 1, False, id="votes that agree"),
        pytest.param(47, 0.93, 20, 1, False, id="small enough"),
    ],
)
def test_bundles_that_a_network_is_sure_of_are_looked_at_closer(
    monkeypatch, large, agreed, small, zoom, looked
):
    runs = []

    def run(at):
        runs.append(at)
        found = maps(large if at == 1 else small, 0.94)
        found.distance[:] = agreed
        return found

    monkeypatch.setattr(size, "agreement", lambda found: float(found.distance[0, 0]))
    assert settle_zoom(run, 24)[0] == zoom
    assert (FINE in runs) is looked


def test_a_sure_network_is_not_asked_whether_its_votes_agree(monkeypatch):
    assert votes(monkeypatch, {1: 0.1, 0.7: 1}, SURE + 0.01) == (1, [1])


def test_nothing_found_stays_at_its_zoom(monkeypatch):
    assert votes(monkeypatch, {1: 0.0, 0.7: 1}, 0.1) == (1, [1])
