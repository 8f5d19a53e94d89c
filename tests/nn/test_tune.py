"""Fine-tuning: masked losses by hand, the parent untouched, the same weights across a resume, less memory."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_attnseg.core.corrections import erased_objects, known_objects, make_sample
from napari_attnseg.core.synth import fluorescence
from napari_attnseg.errors import CheckpointError, OutOfMemoryError, StoreError, TrainingDataError
from napari_attnseg.nn import course as courses
from napari_attnseg.nn import finetune
from napari_attnseg.nn.adam import AdamW
from napari_attnseg.nn.augment import Batch
from napari_attnseg.nn.checkpoint import read_tensors, save_model, write_tensors
from napari_attnseg.nn.course import Course
from napari_attnseg.nn.deltas import Deltas, trainable
from napari_attnseg.nn.finetune import train_and_store
from napari_attnseg.nn.judge import count_objects
from napari_attnseg.nn.limits import Stand, limits_of
from napari_attnseg.nn.losses import distillation_loss, masked_loss
from napari_attnseg.nn.model import CANONICAL, AttnSegNet, Outputs
from napari_attnseg.nn.pool import Pool, Source, make_source, object_share, usual_diameter
from napari_attnseg.nn.tune import FULL, QUICK, Tuner, build_network, rungs
from napari_attnseg.params import TrainParams
from napari_attnseg.records import ModelCard, Sample, TrainEvent, TrainStep
from napari_attnseg.store import models

SMALL = {"widths": [32, 32, 32, 32], "depth": 1}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home with the model "tiny" in it, and recipes of a size for tests."""
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    for name, recipe in (("QUICK", QUICK), ("FULL", FULL)):
        tiny = replace(recipe, size=48, batch=2, pool=4, scenes=2, renew=2)
        monkeypatch.setattr(courses, name, tiny)
    torch.manual_seed(0)
    model = AttnSegNet(widths=(32, 32, 32, 32), depth=1)
    save_model(tmp_path / "models" / "tiny", model, ModelCard("tiny", "Tiny", SMALL, diameter=16.0))
    return tmp_path


def field(seed: int = 0, shape=(80, 96)):
    image, labels = fluorescence(shape, seed, diameter=16.0)
    return image.astype(np.float32)[None] / image.max(), labels


def corrected(seed: int = 0, name: str = "a", count: int = 3) -> Sample:
    """Return a sample of which ``count`` objects were drawn and one was erased."""
    image, labels = field(seed)
    ids = np.unique(labels)[1:]
    after = np.where(np.isin(labels, ids[1:]), labels, 0)
    before = np.where(np.isin(labels, np.append(ids[count + 1 :], ids[0])), labels, 0)
    sample = make_sample(image, before, after, name=name)
    assert sample is not None
    return sample


def params(name: str = "new", **values) -> TrainParams:
    return TrainParams(**{"name": name, "start": "tiny", "steps": 4, "device": "cpu", **values})


def run(samples=None, **values):
    values = params(**values)
    return list(train_and_store(samples or [corrected()], values, models.find("tiny")))


def weights(name: str) -> dict[str, torch.Tensor]:
    return read_tensors(models.find(name).weights)[0]


# -- losses by hand -------------------------------------------------------------------------------------


def flat(value: float = 0.0, side: int = 6) -> Outputs:
    def maps(c):
        return torch.full((1, c, side, side), value, requires_grad=True)

    return Outputs(maps(1), maps(1), maps(1), maps(2), maps(16))


def truth(side: int = 6) -> Batch:
    """One object of diameter 16 on the left two columns; the right two columns are not known."""
    labels = torch.zeros((1, 1, side, side), dtype=torch.long)
    labels[..., :2] = 1
    known = torch.ones((1, 1, side, side), dtype=torch.bool)
    known[..., -2:] = False
    inside = (labels > 0).float()
    offset = torch.cat([inside * 0.0, inside * 8.0], dim=1)
    return Batch(torch.zeros((1, 3, side, side)), labels, inside * 0.75, known, inside * 16, offset)


def test_masked_loss_by_hand():
    """Logits 0: probability 1/2 everywhere, predicted diameter 32, no vote."""
    _, parts = masked_loss(flat(), truth())
    assert float(parts["foreground"].detach()) == pytest.approx(math.log(2), rel=1e-5)
    # log2(16 / 32) = -1 away: smooth L1 of 1 with beta 0.1 is 0.95, weight 0.5
    assert math.log2(16 / CANONICAL) == -1
    assert float(parts["size"].detach()) == pytest.approx(0.5 * 0.95, rel=1e-5)
    # the vote misses by 8 pixels of 16, in x only: smooth L1 of 0.5 is 0.45, weight 3
    assert float(parts["offset"].detach()) == pytest.approx(3 * 0.45, rel=1e-5)
    # |1/2 - 3/4| inside and |1/2 - 0| outside, borders weighted
    inside, outside = 0.25, 0.5
    depth = float(parts["depth"].detach()) / 2
    assert inside < depth < outside
    assert parts.keys() == {"foreground", "depth", "size", "offset"}


