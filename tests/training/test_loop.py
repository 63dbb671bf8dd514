"""The loop: its ends, which encoder is kept, what the store says of trouble, and processes that share a step."""

import dataclasses
import math
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning import CONTRAST, CPU, PATCH, assert_equal, begin, never, run, silent, state
from workers import train_together

from patchcli.errors import TrainingError
from patchcli.store import Store
from patchcli.training import alignment, criterion, loop
from patchcli.training.criterion import Judgement, Validation
from patchcli.training.loop import Bounds, Step, Trained
from patchcli.training.recipe import Recipe


def test_no_steps_leave_an_untrained_encoder(small_store: Store) -> None:
    training = begin(small_store, Recipe(D=4))
    before = state(training)
    done = run(training, 0)
    assert (done.steps, done.losses, done.interrupted) == (0, {}, False)
    attributes = small_store.encoder.attributes
    assert (attributes.source, attributes.steps, attributes.sha256) == ("untrained", 0, done.sha256)
    loaded = {name: values.detach() for name, values in small_store.encoder.restore(CPU).named_parameters()}
    assert_equal(loaded, {name: before[f"encoder.{name}"] for name in loaded})


def test_history_progress_and_result_count_the_steps(small_store: Store) -> None:
    training, steps = begin(small_store, Recipe(D=4, batch=2, **PATCH)), []
    done = loop.run(training, Bounds(3), steps.append, never)
    assert training.trainer.loss_names == ["svdd_big", "ssl_big", "svdd_small", "ssl_small"]
    assert np.shape(training.trainer.history) == (3, 4)
    assert [(step.step, step.steps) for step in steps if not step.judging] == [(1, 3), (2, 3), (3, 3)]
    assert list(done.losses.values()) == pytest.approx(np.mean(training.trainer.history, axis=0).tolist())
    assert small_store.encoder.attributes.steps == done.steps == 3


def test_a_stop_ends_after_the_running_step_with_a_usable_encoder(small_store: Store) -> None:
    training = begin(small_store, Recipe(D=4, batch=1, **PATCH))
    done = loop.run(training, Bounds(50), silent, lambda: len(training.trainer.history) == 2)
    assert (done.steps, done.interrupted) == (2, True)
    loaded = small_store.encoder.restore(CPU).state_dict()
    assert_equal(loaded, {name: values.detach() for name, values in training.trainer.average.state_dict().items()})


def test_time_bounds_a_run_without_steps(small_store: Store) -> None:
    done = loop.run(begin(small_store, Recipe(D=4)), Bounds(seconds=0.0), silent, never)
    assert (done.steps, done.interrupted) == (0, False)


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

    def judge(_: Validation, encoder: Any, device: torch.device, precision: str) -> Judgement:
        averages.append({name: values.clone() for name, values in encoder.state_dict().items()})
        return Judgement(next(values), 3.0, 1.0, {})

    monkeypatch.setattr(Validation, "judge", judge)
    done = run(begin(judged_store, Recipe("flat", objective="contrast", D=4, batch=1)), 5)
    assert done.chosen == chosen
    index = (0, 2, 4, 5).index(chosen)
    assert_equal(judged_store.encoder.restore(CPU).state_dict(), averages[index])
    attributes = judged_store.encoder.attributes
    assert (attributes.steps, attributes.chosen, attributes.criterion) == (5, chosen, criteria[index])


