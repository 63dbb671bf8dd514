"""A resumed run is the same, bit for bit, as one that was never interrupted; what cannot be resumed is refused."""

import dataclasses

import numpy as np
import pytest
from learning import CONTRAST, PATCH, assert_equal, begin, run, state

from patchcli.errors import IncompleteError, InputError, StoreError
from patchcli.features.registry import build
from patchcli.store import EncoderAttributes, Images, Store
from patchcli.training import alignment
from patchcli.training.checkpoint import resumed_recipe
from patchcli.training.loop import Training
from patchcli.training.recipe import Recipe


@pytest.mark.parametrize(
    ("encoder", "sampler", "batch"), [("hierarchical", "dense", 1), ("hierarchical", "patch", 2), ("flat", "dense", 2)]
)
def test_resuming_is_as_if_never_interrupted(small_store: Store, encoder: str, sampler: str, batch: int) -> None:
    recipe = Recipe(encoder, sampler, D=4, batch=batch)
    straight = begin(small_store, recipe)
    run(straight, 3)

    run(begin(small_store, recipe), 1)
    with Store.writing(small_store.path) as reopened:
        resumed = begin(reopened, resumed_recipe(reopened, {}), resume=True)
        assert len(resumed.trainer.history) == 1
        assert run(resumed, 3).steps == 3

    assert_equal(state(resumed), state(straight))
    np.testing.assert_array_equal(np.float32(resumed.trainer.history), np.float32(straight.trainer.history))


def five_steps_whole_and_resumed(store: Store, first: int) -> tuple[Training, Training]:
    """Five steps at once, and interrupted after the first ones: the same state and the same encoder."""
    straight = begin(store, CONTRAST)
    whole = run(straight, 5)
    run(begin(store, CONTRAST), first)
    resumed = begin(store, CONTRAST, resume=True)
    again = run(resumed, 5)
    assert (again.chosen, again.sha256) == (whole.chosen, whole.sha256)
    assert_equal(state(resumed), state(straight))
    return straight, resumed


@pytest.mark.parametrize("first", [1, 2, 3])
def test_the_choice_is_as_if_never_interrupted(judged_store: Store, first: int) -> None:
    straight, resumed = five_steps_whole_and_resumed(judged_store, first)
    assert [row[0] for row in straight.criterion.judged] == [0, 2, 4]
    assert resumed.criterion.judged == straight.criterion.judged


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_a_separation_resumed_is_as_if_never_interrupted(judged_store: Store, not_aligned: None, first: int) -> None:
    straight, resumed = five_steps_whole_and_resumed(judged_store, first)
    assert resumed.trainer.separates
    assert straight.trainer.separates
    np.testing.assert_array_equal(np.float32(resumed.trainer.history), np.float32(straight.trainer.history))


def test_resuming_does_not_measure_the_alignment_again(judged_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run(begin(judged_store, CONTRAST), 1)
    monkeypatch.setattr(Images, "read", lambda *_: pytest.fail("an image was read"))
    begin(judged_store, CONTRAST, resume=True)


@pytest.mark.parametrize("alignments", [(0.0, 0.9), (0.9, 0.0)])
def test_what_was_decided_holds_when_images_come_or_go(
    judged_store: Store, monkeypatch: pytest.MonkeyPatch, alignments: tuple[float, float]
) -> None:
    monkeypatch.setattr(alignment, "ALIGNED", 0.5)
    monkeypatch.setattr(alignment, "alignment", lambda _: alignments[0])
    begun = begin(judged_store, CONTRAST)
    run(begun, 2)
    monkeypatch.setattr(alignment, "alignment", lambda _: alignments[1])
    assert begin(judged_store, CONTRAST).trainer.separates != begun.trainer.separates
    resumed = begin(judged_store, CONTRAST, resume=True)
    assert (resumed.trainer.separates, resumed.trainer.alignment) == (begun.trainer.separates, alignments[0])
    assert_equal(state(resumed), state(begun))
    assert run(resumed, 3).steps == 3


def test_an_untrained_checkpoint_can_be_resumed(small_store: Store) -> None:
    recipe = Recipe(D=4, batch=1, **PATCH)
    straight = begin(small_store, recipe)
    run(straight, 1)
    run(begin(small_store, recipe), 0)
    resumed = begin(small_store, recipe, resume=True)
    run(resumed, 1)
    assert_equal(state(resumed), state(straight))


def test_a_resumed_recipe_is_the_checkpoints(small_store: Store) -> None:
    recipe = Recipe(D=4, lam=0.1, lr=1e-2, batch=2, seed=3, **PATCH)
    run(begin(small_store, recipe), 0)
    assert resumed_recipe(small_store, {}) == recipe
    assert resumed_recipe(small_store, {"lam": 0.1}) == recipe
    with pytest.raises(InputError, match=r"`resume`: the checkpoint has `lam` 0\.1, found 1"):
        resumed_recipe(small_store, {"lam": 1.0})


def test_imported_weights_cannot_be_resumed(small_store: Store) -> None:
    weights = {name: values.numpy() for name, values in build("hierarchical", 4).state_dict().items()}
    small_store.write_encoder(weights, EncoderAttributes("hierarchical", 4, "imported"), {})
    with pytest.raises(IncompleteError, match="nothing to resume"):
        resumed_recipe(small_store, {})
    with pytest.raises(IncompleteError, match="nothing to resume"):
        begin(small_store, Recipe(D=4), resume=True)


def test_a_checkpoint_of_an_earlier_version_is_refused(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run(begin(small_store, Recipe("flat", D=4, batch=1)), 1)
    earlier = dataclasses.replace(small_store.encoder.attributes, checkpoint_sha256=None)
    monkeypatch.setattr(small_store.encoder, "attributes", earlier)
    with pytest.raises(StoreError, match="the checkpoint was written by an earlier patchcli; train anew with `overwrite`"):
        begin(small_store, Recipe("flat", D=4, batch=1), resume=True)


def test_a_resumed_run_has_as_many_processes(small_store: Store) -> None:
    run(begin(small_store, Recipe("flat", D=4, batch=1)), 0)
    with pytest.raises(InputError, match=r"trained by 1 processes, found 2; start as many with torchrun"):
        resumed_recipe(small_store, {}, 2)
