"""The model and its steps: what they depend on, and that they learn."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning import CONTRAST, CPU, PATCH, assert_equal, begin, one_step, run, state

from patchcli import runtime
from patchcli.errors import InputError, TrainingError
from patchcli.features import dense as embedding
from patchcli.store import Store
from patchcli.training import alignment
from patchcli.training import images as good
from patchcli.training import trainer as trainers
from patchcli.training.loop import Training, total
from patchcli.training.recipe import Recipe
from patchcli.verbs.extract import extract
from patchcli.verbs.extraction import ImageOptions


def test_images_without_room_for_neighbours_are_refused(tmp_path: Path, make_images: Callable[..., Any]) -> None:
    make_images(tmp_path / "good", 2, (100, 128))
    extract(tmp_path / "good", tmp_path / "a.zarr", ImageOptions(size=(100, 128)))
    with pytest.raises(InputError, match="at least 128×128 pixels, found a working size of 128×100"):
        begin(Store.open(tmp_path / "a.zarr"), Recipe(D=4))


def test_a_seed_gives_the_same_weights_again(small_store: Store) -> None:
    recipe = Recipe(D=4, batch=1, **PATCH)
    first = begin(small_store, recipe)
    torch.rand(5)  # the default generator has no say in it
    second = begin(small_store, recipe)
    digests = [run(training, 2).sha256 for training in (first, second)]
    assert_equal(state(first), state(second))
    assert digests[0] == digests[1]


def test_another_seed_gives_other_weights_and_batches(small_store: Store) -> None:
    one, two = (begin(small_store, Recipe(D=4, batch=1, seed=seed)).trainer for seed in (0, 1))
    assert not torch.equal(one.loss.encoder.enc.conv1.weight, two.loss.encoder.enc.conv1.weight)
    assert not np.array_equal(one.batch(0).views[0], two.batch(0).views[0])
    assert not np.array_equal(one.batch(0).views[0], one.batch(1).views[0])


@pytest.mark.parametrize("kept", [3, 2])
def test_images_are_decoded_once_where_they_fit(small_store: Store, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    expected = [begin(small_store, Recipe(D=4, batch=3)).trainer.batch(step) for step in range(5)]
    monkeypatch.setattr(good, "CACHED", kept * small_store.images.mean.size)
    seen, read = [], small_store.images.read
    monkeypatch.setattr(small_store.images, "read", lambda *span: seen.append(span) or read(*span))
    trainer = begin(small_store, Recipe(D=4, batch=3)).trainer
    for step, batch in enumerate(expected):
        np.testing.assert_array_equal(trainer.batch(step).views, batch.views)
    assert set(seen) == {(0, 1), (1, 2), (2, 3)}
    assert (len(seen) == 3) is (kept == 3)


def test_training_leaves_torchs_generator_alone(small_store: Store) -> None:
    before = torch.get_rng_state()
    run(begin(small_store, Recipe(D=4, batch=1, **PATCH)), 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_images_are_not_trained_on(judged_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, indices = begin(judged_store, Recipe("flat", D=4, batch=3)).trainer, []
    read = trainer.images.read
    monkeypatch.setattr(trainer.images, "read", lambda chosen: indices.extend(chosen.tolist()) or read(chosen))
    for step in range(12):
        trainer.batch(step)
    assert set(indices) == set(trainer.images.training.tolist()) == {1, 2, 3, 4, 5}
    assert trainer.images.validation.tolist() == [0]


@pytest.mark.parametrize(("aligned", "objective", "every"), [(0.0, "contrast", 8), (1.1, "contrast", 16), (0.0, "paper", 16)])
def test_the_bank_is_denser_where_images_are_aligned(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch, aligned: float, objective: str, every: int
) -> None:
    monkeypatch.setattr(alignment, "ALIGNED", aligned)
    run(begin(judged_store, dataclasses.replace(CONTRAST, objective=objective)), 1)
    grids = embedding.grids(judged_store.encoder.restore(CPU), 128, 128, judged_store.encoder.attributes.strides)
    assert {scale: grid.xs for scale, grid in grids.items()} == {"big": tuple(range(0, 65, every))}


@pytest.mark.parametrize(
    ("recipe", "rates"),
    [(CONTRAST, [1e-3, 1e-3 / 1.5, 1e-3 / 2, 1e-3 / 2.5]), (Recipe("flat", D=4, lr=1e-3, batch=4, **PATCH), [1e-3] * 4)],
)
def test_the_rate_of_the_contrast_falls(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch, recipe: Recipe, rates: list[float]
) -> None:
    """Resumed or not: it depends on the step alone."""
    monkeypatch.setattr(trainers, "HALVED", 2)
    taken = []

    def noted(training: Training) -> Training:
        optimiser = training.trainer.optimiser
        optimiser.register_step_pre_hook(lambda *_: taken.extend(group["lr"] for group in optimiser.param_groups))
        return training

    run(noted(begin(judged_store, recipe)), 3)
    run(noted(begin(judged_store, recipe, resume=True)), 4)
    assert taken == pytest.approx(rates, rel=1e-12)


@pytest.mark.parametrize("separates", [False, True])
def test_the_average_follows_the_weights(judged_store: Store, monkeypatch: pytest.MonkeyPatch, separates: bool) -> None:
    """A separation's average reaches back the farther the longer it has run."""
    monkeypatch.setattr(trainers, "AVERAGE", 0.2)
    monkeypatch.setattr(alignment, "ALIGNED", 1.1 * separates)
    trainer = begin(judged_store, CONTRAST).trainer
    assert trainer.separates == separates
    expected = trainer.average.conv1.weight.detach().clone()
    for step in range(4):
        one_step(trainer, step)
        decay = (1 + step) / (10 + step)  # 0.1, 0.18, 0.25, 0.31
        decay = decay if separates else min(decay, 0.2)
        expected = decay * expected + (1 - decay) * trainer.loss.encoder.conv1.weight.detach()
    torch.testing.assert_close(trainer.average.conv1.weight.detach(), expected)


