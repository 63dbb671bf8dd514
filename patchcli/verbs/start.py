"""How a run of `train` starts: its recipe, the lock of the store, and its images."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from patchcli.datasets.images import Canvas
from patchcli.datasets.sizes import SIDE
from patchcli.errors import StoreError
from patchcli.features.registry import ENCODERS
from patchcli.observer import Observer
from patchcli.store import Store, check_replaceable, existing, locked
from patchcli.training import sampling
from patchcli.training.checkpoint import resumed_recipe
from patchcli.training.recipe import Recipe, RecipeFields
from patchcli.verbs.extract import extract
from patchcli.verbs.extraction import ImageOptions

FEW = 10  # training images


@dataclass(frozen=True)
class Start:
    """What `train` is given, on one of `processes` processes."""

    store: Path | str
    recipe: Recipe | None  # None: that of the checkpoint
    fields: RecipeFields  # those of the recipe that are given
    overwrite: bool
    device: torch.device
    processes: int

    def chosen(self, present: Store | None, canvas: Canvas) -> Recipe:
        """The recipe to train by, on images of this working size. Raises where it cannot be; nothing is written yet."""
        if self.recipe is not None:
            recipe = self.recipe
            if not self.overwrite and present is not None and present.holds("encoder"):
                encoder = present.encoder.attributes
                problem = f"holds an encoder already ({encoder.source}, {encoder.steps} steps)"
                advice = "continue with `resume`, or train anew with `overwrite`"
                raise StoreError(problem, subject=self.store, advice=advice)
        elif present is not None:
            recipe = resumed_recipe(present, self.fields, self.processes)
        else:
            problem = "no store found, so there is nothing to resume"
            raise StoreError(problem, subject=self.store, advice="leave `resume` out")
        sampling.check_size(ENCODERS[recipe.encoder].learned, canvas.height, canvas.width)
        return recipe.on(self.device)

    def extract(self, data: Path | str | None, options: ImageOptions, stack: ExitStack, observer: Observer) -> None:
        """Lock the store, for as long as `stack` lasts, and read the images of `data` into it; by one process."""
        if data is None:
            Store.open(self.store).close()  # raises where there is none
            stack.enter_context(locked(self.store, observer))
            return
        check_replaceable(self.store, overwrite=True)
        stack.enter_context(locked(self.store, observer, create=True))
        if self.recipe is not None and self.recipe.objective == "paper" and options.size is None and not existing(self.store):
            options = replace(options, size=(SIDE, SIDE))  # as in the paper
        extracted = extract(data, self.store, options, overwrite=self.overwrite, observer=observer, check=self.chosen, least=2)
        if extracted.held_out:
            observer.note(f"{extracted.held_out} good images are reserved for `calibrate()`")
        if extracted.images < FEW:
            observer.note(f"{extracted.images} training images are few; expect many false alarms")
        if observer.dry and extracted.fresh:
            images = f"{extracted.images} images"
            observer.plan(f"{images} of {data}", f"{images} and an encoder into {self.store}", extracted.bytes)
