"""Generated scenes: exact, repeatable, in the stated forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from skimage.measure import regionprops
from skimage.segmentation import find_boundaries

from napari_attnseg.core import synth, tissue
from napari_attnseg.core.camera import eight_bit, jpeg, photographed
from napari_attnseg.core.colonies import grow
from napari_attnseg.core.micrograph import micrograph, profiles
from napari_attnseg.core.pile import leaves, pile, surface
from napari_attnseg.core.shapes import (
    apart,
    border_distance,
    relabel,
    scatter,
    tessellate,
)
from napari_attnseg.core.synth import SCENES, fluorescence, packed, photo
from napari_attnseg.core.tissue import stained

FORMS = {
    "fluorescence": ("uint16", 2),
    "phase_contrast": ("uint8", 2),
    "adherent": ("uint8", 2),
    "photo": ("uint8", 3),
    "stained": ("uint8", 3),
    "packed": ("uint8", 2),
    "colony": ("uint8", 2),
    "micrograph": ("uint8", 2),
    "pile": ("uint8", 3),
    "cytoplasm": ("uint16", 2),
    "relief": ("uint8", 2),
}


@pytest.mark.parametrize("name", SCENES)
def test_scene_forms(name: str) -> None:
    image, labels = SCENES[name]((96, 130), 5)
    dtype, ndim = FORMS[name]
    assert image.dtype == dtype
    assert image.ndim == ndim
    assert image.shape[:2] == labels.shape == (96, 130)
    assert labels.dtype == np.int32
    assert labels.max() >= 5
    again, labels_again = SCENES[name]((96, 130), 5)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert not np.array_equal(image, SCENES[name]((96, 130), 6)[0])


@pytest.mark.parametrize("name", [n for n in SCENES if n not in ("packed", "micrograph", "pile")])
def test_objects_can_be_seen(name: str) -> None:
    """In two thirds of the scenes the mean or the spread of some channel differs inside."""
    told = 0
    for seed in range(6):
        image, labels = SCENES[name]((128, 128), seed)
        planes = image[..., None] if image.ndim == 2 else image
        inside = labels > 0
        for plane in np.moveaxis(planes.astype(float), -1, 0):
            gap = abs(plane[inside].mean() - plane[~inside].mean()) + abs(
                plane[inside].std() - plane[~inside].std()
            )
            if gap > 0.25 * plane.std():
                told += 1
                break
    assert told >= 4


def test_packed_cells_share_borders_that_can_be_seen() -> None:
    told = 0
    for seed in range(6):
        image, labels = packed((128, 128), seed, diameter=30.0)
        border = find_boundaries(labels, mode="inner")
        deep = (labels > 0) & ~binary_dilation(border, iterations=3)
        assert (labels > 0).mean() > 0.8
        told += abs(image[border].mean() - image[deep].mean()) > 0.3 * image.std()
    assert told >= 4


def test_membranes_of_a_micrograph_are_dark_and_no_part_of_a_cell() -> None:
    darker = 0
    for seed in range(6):
        image, labels = micrograph((160, 160), seed, diameter=30.0)
        outside = labels == 0
        deep = ~binary_dilation(outside, iterations=4)
        assert 0.4 < (labels > 0).mean() < 0.98
        darker += image[outside].mean() < image[deep].mean() - 0.5 * image[deep].std()
    assert darker >= 4


def test_cells_of_a_micrograph_fill_the_field_and_differ_in_size() -> None:
    """A few cells, more than twice as wide as most, take a good part of the field."""
    shares = []
    for seed in range(5):
        labels = profiles((300, 300), np.random.default_rng(seed), 20.0)
        assert labels.all()
        size = np.bincount(labels.ravel())[1:]
        large = size > 2.5**2 * np.median(size)
        assert 1 <= large.sum() < 0.1 * len(size)
        shares.append(size[large].sum() / labels.size)
    assert 0.1 < np.mean(shares) < 0.5


def test_a_third_of_fluorescence_is_of_thick_samples(monkeypatch) -> None:
    """Light from out of focus lies over the scene, blurred; what is labelled stays the same."""
    scenes = [fluorescence((64, 64), seed, diameter=16.0) for seed in range(24)]
    lights = []

    def dark(*args: Any) -> np.ndarray:
        lights.append(whole(*args))
        return np.zeros(args[1])

    whole = synth._out_of_focus
    monkeypatch.setattr(synth, "_out_of_focus", dark)
    changed = 0
    for seed, (image, labels) in enumerate(scenes):
        without, same = fluorescence((64, 64), seed, diameter=16.0)
        np.testing.assert_array_equal(labels, same)
        changed += not np.array_equal(image, without)
    assert changed == len(lights)
    assert 4 <= changed <= 13
    for light in lights:
        assert light.min() >= 0
        assert 0.03 < light.max() < 1.5
        assert max(np.abs(np.diff(light, axis=axis)).max() for axis in (0, 1)) < 0.4 * light.max()


def test_nuclei_of_a_section_take_up_more_of_the_red_light_than_what_else_is_stained() -> None:
    """Eosin hardly does: red cells, fibres and cytoplasm can be told by it."""
    told = 0
    for seed in range(12):
        image, labels = stained((128, 128), seed, diameter=20.0)
        density = -np.log(np.clip(image[..., 0] / 255, 0.02, 1))
        told += np.median(density[labels > 0]) > np.percentile(density[labels == 0], 80)
    assert told >= 9


def test_holes_of_a_section_are_empty_but_for_their_rims() -> None:
    left, rim = tissue._holes(np.random.default_rng(0), (200, 200), 20.0)
    assert left.min() == 0
    assert left.max() == 1
    assert 0.05 < (left == 0).mean() < 0.6
    assert (rim[left < 1] > 0).all()
    assert 0.3 < (rim == 0).mean() < 0.95
    assert rim[left == 0].mean() < 0.5 * rim[(left == 1) & (rim > 0)].mean()


def test_the_ground_of_a_photograph_is_textured_around_nothing() -> None:
    """Some of it has sharp edges: gravel."""
    sharp = 0
    for seed in range(40):
        ground = surface(np.random.default_rng(seed), (120, 90), 20.0)
        assert ground.shape == (120, 90)
        assert abs(ground.mean()) < 0.15
        assert 0.01 < ground.std() < 0.2
        step = np.abs(np.diff(ground, axis=1))
        sharp += np.percentile(step, 99) > 6 * np.median(step)
    assert 2 <= sharp <= 16


def test_the_border_distance_counts_from_the_nearest_other_label() -> None:
    labels = np.zeros((9, 12), np.int32)
    labels[:, 3:8], labels[:, 8:] = 1, 2
    np.testing.assert_array_equal(border_distance(labels)[4], [0, 0, 0, 0, 1, 2, 1, 0, 0, 1, 2, 3])
    assert (border_distance(np.ones((9, 12), np.int32)) == 9).all()
    assert (border_distance(np.zeros((9, 12), np.int32)) == 0).all()


def test_natural_colours_leave_objects_that_can_be_told() -> None:
    for seed in range(40):
        image, labels = photo((64, 64), seed, diameter=24.0)
        inside, outside = (image[m].mean(axis=0) for m in (labels > 0, labels == 0))
        assert np.abs(inside - outside).max() > 12


@pytest.mark.parametrize(("count", "distance"), [(1, 5.0), (40, 0.0), (300, 3.0), (300, 12.0)])
def test_points_are_kept_in_order_where_no_earlier_one_is_near(count: int, distance: float) -> None:
    points = np.random.default_rng(count).uniform(0, 60, (count, 2))
    kept: list[Any] = []
    for point in points:
        if all(np.hypot(*(point - other)) > distance for other in kept):
            kept.append(point)
    np.testing.assert_array_equal(apart(points, distance), kept)


@pytest.mark.parametrize("density", [0.3, 0.7])
def test_cells_are_left_out_down_to_the_density(density: float) -> None:
    labels = tessellate((300, 300), np.random.default_rng(0), 20.0, density, 1.5)
    assert abs((labels > 0).mean() - density) < 0.12
    size = np.bincount(labels.ravel())[1:]
    assert 12 < np.sqrt(np.median(size) * 4 / np.pi) < 28


@pytest.mark.parametrize("kind", ["blob", "ellipse", "rod", "spread"])
def test_scattered_objects_are_whole_and_numbered(kind: str) -> None:
    labels = scatter((200, 200), 3, diameter=20.0, density=0.4, kind=kind)
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    np.testing.assert_array_equal(relabel(labels) > 0, labels > 0)
    assert relabel(labels).max() == labels.max()  # every object is one piece
    assert 0.2 < (labels > 0).mean() < 0.6


def test_density_and_diameter_are_followed() -> None:
    sparse, dense = (scatter((200, 200), 1, density=d) for d in (0.05, 0.45))
    assert (sparse > 0).mean() < 0.15 < 0.3 < (dense > 0).mean()
    small, large = (scatter((200, 200), 1, diameter=d, clustered=0.0) for d in (10.0, 40.0))
    areas = [np.median(np.bincount(x.ravel())[1:]) for x in (small, large)]
    assert areas[1] > 8 * areas[0]


def spread_of(labels: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """Return length, width and direction of the objects that do not touch the border."""
    inner = np.setdiff1d(labels, np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()]))
    found = [p for p in regionprops(labels) if p.label in inner]
    return (
        [p.axis_major_length for p in found],
        [p.axis_minor_length for p in found],
        [p.orientation for p in found],
    )


@pytest.mark.parametrize(("aspect", "least", "most"), [(1.0, 1.0, 1.3), (3.0, 2.0, 4.5), (6.0, 4.0, 9.0)])
def test_cells_of_a_colony_are_as_wide_and_long_as_asked(aspect: float, least: float, most: float) -> None:
    labels = grow((300, 300), np.random.default_rng(1), width=10.0, aspect=aspect, density=0.2, gap=0.3)
    long, wide, _ = spread_of(labels)
    assert len(long) >= 15
    assert 9 <= np.median(wide) <= 11.5
    assert least <= np.median(np.array(long) / wide) <= most


def test_cells_of_a_colony_lie_side_by_side() -> None:
    """Neighbours share their direction, and with a gap below 0 their borders."""
    labels = grow((300, 300), np.random.default_rng(2), aspect=4.0, density=0.5, order=0.1, gap=-0.1)
    right = (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] > 0) & (labels[:, :-1] > 0)
    pairs = np.unique(np.stack([labels[:, :-1][right], labels[:, 1:][right]], axis=1), axis=0)
    assert len(pairs) > 0.5 * labels.max()
    turns = {p.label: p.orientation for p in regionprops(labels) if p.axis_minor_length > 4}
    apart = np.array([turns[a] - turns[b] for a, b in pairs if a in turns and b in turns])
    apart = np.abs((apart + np.pi / 2) % np.pi - np.pi / 2)
    assert np.median(apart) < 0.25


def test_leaves_hide_what_lies_behind_them() -> None:
    things, share = leaves((160, 160), np.random.default_rng(3), 30.0, 1.0, 0.3)
    assert (things > 0).all()
    assert len(share) == things.max() + 1
    assert share[1] == pytest.approx(1)  # the first one lies on top
    assert np.median(share[-20:]) < 0.5  # the last ones fill gaps
    sparse, _ = leaves((160, 160), np.random.default_rng(3), 30.0, 0.2, 0.3)
    assert 0.2 <= (sparse > 0).mean() < 0.5


def test_leaves_vary_in_size_as_they_are_told() -> None:
    """Of those that lie nearly alone the diameters spread by what was asked for."""

    def spread(by: float) -> float:
        rng, found = np.random.default_rng(0), []
        for _ in range(12):
            things, share = leaves((256, 256), rng, 20.0, 0.1, by)
            areas = np.bincount(things.ravel(), minlength=len(share))
            whole = (share > 0.95) & (areas > 0)
            whole[np.concatenate([things[0], things[-1], things[:, 0], things[:, -1]])] = False
            found.extend(np.log(np.sqrt(areas[1:][whole[1:]])))
        return float(np.std(found))

    assert spread(0.7) > 1.6 * spread(0.15)


def test_what_is_hidden_for_the_most_part_is_not_labelled() -> None:
    """Fewer things are labelled than lie there, and each of them is in one piece."""
    _, labels = pile((192, 192), 8, diameter=16.0)
    pieces = relabel(labels)
    assert pieces.max() == labels.max()
    assert np.bincount(labels.ravel())[1:].min() >= 6


def test_cells_of_one_field_differ_in_brightness_and_dim_ones_are_labelled() -> None:
    ratios = []
    for seed in range(8):
        image, labels = synth.SCENES["cytoplasm"]((192, 192), seed, diameter=30.0, density=0.2)
        means = [r.intensity_mean for r in regionprops(labels, image) if r.area > 100]
        ratios.append(max(means) / max(min(means), 1.0))
    assert max(ratios) > 4


def test_relief_is_light_on_one_side_of_a_cell_and_dark_on_the_other() -> None:
    """Across cells the two sides differ more than across equal pieces of the ground."""
    told = 0
    for seed in range(6):
        image, labels = synth.SCENES["relief"]((192, 192), seed, diameter=40.0, density=0.25, kind="ellipse")
        grey = image.astype(float)
        border = find_boundaries(labels, mode="inner")
        ground = ~binary_dilation(labels > 0, iterations=4)
        told += grey[border].std() > 1.2 * (grey[ground] - np.median(grey[ground])).std()
    assert told >= 4


def test_jpeg_keeps_the_form_and_loses_more_at_a_lower_quality() -> None:
    image, _ = stained((96, 120), 2)
    grey, _ = fluorescence((96, 120), 2)
    lost = [np.abs(jpeg(image, q).astype(int) - image).mean() for q in (90, 30)]
    assert 0 < lost[0] < lost[1] < 20
    small = (grey // 16).astype(np.uint8)
    assert jpeg(small, 50).shape == small.shape
    assert jpeg(small, 50).dtype == np.uint8


def test_a_share_of_the_photographs_shows_the_blocks_of_jpeg() -> None:
    """Where a scene was compressed, steps between blocks of 8 pixels are larger than within them."""
    rng = np.random.default_rng(0)
    scene = np.clip(0.5 + 0.15 * rng.normal(size=(128, 128)), 0, 1)
    changed = [
        not np.array_equal(photographed(scene, np.random.default_rng(n)), eight_bit(scene)) for n in range(60)
    ]
    assert 12 <= sum(changed) <= 36
    blocky = jpeg(eight_bit(scene), 10).astype(float)
    steps = np.abs(np.diff(blocky, axis=1)).mean(axis=0)
    assert steps[7::8].mean() > 1.1 * np.delete(steps, np.arange(7, len(steps), 8)).mean()
