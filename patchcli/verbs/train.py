"""Images in a store → a trained encoder in the store."""

import contextlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from patchcli import files, runtime
from patchcli.datasets.images import Canvas
from patchcli.errors import InputError, StoreError
from patchcli.features.registry import ENCODERS
from patchcli.observer import Observer
from patchcli.reporting import charts as curves
from patchcli.reporting import pictures
from patchcli.store import Store, check_replaceable, locked
from patchcli.training import sampling
from patchcli.training import trainer as training
from patchcli.training.trainer import Step, Trained
from patchcli.verbs.extract import extract
from patchcli.verbs.extraction import ImageOptions

STEPS = 1000
_PAPER = {"lam": 0.5, "warmup": 100}
_PATCH = {"objective": "paper", "lam": 0.5, "batch": 64}  # as published: λ is constant
_FLAT = {"lr": 3e-4}  # its last layer sums 3,200 values: with 1e-3, tanh saturates
_SEPARATES = "these images are not aligned (their mean explains {:.1%} of their detail)"


def train(
    data: Path | str | None = None,
    store: Path | str = "patchcli.zarr",
    *,
    layout: str | None = None,
    holdout: float | None = None,
    size: tuple[int, int] | str | None = None,
    bits: int | None = None,
    large: bool = False,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    threads: int | None = None,
    report: Path | None = None,
    observer: Observer | None = None,
    **recipe: Any,
) -> Trained:
    """Train the encoder (Algorithm 1) until `steps`, `epochs` or `minutes` are over; extracts `data` first.

    `report` is an HTML page to draw the run on.

    `recipe` are fields of training.Recipe: encoder, sampler, objective, D, lam, warmup, lr, batch, seed, precision. A
    first SIGINT or SIGTERM ends training after the running step with a usable encoder; `resume` goes on from there.
    Processes that `torchrun` started share each step, `batch` images each; the first of them extracts, tells and writes.
    """
    observer = observer or Observer()
    for name, value in (("steps", steps), ("epochs", epochs), ("minutes", minutes)):
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"--{name}: expected 0 or more, found {value}")
    if resume and overwrite:
        raise InputError("--resume and --overwrite: give one of the two")
    if steps is not None and epochs is not None:
        raise InputError("--steps and --epochs: give one of the two")
    for name, given in (("layout", layout), ("holdout", holdout), ("bits", bits)):
        if given is not None and data is None:
            raise InputError(f"--{name}: expected DATA too")
    if report is not None:
        files.target("--report", report, ".html")
    runtime.set_threads(threads)
    usual = _PATCH if recipe.get("sampler") == "patch" else _PAPER if recipe.get("objective") == "paper" else {}
    if recipe.get("encoder") == "flat":
        usual = usual | _FLAT
    fresh_recipe = None if resume else training.Recipe(**usual | recipe)
    with runtime.processes(runtime.device(device)) as (process, target), contextlib.ExitStack() as stack:
        dry = observer.dry
        if process.rank > 0:
            observer = Observer()
            observer.dry = dry
        if fresh_recipe is not None:
            training.check_precision(fresh_recipe, target)

        def check(present: Store | None, canvas: Canvas) -> training.Recipe:
            """The recipe to train by; refuses what cannot be trained, while nothing is written."""
            if fresh_recipe is None:
                if present is None:
                    raise StoreError(f"{store}: no store found, so there is nothing to resume; leave --resume out")
                chosen = training.resumed_recipe(present, recipe, process.size)
            else:
                chosen = fresh_recipe
                if not overwrite and present is not None and present.holds("encoder"):
                    encoder = present.encoder.attributes
                    found = f"holds an encoder already ({encoder.source}, {encoder.steps} steps)"
                    raise StoreError(f"{store}: {found}; go on with --resume, or train anew with --overwrite")
            sampling.check_size(ENCODERS[chosen.encoder].scales, canvas.height, canvas.width)
            return chosen

        with process.after_first(target):
            if process.rank == 0:
                if data is None:
                    Store.open(store).close()
                else:
                    check_replaceable(Path(store), overwrite=True)
                stack.enter_context(locked(Path(store), observer, create=data is not None))
            if process.rank == 0 and data is not None:
                extracted = extract(
                    data,
                    store,
                    ImageOptions(layout, size, holdout, bits, large),
                    overwrite=overwrite,
                    observer=observer,
                    check=check,
                )
                if extracted.held_out:
                    observer.note(f"{extracted.held_out} good images are held out, for patchcli calibrate")
                if extracted.images < 10:
                    observer.note(f"{extracted.images} training images are few; expect many false alarms")
                if dry and extracted.fresh:
                    images = f"{extracted.images} images"
                    observer.plan(f"{images} of {data}", f"{images} and an encoder into {store}", extracted.bytes)
        opened = Store.open(store) if process.rank else stack.enter_context(Store.writing(store, observer))
        chosen = check(opened, opened.canvas)
        observer.progress("train", 0, None, "reading the images")
        trainer = training.Trainer(opened, chosen, target, process, resume)
        observer.plan(f"images of {store}", f"its encoder{f' and {report}' if report else ''}", trainer.bytes)
        process.wait()  # the store is read before rank 0 writes to it
        if epochs is not None:
            steps = math.ceil(epochs * len(opened.images) / (chosen.batch * process.size))
        if steps is None and minutes is None:
            steps = STEPS
        seconds = None if minutes is None else 60 * minutes

        def show(step: Step) -> None:
            criterion = "" if step.criterion is None else f"criterion {step.criterion:.3f}"
            told = [f"step {step.step}" + ("" if step.steps is None else f" of {step.steps}"), criterion]
            if step.judging:
                told = ["judging the encoder" if step.step else "judging the untrained encoder"]
            text = ", ".join(filter(None, told))
            if step.steps is None or (seconds is not None and step.seconds / seconds > step.step / step.steps):
                observer.progress("train", step.seconds, seconds, text)
            else:
                observer.progress("train", step.step, step.steps, text)

        with runtime.stopping() as stop:
            trained = replace(training.run(trainer, steps, seconds, show, stop), signal=stop())
        if trainer.separates:
            observer.note(f"{_SEPARATES.format(trainer.alignment)}; the encoder learned from synthetic defects")
            if trained.collapsed:
                kept = f"the encoder of step {trained.chosen} is kept"
                observer.note(f"its features had collapsed by step {trained.steps}, {kept}; lower --lr to go further")
        elif chosen.objective == "contrast" and trainer.position_at_chance():
            observer.note("a neighbour's position cannot be told in these images; only the contrast was learned from")
        if report is not None and process.rank == 0:
            write_report(opened, report)
        return trained


