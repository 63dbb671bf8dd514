"""Training runs for tests: begun, run for some steps, compared."""

from collections.abc import Callable
from typing import Any

import torch

from patchcli.features.registry import ENCODERS
from patchcli.runtime import Process
from patchcli.store import Store
from patchcli.training import loop
from patchcli.training.loop import Bounds, Step, Trained, Training
from patchcli.training.recipe import Recipe
from patchcli.training.trainer import Trainer

CPU = torch.device("cpu")
PATCH: dict[str, Any] = {"objective": "paper", "sampler": "patch"}
LEARNING = [name for name, encoder in ENCODERS.items() if encoder.learned]
CONTRAST = Recipe("flat", D=4, batch=2, lr=1e-3)


def silent(_: Step) -> None:
    pass


def never() -> int:
    return 0


def begin(store: Store, recipe: Recipe, resume: bool = False, process: Process | None = None) -> Training:
    """A run, before its first step."""
    return loop.prepare(store, recipe, CPU, process, resume)


def run(training: Training, steps: int, progress: Callable[[Step], None] = silent) -> Trained:
    """Train until there are so many steps."""
    return loop.run(training, Bounds(steps), progress, never)


def one_step(trainer: Trainer, step: int) -> dict[str, float]:
    """One step, outside of the loop; the losses."""
    losses = trainer.losses(trainer.batch(step))
    return trainer.update(loop.total(losses, trainer.lam), losses)


def state(training: Training) -> dict[str, torch.Tensor]:
    """Everything that later steps depend on."""
    trainer = training.trainer
    values = {name: values.clone() for name, values in trainer.loss.state_dict().items()}
    values |= {f"average.{name}": values.clone() for name, values in trainer.average.state_dict().items()}
    for index, moments in trainer.optimiser.state_dict()["state"].items():
        values |= {f"{index}.{key}": moment.clone() for key, moment in moments.items()}
    return values


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    """The same tensors, bit for bit."""
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert torch.equal(values, two[name]), name
