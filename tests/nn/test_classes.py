"""Classes in the network: chances and losses by hand, a head that grows, learning across a resume."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_attnseg.core.classes import class_map, class_names
from napari_attnseg.engine import load_engine
from napari_attnseg.errors import ModelError, OutOfMemoryError, TrainingDataError
from napari_attnseg.nn import class_course
from napari_attnseg.nn import course as courses
from napari_attnseg.nn.checkpoint import read_tensors, save_model
from napari_attnseg.nn.class_course import class_source, opinion
from napari_attnseg.nn.classes import chances, class_loss, grow, log_chances, parent_loss
from napari_attnseg.nn.finetune import train_and_store
from napari_attnseg.nn.model import AttnSegNet, Outputs, build_model, to_channels_last
from napari_attnseg.nn.tune import FULL, QUICK, Tuner
from napari_attnseg.params import TrainParams
from napari_attnseg.records import DenseMaps, ModelCard, Sample, TrainEvent, TrainStep
from napari_attnseg.store import models

SMALL = {"widths": [32, 32, 32, 32], "depth": 1}
TWO = ("plain", "striped")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home with the model "tiny" in it, and recipes of a size for tests."""
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    for name, recipe in (("QUICK", QUICK), ("FULL", FULL)):
        monkeypatch.setattr(courses, name, replace(recipe, size=48, batch=2, pool=4, scenes=2))
    monkeypatch.setattr(class_course, "_QUICK_CROPS", {})
    torch.manual_seed(0)
    model = AttnSegNet(widths=(32, 32, 32, 32), depth=1)
    save_model(tmp_path / "models" / "tiny", model, ModelCard("tiny", "Tiny", SMALL, diameter=16.0))
    return tmp_path


def painted(seed: int = 0, classes=TWO, numbers=(1, 2)) -> Sample:
    """Return a grey image with plain and striped squares, all of it known."""
    rng = np.random.default_rng(seed)
    image, labels = rng.normal(0.5, 0.02, (1, 192, 192)), np.zeros((192, 192), np.int32)
    for n, (y, x) in enumerate([(y, x) for y in range(8, 180, 32) for x in range(8, 180, 32)]):
        image[0, y : y + 16, x : x + 16] += (0.3, 0.3 * (np.arange(16) // 2 % 2 * 2 - 1))[n % 2]
        labels[y : y + 16, x : x + 16] = numbers[n % 2]
    return Sample(image.astype(np.float32), labels, np.ones(labels.shape, bool), "a", classes=classes)


def run(samples=None, start="tiny", **values):
    values = TrainParams(
        **{"name": "new", "start": start, "steps": 4, "device": "cpu", "task": "classes", **values}
    )
    return list(train_and_store(samples or [painted()], values, models.find(start)))


def weights(name: str) -> dict[str, torch.Tensor]:
    return read_tensors(models.find(name).weights)[0]


def test_classes_keep_all_that_was_learnt():
    run()
    assert models.find("new").card.training["blend"] == 1.0


# -- by hand --------------------------------------------------------------------------------------------


def logits(*values: float, side: int = 2) -> torch.Tensor:
    return torch.tensor(values).view(1, -1, 1, 1).expand(1, -1, side, side).clone().requires_grad_()


def test_the_foreground_is_shared_out():
    p = chances(logits(math.log(3), 0.0, 0.0))[0, :, 0, 0]
    assert p.tolist() == pytest.approx([0.25, 0.375, 0.375])
    np.testing.assert_allclose(
        log_chances(logits(0.3, 0.2, -0.1)).exp().detach(),
        chances(logits(0.3, 0.2, -0.1)).detach(),
        rtol=1e-5,
    )
    one = log_chances(logits(math.log(3)))[0, :, 0, 0].exp()
    assert one.tolist() == pytest.approx([0.25, 0.75])


def test_class_loss_by_hand():
    """Even chances of 1/2, 1/4 and 1/4: one pixel of background, one of class 1, and two unknown ones."""
    z = logits(0.0, 0.0, 0.0)
    labels = torch.tensor([[[[0, 1], [2, 2]]]])
    known = torch.tensor([[[[True, True], [False, False]]]])
    loss = class_loss(z, labels, known)
    assert float(loss.detach()) == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-6)
    loss.backward()
    assert (z.grad[..., 1, :] == 0).all()
    assert (z.grad[..., 0, 1] != 0).all()


def test_kinds_count_alike_however_many_pixels_they_have():
    z = logits(0.0, 0.0, 0.0, side=4)
    labels = torch.zeros((1, 1, 4, 4), dtype=torch.long)
    labels[..., 0, 0] = 2
    loss = class_loss(z, labels, torch.ones_like(labels, dtype=torch.bool))
    assert float(loss.detach()) == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-6)


