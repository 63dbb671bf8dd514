"""Images in a store → a trained encoder in the store."""

import contextlib
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from patchcli import files, runtime
from patchcli.datasets.images import Canvas
from patchcli.errors import InputError, StoreError
from patchcli.features.registry import ENCODERS
from patchcli.observer import Observer
from patchcli.store import Store, check_replaceable, locked
from patchcli.training import checkpoint, loop, page, progress, sampling
from patchcli.training.recipe import Recipe, RecipeFields
from patchcli.verbs.extract import extract

STEPS = 1000


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
    recipe: Recipe | None = None,
    **changes: Unpack[RecipeFields],
) -> loop.Trained:
    """Train the encoder until `steps` (1000) or `epochs` in total, or `minutes` of this run, are over; extracts `data` first.

    `changes` are fields of Recipe, on top of `recipe` if there is one. A first SIGINT or SIGTERM ends training after the
    current step with a usable encoder; `resume` continues from there with the same recipe. `report` is an HTML page about
    the run. Processes that torchrun started share each step, `batch` images each; the first one extracts and writes.
    """
    observer, length = observer or Observer(), _Length(steps, epochs, minutes)
    if resume and overwrite:
        raise InputError("`resume` and `overwrite`: give one of the two")
    for name, value in (("layout", layout), ("holdout", holdout), ("bits", bits)):
        if value is not None and data is None:
            raise InputError("expected `data` too", parameter=name)
    if report is not None:
        files.target("`report`", report, ".html")
    runtime.set_threads(threads)
    start = _Start(Path(store), {**(asdict(recipe) if recipe else {}), **changes}, resume, overwrite)
    with runtime.processes(runtime.device(device)) as (process, target), contextlib.ExitStack() as stack:
        observer, start = _of(process, observer), start.on(process, target)
        with process.after_first(target):
            if process.rank == 0:
                stack.enter_context(_lock(start.store, observer, fresh=data is not None))
            if process.rank == 0 and data is not None:
                extracted = extract(data, store, size, overwrite, observer, layout, holdout, bits, large, start.recipe)
                ...
