"""The model and its steps (supplement, Algorithm 1, lines 2 to 8), on one process or on several that share a step."""

import copy
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from patchcli.datasets.images import standardise
from patchcli.errors import TrainingError
from patchcli.features.registry import ENCODERS, build
from patchcli.runtime import Process
from patchcli.training import sampling
from patchcli.training.images import GoodImages
from patchcli.training.losses import PatchSVDDLoss
from patchcli.training.recipe import Recipe

AVERAGE = 0.95  # decay, at most, of the running average of the weights; the average is what is judged and stored
HALVED = 1000  # the contrast's learning rate falls as 1 / (1 + step / HALVED)
SLOWER = 0.3  # how much of the learning rate is left after each setback
GUESSING = 150  # steps over which the position losses must be at chance to count as a guess
CHANCE = math.log(8) - 0.01  # a position loss above this is a guess

Weights = dict[str, NDArray[Any]]
Snapshot = tuple[int, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]  # steps, and the states after them


class Trainer:
    """Encoder, classifiers and optimiser, the running average of the encoder, and the losses so far.

    `alignment` is that of the images, None if it does not matter; `separates` says whether to learn the separation too.
    """

    def __init__(
        self,
        images: GoodImages,
        recipe: Recipe,
        device: torch.device,
        process: Process | None = None,
        alignment: float | None = None,
        separates: bool = False,
    ) -> None:
        recipe = recipe.on(device)
        sampling.check_size(ENCODERS[recipe.encoder].learned, *images.mean.shape[:2])
        self.images, self.recipe, self.device = images, recipe, device
        self.process = process or Process()
        self.alignment, self.separates = alignment, separates
        self.history: list[list[float]] = []  # a row per step, a column per loss
        self.seconds = 0.0  # over all runs
        self.setbacks = 0  # how often training went back to an earlier point
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            encoder = build(recipe.encoder, recipe.D)
            self.loss = PatchSVDDLoss(encoder, recipe.D, recipe.objective == "contrast", separates)
        self.loss.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        learns = bool(encoder.learned)
        self.model = DistributedDataParallel(self.loss) if self.process.size > 1 and learns else self.loss
        self.average = copy.deepcopy(self.loss.encoder)

    @cached_property
    def optimiser(self) -> torch.optim.Adam:
        """Made when it is needed: the import behind it takes over a second, and fixed features need none."""
        return torch.optim.Adam([{"params": [*self.loss.parameters()]}], lr=self.recipe.lr)

    @property
    def loss_names(self) -> list[str]:
        """The columns of the history."""
        kinds, scales = ("nce" if self.loss.contrast else "svdd", "ssl"), self.loss.encoder.learned
        names = [f"{kind}_{scale}" for scale in scales for kind in kinds]
        return [*names, *(f"{kind}_{scale}" for scale in scales for kind in ("sep", "var"))] if self.separates else names

    @property
    def strides(self) -> dict[str, int]:
        """The strides, in pixels, at which the bank of this encoder samples patches, if they are not the paper's."""
        (height, width), aligned = self.images.mean.shape[:2], self.loss.contrast and not self.separates
        scales = self.loss.encoder.scales
        strides = {name: (aligned and scale.aligned) or scale.stride(height, width) for name, scale in scales.items()}
        return {name: S for name, S in strides.items() if scales[name].S != S}

    # ---- a step -------------------------------------------------------------------------------------------------

    def batch(self, step: int) -> sampling.Batch:
        """The patches that this process learns from in a step; they depend on seed, step and rank alone."""
        n, size = self.recipe.batch, self.recipe.batch * self.process.size
        count = len(self.images.training)
        drawn = sampling.generator(self.recipe.seed, step).choice(count, size, replace=size > count)
        entries = range(self.process.rank * n, (self.process.rank + 1) * n)
        rngs = [sampling.generator(self.recipe.seed, step, entry) for entry in entries]
        pixels = self.images.read(self.images.training[drawn[entries.start : entries.stop]])
        images = standardise(pixels, self.images.mean)
        scales = self.loss.encoder.learned
        if self.recipe.sampler == "patch":
            return sampling.patch_batch(rngs, images, scales)
        jitter = sampling.contrast_jitter if self.loss.contrast else sampling.paper_jitter
        mean = self.images.mean if self.separates else None
        return sampling.dense_batch(rngs, images, scales, self.loss.encoder.stride, jitter, mean, self.images.dtype)

    def losses(self, batch: sampling.Batch) -> dict[str, Tensor]:
        """Every loss of a batch, by name."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            losses: dict[str, Tensor] = self.model(batch)
        return losses

    @property
    def lam(self) -> float:
        """λ in the next step."""
        ramp = min(1.0, (len(self.history) + 1) / self.recipe.warmup) if self.recipe.warmup else 1.0
        return ramp * self.recipe.lam

    def update(self, total: Tensor, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """Descend the gradient of the total loss; the losses, averaged over the processes.

        Raises TrainingError where one is not finite; the weights stay as they were then.
        """
        falling = 1 + len(self.history) / HALVED if self.loss.contrast else 1.0
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.lr * SLOWER**self.setbacks / falling
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        means = self.process.total(torch.stack([loss.detach() for loss in losses.values()])) / self.process.size
        values = dict(zip(losses, means.tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            subject = f"step {len(self.history) + 1}"
            raise TrainingError(f"a loss is not finite ({values})", subject=subject, advice="lower `lr`")
        self.optimiser.step()
        self._follow()
        self.history.append([values[name] for name in self.loss_names])
        return values

    @torch.no_grad()
    def _follow(self) -> None:
        """Draw the average towards the weights."""
        done = len(self.history)
        decay = (1 + done) / (10 + done)  # reaches back over a ninth of the steps (Shamir & Zhang, ICML 2013)
        if not self.separates:
            decay = min(AVERAGE, decay)
        for average, weights in zip(self.average.parameters(), self.loss.encoder.parameters(), strict=True):
            average.lerp_(weights, 1 - decay)

    def snapshot(self) -> Snapshot:
        """A copy of what a step changes."""
        modules = self.loss.state_dict(), self.optimiser.state_dict(), self.average.state_dict()
        return len(self.history), copy.deepcopy(modules)

    def go_back(self, snapshot: Snapshot) -> None:
        """Continue from an earlier point, at a lower learning rate."""
        steps, (loss, optimiser, average) = snapshot
        self.loss.load_state_dict(loss)
        self.optimiser.load_state_dict(copy.deepcopy(optimiser))
        self.average.load_state_dict(average)
        del self.history[steps:]
        self.setbacks += 1

    # ---- alarms -------------------------------------------------------------------------------------------------

    def position_at_chance(self) -> bool:
        """Whether the position losses of the last steps are those of a guess, at every scale."""
        columns = [index for index, name in enumerate(self.loss_names) if name.startswith("ssl")]
        recent = np.array(self.history[-GUESSING:])
        return len(recent) == GUESSING and bool(recent[:, columns].mean(axis=0).min() > CHANCE)

    def check_position(self) -> None:
        """Raise TrainingError if the positions are a guess and no other loss can teach the encoder anything."""
        if self.recipe.objective == "paper" and self.position_at_chance():
            problem = f"the position losses have been at chance (ln 8 = 2.08) for {GUESSING} steps"
            advice = "lower `lam`, raise `warmup`, or change `lr`"
            raise TrainingError(problem, subject=f"step {len(self.history)}", advice=advice)


def arrays(module: torch.nn.Module) -> Weights:
    """A copy of a module's weights, in C order."""
    return {name: np.array(values.cpu().numpy(), order="C") for name, values in module.state_dict().items()}


def check_finite(weights: Weights, step: int) -> None:
    """Raise TrainingError where weights are NaN or infinite."""
    if not all(np.isfinite(values).all() for values in weights.values()):
        raise TrainingError("the weights are not finite", subject=f"step {step}", advice="lower `lr`")
