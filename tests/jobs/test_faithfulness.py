"""Checks of attention on engines of which it is known what matters to them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_attnseg.core.attention import AttentionTape, QKBlock
from napari_attnseg.core.axes import source_of
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.errors import InputError
from napari_attnseg.jobs.crop_check import CheckLimits
from napari_attnseg.jobs.faithfulness import check_query
from napari_attnseg.jobs.model_check import CheckImage, check_model, images_of, save_report
from napari_attnseg.jobs.progress import drive
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import PlaneKey
from napari_attnseg.store.images import write_tiff
from tests.fakes import FakeEngine, blobs

KEY, PARAMS = PlaneKey(), SegmentParams(diameter=24)
PLACE = (1, 6)  # the token that decides everything


class Decided(FakeEngine):
    """The foreground logit of every pixel is the contrast in one far token; attention looks at ``looks``."""

    def __init__(self, looks, far=PLACE):
        super().__init__()
        self.looks, self.far = looks, far

    def outputs(self, images, *, zoom=1.0, norm=None):
        out = np.zeros((len(images), 5, *images[0].shape[:2]), dtype=np.float32)
        y, x = (16 * n for n in self.far)
        for n, image in enumerate(images):
            out[n, 0] = 10 * self._grey(image, norm)[y : y + 16, x : x + 16].std()
        return out

    def tape(self, image, *, zoom=1.0, norm=None, origin=(0, 0)):
        field = image.shape[0], image.shape[1]
        shape = -(-field[0] // 16), -(-field[1] // 16)
        grid = TokenGrid(16, zoom, shape, origin, field)
        count = shape[0] * shape[1]
        q, k = (np.zeros((1, count, 8), dtype=np.float16) for _ in range(2))
        q[..., 0] = 1
        k[0, :, 0] = np.random.default_rng(0).random(count) * 0.1
        k[0, self.looks[0] * shape[1] + self.looks[1], 0] = 8
        registers = np.zeros((1, 1, 8), dtype=np.float16)
        return AttentionTape({"global1": QKBlock("global1", "global", 1, grid, q, k, registers, 1.0)}, zoom)


def scene(shape=(96, 128)):
    rng = np.random.default_rng(1)
    return source_of((255 * rng.random(shape)).astype(np.uint8))


def check(engine, pixel=(70, 20), **more):
    return drive(check_query(engine, scene(), KEY, pixel, PARAMS, **{"cells": 1, **more}))


def test_attention_on_what_decides_is_told_from_attention_beside_it():
    wide = scene((256, 256))  # of 255 cells, few draws hit the one that decides
    right, wrong = (
        drive(check_query(Decided(looks), wide, KEY, (70, 20), PARAMS, cells=1)) for looks in (PLACE, (4, 4))
    )
    assert right.verdict == "yes"
    assert right.p_value == pytest.approx(1 / 21)
    assert right.occluded == (PLACE,)
    assert right.attended > 10 * max(right.nearest, 1e-6)
    assert wrong.verdict != "yes"
    assert wrong.occluded == ((4, 4),)
    assert wrong.attended < right.attended / 10
    assert right.share > 0.5
    assert json.dumps(right.to_dict())


class Near(FakeEngine):
    """The foreground logit of a pixel depends on its surroundings, the less the farther."""

    def outputs(self, images, *, zoom=1.0, norm=None):
        out = np.zeros((len(images), 5, *images[0].shape[:2]), dtype=np.float32)
        for n, image in enumerate(images):
            out[n, 0] = 60 * gaussian_filter(self._grey(image, norm) ** 2, 10, truncate=8) - 4
        return out


def test_the_own_cell_is_never_covered():
    with pytest.raises(InputError, match="no cell but its own"):
        check(Decided((4, 1)))  # the pixel lies in the token that it looks at
    everything = check(FakeEngine(), block="global1", cells=1000)
    assert everything.eligible == 6 * 8 - 1
    assert (4, 1) not in everything.occluded


def test_draws_are_reproducible_and_as_many_as_asked_for():
    one, two, other = (check(Near(), block="global1", seed=s, draws=25) for s in (3, 3, 4))
    assert one == two
    assert one.random != other.random
    assert one.draws == 25
    assert check(FakeEngine(), block="global1", cells=1000).cells <= 47 // 3


def test_a_local_block_competes_with_its_window_only():
    found = check(FakeEngine(), block="local1", cells=3)
    assert found.local
    assert found.eligible == 4 * 4 - 1  # a window of 5 x 5 around token (4, 1) of 6 x 8, cut on two sides
    own = (70 // 16, 20 // 16)
    assert all(max(abs(y - own[0]), abs(x - own[1])) <= 2 for y, x in found.occluded)


def test_a_large_field_is_cut_around_the_pixel():
    engine, source = FakeEngine(), scene((900, 1000))
    pixel = (700, 430)
    found = drive(check_query(engine, source, KEY, pixel, PARAMS, block="global1", draws=1))
    (y, x), (h, w) = found.field
    assert (h, w) == (512, 512)
    assert y % 16 == x % 16 == 0
    assert y <= pixel[0] < y + h
    assert x <= pixel[1] < x + w
    assert max(shape for shape, _ in engine.calls) <= (512, 512)


def test_the_rollout_can_be_checked():
    found = check(FakeEngine(), block="rollout", cells=3)
    assert (found.block, found.value, found.local) == ("rollout", False, False)
    assert found.eligible == 6 * 8 - 1


def test_pixels_outside_and_wrong_blocks_are_refused():
    with pytest.raises(InputError, match="outside the field"):
        check(FakeEngine(), pixel=(96, 0))
    with pytest.raises(InputError, match="no attention block"):
        check(FakeEngine(), block="globale1")
    with pytest.raises(InputError, match="no values"):
        check(FakeEngine(), block="global1", value=True)


SMALL = CheckLimits(side=96, queries=3, objects=1, cells=3, draws=4, orders=2)


def images(count=2):
    return [CheckImage(source_of(blobs((96, 128), radius=7 + n)[0], f"image {n}")) for n in range(count)]


def test_a_model_is_checked_on_images():
    steps = []
    found = drive(check_model(Near(), images(), PARAMS, limits=SMALL), steps.append)
    assert (found.images, found.queries, found.objects) == (2, 6, 2)
    assert all(0 <= a.done <= a.total for a in steps)
    near, chance = found.score("nearness"), found.score("random")
    assert near.spearman > 0.3 > abs(chance.spearman)
    gradient = found.score("gradient")
    assert gradient.deletion is not None
    own = found.score("global1", "weights")
    assert 0 < own.same_object < 1
    assert own.on_objects >= own.same_object
    assert 0 < found.area_same <= found.area_objects < 1
    assert {s.words for s in found.scores} >= {"global1, head 0", "global1, head 1", "local1, weights"}
    assert near.deletion < chance.deletion  # covering the object first removes it soonest
    assert near.insertion > chance.insertion
    itself, signed = found.score("influence"), found.score("influence", "signed")
    assert itself.spearman == pytest.approx(1)  # it is what the others are compared with
    assert signed.spearman < 1
    assert signed.deletion <= min(near.deletion, chance.deletion)  # what matters goes first
    assert found.best.name in ("local1", "global1", "rollout")


def test_a_model_that_looks_at_what_decides_it_scores_high():
    place = (3, 3)
    limits = CheckLimits(side=256, queries=2, objects=1, cells=1, draws=20, orders=2)
    source, labels = scene((256, 256)), np.zeros((256, 256), dtype=np.int32)
    labels[108:130, 8:30] = 1
    scores = {}
    for looks in (place, (1, 4)):
        engine = Decided(looks, far=place)
        report = drive(check_model(engine, [CheckImage(source, labels=labels)], PARAMS, limits=limits))
        scores[looks] = report.score("global1", "weights")
    assert scores[place].significant == 1
    assert scores[1, 4].significant == 0
    assert scores[place].spearman > scores[1, 4].spearman


def test_the_same_seed_gives_the_same_report():
    one, two = (drive(check_model(FakeEngine(), images(1), PARAMS, seed=5, limits=SMALL)) for _ in range(2))
    assert one == two
    other = drive(check_model(FakeEngine(), images(1), PARAMS, seed=6, limits=SMALL))
    assert one != other


def test_a_check_that_was_stopped_goes_on_with_the_same_numbers(tmp_path):
    image, labels = blobs((96, 128))
    three = [*images(2), CheckImage(source_of(image), labels=np.zeros_like(labels))]  # the last has no object
    at_once = drive(check_model(Near(), three, PARAMS, limits=SMALL))
    notes = []
    stopped = check_model(Near(), three, PARAMS, limits=SMALL, work=tmp_path / "work")
    assert (
        drive(stopped, lambda p: notes.append(p.note), lambda: notes[-1].startswith("Image 2 of 3: infl"))
        is None
    )
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["image_0000.json"]
    first = (tmp_path / "work" / "image_0000.json").stat().st_mtime_ns
    again = drive(check_model(Near(), three, PARAMS, limits=SMALL, work=tmp_path / "work"))
    assert again == at_once
    assert (tmp_path / "work" / "image_0000.json").stat().st_mtime_ns == first  # not measured again
    idle = Near()
    assert drive(check_model(idle, three, PARAMS, limits=SMALL, work=tmp_path / "work")) == at_once
    assert idle.calls == []


@pytest.mark.parametrize("change", [{"seed": 3}, {"limits": CheckLimits(side=96, queries=2, objects=1)}])
def test_what_was_kept_under_other_settings_is_not_taken(tmp_path, change):
    plain = {"seed": 0, "limits": SMALL}
    drive(check_model(Near(), images(1), PARAMS, **plain, work=tmp_path))
    assert drive(check_model(Near(), images(1), PARAMS, **(plain | change), work=tmp_path)) == drive(
        check_model(Near(), images(1), PARAMS, **(plain | change))
    )


def test_a_damaged_kept_file_is_measured_again(tmp_path):
    one = drive(check_model(Near(), images(1), PARAMS, limits=SMALL, work=tmp_path))
    (tmp_path / "image_0000.json").write_text('{"image": "')
    assert drive(check_model(Near(), images(1), PARAMS, limits=SMALL, work=tmp_path)) == one


def test_given_labels_are_the_objects_and_empty_images_are_passed_over():
    image, labels = blobs((96, 128))
    full = CheckImage(source_of(image), labels=labels)
    empty = CheckImage(source_of(image), labels=np.zeros_like(labels))
    found = drive(check_model(FakeEngine(), [empty, full], PARAMS, limits=SMALL))
    assert found.images == 1
    with pytest.raises(InputError, match="None of the images"):
        drive(check_model(FakeEngine(), [empty], PARAMS, limits=SMALL))


def test_objects_of_a_large_plane_are_sought_in_its_middle():
    engine = FakeEngine()
    image = CheckImage(source_of(blobs((300, 400))[0]))
    params = SegmentParams(diameter=24, tile=128)
    drive(check_model(engine, [image], params, limits=CheckLimits(side=64, queries=1, objects=0)))
    assert max(shape for shape, _ in engine.calls) <= (128, 128)


def test_cancelling_leaves_nothing_behind():
    assert drive(check_model(FakeEngine(), images(), PARAMS, limits=SMALL), cancelled=lambda: True) is None
    job = check_query(FakeEngine(), scene(), KEY, (5, 5), PARAMS)
    assert drive(job, cancelled=lambda: True) is None


def test_reports_are_saved_and_folders_read(tmp_path):
    for n in range(2):
        write_tiff(tmp_path / "in" / f"{n}.tif", blobs()[0])
    found = drive(check_model(FakeEngine(), images_of(tmp_path / "in"), PARAMS, limits=SMALL))
    raw, page = save_report(found, tmp_path / "out")
    assert json.loads(raw.read_text())["model"] == "fake"
    assert page.read_text().startswith("# Does the attention of 'fake'")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "faithfulness_fake.json",
        "faithfulness_fake.md",
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no images"):
        images_of(tmp_path / "none")