def test_nothing_known_is_no_loss():
    z = logits(0.4, 0.1, 0.0)
    loss = class_loss(
        z, torch.zeros((1, 1, 2, 2), dtype=torch.long), torch.zeros((1, 1, 2, 2), dtype=torch.bool)
    )
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert (z.grad == 0).all()


def outputs(*values: float, rest: float = 0.1) -> Outputs:
    z = logits(*values)
    return Outputs(z, *(torch.full((1, n, 2, 2), rest) for n in (1, 1, 2, 16)))


def test_a_parent_of_objects_has_an_opinion_of_the_foreground_only():
    where = torch.ones((1, 1, 2, 2), dtype=torch.bool)
    teacher = outputs(3.0, 0.0, 0.0)
    assert float(parent_loss(outputs(3.0, 5.0, -5.0), teacher, 0, where).detach()) == pytest.approx(
        0, abs=1e-6
    )
    assert float(parent_loss(outputs(-3.0, 0.0, 0.0), teacher, 0, where).detach()) > 1
    # one that knows the first class says so, and nothing of the second: it is not there
    known = outputs(3.0, 1.0, -9.0)
    low, high = (float(parent_loss(outputs(3.0, a, -a), known, 1, where).detach()) for a in (5.0, -5.0))
    assert low == pytest.approx(0, abs=1e-3)
    assert high > 1
    # not confident, or not asked: no loss
    assert float(parent_loss(outputs(3.0, 0, 0), outputs(0.2, 0, 0), 0, where, 0.3).detach()) == 0
    assert float(parent_loss(outputs(3.0, 0, 0), outputs(-3.0, 0, 0), 0, ~where).detach()) == 0


def test_distance_size_and_votes_are_held_everywhere():
    nowhere = torch.zeros((1, 1, 2, 2), dtype=torch.bool)
    teacher = outputs(3.0, 0.0, 0.0)
    assert float(parent_loss(outputs(3.0, 0.0, 0.0, rest=0.9), teacher, 0, nowhere).detach()) > 0.1


# -- the head grows -------------------------------------------------------------------------------------


def tiny(classes: int = 1):
    torch.manual_seed(1)
    return to_channels_last(build_model(**SMALL, classes=classes)).eval()


def test_the_foreground_stays_bit_for_bit_when_classes_come():
    x = torch.rand(1, 3, 64, 64)
    for had, known, count in ((1, 0, 3), (1, 0, 1), (1, 1, 2), (2, 2, 3), (3, 3, 3)):
        parent = tiny(had)
        grown = grow(parent, {**SMALL, "classes": had}, known, count)
        with torch.no_grad():
            before, after = parent(x), grown(x)
        assert torch.equal(after.foreground[:, :1], before.foreground[:, :1])
        for name in ("distance", "size", "offset", "embedding"):
            assert torch.equal(getattr(after, name), getattr(before, name))
        assert after.foreground.shape[1] == (1 if count == 1 else 1 + count)
        if known > 1:  # the old classes keep their rows, and a new one is never the likeliest
            best = chances(after.foreground)[:, 1:].argmax(1)
            assert torch.equal(best, chances(before.foreground)[:, 1:].argmax(1))
        elif count > 1 and not known:
            shares = chances(after.foreground)[:, 1:]
            assert torch.allclose(shares, shares[:, :1].expand_as(shares))


