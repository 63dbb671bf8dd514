"""Training and the store: the good images, the encoder, and what a resumed run continues from, bit for bit.

Nothing else of this package reads or writes a store.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchcli.errors import IncompleteError, InputError, StoreError, TrainingError
from patchcli.runtime import Process
from patchcli.store import EncoderAttributes, Store, digest_of
from patchcli.training.criterion import Candidate, Criterion
from patchcli.training.images import GoodImages
from patchcli.training.recipe import Recipe
from patchcli.training.trainer import Trainer, Weights, arrays, check_finite


def good_images(store: Store) -> GoodImages:
    """The store's images. Raises StoreError where there is one only."""
    store.check_mean()
    return GoodImages(len(store.images), store.images.mean, store.source.reader.dtype, store.images.read)


def resumed_recipe(store: Store, changes: Mapping[str, Any], processes: int = 1) -> Recipe:
    """The recipe of the store's checkpoint. Raises InputError for changes to it, or to the number of processes."""
    stored = store.encoder.attributes
    if stored.recipe is None:
        raise _imported(store)
    recipe = Recipe(**stored.recipe)
    for name, value in changes.items():
        if value not in ("auto", getattr(recipe, name)):
            problem = f"the checkpoint has `{name}` {getattr(recipe, name)}, found {value}"
            advice = "leave it out, or train anew with `overwrite`"
            raise InputError(problem, parameter="resume", advice=advice)
    if stored.processes != processes:
        problem = f"the checkpoint was trained by {stored.processes} processes, found {processes}"
        raise InputError(problem, parameter="resume", advice="start as many with torchrun")
    return recipe


def _imported(store: Store) -> IncompleteError:
    advice = "train anew with `overwrite`"
    return IncompleteError("the encoder was imported, there is nothing to resume", subject=store.path, advice=advice)


def _earlier(store: Store) -> StoreError:
    advice = "train anew with `overwrite`"
    return StoreError("the checkpoint was written by an earlier patchcli", subject=store.path, advice=advice)


class Checkpoint:
    """The encoder in the store, and the state of training beside it. `ours` says whether this run has written them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.ours = False

    def save(
        self,
        trainer: Trainer,
        criterion: Criterion,
        last: Candidate | None = None,
        trouble: str | None = None,
        repair: str = "train(resume)",
    ) -> tuple[str, Candidate]:
        """Write encoder and state (rank 0 alone does); the encoder's sha256, and which it is.

        The encoder is what the criterion chooses, or the average as it is. `trouble` says why nobody should use it, and
        `repair` what to call then. Raises TrainingError where weights are not finite.
        """
        step = len(trainer.history)
        chosen = criterion.choose(last, step, arrays(trainer.average))
        weights = arrays(trainer.loss)
        check_finite(chosen.weights | weights, step)
        if trainer.process.rank > 0:
            return digest_of(chosen.weights), chosen
        attributes = EncoderAttributes(
            architecture=trainer.recipe.encoder,
            D=trainer.recipe.D,
            source="trained" if trainer.history else "untrained" if trainer.loss.encoder.learned else "fitted",
            recipe=asdict(trainer.recipe),
            processes=trainer.process.size,
            steps=step,
            chosen=chosen.step,
            kept=criterion.candidate.step if criterion.candidate else None,
            kept_exponents=criterion.candidate.exponents if criterion.candidate else {},
            exponents=chosen.exponents,
            setbacks=trainer.setbacks,
            criterion=chosen.criterion,
            alignment=trainer.alignment,
            by_colour=trainer.images.by_colour,
            separation=trainer.separates,
            strides=trainer.strides,
            checkpoint_sha256=digest_of(weights),
            seconds=trainer.seconds,
            losses=trainer.loss_names,
            judged=bool(criterion.judged),
            trouble=trouble,
            repair=repair if trouble else None,
        )
        digest = self._store.write_encoder(chosen.weights, attributes, _state(trainer, criterion, weights))
        self.ours = True
        return digest, chosen

    def fail(self, trainer: Trainer, criterion: Criterion, error: TrainingError) -> None:
        """Note in the store that training failed: in a last checkpoint, or if that is not finite, in the one before."""
        if trainer.process.rank > 0:
            return
        trouble, repair = f"training failed at {error}", "train(overwrite)"
        try:
            self.save(trainer, criterion, trouble=trouble, repair=repair)
        except TrainingError:
            if self.ours:
                stored = self._store.encoder
                attributes = replace(stored.attributes, trouble=trouble, repair=repair)
                self._store.write_encoder(stored.weights(), attributes, stored.training_state())

    def restore(
        self, images: GoodImages, recipe: Recipe, device: torch.device, process: Process | None = None
    ) -> tuple[Trainer, Criterion]:
        """Trainer and criterion as they were when the checkpoint was written."""
        state = self._store.encoder.training_state()
        if not state:
            raise _imported(self._store)
        self._store.encoder.weights()  # raises if the encoder itself is damaged
        attributes = self._store.encoder.attributes
        if attributes.checkpoint_sha256 is None:
            raise _earlier(self._store)
        if digest_of(_part(state, "loss.")) != attributes.checkpoint_sha256:
            problem, advice = "the checkpoint's weights differ from their sha256", "train with `overwrite`"
            raise StoreError(problem, subject=self._store.path, advice=advice)
        # The alignment is not measured again: images may have come or gone since.
        if attributes.by_colour:
            images.centre_by_colour()
        trainer = Trainer(images, recipe, device, process, attributes.alignment, attributes.separation)
        if trainer.loss_names != attributes.losses:
            raise _earlier(self._store)
        _load(trainer, state)
        trainer.seconds, trainer.setbacks = attributes.seconds or 0.0, attributes.setbacks
        criterion = Criterion(images, recipe.objective, floor(trainer))
        criterion.judged = state["judged"].tolist() if "judged" in state else []
        if (kept := attributes.kept) is not None:
            criteria = {step: value for step, value, *_ in criterion.judged}
            criterion.candidate = Candidate(kept, criteria[kept], _part(state, "kept."), attributes.kept_exponents)
        self.ours = True
        return trainer, criterion


def floor(trainer: Trainer) -> dict[str, float]:
    """The exponents of the maps that need no training, if others do."""
    encoder = trainer.loss.encoder
    return dict.fromkeys(encoder.unlearned, 1.0) if encoder.learned else {}


def size(trainer: Trainer) -> int:
    """Bytes of a checkpoint: weights and Adam's two moments, the average, the candidate, and the encoder."""
    of_loss, of_encoder = (sum(values.numel() for values in module.parameters()) for module in (trainer.loss, trainer.average))
    return 4 * 3 * (of_loss + of_encoder)