def test_a_position_that_stays_a_guess_ends_training(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    training = begin(small_store, Recipe("flat", objective="paper", D=4, batch=1))
    training.trainer.history = [[0.0, math.log(8)]] * trainers.GUESSING
    with pytest.raises(TrainingError, match=r"step 150: the position losses have been at chance .*; lower `lam`"):
        training.trainer.check_position()
    with pytest.raises(TrainingError, match="step 150: the position losses"):  # at the very end of a run too
        run(training, trainers.GUESSING)
    assert "step 150: the position losses have been at chance" in small_store.encoder.attributes.trouble
    training.trainer.history[0] = [0.0, math.log(8) - 0.02 * trainers.GUESSING]
    training.trainer.check_position()  # something was learned
    training.trainer.history = training.trainer.history[1:]
    training.trainer.check_position()  # too early to say


def test_the_losses_fall_and_lambda_weighs_svdd(small_store: Store) -> None:
    svdd = {}
    for lam in (0.0, 1.0):
        trainer = begin(small_store, Recipe(D=8, lam=lam, batch=4, **PATCH)).trainer
        always = trainer.batch(0)
        for _ in range(10):
            losses = trainer.losses(always)
            trainer.update(total(losses, trainer.lam), losses)
        history = np.array(trainer.history)  # svdd_big, ssl_big, svdd_small, ssl_small
        assert (history[-1, [1, 3]] < 0.5 * history[0, [1, 3]]).all()
        svdd[lam] = history[-1, [0, 2]]
    assert (svdd[1.0] < 0.5 * svdd[0.0]).all()


@pytest.mark.parametrize("losses", [PATCH, {}])
def test_bfloat16_trains(small_store: Store, monkeypatch: pytest.MonkeyPatch, losses: dict[str, Any]) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: True)
    histories = []
    for precision in ("float32", "bfloat16"):
        training = begin(small_store, Recipe(D=4, batch=2, precision=precision, **losses))
        run(training, 1)
        histories.append(training.trainer.history)
    exact, rough = np.array(histories)
    np.testing.assert_allclose(rough, exact, rtol=0.1)
    assert not np.array_equal(rough, exact)
