"""Images in a store → a trained encoder in the store."""

from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Unpack, cast

from patchcli import files, runtime
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.store import Store, located
from patchcli.training import checkpoint, loop, page, progress
from patchcli.training.loop import Bounds, Length, Trained
from patchcli.training.recipe import Recipe, RecipeFields
from patchcli.verbs.extraction import ImageOptions
from patchcli.verbs.start import Start


def train(
    data: Path | str | None = None,
    store: Path | str = "patchcli.zarr",
    *,
    images: ImageOptions | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    threads: int | None = None,
    report: Path | str | None = None,
    observer: Observer | None = None,
    recipe: Recipe | None = None,
    **changes: Unpack[RecipeFields],
) -> Trained:
    """Train the encoder (supplement, Algorithm 1) on the images of the store, or of `data`, which is extracted first.

    `images` says how; `steps`, `epochs` and `minutes` are those of Length.
    `changes` are fields of Recipe, on top of `recipe` if there is one. The first SIGINT or SIGTERM ends training after the
    current step with a usable encoder; `resume` continues from there, by the same recipe. `report` is an HTML page about the
    run. Processes that torchrun started share each step, `batch` images each; the first one extracts and writes.
    """
    observer, length = observer or Observer(), Length(steps, epochs, minutes)
    options = images or ImageOptions()
    _check(options if data is None else ImageOptions(), resume and overwrite, report)
    runtime.set_threads(threads)
    fields = cast(RecipeFields, {**(asdict(recipe) if recipe else {}), **changes})
    fresh = None if resume else Recipe(**fields)
    with runtime.processes(runtime.device(device)) as (process, target), ExitStack() as stack:
        observer = observer if process.rank == 0 else _silent(observer)
        start = Start(located(store), fresh, fields, overwrite, target, process.size)
        with process.after_first(target):
            if process.rank == 0:
                start.extract(data, options, stack, observer)
        opened = Store.open(store) if process.rank else stack.enter_context(Store.writing(store, observer))
        chosen = start.chosen(opened, opened.canvas)
        observer.progress("train", 0, None, "reading and measuring the images")
        training = loop.prepare(opened, chosen, target, process, resume)
        written = f"its encoder{f' and {report}' if report else ''}"
        observer.plan(f"images of {store}", written, checkpoint.size(training.trainer))
        process.wait()  # every process has read the store before the first one writes to it
        bounds = length.bounds(len(opened.images), chosen.batch * process.size)
        if training.idle:
            observer.note(training.idle)
            bounds = Bounds(steps=0)
        with runtime.stopping() as stop:
            trained = loop.run(training, bounds, progress.reported(observer, bounds), stop)
            trained = replace(trained, signal=stop())
        progress.note_end(observer, training, trained)
        if report is not None and process.rank == 0:
            page.write_page(checkpoint.history(opened), Path(report))
        return trained


def _check(unused: ImageOptions, both: bool, report: Path | str | None) -> None:
    """Refuse arguments that contradict each other, and a page that cannot be written."""
    for name in ("layout", "holdout", "bits"):
        if getattr(unused, name) is not None:
            raise InputError("expected `data` too", parameter=name)
    if both:
        raise InputError("`resume` and `overwrite`: give one of the two")
    if report is not None:
        files.target("report", report, ".html")


def _silent(observer: Observer) -> Observer:
    """An observer for a process whose progress is another's too."""
    silent = Observer()
    silent.dry = observer.dry
    return silent
