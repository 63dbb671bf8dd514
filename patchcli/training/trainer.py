"""The training loop (Patch SVDD, Algorithm 1): steps, checkpoints, resume, precision, processes that share a step."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from patchcli.datasets.images import Pixels, standardise
from patchcli.errors import IncompleteError, InputError, StoreError, TrainingError
from patchcli.features.registry import ENCODERS, build
from patchcli.runtime import Process
from patchcli.store import EncoderAttributes, Store, digest_of
from patchcli.training import criterion as heldout
from patchcli.training import sampling
from patchcli.training.criterion import HeldOut, split
from patchcli.training.losses import PatchSVDDLoss, total

CHECKPOINT_SECONDS = 60.0
AVERAGE = 0.95  # decay, at most, of the running average of the weights; the average is what is judged and stored
JUDGED_EVERY = 100  # steps
HALVED = 1000  # the contrast's learning rate falls as 1 / (1 + step / HALVED)
ALARM_AFTER = 150  # steps without a position told, and judgements from this step on, that mean a collapse
CHANCE = math.log(8) - 0.01  # a position loss above this has told nothing
# Images whose alignment is less than that call for the separation. Where they are aligned, good patches have near ones at the
# same place of other images, and the separation would only learn to see synthetic defects at the cost of others.
ALIGNED = 0.08
CACHED = 1 << 28  # bytes of decoded images that are kept: they are drawn again and again
ASKED, CELLS = 100, 21  # images, at most, for their alignment; cells across the shorter side
TOLERANCE = 0.03  # a criterion that is lower than the best by no more may be as good
LEAST_RANK, LEAST_SPREAD = 1.5, 1e-3  # features below these are a line or a point
SAMPLERS = ("dense", "patch")
OBJECTIVES = ("paper", "contrast")
PRECISIONS = ("float32", "bfloat16")


def _option(field: str) -> str:
    """The command line's name of a field of the recipe."""
    return f"--{ {'lam': 'lambda', 'D': 'dim'}.get(field, field) }".replace(" ", "")


