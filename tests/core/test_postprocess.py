"""From dense maps to objects: perfect maps give back their labels, and attention rows explain them."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.core.metrics import compare, scores
from napari_attnseg.core.objects import measure
from napari_attnseg.core.postprocess import find_seeds, read_out
from napari_attnseg.core.seedblock import SeedBlock
from napari_attnseg.core.shapes import scatter
from napari_attnseg.core.tidy import fill_holes, largest_pieces, tidy
from napari_attnseg.errors import InputError
from napari_attnseg.params import ReadoutParams
from napari_attnseg.records import DenseMaps

PLAIN = ReadoutParams(min_size=0, fill_holes=False)


def perfect(labels: np.ndarray, noise: float = 0.0, seed: int = 0) -> DenseMaps:
    """Return the maps a perfect network would give; ``noise`` blurs the votes (in diameters)."""
    rng = np.random.default_rng(seed)
    table = measure(labels)
    inside = labels > 0
    at = np.stack(np.indices(labels.shape))
    size = np.where(inside, table.diameter[labels], 20.0).astype(np.float32)
    offset = (np.moveaxis(table.seed[labels], -1, 0) - at) * inside
    offset += noise * size * rng.normal(size=offset.shape)
    return DenseMaps(
        np.where(inside, 0.9, 0.1).astype(np.float32), table.depth, size, offset.astype(np.float32)
    )


@pytest.mark.parametrize(
    ("readout", "kind", "least"),
    [("seeds", "blob", 0.97), ("seeds", "rod", 0.97), ("watershed", "blob", 0.6), ("watershed", "rod", 0.3)],
)
def test_perfect_maps_give_back_their_labels(readout: str, kind: str, least: float) -> None:
    """A watershed cuts long rods along the ridge of their distance map even when the map is perfect."""
    labels = scatter((160, 200), 4, diameter=22.0, kind=kind, clustered=0.8)
    found, features = read_out(perfect(labels), ReadoutParams(readout=readout))
    assert scores(compare(found, labels))["ap"]["0.50"] > least
    assert found.dtype == np.int32
    assert list(features["index"]) == list(range(1, found.max() + 1))
    np.testing.assert_array_equal(features["size"], np.bincount(found.ravel())[1:])
    assert (features["confidence"] > 0.5).all()


def test_noisy_votes_are_forgiven() -> None:
    labels = scatter((160, 200), 4, diameter=22.0)
    found, _ = read_out(perfect(labels, noise=0.08), ReadoutParams())
    assert scores(compare(found, labels))["ap"]["0.50"] > 0.9


def test_objects_of_very_different_size() -> None:
    labels = np.zeros((220, 220), np.int32)
    y, x = np.mgrid[:220, :220]
    labels[np.hypot(y - 110, x - 110) < 70] = 1
    for n, (cy, cx) in enumerate([(15, 15), (15, 40), (200, 20), (205, 200)], start=2):
        labels[np.hypot(y - cy, x - cx) < 6] = n
    found, _ = read_out(perfect(labels), PLAIN)
    assert scores(compare(found, labels))["ap"]["0.90"] == 1.0


def test_the_attention_row_of_every_pixel_explains_its_label() -> None:
    """The readout is attention: the seed with the largest weight is the label, pixel for pixel."""
    labels = scatter((96, 128), 7, diameter=18.0, clustered=0.9)
    maps = perfect(labels, noise=0.1)
    seeds = find_seeds(maps)
    block = SeedBlock(TokenGrid(1, 1.0, labels.shape, (0, 0), labels.shape), seeds)
    where = {(int(y), int(x)): n + 1 for n, (y, x) in enumerate(seeds.position)}
    from napari_attnseg.core.postprocess import seeds_readout

    raw, _ = seeds_readout(maps, PLAIN)
    checked = 0
    for y, x in np.ndindex(labels.shape):
        weights, background = block.row((y, x), "mean")
        assert weights.sum() + background == pytest.approx(1, abs=1e-5)
        top = np.unravel_index(weights.argmax(), weights.shape)
        expected = where[(int(top[0]), int(top[1]))] if weights.max() > background else 0
        assert raw[y, x] == expected
        checked += expected > 0
    assert checked > 2000


def test_received_attention_adds_up_to_the_rows() -> None:
    labels = scatter((40, 48), 2, diameter=14.0)
    maps = perfect(labels)
    block = SeedBlock(TokenGrid(1, 1.0, labels.shape, (0, 0), labels.shape), find_seeds(maps))
    rows = sum(block.row((y, x), "0")[0] for y, x in np.ndindex(labels.shape)) / labels.size
    received, sampled = block.received("0")
    assert not sampled
    np.testing.assert_allclose(received, rows, atol=2e-3 / labels.size * 100)
    with pytest.raises(InputError, match="head '1'"):
        block.row((0, 0), "1")


def two_halves(predicted: float, gap: int = 0) -> DenseMaps:
    """Return the maps of a disc whose halves vote for a seed each; every pixel says ``predicted`` pixels."""
    y, x = np.indices((60, 90)).astype(np.float32)
    left = (np.hypot(y - 30, x - 40) < 15) & (x < 40)
    right = (np.hypot(y - 30, x - 40 - gap) < 15) & (x >= 40 + gap)
    offset = np.zeros((2, 60, 90), np.float32)
    for half, (cy, cx) in ((left, (30, 34)), (right, (30, 46 + gap))):
        offset[0][half], offset[1][half] = cy - y[half], cx - x[half]
    foreground = np.where(left | right, 0.95, 0.05).astype(np.float32)
    return DenseMaps(foreground, foreground, np.full((60, 90), predicted, np.float32), offset)


def test_parts_of_one_object_are_joined_by_the_size_that_they_predict() -> None:
    """Halves of a disc of 30 pixels: one object where they say 30, two where they say 21 (half the area)."""
    whole, _ = read_out(two_halves(30.0), PLAIN)
    assert whole.max() == 1
    assert (whole > 0).sum() == (two_halves(30.0).foreground > 0.5).sum()
    for gap in (1, 2):  # all pixels change over, but of pieces that do not touch the largest stays
        seeds = find_seeds(two_halves(30.0, gap))
        assert len(seeds.pixels) == (two_halves(30.0, gap).foreground > 0.5).sum()
        assert (seeds.best == 0).all()
        assert read_out(two_halves(30.0, gap), PLAIN)[0].max() == 1
    assert read_out(two_halves(21.0), PLAIN)[0].max() == 2
    for gap in (4, 8, 20):  # farther apart they are two, whatever they say, and keep their pixels
        apart, _ = read_out(two_halves(30.0, gap), PLAIN)
        assert apart.max() == 2
        assert (apart > 0).sum() == (two_halves(30.0, gap).foreground > 0.5).sum()
    assert len(find_seeds(two_halves(30.0)).position) == 1
    assert len(find_seeds(two_halves(30.0), parts=True).position) == 2


def boxes(*cells: tuple[int, int, int, int, float], shape: tuple[int, int] = (120, 160)) -> DenseMaps:
    """Return the maps of rectangles (y, x, height, width, predicted diameter) that vote for their middles."""
    y, x = np.indices(shape).astype(np.float32)
    offset, size = np.zeros((2, *shape), np.float32), np.full(shape, 20.0, np.float32)
    inside = np.zeros(shape, bool)
    for top, left, height, width, diameter in cells:
        here = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        offset[0][here], offset[1][here] = top + height // 2 - y[here], left + width // 2 - x[here]
        size[here] = diameter
        inside |= here
    foreground = np.where(inside, 0.95, 0.05).astype(np.float32)
    return DenseMaps(foreground, foreground, size, offset)


def test_the_larger_part_stays() -> None:
    maps = boxes((40, 40, 20, 16, 26.0), (40, 56, 20, 8, 26.0))
    seeds = find_seeds(maps)
    np.testing.assert_array_equal(seeds.position, [[50, 48]])
    assert (seeds.best == 0).all()


def test_a_seed_that_is_dropped_takes_no_others_pixels() -> None:
    """Of three parts in a row the middle one loses to the first; the last is no part of the first."""
    maps = boxes((40, 22, 20, 16, 30.0), (40, 38, 20, 12, 30.0), (40, 50, 20, 10, 30.0))
    assert len(find_seeds(maps, parts=True).position) == 3
    np.testing.assert_array_equal(find_seeds(maps).position, [[50, 30], [50, 55]])


def test_a_small_object_beside_one_said_to_be_large_stays() -> None:
    maps = boxes((0, 30, 40, 80, 100.0), (42, 66, 11, 11, 12.4))  # the border cuts the large one
    assert len(find_seeds(maps).position) == 2
    maps = boxes(
        (20, 20, 15, 15, 17.0), (20, 36, 15, 15, 17.0), (60, 60, 17, 17, 500.0), (78, 60, 15, 15, 17.0)
    )
    assert len(find_seeds(maps).position) == 3  # only the 17 x 17 that says 500 is a fragment
    assert read_out(maps, PLAIN)[0].max() == 3


@pytest.mark.parametrize("turn", range(4))
def test_objects_that_the_border_cuts_are_neither_parts_nor_fragments(turn: int) -> None:
    rods = boxes((0, 40, 20, 9, 21.0), (0, 50, 20, 9, 21.0), shape=(100, 100))  # half of each is outside
    names = ("foreground", "distance", "size")
    turned = [np.ascontiguousarray(np.rot90(getattr(rods, n), turn)) for n in names]
    dy, dx = (np.rot90(part, turn) for part in rods.offset)
    for _ in range(turn):  # a quarter turn: (y, x) becomes (-x, y)
        dy, dx = -dx, dy
    maps = DenseMaps(*turned, np.stack([dy, dx]).astype(np.float32))
    assert len(find_seeds(maps).position) == 2
    assert read_out(maps, PLAIN)[0].max() == 2


def test_merging_eagerly_keeps_whole_objects() -> None:
    """Perfect maps whose sizes are 10 % off either way: nothing is a part or a fragment."""
    labels = scatter((200, 240), 5, diameter=18.0, density=0.3, clustered=0.2)
    maps = perfect(labels)
    rng = np.random.default_rng(0)
    off = rng.uniform(0.9, 1.1, labels.max() + 1).astype(np.float32)[labels]
    maps = DenseMaps(maps.foreground, maps.distance, maps.size * off, maps.offset)
    all_of_them = len(find_seeds(maps, split=-1.0, parts=True).position)
    assert len(find_seeds(maps, split=-1.0).position) >= 0.97 * all_of_them
    assert len(find_seeds(maps).position) >= 0.99 * len(find_seeds(maps, parts=True).position)


def side_by_side(left: DenseMaps, right: DenseMaps) -> DenseMaps:
    names = ("foreground", "distance", "size", "offset")
    return DenseMaps(*(np.concatenate([getattr(left, n), getattr(right, n)], axis=-1) for n in names))


def test_pixels_of_a_dropped_seed_attend_to_the_seed_that_stays_and_no_other_row_changes() -> None:
    labels = scatter((60, 90), 3, diameter=14.0)
    others = perfect(labels)
    maps = side_by_side(two_halves(30.0), others)
    seeds, alone = find_seeds(maps), find_seeds(others)
    assert len(seeds.position) == len(alone.position) + 1
    on_left = seeds.vote[:, 1] < 90
    kept = seeds.position[:, 1] < 90
    assert set(seeds.best[on_left]) == {int(np.flatnonzero(kept)[0])}
    np.testing.assert_array_equal(seeds.position[~kept] - [0, 90], alone.position)
    np.testing.assert_allclose(seeds.weight[~on_left], alone.weight, atol=1e-6)
    mine, theirs = seeds.position[seeds.best[~on_left]], alone.position[alone.best]
    np.testing.assert_array_equal(mine - [0, 90], theirs)


def squares(sides: list[int], predicted: float, at: int = 10) -> DenseMaps:
    """Return the maps of squares in a row, 40 pixels apart, whose pixels all say ``predicted`` pixels."""
    y, x = np.indices((50, 40 * len(sides))).astype(np.float32)
    offset, inside = np.zeros((2, *y.shape), np.float32), np.zeros(y.shape, bool)
    for n, side in enumerate(sides):
        here = (y >= at) & (y < at + side) & (x >= 40 * n + 10) & (x < 40 * n + 10 + side)
        offset[0][here], offset[1][here] = at + side // 2 - y[here], 40 * n + 10 + side // 2 - x[here]
        inside |= here
    foreground = np.where(inside, 0.95, 0.05).astype(np.float32)
    return DenseMaps(foreground, foreground, np.full(y.shape, predicted, np.float32), offset)


@pytest.mark.parametrize(
    ("sides", "predicted", "at", "found"),
    [
        ([20, 20, 20, 12], 22.6, 10, 3),  # 12 x 12 is .36 of an object of 22.6 pixels across
        ([20, 20, 20, 14], 22.6, 10, 4),  # .49
        ([20, 20, 20, 12], 22.6, 0, 4),  # at the border of the image anything may be cut
        ([12, 12], 22.6, 10, 2),  # all are as small: the prediction is too large for this image
        ([12] * 6, 22.6, 10, 6),
        ([12] * 5 + [7], 22.6, 10, 5),  # .34 of what is usual there
        ([12], 22.6, 10, 1),
    ],
)
def test_fragments_are_dropped(sides: list[int], predicted: float, at: int, found: int) -> None:
    maps = squares(sides, predicted, at)
    assert read_out(maps, PLAIN)[0].max() == found
    assert read_out(maps, replace_split(1.0))[0].max() == len(sides)  # splitting eagerly keeps smaller ones


def test_pixels_of_a_fragment_do_not_vote() -> None:
    maps = squares([20, 20, 20, 12], 22.6)
    seeds = find_seeds(maps)
    assert len(seeds.position) == 3
    assert (seeds.pixels % 160 < 120).all()
    assert len(seeds.pixels) == len(seeds.best) == len(seeds.weight) == len(seeds.vote) == 1200
    assert set(seeds.best) == {0, 1, 2}
    assert len(find_seeds(maps, parts=True).pixels) == 1200 + 144


@pytest.mark.parametrize("seed", range(6))
def test_weights_are_those_of_the_block_where_seeds_were_dropped(seed: int) -> None:
    labels = scatter((60, 210), seed, diameter=14.0, clustered=0.9)
    maps = side_by_side(two_halves(30.0), perfect(labels, noise=0.06, seed=seed))
    seeds = find_seeds(maps)
    assert len(find_seeds(maps, parts=True).position) > len(seeds.position)
    block = SeedBlock(TokenGrid(1, 1.0, (60, 300), (0, 0), (60, 300)), seeds)
    rows, ground = block.weights(seeds.pixels)
    taken = seeds.best < len(seeds.position)
    assert taken.sum() > 2000
    np.testing.assert_array_equal(rows.max(axis=1) > ground, taken)
    np.testing.assert_array_equal(rows.argmax(axis=1)[taken], seeds.best[taken])
    np.testing.assert_allclose(seeds.weight, rows.max(axis=1), atol=0.03)  # the seeds count two of the rivals


def test_split_finds_more_objects_than_merge() -> None:
    labels = scatter((160, 200), 4, diameter=22.0, clustered=0.9)
    maps = perfect(labels, noise=0.15)
    counts = [read_out(maps, replace_split(s))[0].max() for s in (-1.0, 0.0, 1.0)]
    assert counts[0] < counts[1] < counts[2]


def test_one_seed_said_to_be_huge_does_not_pair_up_all_others() -> None:
    side = 384
    y, x = np.mgrid[:side, :side].astype(np.float32)
    cy, cx = y // 6 * 6 + 2, x // 6 * 6 + 2
    inside = (abs(y - cy) <= 1) & (abs(x - cx) <= 1)  # 64 x 64 objects of 9 pixels that vote for their middle
    foreground = np.where(inside, 0.95, 0).astype(np.float32)
    size = np.full((side, side), 4, dtype=np.float32)
    maps = DenseMaps(foreground, foreground, size, np.stack([cy - y, cx - x]))

    def peak() -> int:
        tracemalloc.start()
        count = len(find_seeds(maps).position)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count > 3800
        return used

    plain = peak()
    size[194, 194] = 768.0  # at one seed
    assert peak() < 2 * plain  # nine times as much, if all others were paired up


def replace_split(split: float) -> ReadoutParams:
    return ReadoutParams(split=split, min_size=0)


@pytest.mark.parametrize("readout", ["seeds", "watershed"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (2, 2), (64, 48)])
def test_nothing_in_the_foreground(readout: str, shape: tuple[int, int]) -> None:
    maps = perfect(np.zeros(shape, np.int32))
    found, features = read_out(maps, ReadoutParams(readout=readout))
    assert found.shape == shape
    assert not found.any()
    assert len(features["index"]) == 0


def test_everything_in_the_foreground() -> None:
    maps = perfect(np.ones((30, 40), np.int32))
    found, _ = read_out(maps, ReadoutParams())
    assert (found == 1).all()


def test_unknown_readout_is_refused() -> None:
    maps = perfect(np.zeros((8, 8), np.int32))
    with pytest.raises(InputError, match="Unknown readout 'sed'"):
        read_out(maps, PLAIN, default="sed")


LABELS = np.array(
    [
        [1, 1, 1, 0, 2],
        [1, 0, 1, 0, 0],
        [1, 1, 1, 0, 1],
        [0, 0, 0, 0, 0],
        [0, 3, 3, 0, 0],
    ],
    dtype=np.int32,
)


def test_largest_pieces() -> None:
    out = largest_pieces(LABELS)
    assert out[2, 4] == 0
    np.testing.assert_array_equal(np.delete(out.ravel(), 14), np.delete(LABELS.ravel(), 14))


def test_fill_holes_fills_only_what_one_object_encloses() -> None:
    out = fill_holes(LABELS)
    assert out[1, 1] == 1
    assert (out != LABELS).sum() == 1
    mixed = LABELS.copy()
    mixed[0, 1] = 4  # now two objects enclose the hole
    np.testing.assert_array_equal(fill_holes(mixed), mixed)


def test_tidy_drops_small_and_edge_objects_and_renumbers() -> None:
    inner = np.pad(LABELS, 1)
    out = tidy(inner, ReadoutParams(min_size=2, drop_edge=True))
    assert sorted(np.unique(out)) == [0, 1, 2]
    out = tidy(LABELS, ReadoutParams(min_size=0, drop_edge=True))
    assert not out.any()


def test_maps_are_not_changed() -> None:
    maps = perfect(scatter((40, 40), 1, diameter=12.0))
    copy = replace(maps, foreground=maps.foreground.copy(), offset=maps.offset.copy())
    read_out(maps, ReadoutParams())
    np.testing.assert_array_equal(maps.foreground, copy.foreground)
    np.testing.assert_array_equal(maps.offset, copy.offset)


def test_objects_below_the_least_confidence_are_dropped() -> None:
    truth = np.zeros((40, 80), np.int32)
    truth[5:25, 5:25], truth[5:25, 45:65] = 1, 2
    maps = perfect(truth, 0.0)
    foreground = np.where(truth == 2, np.float32(0.85), maps.foreground)
    maps = replace(maps, foreground=foreground)
    labels, features = read_out(maps, ReadoutParams())
    assert labels.max() == 2
    middle = float(features["confidence"].mean())
    kept, sure = read_out(maps, ReadoutParams(min_confidence=middle))
    assert kept.max() == 1
    np.testing.assert_array_equal(kept > 0, truth == 1)
    assert sure["confidence"].tolist() == features["confidence"][features["confidence"] >= middle].tolist()
    assert sure["index"].tolist() == [1]
    assert sure["size"].tolist() == [400]


@pytest.mark.parametrize("readout", ["seeds", "watershed"])
@pytest.mark.parametrize(
    ("threshold", "prob", "kept"),
    [(0.6, 0.62, False), (0.6, 0.79, False), (0.6, 0.81, True), (0.3, 0.38, False), (0.3, 0.42, True),
     (0.8, 0.88, False), (0.8, 0.92, True), (0.2, 0.25, False), (0.2, 0.29, True)],
)  # fmt: skip
def test_faint_objects_are_dropped(readout: str, threshold: float, prob: float, kept: bool) -> None:
    """The mean foreground must be a third above the threshold, at most halfway from it to 1."""
    truth = np.zeros((40, 80), np.int32)
    truth[5:25, 5:25], truth[5:25, 45:65] = 1, 2
    maps = perfect(truth, 0.0)
    foreground = np.array([0.001, 0.97, prob], np.float32)[truth]
    foreground[10:15, 50:55] = 0.001  # a hole, filled, makes no object faint
    found = replace(maps, foreground=foreground)
    labels, features = read_out(found, ReadoutParams(readout=readout, threshold=threshold))
    np.testing.assert_array_equal(labels > 0, (truth == 1) | (kept & (truth == 2)))
    assert features["index"].tolist() == list(range(1, 2 + kept))