def write_report(store: Store, path: Path) -> None:
    """Draw the run that the store's encoder is of, as one page: losses, the criterion, and the step that was chosen."""
    attributes, state = store.encoder.attributes, store.encoder.training_state()
    names, chosen = attributes.losses, attributes.chosen or 0
    losses = state.get("history", np.empty((0, len(names))))
    sentences = [
        f"{attributes.steps} steps in {attributes.seconds:.0f} s on {len(store.images)} good images of "
        f"{store.source.root}; encoder {attributes.sha256[:12]}.",
        "Recipe: " + ", ".join(f"{name} {value}" for name, value in (attributes.recipe or {}).items()) + ".",
    ]
    charts = []
    if "judged" in state:
        steps, values = state["judged"][:, 0].tolist(), state["judged"][:, 1].tolist()
        line = list(zip(steps, values, strict=True))
        if attributes.criterion is not None and chosen not in steps:
            line.append((chosen, attributes.criterion))
        charts.append(curves.Chart("Criterion: synthetic defects told", {"pixel AUROC": line}, {"encoder": chosen}))
        sentences.append(
            "The criterion is the pixel AUROC over synthetic defects in good images that were held out of training. "
            "No test image was looked at."
        )
    else:
        sentences.append("There were too few images to hold some out and judge by them.")
    how, criterion = "the last", attributes.criterion
    if criterion is not None:
        how = f"the last whose criterion, {criterion:.3f}, has not fallen by more than chance from the best after step 0"
    sentences.append(f"The encoder is that of step {chosen}: {how}.")
    if attributes.separation:
        found = _SEPARATES.format(attributes.alignment).capitalize()
        sentences.append(f"{found}, so the encoder learned to tell patches with synthetic defects from good ones.")
    for kind, title in _TITLES.items():
        lines = {
            name: list(enumerate(_smooth(values.tolist()), 1))
            for name, values in zip(names, losses.T, strict=True)
            if name.startswith(kind) and len(values)
        }
        if lines:
            charts.append(curves.Chart(f"{title}, running mean over 10 steps", lines, {"encoder": chosen}))
    files.write_text(path, pictures.page(f"Training on {store.source.category}", sentences, charts))


_TITLES = {
    "ssl": "Position loss (chance: ln 8 = 2.08)",
    "nce": "Contrast loss",
    "sep": "Separation loss (chance: ln 2 = 0.69)",
    "svdd": "SVDD' loss",
}


def _smooth(values: list[float]) -> list[float]:
    """Mean of each value and up to nine before it."""
    return [sum(part := values[max(0, index - 9) : index + 1]) / len(part) for index in range(len(values))]
