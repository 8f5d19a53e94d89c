"""Training: exact targets, the same weights for the same seed also across a resume, honest failures."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_attnseg.core.objects import measure
from napari_attnseg.core.synth import fluorescence
from napari_attnseg.errors import CheckpointError, NumericalError, StoreError, TrainingDataError
from napari_attnseg.nn import train
from napari_attnseg.nn.augment import choose_scale, crop, make_batch, prepare
from napari_attnseg.nn.finetune import train_and_store
from napari_attnseg.nn.model import AttnSegNet
from napari_attnseg.nn.train import Recipe, train_steps
from napari_attnseg.params import TrainParams
from napari_attnseg.records import Sample
from napari_attnseg.store import models, runs


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    return tmp_path


def sample(seed: int = 0, shape: tuple[int, int] = (80, 96)) -> Sample:
    image, labels = fluorescence(shape, seed, diameter=16.0)
    return Sample(image.astype(np.float32)[None] / image.max(), labels, np.ones(labels.shape, bool))


def small() -> AttnSegNet:
    torch.manual_seed(0)
    return AttnSegNet(widths=(32, 32, 32, 32), depth=1)


RECIPE = Recipe(steps=6, batch=2, size=48, warmup=2, seed=3, canonical=16.0, save_every=0.0)


def test_depth_and_seed_of_a_disc() -> None:
    y, x = np.mgrid[:41, :41]
    labels = (np.hypot(y - 20, x - 20) <= 15).astype(np.int32)
    table = measure(labels)
    assert table.diameter[1] == pytest.approx(30, abs=0.7)
    np.testing.assert_allclose(table.seed[1], [20, 20], atol=1e-6)
    assert table.depth[20, 20] == 1
    assert table.depth[20, 36] == 0


def test_seed_of_a_ring_lies_on_the_ring() -> None:
    y, x = np.mgrid[:41, :41]
    r = np.hypot(y - 20, x - 20)
    labels = ((r <= 15) & (r >= 9)).astype(np.int32)
    sy, sx = measure(labels).seed[1].astype(int)
    assert labels[sy, sx] == 1


def test_the_image_border_does_not_end_an_object() -> None:
    labels = np.zeros((20, 40), np.int32)
    labels[:12, 10:30] = 1
    assert measure(labels).depth[0, 20] == pytest.approx(1, abs=0.2)


def test_crop_votes_meet_at_the_seed() -> None:
    item = prepare(sample())
    for n in range(6):
        part = crop(item, 64, np.random.default_rng(n), canonical=16.0)
        y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        for value in part.labels.unique()[1:]:
            inside = part.labels[0, 0] == value
            vote_y, vote_x = (y + part.offset[0, 0])[inside], (x + part.offset[0, 1])[inside]
            assert vote_y.std(correction=0) < 1e-3
            assert vote_x.std(correction=0) < 1e-3
            size = part.size[0, 0][inside]
            assert (size == size[0]).all()


def test_crop_geometry_agrees_with_the_labels() -> None:
    """An object that lies whole in the crop has its vote near its own centre and its size right."""
    y, x = np.mgrid[:96, :96]
    labels = (np.hypot(y - 40, x - 52) <= 12).astype(np.int32)
    item = prepare(Sample(labels[None].astype(np.float32), labels, np.ones(labels.shape, bool)))
    checked = 0
    for n in range(20):
        part = crop(item, 96, np.random.default_rng(n), canonical=24.0)
        inside = part.labels[0, 0] > 0
        edge = inside.clone()
        edge[1:-1, 1:-1] = False
        if edge.any() or inside.sum() < 100:
            continue
        at = torch.nonzero(inside).float().mean(0)
        i, j = at.round().long()
        if not inside[i, j]:
            continue
        vote = torch.stack([i + part.offset[0, 0, i, j], j + part.offset[0, 1, i, j]])
        assert (vote - at).norm() < 1.0
        area = float(inside.sum())
        assert float(part.size[0, 0, i, j]) == pytest.approx(2 * np.sqrt(area / np.pi), rel=0.06)
        known = part.known[0, 0]  # beyond the image it is mirrored
        assert ((part.image[0, 0] > 0.5) == inside)[known].float().mean() > 0.98
        checked += 1
    assert checked >= 5


def test_scales_cover_a_factor_of_ten_around_the_canonical_size() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([16 * choose_scale(rng, 16, 24) for _ in range(2000)])
    assert sizes.min() >= 6
    assert np.quantile(sizes, 0.95) / np.quantile(sizes, 0.05) > 5


def test_batches_repeat_for_the_same_generator() -> None:
    items = [prepare(sample(n)) for n in range(2)]
    a, b = (make_batch(items, None, 3, 32, np.random.default_rng(5), 16.0) for _ in range(2))
    assert torch.equal(a.image, b.image)
    assert torch.equal(a.labels, b.labels)


def test_same_seed_same_weights_also_across_a_resume(tmp_path) -> None:
    items = [prepare(sample())]
    whole = small()
    steps = list(train_steps(whole, items, RECIPE, device="cpu"))
    assert [s.step for s in steps] == [1, 2, 3, 4, 5, 6]

    path = tmp_path / "last.safetensors"
    run = train_steps(small(), items, RECIPE, device="cpu", checkpoint=path)
    for _ in range(3):
        next(run)
    run.close()  # killed after step 3
    resumed = small()
    rest = list(train_steps(resumed, items, RECIPE, device="cpu", checkpoint=path, resume=True))
    assert rest[0].step == 4  # nothing is repeated
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_every_step_takes_crops_of_one_of_the_given_sides(monkeypatch) -> None:
    recipe = replace(RECIPE, steps=12, fields=((4, 32), (1, 64)))
    seen, made = [], []

    def fresh(rng, size):
        made.append(size)
        return prepare(sample(int(rng.integers(100)), (size, size)))

    step = train._step

    def spy(model, ema, optim, batch, *more):
        seen.append(tuple(batch.labels.shape))
        return step(model, ema, optim, batch, *more)

    monkeypatch.setattr(train, "_step", spy)
    for _ in train_steps(small(), [prepare(sample())], recipe, device="cpu", fresh=fresh, fresh_share=0.5):
        pass
    assert set(seen) == {(4, 1, 32, 32), (1, 1, 64, 64)}
    planned = [recipe.crops(np.random.default_rng([recipe.seed, n])) for n in range(12)]
    assert [(n, 1, side, side) for n, side in planned] == seen
    assert set(made) == {32, 64}
    assert RECIPE.crops(np.random.default_rng(0)) == (2, 48)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_statistics_stay(frozen: bool) -> None:
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items() if "running_" in k}
    for _ in train_steps(model, [prepare(sample())], replace(RECIPE, frozen=frozen), device="cpu"):
        pass
    same = [torch.equal(v, model.state_dict()[k]) for k, v in before.items()]
    assert same
    assert all(same) if frozen else not any(same)


def test_an_interrupted_run_keeps_every_step(home) -> None:
    first = TrainParams(name="mine", start="scratch", steps=4, seed=3, device="cpu")
    run = train_and_store([sample()], first, None)
    assert [next(run).step for _ in range(3)] == [1, 2, 3]
    run.close()
    assert (home / "trainings" / "mine" / "last.safetensors").exists()
    rest = list(train_and_store([sample()], first.model_copy(update={"resume": True}), None))
    assert [s.step for s in rest] == [4]


@pytest.mark.parametrize(
    ("change", "labels", "words"),
    [
        ({"seed": 4}, 0, "had another seed: 3, not 4"),
        ({"steps": 5}, 0, "had another number of steps: 4, not 5"),
        ({"steps": None, "minutes": 1.0}, 0, "had another number of steps: 4, not None"),
        ({}, 1, "learnt from other images or labels"),
    ],
)
def test_a_resume_of_something_else_is_refused(home, change, labels, words) -> None:
    first = TrainParams(name="mine", start="scratch", steps=4, seed=3, device="cpu")
    run = train_and_store([sample()], first, None)
    next(run)
    run.close()
    again = first.model_copy(update={"resume": True, **change})
    given = sample()
    given.labels[given.labels == 1] *= 1 - labels
    with pytest.raises(CheckpointError, match=words):
        next(train_and_store([given], again, None))


def test_what_is_known_belongs_to_the_fingerprint() -> None:
    given, less = sample(), sample()
    less.known[0, 0] = False
    assert train.fingerprint([given]) == train.fingerprint([sample()]) != train.fingerprint([less])
    assert train.fingerprint([given, less]) != train.fingerprint([less, given])


def test_a_training_and_a_run_of_the_window_of_one_name_keep_apart(home) -> None:
    params = TrainParams(name="mine", start="scratch", steps=2, device="cpu")
    run = runs.create_run(params, [sample()])
    (run / "last.safetensors").write_bytes(b"learnt in the window")
    run_training("mine")
    assert models.exists("mine")
    assert not (home / "trainings" / "mine").exists()
    assert sorted(p.name for p in run.iterdir()) == ["last.safetensors", "request.json", "samples"]


def test_an_interrupted_training_leaves_its_name_to_the_window(home) -> None:
    params = TrainParams(name="mine", start="scratch", steps=2, device="cpu")
    training = train_and_store([sample()], params, None)
    next(training)
    training.close()
    runs.create_run(params, [sample()])
    assert (home / "trainings" / "mine" / "last.safetensors").exists()


def test_nothing_untrained_is_stored_when_start_up_took_all_the_time(home) -> None:
    params = TrainParams(name="mine", start="scratch", minutes=0.5, device="cpu")
    with pytest.raises(TrainingDataError, match="0.5 min, was over before the first step") as caught:
        list(train_and_store([sample()], params, None, started=time.monotonic() - 31))
    assert caught.value.hint
    assert not models.exists("mine")
    assert not list(home.rglob("*.safetensors"))


def test_a_damaged_checkpoint_is_named(tmp_path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        list(train_steps(small(), [prepare(sample())], RECIPE, device="cpu", checkpoint=path, resume=True))


def test_a_loss_that_is_not_finite_stops_the_run(monkeypatch) -> None:
    def broken(out, batch):
        return out.foreground.sum() * torch.nan, {}

    monkeypatch.setattr(train, "dense_loss", broken)
    with pytest.raises(NumericalError, match="step 0"):
        list(train_steps(small(), [prepare(sample())], RECIPE, device="cpu"))


def test_no_image_is_an_error() -> None:
    with pytest.raises(TrainingDataError, match="no image"):
        next(train_steps(small(), [], RECIPE, device="cpu"))


def run_training(name: str, parent=None, steps: int = 2):
    params = TrainParams(name=name, start="scratch", steps=steps, device="cpu")
    return list(train_and_store([sample()], params, parent))


def test_a_trained_model_is_stored_with_its_card(home) -> None:
    run_training("mine")
    stored = models.find("mine")
    assert stored.card.blocks == ("global16a", "local8", "readout")
    assert stored.card.training["steps"] == 2
    assert not list((home / "models").glob(".*"))
    assert not (home / "trainings" / "mine").exists()
    with pytest.raises(StoreError, match="exists already"):
        run_training("mine")


def test_training_from_a_parent_starts_from_its_weights(home) -> None:
    run_training("mine")
    run_training("child", parent=models.find("mine"), steps=1)
    assert models.find("child").card.parent == "mine"


def test_labels_without_objects_are_refused(home) -> None:
    empty = Sample(np.zeros((1, 32, 32), np.float32), np.zeros((32, 32), np.int32), np.ones((32, 32), bool))
    params = TrainParams(name="x", start="scratch", steps=1, device="cpu")
    with pytest.raises(TrainingDataError, match="no object"):
        next(train_and_store([empty], params, None))
    assert not (home / "models").exists()


def test_calm_crops_keep_the_intensities_of_the_image() -> None:
    image = np.full((1, 80, 80), 0.37, np.float32)
    item = prepare(Sample(image, np.zeros((80, 80), np.int32), np.ones((80, 80), bool)))
    calm = make_batch([item], None, 4, 32, np.random.default_rng(0), 24.0, 0.0)
    assert torch.allclose(calm.image, torch.tensor(0.37))
    wild = make_batch([item], None, 4, 32, np.random.default_rng(0), 24.0)
    assert not torch.allclose(wild.image, torch.tensor(0.37), atol=1e-3)