def test_known_objects_and_known_background_count_alike():
    """Logit 2: log(1 + e^-2) on objects and log(1 + e^2) on background, however many there are."""
    for width in (1, 2, 3):
        batch = truth()
        batch.labels[:] = 0
        batch.labels[..., :width] = 1
        _, parts = masked_loss(flat(2.0), batch)
        wanted = (math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2
        assert float(parts["foreground"].detach()) == pytest.approx(wanted, rel=1e-5)
    batch.labels[:] = 0  # only background is known
    _, parts = masked_loss(flat(2.0), batch)
    assert float(parts["foreground"].detach()) == pytest.approx(math.log1p(math.exp(2)), rel=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_known_objects_carry_the_share_of_the_foreground_that_they_are_given(share):
    _, parts = masked_loss(flat(2.0), truth(), share)
    wanted = share * math.log1p(math.exp(-2)) + (1 - share) * math.log1p(math.exp(2))
    assert float(parts["foreground"].detach()) == pytest.approx(wanted, rel=1e-5)


def sample_with(drawn: int, erased: int, **values) -> Sample:
    """Return a sample of sixteen objects of which some were drawn, some erased, the others left."""
    image, labels = field(3, (128, 128))
    ids = [int(i) for i in np.unique(labels)[1:17]]
    labels = np.where(np.isin(labels, ids), labels, 0)
    before = np.where(np.isin(labels, ids[drawn:]), labels, 0)
    after = np.where(np.isin(labels, ids[drawn : drawn + erased]), 0, labels)
    sample = make_sample(image, before, after, **values)
    assert sample is not None
    assert len(ids) == 16
    return sample


def test_a_few_drawn_objects_do_not_outweigh_many_erased_ones():
    assert object_share([sample_with(9, 0)]) == 0.5
    assert object_share([sample_with(4, 4)]) == 0.5
    assert object_share([sample_with(2, 8)]) == pytest.approx(2 / 10)
    assert object_share([sample_with(2, 8), sample_with(1, 1)]) == pytest.approx(3 / 12)
    assert object_share([sample_with(2, 8, mode="all")]) == 0.5  # those that are left are known, too
    assert object_share([sample_with(1, 6)]) == 0.5  # too few to tell
    assert object_share([sample_with(0, 9)]) == 0.5  # nothing to weigh against


def test_a_run_weighs_objects_by_the_corrections():
    given = []

    class Spy(Tuner):
        def __init__(self, *args):
            given.append(args[4])
            super().__init__(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(courses, "Tuner", Spy)
        run([sample_with(drawn=2, erased=8)])
    assert given == [2 / 10]


def test_unknown_pixels_carry_neither_loss_nor_gradient():
    out, batch = flat(0.3), truth()
    loss, _ = masked_loss(out, batch)
    loss.backward()
    for name in ("foreground", "distance"):
        grad = getattr(out, name).grad
        assert (grad[..., -2:] == 0).all()
        assert (grad[..., :-2] != 0).all()
    for name in ("size", "offset"):  # background has neither size nor seed
        assert (getattr(out, name).grad[..., 2:] == 0).all()
    assert (out.size.grad[..., :2] != 0).all()
    other = flat(0.3)
    with torch.no_grad():
        other.foreground[..., -2:] = -50.0
    assert float(masked_loss(other, batch)[0].detach()) == float(loss.detach())


def test_nothing_known_is_no_loss():
    out, batch = flat(), truth()
    batch.known[:] = False
    loss, parts = masked_loss(out, batch)
    loss.backward()
    assert (float(loss.detach()), parts) == (0.0, {})
    assert (out.foreground.grad == 0).all()


def test_distillation_is_zero_at_the_parent_and_counts_where_it_is_sure():
    where = torch.ones((1, 1, 6, 6), dtype=torch.bool)
    teacher = flat(0.3)
    assert float(distillation_loss(flat(0.3), teacher, where).detach()) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(flat(2.0), teacher, where).detach()) > 0.1
    with torch.no_grad():
        teacher.foreground[..., :3] = -6.0
        teacher.foreground[..., 3:] = 0.2  # not sure
    out = flat(0.3)
    distillation_loss(out, teacher, where, sure=0.3).backward()
    assert (out.foreground.grad[..., :3] != 0).all()
    assert (out.foreground.grad[..., 3:] == 0).all()


def test_distillation_is_weighted_by_trust():
    where = torch.ones((1, 1, 6, 6), dtype=torch.bool)
    teacher = flat(0.3)
    with torch.no_grad():
        teacher.foreground[..., :3] = -4.0
        teacher.foreground[..., 3:] = 4.0

    def gradient(ground: float, objects: float):
        out = flat(0.0)
        distillation_loss(out, teacher, where, 0.0, torch.tensor([[ground, objects]])).backward()
        return out.foreground.grad

    whole = gradient(1, 1)
    torch.testing.assert_close(gradient(0.25, 1)[..., :3], 0.25 * whole[..., :3])
    assert (gradient(1, 0)[..., 3:] == 0).all()


# -- what is learnt -------------------------------------------------------------------------------------


def test_deltas_start_at_the_parent_and_merge_into_plain_weights():
    model = build_network(models.find("tiny"))
    deltas = Deltas(trainable(model), ["head.embedding"])
    merged = deltas.merged()
    assert not any(k.startswith("head.embedding") for k in merged)
    assert "stem.0.0.weight" in merged
    for name, value in merged.items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)
    with torch.no_grad():
        deltas.added["head/dense/bias"][0] = 0.5
    change = deltas.merged()["head.dense.bias"] - model.state_dict()["head.dense.bias"]
    torch.testing.assert_close(change[0], torch.tensor(0.5))
    assert not change[1:].any()


def test_own_adamw_steps_as_torchs():
    torch.manual_seed(0)
    mine = {"a": torch.randn(4, 3), "b": torch.randn(3)}
    theirs = {k: torch.nn.Parameter(v.clone()) for k, v in mine.items()}
    own = AdamW(mine, decay=0.1)
    groups = [{"params": [theirs["a"]]}, {"params": [theirs["b"]], "weight_decay": 0.0}]
    other = torch.optim.AdamW(groups, lr=0.05, weight_decay=0.1)
    for n in range(4):
        gradients = {k: torch.randn_like(v) * (10.0 if n == 2 else 0.1) for k, v in mine.items()}
        for name, gradient in gradients.items():
            mine[name].grad, theirs[name].grad = gradient, gradient.clone()
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        own.step(0.05, 1.0)
        other.step()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name].detach(), rtol=1e-5, atol=1e-6)


