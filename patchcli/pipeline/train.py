"""Images in a store → a trained encoder in the store."""

import math
from pathlib import Path
from typing import Any

from patchcli import runtime, training
from patchcli.errors import InputError, StoreError
from patchcli.observer import Observer
from patchcli.pipeline.extract import extract
from patchcli.store import Store
from patchcli.training import Step, Trained

STEPS = 200
_PATCH = {"batch": 64, "warmup": 0}  # as published; the recipe's own defaults are the dense sampler's


def train(
    data: Path | str | None = None,
    store: Path | str = "patchcli.zarr",
    *,
    layout: str | None = None,
    size: tuple[int, int] | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    threads: int | None = None,
    observer: Observer | None = None,
    **recipe: Any,
) -> Trained:
    """Train the encoder (Algorithm 1) until `steps`, `epochs` or `minutes` are over; extracts `data` first.

    `recipe` are fields of training.Recipe: encoder, sampler, D, lam, warmup, lr, batch, seed, precision. A first SIGINT or
    SIGTERM ends training after the running step with a usable encoder; `resume` goes on from there.
    """
    observer = observer or Observer()
    for name, value in (("steps", steps), ("epochs", epochs), ("minutes", minutes)):
        if value is not None and not value >= 0:
            raise InputError(f"--{name}: expected 0 or more, found {value}")
    if steps is not None and epochs is not None:
        raise InputError("--steps and --epochs: give one of the two")
    if layout is not None and data is None:
        raise InputError("--layout: expected DATA too")
    runtime.set_threads(threads)
    target = runtime.device(device)
    fresh_recipe = None if resume else training.Recipe(**(_PATCH if recipe.get("sampler") == "patch" else {}) | recipe)
    if data is not None:
        extracted = extract(data, store, size, overwrite, observer, layout)
        if extracted.images < 10:
            observer.note(f"{extracted.images} training images are few; expect many false alarms")
    opened = Store.open(store, "r+")
    if fresh_recipe is None:
        chosen = training.resumed_recipe(opened, recipe)
    else:
        chosen = fresh_recipe
        present = opened.attributes_of("encoder")
        if present is not None and not overwrite:
            found = f"holds an encoder already ({present['source']}, {present['steps']} steps)"
            raise StoreError(f"{store}: {found}; go on with --resume, or train anew with --overwrite")
    trainer = training.Trainer(opened, chosen, target)
    if resume:
        trainer.restore()
    if epochs is not None:
        steps = math.ceil(epochs * opened.images.shape[0] / chosen.batch)
    if steps is None and minutes is None:
        steps = STEPS
    seconds = None if minutes is None else 60 * minutes

    def show(step: Step) -> None:
        text = "  ".join(f"{name} {value:.3f}" for name, value in step.losses.items())
        if step.steps is None or (seconds is not None and step.seconds / seconds > step.step / step.steps):
            observer.progress("train", step.seconds, seconds, text)
        else:
            observer.progress("train", step.step, step.steps, text)

    with runtime.stopping() as stop:
        return training.run(trainer, steps, seconds, show, stop)