def test_a_single_known_class_stays_ahead_of_a_new_one():
    grown = grow(tiny(1), SMALL, 1, 2)
    with torch.no_grad():
        p = chances(grown(torch.rand(1, 3, 32, 32)).foreground)
    assert (p[:, 1] > p[:, 2]).all()


# -- learning -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["quick", "full"])
def test_same_steps_and_seed_give_the_same_weights_also_across_a_resume(tier, home):
    run(name="whole", tier=tier, steps=4, seed=3)
    with pytest.raises(StopIteration):  # interrupted after two steps
        steps = iter(train_and_store(
            [painted()],
            TrainParams(name="cut", start="tiny", tier=tier, steps=4, seed=3, device="cpu", task="classes"),
            models.find("tiny"),
        ))  # fmt: skip
        for event in steps:
            if isinstance(event, TrainStep) and event.step == 2:
                steps.close()
                raise StopIteration
    run(name="cut", tier=tier, steps=4, seed=3, resume=True)
    one, other = weights("whole"), weights("cut")
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_run_learns_classes_and_the_card_says_so(home):
    events = run(steps=30)
    card = models.find("new").card
    assert class_names(card) == TWO
    assert (card.architecture["classes"], card.training["task"], card.parent) == (2, "classes", "tiny")
    held = card.metrics["held_out"]
    assert held["before"]["per_class"] == {"plain": None, "striped": None}
    assert all(isinstance(dice, float) for dice in held["after"]["per_class"].values())
    assert any(isinstance(e, TrainEvent) and e.kind == "val" and "per_class" in e.data for e in events)
    losses = [e.parts["classes"] for e in events if isinstance(e, TrainStep)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    engine = load_engine("new", "cpu")
    maps = engine.maps(painted().image[0])
    assert maps.classes.shape == (3, 192, 192)
    np.testing.assert_allclose(maps.classes.sum(axis=0), 1, atol=1e-4)
    np.testing.assert_allclose(maps.classes[1:].sum(axis=0), maps.foreground, atol=1e-4)
    assert engine.outputs([painted().image[0]]).shape == (1, 5, 192, 192)
    assert set(engine.tape(painted().image[0]).blocks) == set(card.blocks)


def test_a_model_with_classes_learns_one_more(home):
    run(steps=2)
    more = painted(1, ("striped", "edge"), (1, 2))
    run([more], start="new", name="more", steps=2)
    card = models.find("more").card
    assert card.classes == ("plain", "striped", "edge")
    assert card.architecture["classes"] == 3
    before = card.metrics["held_out"]["before"]["per_class"]
    assert before["edge"] is None
    assert before["striped"] is not None


def test_what_does_not_belong_together_is_refused(home):
    objects = replace(painted(), classes=())
    with pytest.raises(TrainingDataError, match="objects, not classes"):
        run([objects])
    with pytest.raises(TrainingDataError, match="classes, not objects"):
        run(task="instances")
    with pytest.raises(ModelError, match="from scratch"):
        list(train_and_store([painted()], TrainParams(name="x", task="classes", start="scratch"), None))
    run(steps=1)
    with pytest.raises(ModelError, match="tells classes apart"):
        run([objects], start="new", name="x", task="instances")


def test_names_that_differ_only_in_case_are_refused(home):
    with pytest.raises(TrainingDataError, match="'Cell' and 'cell' differ only in upper and lower case"):
        run([painted(classes=("Cell", "cell"))])
    run(steps=1)
    with pytest.raises(TrainingDataError, match="'striped' and 'Striped'"):
        run([painted(classes=("plain", "Striped"))], start="new", name="more")


def test_a_network_whose_head_cannot_grow_is_refused(monkeypatch, home):
    class Other(torch.nn.Module):
        def __init__(self, **_):
            super().__init__()
            self.out = torch.nn.Conv2d(3, 5, 1)
            self.blocks = {}

    monkeypatch.setattr("napari_attnseg.nn.class_course.build_network", lambda parent: Other())
    with pytest.raises(ModelError, match="no head that could grow"):
        run()


@pytest.mark.parametrize("look", [2, 5])  # while the maps are read, and while the head's input is
def test_cancel_while_the_samples_are_read_stores_nothing(look, monkeypatch, home):
    asked = []
    monkeypatch.setattr("napari_attnseg.nn.class_course.start_rows", lambda *_: pytest.fail("went on"))
    samples = [replace(painted(n), name=str(n)) for n in range(3)]
    params = TrainParams(name="new", start="tiny", steps=4, device="cpu", task="classes")
    stop = lambda: bool(asked.append(1)) or len(asked) >= look  # noqa: E731
    events = list(train_and_store(samples, params, models.find("tiny"), stop=stop))
    (result,) = [e.data for e in events if isinstance(e, TrainEvent) and e.kind == "result"]
    assert (result["cancelled"], result["stored"], result["steps"]) == (True, False, 0)
    assert len(asked) == look
    assert not models.exists("new")


def test_cancel_while_a_resumed_run_reads_stores_what_it_had_learnt(monkeypatch, home):
    monkeypatch.setattr(courses, "limits_of", lambda *_: courses.Limits(6, None, 6, 1e3, every=2, patience=9))
    monkeypatch.setattr(courses.Course, "improved", lambda self: bool(self.before and self.after))
    samples = [replace(painted(n), name=str(n)) for n in range(3)]
    params = TrainParams(name="new", start="tiny", steps=6, device="cpu", task="classes")
    job = train_and_store(samples, params, models.find("tiny"))
    for event in job:
        if isinstance(event, TrainStep) and event.step == 3:
            job.close()
    again = params.model_copy(update={"resume": True})
    events = list(train_and_store(samples, again, models.find("tiny"), stop=lambda: True))
    (result,) = [e.data for e in events if isinstance(e, TrainEvent) and e.kind == "result"]
    assert (result["cancelled"], result["stored"], result["steps"]) == (True, True, 2)
    assert models.exists("new")


def test_less_memory_means_fewer_crops(monkeypatch, home):
    real, failed = Tuner.advance, []

    def advance(self, share=0.0):
        if not failed:
            failed.append(1)
            raise torch.OutOfMemoryError("out of memory")
        return real(self, share)

    monkeypatch.setattr(Tuner, "advance", advance)
    monkeypatch.setattr(class_course, "_QUICK_CROPS", {"batch": 4})
    events = run(steps=2)
    assert any(
        "fewer crops" in e.data["text"] for e in events if isinstance(e, TrainEvent) and e.kind == "note"
    )
    monkeypatch.setattr(Tuner, "advance", lambda self, share=0.0: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(OutOfMemoryError):
        run(name="other", steps=2)


def test_crops_are_centred_near_all_classes_alike():
    labels = np.zeros((60, 60), np.int32)
    labels[:5, :5] = 1
    labels[40:, 40:] = 2
    sample = Sample(np.zeros((1, 60, 60), np.float32), labels, np.ones((60, 60), bool), classes=TWO)
    zero = np.zeros((60, 60), np.float32)
    maps = DenseMaps(
        np.where(labels == 1, 0.9, 0.1).astype(np.float32), zero, zero + 8, np.stack([zero, zero])
    )
    source = class_source([sample], [opinion(sample, maps, 0, 16.0)], 16.0, 48, 0)
    y, x = source.places[0].astype(int).T
    assert np.bincount(labels[y, x]).tolist() == [24, 24, 24]
    assert source.medians == [pytest.approx(8, abs=0.5)]
    background, objects = source.trust[0]
    assert background == pytest.approx(1 - 400 / (3600 - 25))
    assert objects == 1.0
    part, _ = source.draw(0)
    assert set(part.labels.unique().tolist()) <= {0, 1, 2}
    assert class_map(maps, 0.5).sum() == 25