def test_a_step_reads_the_merged_weights():
    model = build_network(models.find("tiny"))
    source = make_source([corrected()], 16.0, 48, 0)
    tuner = Tuner(model, source, courses.QUICK, torch.device("cpu"))
    tuner.advance()
    group = tuner.user.take(np.arange(2))
    (out,) = tuner._forward([group])
    batch = torch.cat([source.draw(n)[0].image for n in (4, 5, 2, 3)])  # group 0 was replaced by the newest
    merged = build_network(models.find("tiny"))
    state = {**merged.state_dict(), **{k: v.detach() for k, v in tuner.deltas.merged().items()}}
    merged.load_state_dict(state)
    with torch.no_grad():
        whole = merged(batch)
    torch.testing.assert_close(out.foreground.detach(), whole.foreground, rtol=0.05, atol=0.05)


def test_crops_of_samples_and_generated_ones_are_read_at_once_and_told_apart():
    tuner = Tuner(build_network(models.find("tiny")), make_source([corrected()], 16.0, 48, 0), courses.QUICK,
                  torch.device("cpu"))  # fmt: skip
    tuner.advance()
    groups = [tuner.user.take(np.arange(2)), tuner.scenes.take(np.arange(1))]
    together = tuner._forward(groups)
    assert [len(out.foreground) for out in together] == [4, 2]
    for out, group in zip(together, groups, strict=True):
        (alone,) = tuner._forward([group])
        for name in Outputs.__slots__:
            torch.testing.assert_close(getattr(out, name), getattr(alone, name), rtol=0.05, atol=0.05)


def test_a_generated_crop_shows_the_scene_and_says_nothing_of_it():
    source = make_source([corrected()], 16.0, 48, 3)
    part, trust = source.replay(5)
    assert part.image.shape == (1, 3, 48, 48)
    assert float(part.image.std()) > 0.01
    assert not part.known.any()
    assert not part.labels.any()
    assert trust == (1.0, 1.0)


@pytest.mark.parametrize(
    ("corrections", "steps", "seconds"),
    [(1, 120, 30), (5, 120, 40), (10, 240, 65), (20, 480, 115), (90, 480, 120)],
)
def test_more_corrections_get_more_steps_and_time(corrections, steps, seconds):
    limits = limits_of(params(steps=None), corrections)
    assert (limits.most, limits.longest) == (steps, seconds)
    assert limits_of(params(steps=7), corrections).total(Stand(0, 0.0, 0.0, 0, 0, 0.5), 1.0) == 7


def test_classes_learn_as_long_as_before():
    painted = params(steps=None, task="classes")
    assert {limits_of(painted, count).most for count in (4, 8, 40)} == {300}


def test_an_erasure_is_a_correction_like_a_drawn_object(tmp_path):
    sample = corrected(count=3)
    assert (len(known_objects(sample)), len(erased_objects(sample))) == (3, 1)
    course = Course([sample], params(), models.find("tiny"), tmp_path, lambda: False, None, 0.0)
    assert course.divided()[1] == 4


@pytest.mark.parametrize("count", [1, 3])
def test_a_tuned_model_remembers_the_size_of_its_objects(count):
    samples = [corrected(seed, str(seed)) for seed in range(count)]
    run(samples)
    sizes = []
    for sample in samples:
        area = np.bincount(sample.labels.ravel())[1:]
        sizes.append(np.median(2 * np.sqrt(area[area > 0] / np.pi)))
    card = models.find("new").card
    assert card.usual_diameter == pytest.approx(np.median(sizes))
    assert card.diameter == models.find("tiny").card.diameter


def test_tuned_weights_are_judged_at_that_size_and_the_parents_are_not(tmp_path):
    course = Course([corrected()], params(), models.find("tiny"), tmp_path, lambda: False, None, 0.0)
    state = build_network(models.find("tiny")).state_dict()
    assert course.engine_of(state).card.usual_diameter == usual_diameter(
        [corrected()], ModelCard("a", "A", {})
    )
    assert course.engine_of(state, tuned=False).card.usual_diameter is None


def test_a_run_that_only_erased_keeps_the_size_that_the_parent_remembered():
    blank = replace(corrected(), labels=np.zeros((80, 96), np.int32), before=np.zeros((80, 96), np.int32))
    assert usual_diameter([blank], ModelCard("a", "A", {}, usual_diameter=31.0)) == 31.0
    painted = replace(corrected(), classes=("one", "two"))
    assert usual_diameter([painted], ModelCard("a", "A", {}, usual_diameter=31.0)) == 31.0
    assert usual_diameter([painted], ModelCard("a", "A", {})) is None


@pytest.mark.parametrize(("tier", "blend"), [("quick", 0.7), ("full", 1.0)])
def test_a_quick_run_stays_on_the_way_and_a_full_one_goes_all_of_it(tier, blend):
    run(tier=tier)
    assert models.find("new").card.training["blend"] == blend


@pytest.mark.parametrize("blend", [0.0, 0.25, 1.0])
def test_what_is_stored_lies_on_the_way_from_the_parent_to_what_was_learnt(blend):
    model = build_network(models.find("tiny"))
    parent = {k: v.clone() for k, v in model.state_dict().items()}
    recipe = replace(courses.QUICK, blend=blend)
    tuner = Tuner(model, make_source([corrected()], 16.0, 48, 0), recipe, torch.device("cpu"))
    tuner.advance()
    tuner.advance()
    learnt = {k.removeprefix("added.").replace("/", "."): v for k, v in tuner.average.items()}
    assert learnt["head.dense.weight"].abs().max() > 0
    going_on = {k: v.clone() for k, v in tuner.deltas.state_dict().items()}
    stored = tuner.state_dict()
    for name, value in parent.items():
        wanted = value + blend * learnt[name] if name in learnt else value
        torch.testing.assert_close(stored[name], wanted)
    for name, value in tuner.deltas.state_dict().items():
        assert torch.equal(value, going_on[name]), name