def _state(trainer: Trainer, criterion: Criterion, weights: Weights) -> dict[str, NDArray[Any]]:
    """What a resumed run continues from, by name."""
    state: dict[str, NDArray[Any]] = {"history": np.array(trainer.history, np.float32)} if trainer.history else {}
    state |= {"judged": np.array(criterion.judged)} if criterion.judged else {}
    state |= {f"loss.{name}": values for name, values in weights.items()}
    state |= {f"average.{name}": values for name, values in arrays(trainer.average).items()}
    state |= {f"kept.{name}": values for name, values in (criterion.candidate.weights if criterion.candidate else {}).items()}
    names = [name for name, _ in trainer.loss.named_parameters()]
    for index, moments in trainer.optimiser.state_dict()["state"].items() if trainer.history else ():
        state.update({f"adam.{names[index]}.{key}": np.asarray(moment.cpu()) for key, moment in moments.items()})
    return state


def _load(trainer: Trainer, state: Mapping[str, NDArray[Any]]) -> None:
    """Weights, average, Adam's moments and losses of a state."""
    for module, prefix in ((trainer.loss, "loss."), (trainer.average, "average.")):
        module.load_state_dict({name: torch.from_numpy(values) for name, values in _part(state, prefix).items()})
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for index, (name, _) in enumerate(trainer.loss.named_parameters()):
        if stored := _part(state, f"adam.{name}."):
            moments[index] = {key: torch.from_numpy(np.array(values)) for key, values in stored.items()}
    if moments:
        trainer.optimiser.load_state_dict({**trainer.optimiser.state_dict(), "state": moments})
    trainer.history = state["history"].tolist() if "history" in state else []


def _part(state: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): values for name, values in state.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class History:
    """How the store's encoder was trained."""

    attributes: EncoderAttributes
    images: int
    root: str  # of the data set
    category: str
    losses: NDArray[np.float32]  # (steps, losses)
    judged: NDArray[np.float64]  # (judgements, 4): step, criterion, rank, spread


def history(store: Store) -> History:
    """Read it from the store."""
    attributes, state = store.encoder.attributes, store.encoder.training_state()
    return History(
        attributes,
        len(store.images),
        store.source.root,
        store.source.category,
        state.get("history", np.empty((0, len(attributes.losses)), np.float32)),
        state.get("judged", np.empty((0, 4))),
    )