@dataclass(frozen=True)
class Recipe:
    """What determines the weights after a given number of steps; it is stored with them and kept by --resume.

    The objective "contrast" has a loss (losses.py) in place of SVDD' (λ 0), beside the position task, and the separation
    too where the good images are not aligned. "paper" has the losses of Patch SVDD alone. λ can rise from 0 over
    the first `warmup` steps: with its full weight from the start, SVDD' shrinks the features of a texture to a point
    before the position task has found anything in them.
    """

    encoder: str = "hierarchical"
    sampler: str = "dense"
    objective: str = "contrast"
    D: int = 64
    lam: float = 0.0
    warmup: int = 0
    lr: float = 1e-3
    batch: int = 4
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        closed = ("encoder", tuple(ENCODERS)), ("sampler", SAMPLERS), ("objective", OBJECTIVES), ("precision", PRECISIONS)
        for name, allowed in closed:
            if getattr(self, name) not in allowed:
                raise InputError(f"{_option(name)}: expected {' or '.join(allowed)}, found {getattr(self, name)!r}")
        if self.sampler == "patch" and self.objective == "contrast":
            raise InputError("--sampler patch: its pairs have nothing to contrast with; expected --objective paper")
        for name, least in (("D", 1), ("batch", 1), ("seed", 0), ("warmup", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{_option(name)}: expected {least} or more, found {getattr(self, name)}")
        if self.seed >= 1 << 63:
            raise InputError(f"--seed: expected less than 2^63, found {self.seed}")
        for name in ("lam", "lr"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{_option(name)}: expected a number of 0 or more, found {getattr(self, name)}")
        if self.objective == "contrast" and (self.lam or self.warmup):
            raise InputError("--lambda, --warmup: the contrast has no SVDD' to weigh; expected --objective paper too")


@dataclass(frozen=True)
class Step:
    """Where training is, for a progress display."""

    step: int
    steps: int | None  # wanted in all; None where only the time is bounded
    seconds: float  # spent in this run
    seconds_left: float | None
    losses: dict[str, float]  # a running mean
    criterion: float | None  # the last judgement's
    judging: bool  # the encoder is about to be judged; else a step was done


@dataclass(frozen=True)
class Trained:
    """How a training run ended."""

    steps: int
    chosen: int  # the step whose weights are the encoder
    seconds: float  # over all runs
    losses: dict[str, float]  # mean over the last 20 steps
    interrupted: bool
    sha256: str
    collapsed: bool = False  # the separation's features, after the encoder that was kept
    trouble: str | None = None  # why the encoder should not be embedded, as the store says too
    signal: int = 0  # that interrupted this process


def alignment(images: Iterable[Pixels]) -> float:
    """How much of the detail of two or more images (H, W, 3) is at the same place in all: an R² without bias, at least 0.

    It is what the mean image explains of each image's detail: the mean colour of its CELLS × CELLS cells or more, less that
    of the four cells around, so that an uneven light counts for nothing. Near 0 of a surface, 1 of copies of one image.
    """
    count, squares, sums = 0, 0.0, np.zeros(())
    for image in images:
        side = min(image.shape[:2]) // CELLS
        h, w = (length // side for length in image.shape[:2])
        cells = image[: h * side, : w * side].reshape(h, side, w, side, -1).mean((1, 3))
        around = cells[:-2, 1:-1] + cells[2:, 1:-1] + cells[1:-1, :-2] + cells[1:-1, 2:]
        detail = cells[1:-1, 1:-1] - around / 4
        count, squares, sums = count + 1, squares + np.square(detail).mean(), sums + detail
    within = (squares / count - np.square(sums / count).mean()) * count / (count - 1)
    return max(0.0, float(1 - within / (squares / count))) if squares else 1.0


@dataclass
class Candidate:
    """Weights of the encoder at a step, and how they were judged."""

    step: int
    criterion: float
    weights: dict[str, NDArray[Any]]


class Trainer:
    """Loss module, optimiser, history and the encoder to keep so far; everything that a checkpoint holds.

    `resume` goes back to the store's checkpoint.
    """

    def __init__(
        self, store: Store, recipe: Recipe, device: torch.device, process: Process | None = None, resume: bool = False
    ) -> None:
        check_precision(recipe, device)
        self.store, self.recipe, self.device = store, recipe, device
        self.process = process or Process()
        self.mean = store.images.mean
        self.held, self.trained_on = split(len(store.images))
        self._image = lru_cache(max(1, CACHED // self.mean.size))(lambda index: store.images.read(index, index + 1))
        encoder_type = ENCODERS[recipe.encoder]
        sampling.check_size(encoder_type.scales, *self.mean.shape[:2])
        self.history: list[list[float]] = []  # a row a step, a column a loss
        self.judged: list[list[float]] = []  # step, criterion, rank, spread
        self.kept: Candidate | None = None  # the last one judged that is not worse than the best, but by chance
        self.stored = resume  # whether the store's encoder is this run's
        self.seconds = 0.0
        if resume:
            self._restore()
            return
        self.alignment: float | None = None  # of the good images; None where it is not asked for
        if recipe.objective == "contrast" and len(self.held):
            asked = np.linspace(0, len(store.images), ASKED, endpoint=False).astype(np.int64)
            self.alignment = alignment(self._image(i)[0] for i in np.unique(asked).tolist())
        self._begin(separates=self.alignment is not None and self.alignment < ALIGNED)

    def _begin(self, separates: bool) -> None:
        """Fresh weights from the recipe's seed, and what belongs to them."""
        recipe = self.recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            encoder, contrast = build(recipe.encoder, recipe.D), recipe.objective == "contrast"
            self.loss = PatchSVDDLoss(encoder, recipe.D, contrast, separates)
        self.loss.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = self.loss if self.process.size == 1 else DistributedDataParallel(self.loss)
        self.optimiser = torch.optim.Adam(self.loss.parameters(), lr=recipe.lr)
        self.average = copy.deepcopy(self.loss.encoder)

    def _strides(self) -> dict[str, int]:
        """At which the bank will sample patches, where it is not the paper's."""
        if not self.loss.contrast or self.separates:
            return {}
        return {name: scale.aligned for name, scale in self.loss.encoder.scales.items() if scale.aligned is not None}

    @property
    def separates(self) -> bool:
        """Whether the separation is learned too."""
        return self.loss.separates

    @property
    def bytes(self) -> int:
        """What is written at a time: weights and Adam's moments, the average, what is kept, and the encoder."""
        of_loss, of_encoder = (sum(values.numel() for values in module.parameters()) for module in (self.loss, self.average))
        return 4 * 3 * (of_loss + of_encoder)

    @property
    def loss_names(self) -> list[str]:
        """The columns of the history."""
        kinds, scales = ("nce" if self.loss.contrast else "svdd", "ssl"), self.loss.encoder.scales
        names = [f"{kind}_{scale}" for scale in scales for kind in kinds]
        return [*names, *(f"sep_{scale}" for scale in scales)] if self.separates else names

    def _read(self, indices: NDArray[np.int64]) -> Pixels:
        """Images (B, H, W, 3) of the store."""
        return np.concatenate([self._image(i) for i in indices.tolist()])

    def batch(self, step: int) -> sampling.Batch:
        """This process's input of one step: a function of seed, step and rank alone."""
        n, size = self.recipe.batch, self.recipe.batch * self.process.size
        count = len(self.trained_on)
        drawn = sampling.generator(self.recipe.seed, step).choice(count, size, replace=size > count)
        entries = range(self.process.rank * n, (self.process.rank + 1) * n)
        rngs = [sampling.generator(self.recipe.seed, step, entry) for entry in entries]
        images = standardise(self._read(self.trained_on[drawn[entries.start : entries.stop]]), self.mean)
        scales = self.loss.encoder.scales
        if self.recipe.sampler == "patch":
            return sampling.patch_batch(rngs, images, scales)
        jitter = sampling.contrast_jitter if self.loss.contrast else sampling.paper_jitter
        mean = self.mean if self.separates else None
        dtype = self.store.source.reader.dtype
        return sampling.dense_batch(rngs, images, scales, self.loss.encoder.stride, jitter, mean, dtype)

    def step(self, batch: sampling.Batch) -> dict[str, float]:
        """One update of encoder and classifiers; the losses before it, averaged over the processes."""
        if self.loss.contrast:
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.lr / (1 + len(self.history) / HALVED)
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
        with torch.no_grad():
            done = len(self.history)
            decay = (1 + done) / (10 + done)  # reaches back over a ninth of the steps (Shamir & Zhang, ICML 2013)
            if not self.separates:
                decay = min(AVERAGE, decay)
            for average, weights in zip(self.average.parameters(), self.loss.encoder.parameters(), strict=True):
                average.lerp_(weights, 1 - decay)
        self.history.append([values[name] for name in self.loss_names])
        return values

    @cached_property
    def _held_out(self) -> HeldOut:
        bank = self.trained_on[np.linspace(0, len(self.trained_on), heldout.BANK, endpoint=False).astype(np.int64)]
        return HeldOut(self._read(self.held), self._read(np.unique(bank)), self.mean)

    def judge(self) -> Candidate | None:
        """The average's weights now, judged by held-out images; None where the images are too few to hold some out.

        Raises TrainingError where the features have collapsed, or the weights are not finite.
        """
        step, weights = len(self.history), _arrays(self.average.state_dict())
        self._check_finite(weights)
        if not len(self.held):
            return None
        judgement = self._held_out.judge(self.average, self.device)
        if step >= ALARM_AFTER and (judgement.rank < LEAST_RANK or judgement.spread < LEAST_SPREAD):
            found = f"the features have collapsed (effective rank {judgement.rank:.2f}, spread {judgement.spread:.1e})"
            remedy = "lower --lr" if self.loss.contrast else "lower --lambda or --lr, or raise --warmup"
            raise TrainingError(f"step {step}: {found}; {remedy}")
        candidate = Candidate(step, judgement.criterion, weights)
        if step % JUDGED_EVERY == 0 and (not self.judged or self.judged[-1][0] < step):
            self.judged.append([step, judgement.criterion, judgement.rank, judgement.spread])
            if step and self._holds(candidate):  # step 0: to compare with
                self.kept = candidate
        return candidate

    def _holds(self, candidate: Candidate) -> bool:
        """Whether the criterion has not fallen, by more than chance, from its best since the first step."""
        best = max((criterion for step, criterion, *_ in self.judged if step), default=candidate.criterion)
        return candidate.criterion >= best - TOLERANCE

    def _check_finite(self, weights: Mapping[str, NDArray[Any]]) -> None:
        if not all(np.isfinite(values).all() for values in weights.values()):
            raise TrainingError(f"step {len(self.history)}: the weights are not finite; lower --lr")

    def unproven(self) -> str | None:
        """What is wrong with an encoder that training ends with here, before its end; None where it beats the untrained one.

        None too where the criterion has no say: with the paper's losses, and without held-out images.
        """
        compared = not self.history or (self.judged and self.judged[0][0] == 0)  # there may have been too few images then
        if self.recipe.objective == "paper" or not len(self.held) or not compared:
            return None
        judged = ""
        if self.kept is not None:
            untrained = self.judged[0][1]
            if self.kept.criterion > untrained:
                return None
            judged = f" ({self.kept.criterion:.3f}, untrained {untrained:.3f})"
        found = f"training stopped at step {len(self.history)}, before its criterion was above the untrained encoder's{judged}"
        return f"{found}; run: patchcli train --resume"

    def position_at_chance(self) -> bool:
        """Whether the position losses of the last ALARM_AFTER steps are those of a guess, at every scale."""
        columns = [index for index, name in enumerate(self.loss_names) if name.startswith("ssl")]
        recent = np.array(self.history[-ALARM_AFTER:])
        return len(recent) == ALARM_AFTER and bool(recent[:, columns].mean(axis=0).min() > CHANCE)

    def check_position(self) -> None:
        """Raise TrainingError where nothing else is learned and a neighbour's position has been told at no scale for long."""
        if self.recipe.objective == "paper" and self.position_at_chance():
            found = f"the position losses have been at chance (ln 8 = 2.08) for {ALARM_AFTER} steps"
            raise TrainingError(f"step {len(self.history)}: {found}; lower --lambda, raise --warmup, or change --lr")

    def save(self, last: Candidate | None = None, trouble: str | None = None) -> tuple[str, int]:
        """Write encoder and checkpoint to the store (rank 0 alone does); the encoder's sha256, and the step it is of.

        `trouble` is why that encoder should not be embedded. Raises TrainingError where weights are not finite.

        With the contrast, the encoder is `last` or the last one judged before whose criterion holds; without a judgement, or
        with the paper's losses alone, it is the average as it is: of those the criterion preferred an untrained encoder to
        better ones.
        """
        chosen = last if last is not None and self._holds(last) else self.kept
        if chosen is None or self.recipe.objective == "paper":
            chosen = Candidate(len(self.history), math.nan, _arrays(self.average.state_dict()))
        weights = _arrays(self.loss.state_dict())
        self._check_finite(chosen.weights | weights)
        if self.process.rank > 0:
            return digest_of(chosen.weights), chosen.step
        state: dict[str, NDArray[Any]] = {"history": np.array(self.history, np.float32)} if self.history else {}
        state |= {"judged": np.array(self.judged)} if self.judged else {}
        state |= {f"loss.{name}": values for name, values in weights.items()}
        state |= {f"average.{name}": values for name, values in _arrays(self.average.state_dict()).items()}
        state |= {f"kept.{name}": values for name, values in (self.kept.weights if self.kept else {}).items()}
        names = [name for name, _ in self.loss.named_parameters()]
        for index, moments in self.optimiser.state_dict()["state"].items():
            state.update({f"adam.{names[index]}.{key}": np.asarray(moment.cpu()) for key, moment in moments.items()})
        attributes = EncoderAttributes(
            architecture=self.recipe.encoder,
            D=self.recipe.D,
            source="trained" if self.history else "untrained",
            recipe=asdict(self.recipe),
            processes=self.process.size,
            steps=len(self.history),
            chosen=chosen.step,
            kept=self.kept.step if self.kept else None,
            criterion=None if math.isnan(chosen.criterion) else chosen.criterion,
            alignment=self.alignment,
            separation=self.separates,
            strides=self._strides(),
            checkpoint_sha256=digest_of(weights),
            seconds=self.seconds,
            losses=self.loss_names,
            judged=bool(self.judged),
            trouble=trouble,
        )
        digest = self.store.write_encoder(chosen.weights, attributes, state)
        self.stored = True
        return digest, chosen.step

    def fail(self, found: str) -> None:
        """Have the store say that training failed: in a last checkpoint, or where that is not finite, in the one before."""
        trouble = f"training failed at {found}; run: patchcli train --overwrite"
        if self.process.rank > 0:
            return
        try:
            self.save(trouble=trouble)
        except TrainingError:
            if self.stored:
                stored = self.store.encoder
                attributes = replace(stored.attributes, trouble=trouble)
                self.store.write_encoder(stored.weights(), attributes, stored.training_state())

    def _restore(self) -> None:
        state = self.store.encoder.training_state()
        if not state:
            raise IncompleteError(f"{self.store.path}: the encoder was imported, there is nothing to resume")

        self.store.encoder.weights()  # raises where what is trained is damaged already
        attributes = self.store.encoder.attributes

        def part(prefix: str) -> dict[str, NDArray[Any]]:
            return {name.removeprefix(prefix): values for name, values in state.items() if name.startswith(prefix)}

        self.alignment = attributes.alignment  # not asked for again: images may have come or gone since
        self._begin(attributes.separation)
        if digest_of(part("loss.")) != attributes.checkpoint_sha256:
            raise StoreError(f"{self.store.path}: the checkpoint's weights differ from their sha256; train with --overwrite")
        for module, prefix in ((self.loss, "loss."), (self.average, "average.")):
            module.load_state_dict({name: torch.from_numpy(values) for name, values in part(prefix).items()})
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for index, (name, _) in enumerate(self.loss.named_parameters()):
            stored = part(f"adam.{name}.")
            if stored:
                moments[index] = {key: torch.from_numpy(np.array(values)) for key, values in stored.items()}
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        self.history = state["history"].tolist() if "history" in state else []
        self.judged = state["judged"].tolist() if "judged" in state else []
        if (kept := attributes.kept) is not None:
            criteria = {step: criterion for step, criterion, *_ in self.judged}
            self.kept = Candidate(kept, criteria[kept], part("kept."))
        self.seconds = attributes.seconds or 0.0


def _arrays(state: Mapping[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    """A copy of a state dict, as arrays in C order."""
    return {name: np.array(values.cpu().numpy(), order="C") for name, values in state.items()}


def resumed_recipe(store: Store, changes: dict[str, Any], processes: int = 1) -> Recipe:
    """The recipe of the store's checkpoint; refuses values, and a number of processes, that differ from it."""
    stored = store.encoder.attributes.recipe
    if stored is None:
        raise IncompleteError(f"{store.path}: the encoder was imported, there is nothing to resume")
    recipe = Recipe(**{f.name: stored[f.name] for f in fields(Recipe)})
    for name, value in changes.items():
        if value != getattr(recipe, name):
            found = f"the checkpoint has {_option(name)} {getattr(recipe, name)}, found {value}"
            raise InputError(f"--resume: {found}; leave it out, or train anew with --overwrite")
    if (before := store.encoder.attributes.processes) != processes:
        found = f"--resume: the checkpoint was trained by {before} processes, found {processes}"
        raise InputError(f"{found}; use: torchrun --nproc-per-node={before} -m patchcli train --resume")
    return recipe


def run(
    trainer: Trainer,
    steps: int | None,
    seconds: float | None,
    progress: Callable[[Step], None],
    stop: Callable[[], int],
) -> Trained:
    """Train until `steps` in all are done, `seconds` of this run are over, or `stop()`; checkpoints on the way.

    The store says where its encoder should not be embedded: where training failed (a TrainingError, raised here too), or a
    checkpoint or `stop()` came before the criterion was above the untrained encoder's.
    """
    try:
        return _run(trainer, steps, seconds, progress, stop)
    except TrainingError as error:
        trainer.fail(str(error))
        raise


def _run(
    trainer: Trainer,
    steps: int | None,
    seconds: float | None,
    progress: Callable[[Step], None],
    stop: Callable[[], int],
) -> Trained:
    begun = saved = time.monotonic()
    before, first = trainer.seconds, len(trainer.history)
    recent: dict[str, float] = {}
    collapsed = False

    def judged() -> tuple[Candidate | None, bool]:
        """The judgement, and whether a separation has collapsed after it had gained something, which is kept then."""
        try:
            return trainer.judge(), False
        except TrainingError:
            gained = trainer.kept is not None and trainer.kept.criterion > trainer.judged[0][1]
            if not (trainer.separates and gained):
                raise
            return None, True

    def tell(judging: bool) -> None:
        done, spent = len(trainer.history), time.monotonic() - begun
        left = [max(0.0, seconds - spent)] if seconds is not None else []
        if steps is not None and done > first:
            left.append((steps - done) * spent / (done - first))
        criterion = trainer.judged[-1][1] if trainer.judged else None
        progress(Step(done, steps, spent, min(left, default=None), recent, criterion, judging))

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
            trainer.save(trouble=trainer.unproven())
            saved = now
        if done % JUDGED_EVERY == 0:
            if trainer.process.rank == 0 and done not in (row[0] for row in trainer.judged):
                tell(judging=True)
                _, collapsed = judged()
            if trainer.process.total(torch.tensor([collapsed], dtype=torch.int32, device=trainer.device)).any():
                collapsed = True
                break
        if trainer.process.rank == 0:
            trainer.check_position()
        losses = trainer.step(trainer.batch(done))
        recent = {name: 0.9 * recent.get(name, value) + 0.1 * value for name, value in losses.items()}
        tell(judging=False)
    candidate = None
    if trainer.history and trainer.process.rank == 0 and not (interrupted or collapsed):
        trainer.check_position()
        candidate, collapsed = judged()
    trouble = trainer.unproven() if interrupted else None
    digest, chosen = trainer.save(candidate, trouble)
    columns = zip(trainer.loss_names, np.array(trainer.history[-20:]).T, strict=True) if trainer.history else ()
    means = {name: float(column.mean()) for name, column in columns}
    return Trained(len(trainer.history), chosen, trainer.seconds, means, interrupted, digest, collapsed, trouble)


def check_precision(recipe: Recipe, device: torch.device) -> None:
    """Refuse a precision that the device lacks."""
    if recipe.precision == "bfloat16" and device.type == "cpu" and not cpu_has_bfloat16():
        raise InputError("--precision bfloat16: this CPU has no bfloat16 instructions, it would be slower; use float32")


def cpu_has_bfloat16() -> bool:
    """Whether bfloat16 products run in hardware here; without, they are emulated and far slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