@pytest.mark.parametrize("tier", ["quick", "full"])
def test_the_parent_stays_and_all_weights_change_but_the_statistics(tier):
    before = weights("tiny")
    run(tier=tier)
    after = weights("new")
    assert before.keys() == after.keys()
    for name, value in weights("tiny").items():
        assert torch.equal(value, before[name]), name
    changed = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert "head.dense.weight" in changed
    assert not {k for k in changed if "running" in k or "num_batches" in k}
    assert any(k.startswith("stem.") for k in changed)
    assert not any(k.startswith("head.embedding") for k in changed)


def test_the_pool_at_a_step_can_be_made_again():
    model = build_network(models.find("tiny"))
    source = make_source([corrected()], 16.0, 48, 5)

    def pool():
        return Pool(source.draw, lambda _group, x: model(x), torch.device("cpu"), size=6, each=2)

    rolled, anew = pool(), pool()
    list(rolled.fill(0))
    for _ in range(5):
        rolled.roll()
    list(anew.fill(5))
    a, b = (p.take(np.arange(3)) for p in (rolled, anew))
    assert torch.equal(a.batch.labels, b.batch.labels)
    assert torch.equal(a.batch.image, b.batch.image)
    assert torch.equal(a.teacher.foreground, b.teacher.foreground)


@pytest.mark.parametrize("tier", ["quick", "full"])
def test_same_steps_and_seed_give_the_same_weights_also_across_a_resume(tier, home):
    run(name="whole", tier=tier, steps=6, seed=3)
    job = train_and_store([corrected()], params("cut", tier=tier, steps=6, seed=3), models.find("tiny"))
    for event in job:
        if isinstance(event, TrainStep) and event.step == 3:
            job.close()
            break
    assert (home / "trainings" / "cut" / "last.safetensors").exists()
    assert not (home / "models" / "cut").exists()
    again = params("cut", tier=tier, steps=6, seed=3, resume=True)
    with pytest.raises(CheckpointError, match="another number of steps: 6, not 8"):
        list(train_and_store([corrected()], again.model_copy(update={"steps": 8}), models.find("tiny")))
    other = corrected()
    other.labels[other.labels > 0] += 1
    with pytest.raises(CheckpointError, match="other images or labels"):
        list(train_and_store([other], again, models.find("tiny")))
    rest = list(train_and_store([corrected()], again, models.find("tiny")))
    assert [e.step for e in rest if isinstance(e, TrainStep)] == [4, 5, 6]
    for name, value in weights("whole").items():
        assert torch.equal(value, weights("cut")[name]), name
    run(name="other", tier=tier, steps=6, seed=4)
    assert any(not torch.equal(v, weights("whole")[k]) for k, v in weights("other").items())


def test_the_share_of_objects_reaches_the_loss():
    """Erasures make the same step weigh what is known background more."""
    model, parts = build_network(models.find("tiny")), []
    for objects in (0.5, 0.1):
        source = make_source([corrected()], 16.0, 48, 0)
        tuner = Tuner(model, source, courses.QUICK, torch.device("cpu"), objects)
        parts.append(tuner.advance()[1])
    changed = {name for name in parts[0] if parts[0][name] != parts[1][name]}
    assert changed == {"foreground"}


def test_minutes_go_on_where_an_interrupted_run_was(monkeypatch):
    now = [1000.0]
    take = Tuner.advance

    def advance(self, share=0.0):
        now[0] += 1.0
        return take(self, share)

    monkeypatch.setattr(Tuner, "advance", advance)
    monkeypatch.setattr(courses, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def go(resume: bool):
        values = params(steps=None, minutes=0.1, resume=resume)  # six seconds, one for each step
        return train_and_store([corrected()], values, models.find("tiny"), started=now[0])

    job = go(resume=False)
    next(e for e in job if isinstance(e, TrainStep) and e.step == 4)
    job.close()
    now[0] += 500.0  # nobody learns meanwhile
    assert [e.step for e in go(resume=True) if isinstance(e, TrainStep)] == [5, 6]


def test_the_card_says_where_the_model_comes_from():
    events = run(samples=[corrected(n, str(n)) for n in range(4)])
    card = models.find("new").card
    assert (card.parent, card.diameter, card.training["tier"]) == ("tiny", 16.0, "quick")
    assert card.training["objects"] == 12
    assert card.blocks == models.find("tiny").card.blocks
    held = card.metrics["held_out"]
    assert 0 < held["after"]["objects"] < 12
    (result,) = [e.data for e in events if isinstance(e, TrainEvent) and e.kind == "result"]
    assert (result["before"], result["after"]) == (held["before"], held["after"])
    assert [e.kind for e in events if isinstance(e, TrainEvent)].count("estimate") == 1


def test_few_objects_are_not_judged():
    events = run()
    (result,) = [e.data for e in events if isinstance(e, TrainEvent) and e.kind == "result"]
    assert (result["before"], result["after"], result["reason"]) == (None, None, "too few to judge")
    assert models.find("new").card.metrics == {}


# -- what can go wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [1, 2])
def test_less_memory_means_fewer_then_smaller_crops(monkeypatch, failures):
    real, sizes = Tuner.advance, []

    def advance(self, share):
        sizes.append((self.recipe.batch, self.recipe.size))
        if len(sizes) in range(3, 3 + failures):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, share)

    monkeypatch.setattr(Tuner, "advance", advance)
    monkeypatch.setattr(courses, "QUICK", replace(courses.QUICK, batch=4, size=64))
    events = run()
    notes = [e.data["text"] for e in events if isinstance(e, TrainEvent) and e.kind == "note"]
    assert len(notes) == failures
    assert "fewer crops" in notes[0]
    assert sizes[-1] == ((2, 64) if failures == 1 else (2, 32))
    assert [e.step for e in events if isinstance(e, TrainStep)] == [1, 2, 3, 4]  # what was learnt stays


