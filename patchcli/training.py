"""The training loop (Patch SVDD, Algorithm 1): steps, checkpoints, resume, precision, processes that share a step."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from patchcli import sampling
from patchcli.encoder import ARCHITECTURES, Encoder
from patchcli.errors import IncompleteError, InputError, TrainingError
from patchcli.images import standardise
from patchcli.losses import PatchSVDDLoss, total
from patchcli.runtime import Process
from patchcli.store import Store, digest_of

CHECKPOINT_SECONDS = 60.0
SAMPLERS = ("dense", "patch")
PRECISIONS = ("float32", "bfloat16")


def _option(field: str) -> str:
    """The command line's name of a field of the recipe."""
    return f"--{ {'lam': 'lambda', 'D': 'dim'}.get(field, field) }".replace(" ", "")


@dataclass(frozen=True)
class Recipe:
    """What determines the weights after a given number of steps; it is stored with them and kept by --resume.

    λ rises from 0 over the first `warmup` steps: with its full weight from the start, SVDD' shrinks the features of a
    texture to a point before the position task has found anything in them. The paper's λ is constant (warmup 0).
    """

    encoder: str = "hierarchical"
    sampler: str = "dense"
    D: int = 64
    lam: float = 0.5
    warmup: int = 100
    lr: float = 1e-3
    batch: int = 4
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, allowed in (("encoder", tuple(ARCHITECTURES)), ("sampler", SAMPLERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{_option(name)}: expected {' or '.join(allowed)}, found {getattr(self, name)!r}")
        for name, least in (("D", 1), ("batch", 1), ("seed", 0), ("warmup", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{_option(name)}: expected {least} or more, found {getattr(self, name)}")
        for name in ("lam", "lr"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{_option(name)}: expected a number of 0 or more, found {getattr(self, name)}")


@dataclass(frozen=True)
class Step:
    """Where training is, for a progress display."""

    step: int
    steps: int | None  # wanted in all; None where only the time is bounded
    seconds: float  # spent in this run
    seconds_left: float | None
    losses: dict[str, float]  # a running mean


@dataclass(frozen=True)
class Trained:
    """How a training run ended."""

    steps: int
    seconds: float  # over all runs
    losses: dict[str, float]  # mean over the last 20 steps
    interrupted: bool
    sha256: str


def build(architecture: str, D: int) -> Encoder:
    """An encoder of that architecture, freshly initialised from torch's default generator."""
    return ARCHITECTURES[architecture](D)


def load(store: Store, device: torch.device) -> Encoder:
    """The store's encoder, ready to embed."""
    attributes, weights = store.encoder_attributes, store.read_encoder()
    encoder = build(attributes["architecture"], attributes["D"])
    encoder.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    return encoder.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


class Trainer:
    """Loss module, optimiser and history; everything that a checkpoint holds."""

    def __init__(self, store: Store, recipe: Recipe, device: torch.device, process: Process | None = None) -> None:
        self.store, self.recipe, self.device = store, recipe, device
        self.process = process or Process()
        self.count, self.mean = store.images.shape[0], store.mean
        encoder_type = ARCHITECTURES[recipe.encoder]
        sampling.check_size(encoder_type.scales, *self.mean.shape[:2])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.loss = PatchSVDDLoss(build(recipe.encoder, recipe.D), recipe.D)
        self.loss.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = self.loss if self.process.size == 1 else DistributedDataParallel(self.loss)
        self.optimiser = torch.optim.Adam(self.loss.parameters(), lr=recipe.lr)
        self.history: list[list[float]] = []  # a row a step, a column a loss
        self.seconds = 0.0

    @property
    def loss_names(self) -> list[str]:
        """The columns of the history."""
        return [f"{kind}_{scale}" for scale in self.loss.encoder.scales for kind in ("svdd", "ssl")]

    def batch(self, step: int) -> sampling.Batch:
        """This process's input of one step: a function of seed, step and rank alone."""
        n, size = self.recipe.batch, self.recipe.batch * self.process.size
        chosen = sampling.generator(self.recipe.seed, step).choice(self.count, size, replace=size > self.count)
        entries = range(self.process.rank * n, (self.process.rank + 1) * n)
        rngs = [sampling.generator(self.recipe.seed, step, entry) for entry in entries]
        pixels = np.concatenate([self.store.read_images(int(i), int(i) + 1) for i in chosen[entries.start : entries.stop]])
        images = standardise(pixels, self.mean)
        scales = self.loss.encoder.scales
        if self.recipe.sampler == "patch":
            return sampling.patch_batch(rngs, images, scales)
        return sampling.dense_batch(rngs, images, scales, self.loss.encoder.stride)

    def step(self, batch: sampling.Batch) -> dict[str, float]:
        """One update of encoder and classifiers; the losses before it, averaged over the processes."""
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")
        self.optimiser.zero_grad(set_to_none=True)
        with autocast:
            losses = self.model(batch)
        ramp = min(1.0, (len(self.history) + 1) / self.recipe.warmup) if self.recipe.warmup else 1.0
        objective = total(losses, ramp * self.recipe.lam)
        objective.backward()  # type: ignore[no-untyped-call]
        means = self.process.total(torch.stack([loss.detach() for loss in losses.values()])) / self.process.size
        values = dict(zip(losses, means.tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            raise TrainingError(f"step {len(self.history) + 1}: a loss is not finite ({values}); lower --lr")
        self.optimiser.step()
        self.history.append([values[name] for name in self.loss_names])
        return values

    def save(self) -> str:
        """Write encoder and checkpoint to the store (rank 0 alone does); the encoder's sha256."""
        state: dict[str, NDArray[Any]] = {"history": np.array(self.history, np.float32)} if self.history else {}
        for name, values in self.loss.classifiers.state_dict().items():
            state[f"classifiers.{name}"] = values.cpu().numpy()
        names = [name for name, _ in self.loss.named_parameters()]
        for index, moments in self.optimiser.state_dict()["state"].items():
            state.update({f"adam.{names[index]}.{key}": np.asarray(moment.cpu()) for key, moment in moments.items()})
        weights = {name: values.cpu().numpy() for name, values in self.loss.encoder.state_dict().items()}
        if self.process.rank > 0:
            return digest_of(weights)
        attributes = {
            "architecture": self.recipe.encoder,
            "D": self.recipe.D,
            "source": "trained" if self.history else "untrained",
            "recipe": asdict(self.recipe),
            "processes": self.process.size,
            "steps": len(self.history),
            "seconds": self.seconds,
            "losses": self.loss_names,
        }
        return self.store.write_encoder(weights, attributes, state)

    def restore(self) -> None:
        """Go back to the store's checkpoint."""
        state = self.store.read_training_state()
        if not state:
            raise IncompleteError(f"{self.store.path}: the encoder was imported, there is nothing to resume")
        tensors = {name: torch.from_numpy(np.atleast_1d(values)) for name, values in state.items()}
        weights = {f"encoder.{name}": torch.from_numpy(v) for name, v in self.store.read_encoder().items()}
        weights |= {name: values for name, values in tensors.items() if name.startswith("classifiers.")}
        self.loss.load_state_dict(weights)
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for index, (name, _) in enumerate(self.loss.named_parameters()):
            keys = {key.rsplit(".", 1)[1]: key for key in state if key.startswith(f"adam.{name}.")}
            if keys:
                moments[index] = {short: torch.from_numpy(np.array(state[key])) for short, key in keys.items()}
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        self.history = state["history"].tolist() if "history" in state else []
        self.seconds = self.store.encoder_attributes["seconds"]


def resumed_recipe(store: Store, changes: dict[str, Any], processes: int = 1) -> Recipe:
    """The recipe of the store's checkpoint; refuses values, and a number of processes, that differ from it."""
    stored = store.encoder_attributes.get("recipe")
    if stored is None:
        raise IncompleteError(f"{store.path}: the encoder was imported, there is nothing to resume")
    recipe = Recipe(**{f.name: stored[f.name] for f in fields(Recipe)})
    for name, value in changes.items():
        if value != getattr(recipe, name):
            found = f"the checkpoint has {_option(name)} {getattr(recipe, name)}, found {value}"
            raise InputError(f"--resume: {found}; leave it out, or train anew with --overwrite")
    if (before := store.encoder_attributes["processes"]) != processes:
        found = f"--resume: the checkpoint was trained by {before} processes, found {processes}"
        raise InputError(f"{found}; use: torchrun --nproc-per-node={before} -m patchcli train --resume")
    return recipe


def run(
    trainer: Trainer,
    steps: int | None,
    seconds: float | None,
    progress: Callable[[Step], None],
    stop: Callable[[], bool],
) -> Trained:
    """Train until `steps` in all are done, `seconds` of this run are over, or `stop()`; checkpoints on the way."""
    if trainer.recipe.precision == "bfloat16" and trainer.device.type == "cpu" and not cpu_has_bfloat16():
        raise InputError("--precision bfloat16: this CPU has no bfloat16 instructions, it would be slower; use float32")
    begun = saved = time.monotonic()
    before, first = trainer.seconds, len(trainer.history)
    recent: dict[str, float] = {}
    while True:
        now = time.monotonic()
        done, spent = len(trainer.history), now - begun
        trainer.seconds = before + spent
        over = (steps is not None and done >= steps) or (seconds is not None and spent >= seconds)
        here = torch.tensor([over, stop(), now - saved > CHECKPOINT_SECONDS], dtype=torch.int32, device=trainer.device)
        over, stopped, due = trainer.process.total(here).bool().tolist()  # as any process finds
        interrupted = stopped and not over
        if interrupted or over:
            break
        if due:
            trainer.save()
            saved = now
        losses = trainer.step(trainer.batch(done))
        recent = {name: 0.9 * recent.get(name, value) + 0.1 * value for name, value in losses.items()}
        spent, done = time.monotonic() - begun, done + 1
        left = [max(0.0, seconds - spent)] if seconds is not None else []
        if steps is not None:
            left.append((steps - done) * spent / (done - first))
        progress(Step(done, steps, spent, min(left, default=None), recent))
    digest = trainer.save()
    last = np.array(trainer.history[-20:], np.float64)
    means = dict(zip(trainer.loss_names, last.mean(axis=0).tolist(), strict=True)) if len(last) else {}
    return Trained(len(trainer.history), trainer.seconds, means, interrupted, digest)


def cpu_has_bfloat16() -> bool:
    """Whether bfloat16 products run in hardware here; without, they are emulated and far slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