@pytest.mark.parametrize(("last", "chosen"), [(0.88, 5), (0.80, 4)])
def test_more_defects_choose_the_maps_to_end_with(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch, last: float, chosen: int
) -> None:
    """Whether they are those of the last weights or of earlier ones, and by the weights that are chosen."""
    values = iter((0.6, 0.9, 0.9, last))
    judged: list[tuple[int, dict[str, torch.Tensor]]] = []

    def judge(validation: Validation, encoder: Any, device: torch.device, precision: str) -> Judgement:
        copies, weights = len(validation.queries) - 1, {name: values.clone() for name, values in encoder.state_dict().items()}
        judged.append((copies, weights))
        return Judgement(next(values, 0.0), 3.0, 1.0, {"small": 1.0} if copies == 7 else {"big": 1.0})

    monkeypatch.setattr(Validation, "judge", judge)
    monkeypatch.setattr(criterion, "MANY_COPIES", 7)
    done = run(begin(judged_store, Recipe("hybrid", D=4, batch=1)), 5)
    assert (done.chosen, done.exponents, judged_store.encoder.attributes.exponents) == (chosen, {"small": 1.0}, {"small": 1.0})
    assert [copies for copies, _ in judged] == [4, 4, 4, 4, 7]
    assert_equal(judged[-1][1], judged[chosen - 2][1])


def test_of_the_papers_losses_the_last_weights_are_the_encoder(judged_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Validation, "judge", lambda *_: Judgement(0.9 - len(training.trainer.history) / 10, 3.0, 1.0, {}))
    training = begin(judged_store, Recipe("flat", objective="paper", D=4, batch=1))
    assert run(training, 3).chosen == 3
    assert_equal(judged_store.encoder.restore(CPU).state_dict(), training.trainer.average.state_dict())
    assert [row[0] for row in training.criterion.judged] == [0, 2]