def test_on_a_gpu_without_memory_the_processor_takes_over(monkeypatch):
    """The device is the processor here under another name: what counts is the order of the rungs."""
    course = Course([corrected()], params(), models.find("tiny"), models.home(), lambda: False, None, 0.0)
    course.device = torch.device("cuda")
    monkeypatch.setattr(courses, "QUICK", replace(courses.QUICK, batch=4))
    ways = course._recipes()
    assert [(r.batch, r.size, d.type) for r, d, _ in ways] == [
        (4, 48, "cuda"), (2, 48, "cuda"), (2, 24, "cuda"), (4, 48, "cpu")
    ]  # fmt: skip
    assert "processor" in ways[-1][2]


def test_two_crops_are_the_fewest():
    """A tier that learns from two at a time can keep fewer ready, then make them smaller."""
    assert (QUICK.batch, QUICK.replay) == (2, 2)
    ways = rungs(QUICK, torch.device("cpu"))
    assert [(r.batch, r.size, r.pool) for r, _, _ in ways] == [(2, 192, 48), (2, 192, 16), (2, 96, 16)]
    assert "kept ready" in ways[1][2]
    assert "learnt from at a time" in rungs(FULL, torch.device("cpu"))[1][2]


def test_no_memory_at_all_is_one_sentence(monkeypatch, home):
    def advance(self, share):
        raise MemoryError

    monkeypatch.setattr(Tuner, "advance", advance)
    with pytest.raises(OutOfMemoryError, match="not enough memory"):
        run()
    assert not (home / "models" / "new").exists()


def test_an_error_that_is_not_memory_is_not_hidden(monkeypatch):
    def advance(self, share):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Tuner, "advance", advance)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run()


def test_a_damaged_checkpoint_is_named(home):
    folder = home / "trainings" / "new"
    folder.mkdir(parents=True)
    for data in (b"", b"not a checkpoint", (home / "models/tiny/weights.safetensors").read_bytes()):
        (folder / "last.safetensors").write_bytes(data)
        with pytest.raises(CheckpointError, match="last.safetensors"):
            run(resume=True)
    assert not (home / "models" / "new").exists()


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(monkeypatch, home):
    def full(path, tensors, meta=None):
        raise StoreError("'last.safetensors' could not be written: No space left on device.", "Check.")

    with monkeypatch.context() as patch:
        patch.setattr(courses, "write_tensors", full)
        with pytest.raises(StoreError, match="No space left"):
            run()
    assert not (home / "models" / "new").exists()
    run(resume=True)
    assert (home / "models" / "new").exists()


def test_a_name_taken_meanwhile_loses_nothing(monkeypatch, home):
    folder = home / "runs" / "kept"
    folder.mkdir(parents=True)
    (folder / "request.json").write_text("{}")
    monkeypatch.setattr(finetune.runs, "run_id", lambda run: "kept 1")
    parent = models.find("tiny")
    for event in train_and_store([corrected()], params(), parent, run=folder):
        if isinstance(event, TrainEvent) and event.data.get("note") == "Storing the model":
            (home / "models" / "new").mkdir()
            with pytest.raises(StoreError, match="exists already"):
                list(train_and_store([corrected()], params(), parent, run=folder))
            break
    (home / "models" / "new").rmdir()
    events = list(train_and_store([corrected()], params(resume=True), parent, run=folder))
    assert not [e for e in events if isinstance(e, TrainStep)]  # the last checkpoint was the end
    assert models.find("new").card.training["run"] == "kept 1"


def test_a_cancelled_run_keeps_only_what_improved(monkeypatch, home):
    samples = [corrected(n, str(n)) for n in range(4)]
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 25

    for better in (False, True):
        asked.clear()
        monkeypatch.setattr(Course, "improved", lambda self, better=better: better)
        name = f"cut{better}"
        events = list(train_and_store(samples, params(name, steps=500), models.find("tiny"), stop=stop))
        (result,) = [e.data for e in events if isinstance(e, TrainEvent) and e.kind == "result"]
        assert result["cancelled"]
        assert result["stored"] is better
        assert (home / "models" / name).exists() is better


@pytest.mark.parametrize(
    ("scores", "objects", "last", "kept"),
    [
        ((0.2, 0.9, 0.6, 0.6, 0.6), 5, 5, 2),  # one of 5 objects is .2: .6 is worse than .9
        ((0.2, 0.9, 0.75, 0.6, 0.6), 5, 5, 3),  # .75 is as good, and later
        ((0.2, 0.9, 0.75, 0.65, 0.6), 5, 5, 3),  # but not .65: it is compared with the best, not the last
        ((0.2, 0.9, 0.75, 0.6, 0.6), 50, 5, 2),
        ((0.2, 0.9, 0.9, 0.9, 0.9), 50, 5, 5),
        ((0.5, 0.52, 0.49, 0.49, 0.49), 5, 5, 2),  # better than the parent, so nothing below it (.5) is kept
    ],
)
def test_it_stops_where_it_no_longer_gets_better_and_keeps_the_latest_of_the_best(
    monkeypatch, scores, objects, last, kept
):
    limits = courses.Limits(None, None, most=200, longest=1e9, every=1, patience=3)
    monkeypatch.setattr(courses, "limits_of", lambda params, objects: limits)
    told = iter([0.5, *scores])  # the parent's first

    def judged(self, state, tuned=True):
        score = next(told)
        return {"ap50": score, "pq": score, "dice": score, "objects": objects}

    monkeypatch.setattr(Course, "_judged", judged)
    events = run(samples=[corrected(n, str(n)) for n in range(4)], steps=None, tier="full")
    steps = [e.step for e in events if isinstance(e, TrainStep)]
    assert steps[-1] == last
    assert models.find("new").card.training["steps"] == kept


def test_getting_ready_on_a_busy_machine_is_not_time_to_learn(monkeypatch):
    now = [0.0]
    real = Tuner.prepare

    def slow(self):
        now[0] += 0.0 if self.filled else 100.0
        yield from real(self)

    monkeypatch.setattr(Tuner, "prepare", slow)
    monkeypatch.setattr(courses, "time", SimpleNamespace(monotonic=lambda: now[0]))
    limits = courses.Limits(None, None, most=3, longest=20.0, every=10, patience=2)
    monkeypatch.setattr(courses, "limits_of", lambda params, corrections: limits)
    assert steps_of(run(steps=None)) == [1, 2, 3]


