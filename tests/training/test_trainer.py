"""The training loop: recipes, repeatability, checkpoints."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from patchcli.errors import IncompleteError, InputError, StoreError, TrainingError
from patchcli.features import dense as embedding
from patchcli.features.registry import build
from patchcli.runtime import Process
from patchcli.store import Store
from patchcli.training import trainer as training
from patchcli.training.criterion import HeldOut, Judgement
from patchcli.training.trainer import Recipe, Step, Trained, Trainer
from patchcli.verbs.extract import extract

CPU = torch.device("cpu")
PATCH: dict[str, Any] = {"objective": "paper", "sampler": "patch"}


def silent(_: Step) -> None:
    pass


def never() -> bool:
    return False


def run(trainer: Trainer, steps: int) -> Trained:
    return training.run(trainer, steps, None, silent, never)


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Everything that later steps depend on."""
    values = {name: values.clone() for name, values in trainer.loss.state_dict().items()}
    values |= {f"average.{name}": values.clone() for name, values in trainer.average.state_dict().items()}
    for index, moments in trainer.optimiser.state_dict()["state"].items():
        values |= {f"{index}.{key}": moment.clone() for key, moment in moments.items()}
    return values


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert torch.equal(values, two[name]), name


# ---- recipe ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"encoder": "deep"}, "--encoder: expected hierarchical or flat, found 'deep'"),
        ({"objective": "svdd"}, "--objective: expected paper or contrast, found 'svdd'"),
        (
            {"sampler": "patch", "objective": "contrast"},
            "--sampler patch: its pairs have nothing to contrast with; expected --objective paper",
        ),
        ({"sampler": "all"}, "--sampler: expected dense or patch, found 'all'"),
        ({"precision": "float16"}, "--precision: expected float32 or bfloat16, found 'float16'"),
        ({"D": 0}, "--dim: expected 1 or more, found 0"),
        ({"batch": 0}, "--batch: expected 1 or more, found 0"),
        ({"seed": -1}, "--seed: expected 0 or more, found -1"),
        ({"lam": 0.5}, "--lambda, --warmup: the contrast has no SVDD' to weigh; expected --objective paper too"),
        ({"lam": -0.5}, "--lambda: expected a number of 0 or more, found -0.5"),
        ({"lr": math.nan}, "--lr: expected a number of 0 or more, found nan"),
        ({"lr": math.inf}, "--lr: expected a number of 0 or more, found inf"),
    ],
)
def test_a_recipe_refuses(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        Recipe(**wrong)
    assert str(refusal.value) == message


def test_images_without_room_for_neighbours_are_refused(tmp_path: Path, make_images: Callable[..., Any]) -> None:
    make_images(tmp_path / "good", 2, (100, 128))
    extract(tmp_path / "good", tmp_path / "a.zarr", (100, 128))
    with pytest.raises(InputError, match="at least 128×128 pixels, found a working size of 128×100"):
        Trainer(Store.open(tmp_path / "a.zarr"), Recipe(D=4), CPU)


# ---- repeatability --------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_weights_again(small_store: Store) -> None:
    recipe = Recipe(D=4, batch=1, **PATCH)
    first = Trainer(small_store, recipe, CPU)
    torch.rand(5)  # the default generator has no say in it
    second = Trainer(small_store, recipe, CPU)
    digests = [run(trainer, 2).sha256 for trainer in (first, second)]
    assert_equal(state(first), state(second))
    assert digests[0] == digests[1]


def test_another_seed_gives_other_weights_and_batches(small_store: Store) -> None:
    one, two = (Trainer(small_store, Recipe(D=4, batch=1, seed=seed), CPU) for seed in (0, 1))
    assert not torch.equal(one.loss.encoder.enc.conv1.weight, two.loss.encoder.enc.conv1.weight)
    assert not np.array_equal(one.batch(0).views[0], two.batch(0).views[0])
    assert not np.array_equal(one.batch(0).views[0], one.batch(1).views[0])


@pytest.mark.parametrize("kept", [3, 2])
def test_images_are_decoded_once_where_they_fit(small_store: Store, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    expected = [Trainer(small_store, Recipe(D=4, batch=3), CPU).batch(step) for step in range(5)]
    monkeypatch.setattr(training, "CACHED", kept * small_store.images.mean.size)
    seen, read = [], small_store.read_images
    monkeypatch.setattr(small_store, "read_images", lambda *span: seen.append(span) or read(*span))
    trainer = Trainer(small_store, Recipe(D=4, batch=3), CPU)
    for step, batch in enumerate(expected):
        np.testing.assert_array_equal(trainer.batch(step).views, batch.views)
    assert set(seen) == {(0, 1), (1, 2), (2, 3)}
    assert (len(seen) == 3) is (kept == 3)


def test_training_leaves_torchs_generator_alone(small_store: Store) -> None:
    before = torch.get_rng_state()
    run(Trainer(small_store, Recipe(D=4, batch=1, **PATCH), CPU), 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("encoder", "sampler", "batch"), [("hierarchical", "dense", 1), ("hierarchical", "patch", 2), ("flat", "dense", 2)]
)
def test_resuming_is_as_if_never_interrupted(small_store: Store, encoder: str, sampler: str, batch: int) -> None:
    recipe = Recipe(encoder, sampler, "paper" if sampler == "patch" else "contrast", D=4, batch=batch)
    straight = Trainer(small_store, recipe, CPU)
    run(straight, 3)

    run(Trainer(small_store, recipe, CPU), 1)
    with Store.writing(small_store.path) as reopened:
        resumed = Trainer(reopened, training.resumed_recipe(reopened, {}), CPU, resume=True)
        assert len(resumed.history) == 1
        assert run(resumed, 3).steps == 3

    assert_equal(state(resumed), state(straight))
    np.testing.assert_array_equal(np.float32(resumed.history), np.float32(straight.history))


@pytest.fixture
def judged_path(tmp_path: Path, make_images: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images, of which one is held out; judged every other step. They count as aligned."""
    monkeypatch.setattr(training, "JUDGED_EVERY", 2)
    monkeypatch.setattr(training, "ALIGNED", 0.0)
    make_images(tmp_path / "six", 6, (128, 128))
    extract(tmp_path / "six", tmp_path / "six.zarr", (128, 128))
    return tmp_path / "six.zarr"


@pytest.fixture
def judged_store(judged_path: Path) -> Iterator[Store]:
    """The same, open to be written."""
    with Store.writing(judged_path) as store:
        yield store


CONTRAST = Recipe("flat", objective="contrast", D=4, batch=2)


def five_steps_whole_and_resumed(store: Store, first: int) -> tuple[Trainer, Trainer]:
    """Five steps at once, and interrupted after the first ones: the same state and the same encoder."""
    straight = Trainer(store, CONTRAST, CPU)
    whole = run(straight, 5)
    run(Trainer(store, CONTRAST, CPU), first)
    resumed = Trainer(store, CONTRAST, CPU, resume=True)
    again = run(resumed, 5)
    assert (again.chosen, again.sha256) == (whole.chosen, whole.sha256)
    assert_equal(state(resumed), state(straight))
    return straight, resumed


@pytest.mark.parametrize("first", [1, 2, 3])
def test_the_choice_is_as_if_never_interrupted(judged_store: Store, first: int) -> None:
    straight, resumed = five_steps_whole_and_resumed(judged_store, first)
    assert [row[0] for row in straight.judged] == [0, 2, 4]
    assert resumed.judged == straight.judged


@pytest.mark.parametrize(
    ("criteria", "chosen"),
    [
        ((0.99, 0.90, 0.88, 0.86), 4),  # step 5 is judged too, as the last; what an untrained encoder has counts for nothing
        ((0.60, 0.90, 0.88, 0.88), 5),
        ((0.60, 0.90, 0.86, 0.93), 5),
        ((0.60, 0.90, 0.86, 0.86), 2),
        ((0.60, 0.90, 0.95, 0.89), 4),
    ],
)
def test_the_last_weights_whose_criterion_holds_are_the_encoder(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch, criteria: tuple[float, ...], chosen: int
) -> None:
    values = iter(criteria)
    averages = []

    def judge(_: HeldOut, encoder: Any, device: torch.device) -> Judgement:
        averages.append({name: values.clone() for name, values in encoder.state_dict().items()})
        return Judgement(next(values), 3.0, 1.0)

    monkeypatch.setattr(HeldOut, "judge", judge)
    done = run(Trainer(judged_store, Recipe("flat", objective="contrast", D=4, batch=1), CPU), 5)
    assert done.chosen == chosen
    index = (0, 2, 4, 5).index(chosen)
    assert_equal(judged_store.encoder.restore(CPU).state_dict(), averages[index])
    attributes = judged_store.encoder_attributes
    assert (attributes["steps"], attributes["chosen"], attributes["criterion"]) == (5, chosen, criteria[index])


def test_of_the_papers_losses_the_last_weights_are_the_encoder(judged_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldOut, "judge", lambda *_: Judgement(0.9 - len(trainer.history) / 10, 3.0, 1.0))
    trainer = Trainer(judged_store, Recipe("flat", objective="paper", D=4, batch=1), CPU)
    assert run(trainer, 3).chosen == 3
    assert_equal(judged_store.encoder.restore(CPU).state_dict(), trainer.average.state_dict())
    assert [row[0] for row in trainer.judged] == [0, 2]


@pytest.fixture
def not_aligned(judged_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No images count as aligned."""
    monkeypatch.setattr(training, "ALIGNED", 1.1)


def test_where_images_are_not_aligned_the_separation_is_learned(judged_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Trainer(judged_store, CONTRAST, CPU)
    begun = state(other)
    assert not other.separates
    assert not other.batch(0).asked
    monkeypatch.setattr(training, "ALIGNED", 1.1)
    trainer = Trainer(judged_store, CONTRAST, CPU)
    assert trainer.separates
    assert_equal({name: values for name, values in state(trainer).items() if "heads" not in name}, begun)  # without moments
    assert trainer.batch(0).asked
    done = run(trainer, 3)
    assert trainer.loss_names == ["nce_big", "ssl_big", "sep_big"]
    assert np.array(trainer.history).shape == (3, 3)
    assert not torch.equal(trainer.loss.encoder.conv1.weight, begun["encoder.conv1.weight"])
    assert done.losses == pytest.approx(dict(zip(trainer.loss_names, np.mean(trainer.history, axis=0), strict=True)))
    assert judged_store.encoder.attributes.separation is True
    assert judged_store.encoder.attributes.alignment == trainer.alignment
    assert judged_store.encoder.attributes.losses == trainer.loss_names


@pytest.mark.parametrize(("aligned", "objective", "every"), [(0.0, "contrast", 8), (1.1, "contrast", 16), (0.0, "paper", 16)])
def test_the_bank_is_denser_where_images_are_aligned(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch, aligned: float, objective: str, every: int
) -> None:
    monkeypatch.setattr(training, "ALIGNED", aligned)
    run(Trainer(judged_store, dataclasses.replace(CONTRAST, objective=objective), CPU), 1)
    grids = embedding.grids(judged_store.encoder.restore(CPU), 128, 128, judged_store.encoder.attributes.strides)
    assert {scale: grid.xs for scale, grid in grids.items()} == {"big": tuple(range(0, 65, every))}


@pytest.mark.parametrize(
    ("recipe", "rates"), [(CONTRAST, [1e-3, 1e-3 / 1.5, 1e-3 / 2, 1e-3 / 2.5]), (Recipe("flat", D=4, **PATCH), [1e-3] * 4)]
)
def test_the_rate_of_the_contrast_falls(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch, recipe: Recipe, rates: list[float]
) -> None:
    """Resumed or not: it depends on the step alone."""
    monkeypatch.setattr(training, "HALVED", 2)
    taken = []

    def noted(trainer: Trainer) -> Trainer:
        optimiser = trainer.optimiser
        optimiser.register_step_pre_hook(lambda *_: taken.extend(group["lr"] for group in optimiser.param_groups))
        return trainer

    run(noted(Trainer(judged_store, recipe, CPU)), 3)
    run(noted(Trainer(judged_store, recipe, CPU, resume=True)), 4)
    assert taken == pytest.approx(rates, rel=1e-12)


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_a_separation_resumed_is_as_if_never_interrupted(judged_store: Store, not_aligned: None, first: int) -> None:
    straight, resumed = five_steps_whole_and_resumed(judged_store, first)
    assert resumed.separates
    assert straight.separates
    np.testing.assert_array_equal(np.float32(resumed.history), np.float32(straight.history))


def test_resuming_does_not_ask_for_the_alignment_again(judged_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run(Trainer(judged_store, CONTRAST, CPU), 1)
    monkeypatch.setattr(Store, "read_images", lambda *_: pytest.fail("an image was read"))
    Trainer(judged_store, CONTRAST, CPU, resume=True)


@pytest.mark.parametrize("alignments", [(0.0, 0.9), (0.9, 0.0)])
def test_what_was_decided_holds_when_images_come_or_go(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch, alignments: tuple[float, float]
) -> None:
    monkeypatch.setattr(training, "ALIGNED", 0.5)
    monkeypatch.setattr(training, "alignment", lambda _: alignments[0])
    begun = Trainer(judged_store, CONTRAST, CPU)
    run(begun, 2)
    monkeypatch.setattr(training, "alignment", lambda _: alignments[1])
    assert Trainer(judged_store, CONTRAST, CPU).separates != begun.separates
    resumed = Trainer(judged_store, CONTRAST, CPU, resume=True)
    assert (resumed.separates, resumed.alignment) == (begun.separates, alignments[0])
    assert_equal(state(resumed), state(begun))
    assert run(resumed, 3).steps == 3


@pytest.mark.parametrize(
    ("shift", "recipe", "separates"),
    [(4, CONTRAST, False), (64, CONTRAST, True), (64, dataclasses.replace(CONTRAST, objective="paper"), False)],
)
def test_when_the_separation_is_learned(tmp_path: Path, shift: int, recipe: Recipe, separates: bool) -> None:
    """Parts of one surface, at almost the same place of it or at any."""
    rng = np.random.default_rng(0)
    surface = gaussian_filter(rng.uniform(0, 255, (256, 256, 3)), (6, 6, 0), mode="wrap")
    surface = (127 + 40 * (surface - surface.mean()) / surface.std()).clip(0, 255).astype(np.uint8)
    for number in range(20):
        part = np.roll(surface, rng.integers(-shift, shift + 1, 2), (0, 1))[:128, :128]
        Image.fromarray(part).save(tmp_path / f"{number:02}.png")
    extract(tmp_path, tmp_path / "parts.zarr", (128, 128))
    assert Trainer(Store.open(tmp_path / "parts.zarr"), recipe, CPU).separates == separates


@given(st.integers(2, 5), st.integers(21, 70), st.integers(21, 70), st.integers(0, 2**32 - 1), st.integers(0, 3))
@settings(max_examples=30)
def test_the_alignment_is_the_naive_r2(count: int, height: int, width: int, seed: int, common: int) -> None:
    """Of what a cell's mean has more than the cells around it: 1 - variance around the mean image / mean square."""
    rng = np.random.default_rng(seed)
    images = common * rng.integers(0, 64, (height, width, 3)) + rng.integers(0, 64, (count, height, width, 3))
    detail, k = [], min(height, width) // 21
    for image in images:
        for y, x in product(range(1, height // k - 1), range(1, width // k - 1)):
            places = [(y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            here, *around = (image[k * i : k * i + k, k * j : k * j + k].mean((0, 1)) for i, j in places)
            detail.append(here - np.mean(around, axis=0))
    each = np.array(detail).reshape(count, -1)
    expected = 1 - each.var(axis=0, ddof=1).mean() / np.square(each).mean()
    assert training.alignment(images.astype(np.uint8)) == pytest.approx(max(0, expected), abs=1e-9)


def test_copies_and_blank_images_are_aligned() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    assert training.alignment([image] * 3) == pytest.approx(1)
    assert training.alignment([np.full((48, 60, 3), 9, np.uint8)] * 3) == 1


def test_the_alignment_is_that_of_larger_images_too() -> None:
    rng = np.random.default_rng(0)
    common, own = rng.uniform(0, 127, (64, 64, 3)), rng.uniform(0, 127, (9, 64, 64, 3))
    images = gaussian_filter(common + own, (0, 1, 1, 0)).astype(np.uint8)
    larger = images.repeat(4, axis=1).repeat(4, axis=2)
    assert training.alignment(larger) == pytest.approx(training.alignment(images), abs=0.02)
    assert 0.4 < training.alignment(images) < 0.6


def test_an_uneven_light_aligns_nothing() -> None:
    """Twice as bright on one side as on the other, on fine noise."""
    light = np.linspace(0.7, 1.4, 256)[:, None]
    images = np.random.default_rng(0).normal(120, 40, (50, 256, 256, 3)) * light
    assert training.alignment(images.clip(0, 255).astype(np.uint8)) < training.ALIGNED / 4


@pytest.mark.parametrize("steps", [5, 20])
def test_a_separation_that_collapses_keeps_the_best_encoder(
    judged_store: Store, not_aligned: None, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    criteria = 0.4, 0.5, 0.9
    found = iter([*(Judgement(criterion, 9.0, 1.0) for criterion in criteria), Judgement(0.5, 1.0, 0.0)])
    monkeypatch.setattr(training, "ALARM_AFTER", 5)
    monkeypatch.setattr(HeldOut, "judge", lambda *_: next(found))
    done = run(Trainer(judged_store, CONTRAST, CPU), steps)
    assert (done.collapsed, done.interrupted, done.steps, done.chosen) == (True, False, min(steps, 6), 4)
    assert done.sha256 == judged_store.encoder.attributes.sha256


def test_without_held_out_images_there_is_the_contrast_alone(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "ALIGNED", 1.1)
    trainer = Trainer(small_store, dataclasses.replace(CONTRAST, batch=1), CPU)
    assert not trainer.separates
    assert trainer.alignment is None


def test_held_out_images_are_not_trained_on(judged_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, read = Trainer(judged_store, Recipe("flat", D=4, batch=3), CPU), []
    images = trainer._read
    monkeypatch.setattr(trainer, "_read", lambda indices: read.extend(indices.tolist()) or images(indices))
    for step in range(12):
        trainer.batch(step)
    assert set(read) == set(trainer.trained_on.tolist()) == {1, 2, 3, 4, 5}
    assert trainer.held.tolist() == [0]


@pytest.mark.parametrize("separates", [False, True])
def test_the_average_follows_the_weights(judged_store: Store, monkeypatch: pytest.MonkeyPatch, separates: bool) -> None:
    """A separation's average reaches back the farther the longer it has run."""
    monkeypatch.setattr(training, "AVERAGE", 0.2)
    monkeypatch.setattr(training, "ALIGNED", 1.1 * separates)
    trainer = Trainer(judged_store, CONTRAST, CPU)
    assert trainer.separates == separates
    expected = trainer.average.conv1.weight.detach().clone()
    for step in range(4):
        trainer.step(trainer.batch(step))
        decay = (1 + step) / (10 + step)  # 0.1, 0.18, 0.25, 0.31
        decay = decay if separates else min(decay, 0.2)
        expected = decay * expected + (1 - decay) * trainer.loss.encoder.conv1.weight.detach()
    torch.testing.assert_close(trainer.average.conv1.weight.detach(), expected)


@pytest.mark.parametrize(("rank", "spread"), [(1.2, 1.0), (9.0, 1e-5)])
def test_collapsed_features_end_training(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch, rank: float, spread: float
) -> None:
    monkeypatch.setattr(training, "ALARM_AFTER", 3)
    monkeypatch.setattr(Trainer, "check_position", lambda _: None)
    monkeypatch.setattr(HeldOut, "judge", lambda *_: Judgement(0.5, rank, spread))
    with pytest.raises(TrainingError, match=r"step 4: the features have collapsed .*; lower --lr"):
        run(Trainer(judged_store, Recipe("flat", D=4, batch=1), CPU), 5)
    trouble = judged_store.encoder.attributes.trouble
    assert trouble.startswith("training failed at step 4: the features have collapsed (effective rank ")
    assert trouble.endswith("; lower --lr; run: patchcli train --overwrite")
    assert judged_store.encoder.attributes.chosen == 2  # the last one judged before
    with pytest.raises(TrainingError, match="step 4: the features have collapsed"):  # as long as it is so
        run(Trainer(judged_store, Recipe("flat", D=4, batch=1), CPU, resume=True), 3)
    assert judged_store.encoder.attributes.trouble == trouble
    monkeypatch.setattr(HeldOut, "judge", lambda *_: Judgement(0.6, 9.0, 1.0))
    assert run(Trainer(judged_store, Recipe("flat", D=4, batch=1), CPU, resume=True), 5).trouble is None
    assert judged_store.encoder.attributes.trouble is None


def test_a_position_that_is_never_told_ends_training(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(small_store, Recipe("flat", objective="paper", D=4, batch=1), CPU)
    trainer.history = [[0.0, math.log(8)]] * training.ALARM_AFTER
    with pytest.raises(TrainingError, match=r"step 150: the position losses have been at chance .*; lower --lambda"):
        trainer.check_position()
    with pytest.raises(TrainingError, match="step 150: the position losses"):  # at the very end of a run too
        run(trainer, training.ALARM_AFTER)
    assert "step 150: the position losses have been at chance" in small_store.encoder.attributes.trouble
    trainer.history[0] = [0.0, math.log(8) - 0.02 * training.ALARM_AFTER]
    trainer.check_position()  # something was told
    trainer.history = trainer.history[1:]
    trainer.check_position()  # too early to say


def test_an_untrained_checkpoint_can_be_gone_on_from(small_store: Store) -> None:
    recipe = Recipe(D=4, batch=1, **PATCH)
    straight = Trainer(small_store, recipe, CPU)
    run(straight, 1)
    run(Trainer(small_store, recipe, CPU), 0)
    resumed = Trainer(small_store, recipe, CPU, resume=True)
    run(resumed, 1)
    assert_equal(state(resumed), state(straight))


def test_a_resumed_recipe_is_the_checkpoints(small_store: Store) -> None:
    recipe = Recipe(D=4, lam=0.1, lr=1e-2, batch=2, seed=3, **PATCH)
    run(Trainer(small_store, recipe, CPU), 0)
    assert training.resumed_recipe(small_store, {}) == recipe
    assert training.resumed_recipe(small_store, {"lam": 0.1}) == recipe
    with pytest.raises(InputError, match=r"--resume: the checkpoint has --lambda 0\.1, found 1"):
        training.resumed_recipe(small_store, {"lam": 1.0})


def test_imported_weights_cannot_be_resumed(small_store: Store) -> None:
    weights = {name: values.numpy() for name, values in build("hierarchical", 4).state_dict().items()}
    small_store.write_encoder(weights, {"architecture": "hierarchical", "D": 4, "source": "imported"}, {})
    with pytest.raises(IncompleteError, match="nothing to resume"):
        training.resumed_recipe(small_store, {})
    with pytest.raises(IncompleteError, match="nothing to resume"):
        Trainer(small_store, Recipe(D=4), CPU, resume=True)


# ---- the loop -------------------------------------------------------------------------------------------------------


def test_no_steps_leave_an_untrained_encoder(small_store: Store) -> None:
    trainer = Trainer(small_store, Recipe(D=4), CPU)
    before = state(trainer)
    done = run(trainer, 0)
    assert (done.steps, done.losses, done.interrupted) == (0, {}, False)
    attributes = small_store.encoder_attributes
    assert (attributes["source"], attributes["steps"], attributes["sha256"]) == ("untrained", 0, done.sha256)
    loaded = small_store.encoder.restore(CPU).state_dict()
    assert_equal(loaded, {name: before[f"encoder.{name}"] for name in loaded})


def test_history_progress_and_result_count_the_steps(small_store: Store) -> None:
    trainer, steps = Trainer(small_store, Recipe(D=4, batch=2, **PATCH), CPU), []
    done = training.run(trainer, 3, None, steps.append, never)
    assert trainer.loss_names == ["svdd_big", "ssl_big", "svdd_small", "ssl_small"]
    assert np.shape(trainer.history) == (3, 4)
    assert [(step.step, step.steps) for step in steps if not step.judging] == [(1, 3), (2, 3), (3, 3)]
    assert list(done.losses.values()) == pytest.approx(np.mean(trainer.history, axis=0).tolist())
    assert small_store.encoder.attributes.steps == done.steps == 3


def test_a_stop_ends_after_the_running_step_with_a_usable_encoder(small_store: Store) -> None:
    trainer = Trainer(small_store, Recipe(D=4, batch=1, **PATCH), CPU)
    done = training.run(trainer, 50, None, silent, lambda: len(trainer.history) == 2)
    assert (done.steps, done.interrupted) == (2, True)
    loaded = small_store.encoder.restore(CPU).state_dict()
    assert_equal(loaded, {name: values.detach() for name, values in trainer.average.state_dict().items()})


def test_time_bounds_a_run_without_steps(small_store: Store) -> None:
    done = training.run(Trainer(small_store, Recipe(D=4), CPU), None, 0.0, silent, never)
    assert (done.steps, done.interrupted) == (0, False)


def test_the_losses_fall_and_lambda_weighs_svdd(small_store: Store) -> None:
    svdd = {}
    for lam in (0.0, 1.0):
        trainer = Trainer(small_store, Recipe(D=8, lam=lam, batch=4, **PATCH), CPU)
        always = trainer.batch(0)
        for _ in range(10):
            trainer.step(always)
        history = np.array(trainer.history)  # svdd_big, ssl_big, svdd_small, ssl_small
        assert (history[-1, [1, 3]] < 0.5 * history[0, [1, 3]]).all()
        svdd[lam] = history[-1, [0, 2]]
    assert (svdd[1.0] < 0.5 * svdd[0.0]).all()


def test_a_loss_that_is_not_finite_ends_training_and_saves_nothing(small_store: Store) -> None:
    trainer = Trainer(small_store, Recipe(D=4, batch=1), CPU)
    run(trainer, 0)
    with torch.no_grad():
        trainer.loss.encoder.enc.conv1.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match="step 1: a loss is not finite"):
        run(trainer, 1)
    assert all(np.isfinite(values).all() for values in small_store.encoder.weights().values())
    assert small_store.encoder.attributes.trouble.startswith("training failed at step 1: a loss is not finite")
    assert run(Trainer(small_store, Recipe(D=4, batch=1), CPU, resume=True), 1).trouble is None
    assert small_store.encoder.attributes.trouble is None


@pytest.mark.parametrize("images", ["small_store", "judged_store"])
@pytest.mark.parametrize("last", [2, 3])
def test_weights_that_are_not_finite_are_no_encoder(request: pytest.FixtureRequest, images: str, last: int) -> None:
    """Found by a judgement, by the end of a run, or by nothing but the writing of it."""
    store: Store = request.getfixturevalue(images)
    trainer = Trainer(store, dataclasses.replace(CONTRAST, batch=1), CPU)
    step = trainer.step

    def exploding(batch: Any) -> dict[str, float]:
        losses = step(batch)
        if len(trainer.history) == last:
            with torch.no_grad():
                trainer.average.conv1.weight.fill_(math.nan)
        return losses

    trainer.step = exploding  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=f"step {last}: the weights are not finite; lower --lr"):
        run(trainer, last)
    attributes = store.attributes_of("encoder")
    if last == 3 and images == "judged_store":
        assert attributes is not None
        assert attributes["chosen"] == 2
        assert attributes["trouble"].startswith("training failed at step 3: the weights are not finite")
    else:
        assert attributes is None


def stopped_at(store: Store, recipe: Recipe, step: int, **options: Any) -> tuple[Trainer, Trained]:
    trainer = Trainer(store, recipe, CPU, **options)
    return trainer, training.run(trainer, 9, None, silent, lambda: len(trainer.history) == step)


@pytest.mark.parametrize(
    ("criteria", "step", "says"),
    [
        ((), 0, "step 0, before its criterion was above the untrained encoder's; run: patchcli train --resume"),
        ((0.7,), 1, "step 1, before its criterion was above the untrained encoder's; run"),
        ((0.7, 0.7), 3, "step 3, before its criterion was above the untrained encoder's (0.700, untrained 0.700); run"),
        ((0.7, 0.71), 3, None),
        ((0.7, 0.71, 0.69), 5, "(0.690, untrained 0.700)"),  # the last one that holds is the encoder
    ],
)
def test_interrupted_before_it_beats_the_untrained_encoder(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch, criteria: tuple[float, ...], step: int, says: str | None
) -> None:
    values = iter(criteria)
    monkeypatch.setattr(HeldOut, "judge", lambda *_: Judgement(next(values, 0.8), 9.0, 1.0))
    _, done = stopped_at(judged_store, CONTRAST, step)
    assert done.interrupted
    assert done.trouble == judged_store.encoder.attributes.trouble
    assert done.trouble is None if says is None else says in str(done.trouble)
    assert run(Trainer(judged_store, CONTRAST, CPU, resume=True), 7).trouble is None
    assert judged_store.encoder.attributes.trouble is None


def test_a_checkpoint_says_what_a_kill_would_leave(judged_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    criteria = iter((0.7, 0.6, 0.8, 0.8))
    monkeypatch.setattr(HeldOut, "judge", lambda *_: Judgement(next(criteria), 9.0, 1.0))
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    trainer, left = Trainer(judged_store, CONTRAST, CPU), []

    def look(step: Step) -> None:
        if not step.judging:
            left.append(judged_store.attributes_of("encoder"))

    training.run(trainer, 6, None, look, never)
    assert [attributes["steps"] for attributes in left] == [0, 1, 2, 3, 4, 5]
    # what a judgement finds is in the checkpoint after the next step
    assert [attributes["trouble"] is None for attributes in left] == [False] * 5 + [True]
    assert judged_store.encoder.attributes.trouble is None


@pytest.mark.parametrize(
    ("recipe", "images", "step"),
    [(dataclasses.replace(CONTRAST, objective="paper"), "judged_store", 3), (CONTRAST, "small_store", 3)],
)
def test_where_the_criterion_has_no_say_an_interruption_is_no_trouble(
    request: pytest.FixtureRequest, recipe: Recipe, images: str, step: int
) -> None:
    store: Store = request.getfixturevalue(images)
    _, done = stopped_at(store, dataclasses.replace(recipe, batch=1), step)
    assert done.interrupted
    assert done.trouble is store.encoder.attributes.trouble is None
    assert store.encoder.attributes.judged == (images == "judged_store")


def test_an_untrained_encoder_and_one_trained_for_some_minutes_are_no_trouble(judged_store: Store) -> None:
    assert run(Trainer(judged_store, CONTRAST, CPU), 0).trouble is None
    trainer, clock = Trainer(judged_store, CONTRAST, CPU), iter(range(100))
    done = training.run(trainer, None, 1e-9, lambda _: next(clock), never)
    assert (done.interrupted, done.trouble, judged_store.encoder.attributes.trouble) == (False, None, None)


def test_bfloat16_is_refused_where_it_is_emulated(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "cpu_has_bfloat16", lambda: False)
    with pytest.raises(InputError, match="--precision bfloat16: this CPU has no bfloat16 instructions"):
        run(Trainer(small_store, Recipe(D=4, precision="bfloat16"), CPU), 1)


def test_bfloat16_trains(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "cpu_has_bfloat16", lambda: True)
    histories = []
    for precision in training.PRECISIONS:
        trainer = Trainer(small_store, Recipe(D=4, batch=2, precision=precision, **PATCH), CPU)
        run(trainer, 1)
        histories.append(trainer.history)
    exact, rough = np.array(histories)
    np.testing.assert_allclose(rough, exact, rtol=0.1)
    assert not np.array_equal(rough, exact)


# ---- processes that share a step ------------------------------------------------------------------------------------


def in_process(rank: int, meeting: str, store: str, recipe: Recipe, results: Path, separates: bool) -> None:
    """One of two processes: three steps, then what it has."""
    torch.set_num_threads(1)
    if separates:
        training.ALIGNED = 1.1
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    with contextlib.nullcontext(Store.open(store)) if rank else Store.writing(store) as opened:
        trainer = Trainer(opened, recipe, CPU, Process(rank, 2))
        done = run(trainer, 3)
    assert trainer.separates == separates
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    np.savez(results / f"{rank}.npz", history=np.array(trainer.history), sha256=done.sha256)


@pytest.mark.parametrize(("sampler", "batch"), [("dense", 1), ("patch", 3)])
def test_two_processes_are_as_one_with_twice_the_batch(small_path: Path, tmp_path: Path, sampler: str, batch: int) -> None:
    recipe = Recipe("flat", sampler, "paper" if sampler == "patch" else "contrast", D=4, batch=batch)
    arguments = (str(tmp_path / "meeting"), str(small_path), recipe, tmp_path, False)
    torch.multiprocessing.spawn(in_process, arguments, nprocs=2)
    one, two = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    np.testing.assert_array_equal(one["history"], two["history"])
    attributes = Store.open(small_path).encoder_attributes
    assert str(one["sha256"]) == str(two["sha256"]) == attributes["sha256"]
    assert attributes["processes"] == 2

    with Store.writing(small_path) as store:
        alone = Trainer(store, dataclasses.replace(recipe, batch=2 * batch), CPU)
        run(alone, 3)
    np.testing.assert_allclose(one["history"], alone.history, rtol=1e-3)  # Adam enlarges rounding
    assert np.abs(np.diff(alone.history, axis=0)).min() > 1e-4  # the steps are unlike each other


def test_two_processes_separate_as_one_with_twice_the_batch(judged_path: Path, tmp_path: Path, not_aligned: None) -> None:
    """With whole groups of four; the first process judges for both."""
    recipe = dataclasses.replace(CONTRAST, batch=4)
    arguments = (str(tmp_path / "meeting"), str(judged_path), recipe, tmp_path, True)
    torch.multiprocessing.spawn(in_process, arguments, nprocs=2)
    one, two = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    np.testing.assert_array_equal(one["history"], two["history"])
    assert str(one["sha256"]) == Store.open(judged_path).encoder.attributes.sha256

    with Store.writing(judged_path) as store:
        alone = Trainer(store, dataclasses.replace(recipe, batch=8), CPU)
        run(alone, 3)
    np.testing.assert_allclose(one["history"], alone.history, rtol=1e-3)


def test_a_checkpoint_of_an_earlier_version_is_refused(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run(Trainer(small_store, Recipe("flat", D=4, batch=1), CPU), 1)
    attributes = {name: value for name, value in small_store.encoder_attributes.items() if name != "kept"}
    monkeypatch.setattr(Store, "encoder_attributes", attributes)
    with pytest.raises(StoreError, match="the checkpoint is of an earlier patchcli; train anew with --overwrite"):
        Trainer(small_store, Recipe("flat", D=4, batch=1), CPU, resume=True)


def test_a_resumed_run_has_as_many_processes(small_store: Store) -> None:
    run(Trainer(small_store, Recipe("flat", D=4, batch=1), CPU), 0)
    with pytest.raises(InputError, match=r"trained by 1 processes, found 2; use: torchrun --nproc-per-node=1"):
        training.resumed_recipe(small_store, {}, 2)