def test_where_images_are_not_aligned_the_separation_is_learned(judged_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other = begin(judged_store, CONTRAST)
    begun = state(other)
    assert not other.trainer.separates
    assert not other.trainer.batch(0).queries
    monkeypatch.setattr(alignment, "ALIGNED", 1.1)
    training = begin(judged_store, CONTRAST)
    trainer = training.trainer
    assert trainer.separates
    assert_equal({name: values for name, values in state(training).items() if "heads" not in name}, begun)  # without moments
    assert trainer.batch(0).queries
    done = run(training, 3)
    assert trainer.loss_names == ["nce_big", "ssl_big", "sep_big", "var_big"]
    assert np.array(trainer.history).shape == (3, 4)
    assert not torch.equal(trainer.loss.encoder.conv1.weight, begun["encoder.conv1.weight"])
    assert done.losses == pytest.approx(dict(zip(trainer.loss_names, np.mean(trainer.history, axis=0), strict=True)))
    assert judged_store.encoder.attributes.separation is True
    assert judged_store.encoder.attributes.alignment == trainer.alignment
    assert judged_store.encoder.attributes.losses == trainer.loss_names


def test_without_validation_images_there_is_the_contrast_alone(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "ALIGNED", 1.1)
    training = begin(small_store, dataclasses.replace(CONTRAST, batch=1))
    assert not training.trainer.separates
    assert training.trainer.alignment is None


@pytest.mark.parametrize("steps", [5, 20])
def test_a_separation_that_collapses_keeps_the_best_encoder(
    judged_store: Store, not_aligned: None, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    criteria = 0.4, 0.5, 0.9
    collapse = repeat(Judgement(0.5, 1.0, 0.0, {}))
    judgements = chain((Judgement(criterion, 9.0, 1.0, {}) for criterion in criteria), collapse)
    monkeypatch.setattr(criterion, "COLLAPSES_FROM", 5)
    monkeypatch.setattr(Validation, "judge", lambda *_: next(judgements))
    done = run(begin(judged_store, CONTRAST), steps)
    assert (done.collapsed, done.interrupted, done.steps, done.chosen) == (True, False, min(steps, 6), 4)
    assert done.sha256 == judged_store.encoder.attributes.sha256


def test_after_a_setback_training_goes_on_from_the_last_good_point(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slower, and with an encoder in the end; resumed too."""
    monkeypatch.setattr(criterion, "COLLAPSES_FROM", 3)
    judgements = iter([Judgement(0.5, 9.0, 1.0, {})] * 2 + [Judgement(0.5, 1.0, 0.0, {})] + [Judgement(0.6, 9.0, 1.0, {})] * 9)
    monkeypatch.setattr(Validation, "judge", lambda *_: next(judgements))
    training, rates = begin(judged_store, Recipe("flat", "patch", D=4, batch=1, lr=1e-3)), []
    training.trainer.optimiser.register_step_pre_hook(lambda *_: rates.append(training.trainer.optimiser.param_groups[0]["lr"]))
    done = run(training, 6)
    assert (done.steps, done.setbacks, done.collapsed, done.trouble) == (6, 1, False, None)
    assert rates == pytest.approx([1e-3] * 4 + [3e-4] * 4)  # steps 3 and 4 twice
    assert [row[0] for row in training.criterion.judged] == [0, 2, 4, 6]
    assert begin(judged_store, training.trainer.recipe, resume=True).trainer.setbacks == 1


def test_going_back_restores_every_bit(judged_store: Store) -> None:
    training = begin(judged_store, CONTRAST)
    run(training, 2)
    before, snapshot = state(training), training.trainer.snapshot()
    run(training, 4)
    training.trainer.go_back(snapshot)
    assert_equal(state(training), before)
    assert len(training.trainer.history) == 2


def test_where_nothing_can_be_learned_the_fixed_features_are_the_encoder(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criterion, "COLLAPSES_FROM", 0)
    monkeypatch.setattr(Validation, "judge", lambda *_: Judgement(0.5, 1.0, 0.0, {"big": 1.0}))
    done = run(begin(judged_store, Recipe(D=4, batch=1)), 6)
    assert (done.collapsed, done.exponents, done.trouble) == (True, {"fixed": 1.0}, None)
    assert judged_store.encoder.attributes.exponents == {"fixed": 1.0}


def test_the_chosen_maps_are_those_of_the_chosen_step(judged_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when training goes on and ends with it again."""
    criteria, seen = iter((0.5, 0.9)), []

    def judge(_: Validation, encoder: Any, device: torch.device, precision: str) -> Judgement:
        seen.append(next(encoder.parameters()).sum().item())
        return Judgement(next(criteria, 0.6), 9.0, 1.0, {"small": seen[-1]})

    monkeypatch.setattr(Validation, "judge", judge)
    for steps, resume in ((3, False), (4, True)):
        done = run(begin(judged_store, Recipe(D=4, batch=1), resume=resume), steps)
        assert (done.chosen, done.exponents) == (2, {"small": seen[1]})
    assert len(set(seen)) == 4  # steps 0, 2, 3 and 4


@pytest.mark.parametrize(("step", "judged"), [(1, False), (3, True)])
def test_it_says_whether_defects_chose_the_maps(judged_store: Store, step: int, judged: bool) -> None:
    """They did not where training was stopped before anything was judged; the maps that need no training are used then."""
    stopped = stopped_at(judged_store, Recipe(D=4, batch=1), step)
    assert (stopped.interrupted, stopped.judged) == (True, judged)
    if not judged:
        assert stopped.exponents == {"fixed": 1.0}
    assert run(begin(judged_store, Recipe(D=4, batch=1), resume=True), step + 1).judged


@pytest.mark.parametrize(("rank", "spread"), [(1.2, 1.0), (9.0, 1e-5)])
def test_collapsed_features_end_training(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch, rank: float, spread: float
) -> None:
    monkeypatch.setattr(criterion, "COLLAPSES_FROM", 3)
    monkeypatch.setattr(Validation, "judge", lambda *_: Judgement(0.5, rank, spread, {}))
    with pytest.raises(TrainingError, match=r"step 4: the features have collapsed .*; lower `lr`"):
        run(begin(judged_store, Recipe("flat", D=4, batch=1)), 5)
    trouble = judged_store.encoder.attributes.trouble
    assert trouble.startswith("training failed at step 4: the features have collapsed (effective rank ")
    assert trouble.endswith("; lower `lr`")
    assert judged_store.encoder.attributes.repair == "train(overwrite)"
    assert judged_store.encoder.attributes.chosen == 2  # the last one judged before
    with pytest.raises(TrainingError, match="step 4: the features have collapsed"):  # as long as it is so
        run(begin(judged_store, Recipe("flat", D=4, batch=1), resume=True), 3)
    assert judged_store.encoder.attributes.trouble == trouble
    monkeypatch.setattr(Validation, "judge", lambda *_: Judgement(0.6, 9.0, 1.0, {}))
    assert run(begin(judged_store, Recipe("flat", D=4, batch=1), resume=True), 5).trouble is None
    assert judged_store.encoder.attributes.trouble is None


def test_a_loss_that_is_not_finite_ends_training_and_saves_nothing(small_store: Store) -> None:
    recipe = Recipe("hierarchical", D=4, batch=1)
    training = begin(small_store, recipe)
    run(training, 0)
    with torch.no_grad():
        training.trainer.loss.encoder.enc.conv1.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match="step 1: a loss is not finite"):
        run(training, 1)
    assert all(np.isfinite(values).all() for values in small_store.encoder.weights().values())
    assert small_store.encoder.attributes.trouble.startswith("training failed at step 1: a loss is not finite")
    assert run(begin(small_store, recipe, resume=True), 1).trouble is None
    assert small_store.encoder.attributes.trouble is None


@pytest.mark.parametrize("images", ["small_store", "judged_store"])
@pytest.mark.parametrize("last", [2, 3])
def test_weights_that_are_not_finite_are_no_encoder(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, images: str, last: int
) -> None:
    """Found by a judgement, by the end of a run, or by nothing but the writing of it; no step before was any better."""
    monkeypatch.setattr(Validation, "judge", lambda *_: Judgement(0.7, 9.0, 1.0, {}))
    store: Store = request.getfixturevalue(images)
    training = begin(store, dataclasses.replace(CONTRAST, batch=1))
    update = training.trainer.update

    def exploding(*losses: Any) -> dict[str, float]:
        values = update(*losses)
        if len(training.trainer.history) == last:
            with torch.no_grad():
                training.trainer.average.conv1.weight.fill_(math.nan)
        return values

    training.trainer.update = exploding  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=f"step {last}: the weights are not finite; lower `lr`"):
        run(training, last)
    if last == 3 and images == "judged_store":
        attributes = store.encoder.attributes
        assert attributes.chosen == 2
        assert attributes.trouble.startswith("training failed at step 3: the weights are not finite")
    else:
        assert not store.holds("encoder")


def stopped_at(store: Store, recipe: Recipe, step: int) -> Trained:
    training = begin(store, recipe)
    return loop.run(training, Bounds(9), silent, lambda: len(training.trainer.history) == step)


@pytest.mark.parametrize(
    ("criteria", "step", "says"),
    [
        ((), 0, "step 0, before its criterion was above the untrained encoder's"),
        ((0.7,), 1, "step 1, before its criterion was above the untrained encoder's"),
        ((0.7, 0.7), 3, "step 3, before its criterion was above the untrained encoder's (0.700, untrained 0.700)"),
        ((0.7, 0.71), 3, None),
        ((0.7, 0.71, 0.69), 5, "(0.690, untrained 0.700)"),  # the last one that holds is the encoder
    ],
)
def test_interrupted_before_it_beats_the_untrained_encoder(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch, criteria: tuple[float, ...], step: int, says: str | None
) -> None:
    values = iter(criteria)
    monkeypatch.setattr(Validation, "judge", lambda *_: Judgement(next(values, 0.8), 9.0, 1.0, {}))
    done = stopped_at(judged_store, CONTRAST, step)
    assert done.interrupted
    assert done.trouble == judged_store.encoder.attributes.trouble
    assert done.trouble is None if says is None else str(done.trouble).endswith(says)
    assert judged_store.encoder.attributes.repair == (None if says is None else "train(resume)")
    assert run(begin(judged_store, CONTRAST, resume=True), 7).trouble is None
    assert judged_store.encoder.attributes.trouble is None


def test_a_checkpoint_says_what_a_kill_would_leave(judged_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    criteria = iter((0.7, 0.6, 0.8, 0.8))
    monkeypatch.setattr(Validation, "judge", lambda *_: Judgement(next(criteria), 9.0, 1.0, {}))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    training, left = begin(judged_store, CONTRAST), []

    def look(step: Step) -> None:
        if not step.judging:
            left.append(judged_store.encoder.attributes)

    loop.run(training, Bounds(6), look, never)
    assert [attributes.steps for attributes in left] == [0, 1, 2, 3, 4, 5]
    # what a judgement finds is in the checkpoint after the next step
    assert [attributes.trouble is None for attributes in left] == [False] * 5 + [True]
    assert judged_store.encoder.attributes.trouble is None


@pytest.mark.parametrize(
    ("recipe", "images", "step"),
    [(dataclasses.replace(CONTRAST, objective="paper"), "judged_store", 3), (CONTRAST, "small_store", 3)],
)
def test_where_the_criterion_has_no_say_an_interruption_is_no_trouble(
    request: pytest.FixtureRequest, recipe: Recipe, images: str, step: int
) -> None:
    store: Store = request.getfixturevalue(images)
    done = stopped_at(store, dataclasses.replace(recipe, batch=1), step)
    assert done.interrupted
    assert done.trouble is store.encoder.attributes.trouble is None
    assert store.encoder.attributes.judged == (images == "judged_store")


def test_an_untrained_encoder_and_one_trained_for_some_minutes_are_no_trouble(judged_store: Store) -> None:
    assert run(begin(judged_store, CONTRAST), 0).trouble is None
    training, clock = begin(judged_store, CONTRAST), iter(range(100))
    done = loop.run(training, Bounds(seconds=1e-9), lambda _: next(clock), never)
    assert (done.interrupted, done.trouble, judged_store.encoder.attributes.trouble) == (False, None, None)


@pytest.mark.parametrize(("sampler", "batch"), [("dense", 1), ("patch", 3)])
def test_two_processes_are_as_one_with_twice_the_batch(small_path: Path, tmp_path: Path, sampler: str, batch: int) -> None:
    recipe = Recipe("flat", sampler, D=4, batch=batch, precision="float32")
    arguments = (str(tmp_path / "meeting"), str(small_path), recipe, tmp_path, False)
    torch.multiprocessing.spawn(train_together, arguments, nprocs=2)
    one, two = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    np.testing.assert_array_equal(one["history"], two["history"])
    attributes = Store.open(small_path).encoder.attributes
    assert str(one["sha256"]) == str(two["sha256"]) == attributes.sha256
    assert attributes.processes == 2

    with Store.writing(small_path) as store:
        alone = begin(store, dataclasses.replace(recipe, batch=2 * batch))
        run(alone, 3)
    np.testing.assert_allclose(one["history"], alone.trainer.history, rtol=1e-3)  # Adam enlarges rounding
    assert np.abs(np.diff(alone.trainer.history, axis=0)).min() > 1e-4  # the steps are unlike each other


def test_two_processes_separate_as_one_with_twice_the_batch(judged_path: Path, tmp_path: Path, not_aligned: None) -> None:
    """With whole groups of four; the first process judges for both."""
    recipe = dataclasses.replace(CONTRAST, batch=4, precision="float32")
    arguments = (str(tmp_path / "meeting"), str(judged_path), recipe, tmp_path, True)
    torch.multiprocessing.spawn(train_together, arguments, nprocs=2)
    one, two = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    np.testing.assert_array_equal(one["history"], two["history"])
    assert str(one["sha256"]) == Store.open(judged_path).encoder.attributes.sha256

    with Store.writing(judged_path) as store:
        alone = begin(store, dataclasses.replace(recipe, batch=8))
        run(alone, 3)
    np.testing.assert_allclose(one["history"], alone.trainer.history, rtol=1e-3)