def test_validations_are_a_part_of_the_time_to_learn(monkeypatch):
    now = [0.0]

    def judged(self, state, tuned=True):
        now[0] += 8.0
        return {"ap50": 0.5, "pq": 0.5, "dice": 0.5, "objects": 5}

    monkeypatch.setattr(Course, "_judged", judged)
    monkeypatch.setattr(courses, "time", SimpleNamespace(monotonic=lambda: now[0]))
    limits = courses.Limits(None, None, most=50, longest=20.0, every=1, patience=9)
    monkeypatch.setattr(courses, "limits_of", lambda params, corrections: limits)
    assert steps_of(run(samples=fields(), steps=None, tier="full")) == [1, 2, 3]


# -- what was held out teaches in the end ---------------------------------------------------------------


def told(monkeypatch, *scores: float, patience: int = 9, most: int = 12) -> None:
    """Validate after every step; the parent scores .5, the steps as told, the last as the end does."""
    limits = courses.Limits(None, None, most=most, longest=1e9, every=1, patience=patience)
    monkeypatch.setattr(courses, "limits_of", lambda params, objects: limits)
    found = iter([0.5, *scores])

    def judged(self, state, tuned=True):
        score = next(found)
        return {"ap50": score, "pq": score, "dice": score, "objects": 50}

    monkeypatch.setattr(Course, "_judged", judged)


def drawn(monkeypatch) -> list[tuple[int, int]]:
    """Return a list that gets (crop number, samples of the source it is drawn from)."""
    found: list[tuple[int, int]] = []
    real = Source.draw

    def draw(self, number):
        found.append((number, len(self.items)))
        return real(self, number)

    monkeypatch.setattr(Source, "draw", draw)
    return found


def fields() -> list[Sample]:
    return [corrected(n, str(n)) for n in range(4)]


def steps_of(events) -> list[int]:
    return [e.step for e in events if isinstance(e, TrainStep)]


def best_of(monkeypatch) -> dict[str, torch.Tensor]:
    """Return a dictionary that gets the weights at which the second part begins."""
    found: dict[str, torch.Tensor] = {}
    real = Course._turn

    def turn(self):
        real(self)
        found.update(self.tuner.state_dict())

    monkeypatch.setattr(Course, "_turn", turn)
    return found


def result_of(events):
    return next(e.data for e in events if isinstance(e, TrainEvent) and e.kind == "result")


def test_the_second_part_is_as_long_as_the_first_and_learns_from_all(monkeypatch):
    told(monkeypatch, 0.6, 0.9, 0.7, 0.7, 0.95, patience=2)
    crops = drawn(monkeypatch)
    events = run(samples=fields(), steps=None)
    assert steps_of(events) == list(range(1, 9))  # tired at 4, best at 2
    assert [e.data["step"] for e in events if isinstance(e, TrainEvent) and e.kind == "val"] == [1, 2, 3, 4]
    # the pool of two pairs is refilled by one pair after each step: from pair 6 on all four fields teach
    assert dict(crops) == {number: 3 if number < 12 else 4 for number in range(20)}
    result = result_of(events)
    assert (result["steps"], result["closing"], result["after"]["ap50"]) == (6, 4, 0.9)  # to the best and on
    assert models.find("new").card.training["steps"] == 6


def test_it_goes_on_from_the_best_step(monkeypatch):
    told(monkeypatch, 0.9, 0.7, 0.7, 0.95, patience=2)
    states = {}
    real = Course._turn

    def turn(self):
        real(self)
        states["best"] = read_tensors(self.folder / "best.safetensors")[0]
        states["now"] = {k: v.clone() for k, v in self.tuner.deltas.state_dict().items()}
        states["average"] = {k: v.clone() for k, v in self.tuner.average.items()}
        states["teacher"] = self.tuner.teachers[-1][1]

    monkeypatch.setattr(Course, "_turn", turn)
    run(samples=fields(), steps=None)
    assert states["best"].keys() == states["now"].keys()
    for name, value in states["best"].items():
        assert torch.equal(value, states["now"][name])
        assert torch.equal(value, states["average"][name])
        assert torch.equal(value, states["teacher"][name])
    assert any(v.any() for v in states["best"].values())


def test_a_second_part_that_does_worse_is_not_kept(monkeypatch):
    told(monkeypatch, 0.6, 0.9, 0.7, 0.7, 0.4, patience=2)
    best = best_of(monkeypatch)
    events = run(samples=fields(), steps=None)
    result = result_of(events)
    assert (result["steps"], result["closing"], result["after"]["ap50"]) == (2, 0, 0.9)
    for name, value in weights("new").items():
        assert torch.equal(value, best[name]), name


def test_a_run_cancelled_in_its_second_part_keeps_the_best_judged_step(monkeypatch, home):
    told(monkeypatch, 0.6, 0.9, 0.7, 0.7, 0.95, patience=2)
    best, events = best_of(monkeypatch), []

    def stop() -> bool:
        return len(steps_of(events)) > 4

    for event in train_and_store(fields(), params(steps=None), models.find("tiny"), stop=stop):
        events += [event]
    result = result_of(events)
    assert steps_of(events) == [1, 2, 3, 4, 5]  # the fifth is of the second part
    assert (result["cancelled"], result["stored"], result["steps"], result["closing"]) == (True, True, 2, 0)
    for name, value in weights("new").items():
        assert torch.equal(value, best[name]), name


def test_the_first_part_ends_at_half_of_the_time(monkeypatch):
    told(monkeypatch, *[0.6 + 0.01 * n for n in range(6)], 0.95, most=12)
    events = run(samples=fields(), steps=None)
    result = result_of(events)
    assert (result["steps"], result["closing"]) == (12, 6)
    assert steps_of(events) == list(range(1, 13))
    rates = [e.lr for e in events if isinstance(e, TrainStep)]
    assert rates[9] > rates[10] > rates[11]  # it falls after the warm-up


def test_a_quick_run_ends_as_strict_as_the_labels_ask_for(monkeypatch):
    asked = []

    def shift(engine, samples, stop):
        asked.append((engine.card.id, samples, stop()))
        return 1.0

    run(name="plain")
    monkeypatch.setattr(finetune, "find_shift", shift)
    samples = [corrected()]
    events = run(samples)
    assert asked == [("tiny", samples, False)]
    assert result_of(events)["shift"] == 1.0
    assert any(
        e.kind == "note" and e.data["text"] == finetune.STRICTER for e in events if isinstance(e, TrainEvent)
    )
    assert models.find("new").card.training["foreground_shift"] == -1.0
    assert "foreground_shift" not in models.find("plain").card.training
    before, after = weights("plain"), weights("new")
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved == ["head.dense.bias"]
    bias = "head.dense.bias"
    torch.testing.assert_close(before[bias][:4] - 1, after[bias][:4])
    assert torch.equal(before[bias][4:], after[bias][4:])


def test_full_and_cancelled_runs_keep_their_threshold(monkeypatch):
    monkeypatch.setattr(finetune, "find_shift", lambda *_: pytest.fail("was asked"))
    assert result_of(run(tier="full"))["shift"] == 0.0
    told(monkeypatch, 0.6, 0.9, 0.7, 0.7, 0.95, patience=2)
    events: list = []
    training = train_and_store(
        fields(), params("cut", steps=None), models.find("tiny"), stop=lambda: len(steps_of(events)) > 4
    )
    for event in training:
        events += [event]
    assert result_of(events)["stored"]
    assert result_of(events)["cancelled"]


def by_step(monkeypatch) -> None:
    """Validate after every step; the score is that of the step, .9 at the second, and less afterwards."""
    limits = courses.Limits(None, None, most=40, longest=1e9, every=1, patience=2)
    monkeypatch.setattr(courses, "limits_of", lambda params, objects: limits)

    def judged(self, state, tuned=True):
        score = {1: 0.6, 2: 0.9, 3: 0.7, 4: 0.7}.get(self.tuner.step, 0.95) if tuned else 0.5
        return {"ap50": score, "pq": score, "dice": score, "objects": 50}

    monkeypatch.setattr(Course, "_judged", judged)


def cut_at(name: str, cut, **values) -> list:
    """Leave a run at the first event for which ``cut`` says so, and resume it; return what the rest says."""
    job = train_and_store(fields(), params(name, **values), models.find("tiny"))
    for event in job:
        if cut(event):
            job.close()
            break
    return list(train_and_store(fields(), params(name, resume=True, **values), models.find("tiny")))


def same_weights(name: str, other: str) -> None:
    for key, value in weights(name).items():
        assert torch.equal(value, weights(other)[key]), key


def test_a_run_goes_on_where_there_are_fewer_ways_to_learn(home):
    """It ended on a GPU's last rung, the processor, which a machine without one does not have."""
    values, path = {"steps": 3, "seed": 3}, home / "trainings" / "cut" / "last.safetensors"
    job = train_and_store(fields(), params("cut", **values), models.find("tiny"))
    next(e for e in job if isinstance(e, TrainStep))
    job.close()
    tensors, meta = read_tensors(path)
    write_tensors(path, tensors, {**meta, "rung": 3})
    rest = list(train_and_store(fields(), params("cut", resume=True, **values), models.find("tiny")))
    assert steps_of(rest) == [2, 3]


def test_a_run_that_learnt_from_other_crops_is_refused(home, monkeypatch):
    values = {"steps": 3, "seed": 3}
    job = train_and_store(fields(), params("cut", **values), models.find("tiny"))
    next(e for e in job if isinstance(e, TrainStep))
    job.close()
    monkeypatch.setattr(courses, "QUICK", replace(courses.QUICK, size=64))
    with pytest.raises(CheckpointError, match="another recipe"):
        list(train_and_store(fields(), params("cut", resume=True, **values), models.find("tiny")))


@pytest.mark.parametrize("cut", range(1, 8))
def test_the_same_weights_wherever_a_run_of_two_parts_is_cut(monkeypatch, cut):
    """The second part begins after step 4: a run that is left there must not begin it later."""
    monkeypatch.setattr(courses, "QUICK", replace(courses.QUICK, batch=4))
    values = {"steps": 8, "seed": 3}
    assert result_of(run(samples=fields(), name="whole", **values))["closing"] == 4
    rest = cut_at("cut", lambda e: isinstance(e, TrainStep) and e.step == cut, **values)
    assert steps_of(rest) == list(range(cut + 1, 9))
    assert result_of(rest)["closing"] == 4
    same_weights("whole", "cut")


@pytest.mark.parametrize("kind", ["val", "phase"])
def test_a_run_cut_between_judging_and_turning_goes_on_as_if_it_had_not_been(monkeypatch, kind):
    values = {"steps": 8, "seed": 3}
    run(samples=fields(), name="whole", **values)

    def cut(event) -> bool:
        note = event.data.get("note", "") if isinstance(event, TrainEvent) else ""
        return isinstance(event, TrainEvent) and event.kind == kind and (kind == "val" or "held out" in note)

    assert result_of(cut_at("cut", cut, **values))["closing"] == 4
    same_weights("whole", "cut")


@pytest.mark.parametrize("cut", [4, 5])
def test_a_run_that_went_back_can_be_resumed(monkeypatch, cut):
    """Tired at step 4, back to the best at 2, four steps more."""
    by_step(monkeypatch)
    whole = run(samples=fields(), name="whole", steps=None)
    assert (steps_of(whole), result_of(whole)["closing"]) == (list(range(1, 9)), 4)
    rest = cut_at("cut", lambda e: isinstance(e, TrainStep) and e.step == cut, steps=None)
    assert steps_of(rest) == list(range(cut + 1, 9))
    same_weights("whole", "cut")


def test_less_memory_in_the_second_part(monkeypatch):
    real, asked = Tuner.advance, []

    def advance(self, share):
        asked.append(self.step)
        if len(asked) == 6:
            raise MemoryError
        return real(self, share)

    monkeypatch.setattr(Tuner, "advance", advance)
    crops = drawn(monkeypatch)
    events = run(samples=fields(), steps=8)
    assert steps_of(events) == list(range(1, 9))
    assert result_of(events)["closing"] == 4
    assert crops[-1][1] == 4


def test_differences_from_a_file_go_to_where_the_weights_are():
    """The best step is read to the processor; "meta" stands for a GPU."""
    deltas = Deltas({"a": torch.zeros(2, device="meta")})
    assert deltas.merged_with({"added.a": torch.ones(2)})["a"].device.type == "meta"


def test_without_held_out_objects_there_is_one_part(monkeypatch):
    crops = drawn(monkeypatch)
    result = result_of(run(steps=4))
    assert result["closing"] == 0
    assert {count for _, count in crops} == {1}


@pytest.mark.parametrize("limit", [{"steps": 1}, {"steps": 2}, {"minutes": 1e-6}])
def test_the_shortest_runs_end(limit):
    result = result_of(run(samples=fields(), **{"steps": None, **limit}))
    assert result["steps"] == limit.get("steps", 1)


def one_tuner(renew: int = 2) -> Tuner:
    """Return a tuner whose pool has two groups: group g is drawn at the end of step g - 2, from 0 on."""
    source = make_source([corrected()], 16.0, 48, 0)
    recipe = replace(courses.QUICK, renew=renew)
    return Tuner(build_network(models.find("tiny")), source, recipe, torch.device("cpu"))


def test_the_average_becomes_the_teacher_of_new_crops():
    tuner, averages = one_tuner(), []
    tuner.recipe = replace(tuner.recipe, keep=1.1)  # surer than anything is
    for _ in range(5):  # at the beginning of steps 2 and 4 the teacher is renewed
        averages.append({k: v.clone() for k, v in tuner.average.items()})
        tuner.advance()
    assert [at for at, _ in tuner.teachers] == [2, 4]
    x = torch.linspace(-1, 1, 3 * 48 * 48).reshape(1, 3, 48, 48)
    with torch.no_grad():
        said = {group: tuner._teach(group, x).foreground for group in range(3, 7)}
        parent = tuner.parent(x).foreground
        for group, at in ((4, 2), (5, 2), (6, 4)):
            weights = tuner.deltas.merged_with(averages[at])
            wanted = torch.func.functional_call(tuner.parent, weights, (x,)).foreground
            assert torch.equal(said[group], wanted), group
    assert torch.equal(said[3], parent)  # drawn before the first
    assert not torch.equal(said[4], parent)


def test_what_the_parent_is_sure_of_stays_what_is_taught():
    """Where the parent is sure of an object all maps come from it, elsewhere from the newest."""
    tuner = one_tuner()
    for _ in range(3):
        tuner.advance()
    x = torch.linspace(-1, 1, 3 * 48 * 48).reshape(1, 3, 48, 48)
    with torch.no_grad():
        parent = tuner.parent(x)
        chance = torch.sigmoid(parent.foreground)
        later = torch.func.functional_call(tuner.parent, tuner.deltas.merged_with(tuner.teachers[0][1]), (x,))
        for keep in (0.0, float(chance.median()), 1.1):
            tuner.recipe = replace(tuner.recipe, keep=keep)
            said = tuner._teach(5, x)
            for name in ("foreground", "distance", "size", "offset"):
                old, new = getattr(parent, name), getattr(later, name)
                assert torch.equal(getattr(said, name), torch.where(chance >= keep, old, new)), (name, keep)
    assert 0.4 < float((chance >= chance.median()).float().mean()) < 0.6
    assert not torch.equal(parent.foreground, later.foreground)


def test_teachers_go_on_from_a_checkpoint():
    one, two, never = one_tuner(), one_tuner(), one_tuner(renew=0)
    for _ in range(5):
        one.advance()
        never.advance()
    two.load(one.tensors(), 5)
    assert [at for at, _ in two.teachers] == [at for at, _ in one.teachers] == [2, 4]
    for tuner in (one, two):
        tuner.advance()
        tuner.advance()
    for name, value in one.average.items():
        assert torch.equal(value, two.average[name]), name
    assert never.teachers == []


def test_samples_that_say_nothing_are_refused():
    image, labels = field()
    nothing = Sample(image, labels * 0, np.zeros(labels.shape, bool))
    with pytest.raises(TrainingDataError):
        run(samples=[nothing])


def test_erased_objects_alone_can_teach(home):
    image, labels = field()
    erased = make_sample(image, labels, np.where(labels == 2, 0, labels))
    run(samples=[erased])
    assert (home / "models" / "new").exists()


# -- judging --------------------------------------------------------------------------------------------


def test_only_held_out_objects_count():
    labels = np.zeros((30, 40), np.int32)
    labels[2:10, 2:10] = 1
    labels[2:10, 20:28] = 2  # not held out
    known = np.zeros(labels.shape, bool)
    known[:13, :13] = True
    sample = Sample(np.zeros((1, 30, 40), np.float32), labels, known, objects=(1,))
    found = labels.copy()
    found[20:28, 2:10] = 3  # elsewhere: nobody knows
    counts = count_objects(found, sample)
    assert (counts.truth, counts.pred, int(counts.tp[0])) == (1, 1, 1)
    found[0:2, 0:13] = 4  # on known background: wrong
    counts = count_objects(found, sample)
    assert (counts.truth, counts.pred, int(counts.tp[0])) == (1, 2, 1)
    merged = np.where(labels, 1, 0)  # one object over both
    merged[5, 2:28] = 1
    counts = count_objects(merged, sample)
    assert (counts.truth, counts.pred, int(counts.tp[0])) == (1, 1, 0)
