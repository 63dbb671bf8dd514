"""The training loop (supplement, Algorithm 1, lines 1 to 9).

What the paper does not have lies around it, in `_Course`: bounds, checkpoints, judgements, and processes that share a step.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from patchcli.errors import InputError, TrainingError
from patchcli.runtime import Process
from patchcli.store import Store
from patchcli.training import alignment, checkpoint, criterion
from patchcli.training.checkpoint import Checkpoint
from patchcli.training.criterion import Candidate, Criterion
from patchcli.training.losses import total
from patchcli.training.recipe import Recipe
from patchcli.training.trainer import Snapshot, Trainer

CHECKPOINT_SECONDS = 60.0
SETBACKS = 2  # how often training goes back when it has failed, before it ends
STEPS = 1000  # in total, by default


@dataclass(frozen=True)
class Bounds:
    """When training ends: after this many steps in total, or this long in this run. None: never."""

    steps: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Length:
    """The same as a user says it: `steps` or `epochs` (passes over the images) in total, `minutes` of this run."""

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{value}", parameter=name, expected="0 or more")
        if self.steps is not None and self.epochs is not None:
            raise InputError("`steps` and `epochs`: give one of the two")

    def bounds(self, images: int, batch: int) -> Bounds:
        """The bounds for so many images, of which a step takes `batch`; STEPS if nothing else is given."""
        seconds = None if self.minutes is None else 60 * self.minutes
        if self.epochs is not None:
            return Bounds(math.ceil(self.epochs * images / batch), seconds)
        return Bounds(STEPS if self.steps is None and seconds is None else self.steps, seconds)


@dataclass(frozen=True)
class Step:
    """Where training stands, for a progress display."""

    step: int
    steps: int | None  # in total; None if only the time is bounded
    seconds: float  # in this run
    criterion: float | None  # of the last judgement
    judging: bool  # whether the encoder is about to be judged


@dataclass(frozen=True)
class Trained:
    """How a training run ended."""

    steps: int
    chosen: int  # the step whose weights are the encoder
    seconds: float  # over all runs
    losses: dict[str, float]  # mean over the last 20 steps
    sha256: str
    exponents: dict[str, float]  # of the maps in their product; empty: the product of all
    judged: bool  # whether synthetic defects chose it; else it has the maps that need no training
    interrupted: bool = False
    setbacks: int = 0  # how often training went back to an earlier point, at a lower learning rate
    collapsed: bool = False  # it failed again and ended early
    trouble: str | None = None  # why the encoder should not be embedded, as the store says too
    signal: int = 0  # that interrupted this process


@dataclass(frozen=True)
class Training:
    """The parts of one run."""

    trainer: Trainer
    criterion: Criterion
    checkpoint: Checkpoint

    @property
    def idle(self) -> str | None:
        """Why there is nothing to train: no scale learns, or there are too few images to prove that learning helps."""
        images, encoder = self.trainer.images, self.trainer.loss.encoder
        if not encoder.learned:
            return f"the encoder {self.trainer.recipe.encoder!r} is fitted to the images, not trained"
        if checkpoint.floor(self.trainer) and not len(images.validation):
            return f"{len(images)} good images are too few to prove what training adds; the fixed features alone are used"
        return None


def prepare(
    store: Store, recipe: Recipe, device: torch.device, process: Process | None = None, resume: bool = False
) -> Training:
    """Fresh weights, or with `resume` the store's checkpoint."""
    saved, images = Checkpoint(store), checkpoint.good_images(store)
    if resume:
        return Training(*saved.restore(images, recipe, device, process), saved)
    contrast = recipe.objective == "contrast"
    measured = alignment.measured(images) if contrast and len(images.validation) else None
    separates = measured is not None and measured < alignment.ALIGNED
    if contrast and (measured is None or separates):
        images.centre_by_colour()
    trainer = Trainer(images, recipe, device, process, measured, separates)
    return Training(trainer, Criterion(images, recipe.objective, checkpoint.floor(trainer)), saved)


def run(training: Training, bounds: Bounds, progress: Callable[[Step], None], stop: Callable[[], int]) -> Trained:
    """Train until the bounds are reached, or `stop()` is true; the store holds the encoder then, and a checkpoint.

    The store says if nobody should use its encoder: after a TrainingError, which is raised here too, or if a checkpoint or
    `stop()` came before the criterion was above the untrained encoder's.
    """
    trainer = training.trainer
    if not training.checkpoint.ours:
        criterion.fit(trainer.loss.encoder, trainer.images, trainer.device)
        trainer.average.load_state_dict(trainer.loss.encoder.state_dict())
    course = _Course(training, bounds, progress, stop)
    try:
        while course.continues():  # 1: repeat
            # 2, 3, 5: patches, jittered patches and neighbours
            batch = trainer.batch(len(trainer.history))
            # 4, 6: SVDD' (or the contrast in its place, and the separation) and SSL, at both scales
            losses = trainer.losses(batch)
            # 7: λ · SVDD' + SSL
            loss = total(losses, trainer.lam)
            # 8: update encoder and classifiers
            with course.going_back():
                trainer.update(loss, losses)
            course.tell(judging=False)
        # 9: f_big and f_small are the scales of the encoder in the store
        return course.end()
    except TrainingError as error:
        training.checkpoint.fail(trainer, training.criterion, error)
        raise


class _Course:
    """One run between its steps: whether it continues, checkpoints, judgements and how it ends."""

    def __init__(self, training: Training, bounds: Bounds, progress: Callable[[Step], None], stop: Callable[[], int]) -> None:
        self._trainer, self._criterion, self._checkpoint = training.trainer, training.criterion, training.checkpoint
        self._bounds, self._progress, self._stop = bounds, progress, stop
        self._good: Snapshot | None = None  # the last point that was judged to be sound, or where this run began
        self._begun = self._saved = time.monotonic()
        self._before = training.trainer.seconds
        self._interrupted = self._collapsed = False

    def continues(self) -> bool:
        """Whether another step follows; the checkpoint and the judgement that are due come first."""
        trainer, now = self._trainer, time.monotonic()
        spent, step = now - self._begun, len(trainer.history)
        trainer.seconds = self._before + spent
        steps, seconds = self._bounds.steps, self._bounds.seconds
        over = (steps is not None and step >= steps) or (seconds is not None and spent >= seconds)
        over, stopped, due = self._any(over, self._stop(), now - self._saved > CHECKPOINT_SECONDS)
        self._interrupted = stopped and not over
        if over or stopped or self._collapsed:
            return False
        if due:
            self._checkpoint.save(trainer, self._criterion, trouble=self._criterion.unproven(step))
            self._saved = now
        self._good = self._good or trainer.snapshot()
        if step % criterion.JUDGED_EVERY == 0:
            error = self._failure() if step not in (row[0] for row in self._criterion.judged) else None
            (failed,) = self._any(error is not None)
            if failed:
                self._set_back(error)
            else:
                self._good = trainer.snapshot()
            if self._collapsed:
                return False
        if trainer.process.rank == 0:
            trainer.check_position()
        return True

    def _any(self, *flags: int) -> list[bool]:
        """Each flag, set if it is set in any process."""
        counts = torch.tensor(flags, dtype=torch.int32, device=self._trainer.device)
        values: list[bool] = self._trainer.process.total(counts).bool().tolist()
        return values

    def _judge(self) -> Candidate | None:
        """Judge the average. Raises TrainingError where it is of no use."""
        trainer = self._trainer
        return self._criterion.judge(len(trainer.history), trainer.average, trainer.device, trainer.recipe.precision)

    def _failure(self) -> TrainingError | None:
        """What is wrong with the average; the first process judges it."""
        if self._trainer.process.rank > 0:
            return None
        self.tell(judging=True)
        try:
            self._judge()
        except TrainingError as error:
            return error
        return None

    @contextmanager
    def going_back(self) -> Iterator[None]:
        """After a TrainingError, training goes back to where it was sound."""
        try:
            yield
        except TrainingError as error:
            self._set_back(error)

    def _set_back(self, error: TrainingError | None) -> None:
        """Go back, or after SETBACKS end with what there is; in every process. `error` is raised where there is nothing."""
        trainer = self._trainer
        if trainer.setbacks < SETBACKS and self._good:
            trainer.go_back(self._good)
            self._criterion.forget(len(trainer.history))
            return
        (self._collapsed,) = self._any(self._criterion.usable)
        if error is not None and not self._collapsed:
            raise error

    def tell(self, judging: bool) -> None:
        """Report progress."""
        rows, spent = self._criterion.judged, time.monotonic() - self._begun
        criterion = rows[-1][1] if rows else None
        self._progress(Step(len(self._trainer.history), self._bounds.steps, spent, criterion, judging))

    def end(self) -> Trained:
        """Put the encoder into the store, with the last checkpoint."""
        trainer, last = self._trainer, None
        if trainer.history and trainer.process.rank == 0 and not (self._interrupted or self._collapsed):
            trainer.check_position()
            last = self._last()
        steps = len(trainer.history)
        trouble = self._criterion.unproven(steps) if self._interrupted else None
        sha256, chosen = self._checkpoint.save(trainer, self._criterion, last, trouble)
        columns = zip(trainer.loss_names, np.array(trainer.history[-20:]).T, strict=True) if steps else ()
        means = {name: float(column.mean()) for name, column in columns}
        return Trained(
            steps,
            chosen.step,
            trainer.seconds,
            means,
            sha256,
            chosen.exponents,
            chosen.criterion is not None,
            interrupted=self._interrupted,
            setbacks=trainer.setbacks,
            collapsed=self._collapsed,
            trouble=trouble,
        )

    def _last(self) -> Candidate | None:
        """The encoder after the last step as a candidate."""
        try:
            last = self._judge()
        except TrainingError:
            if not self._criterion.usable:
                raise
            self._collapsed = True
            return None
        trainer = self._trainer
        return self._criterion.settled(last, trainer.average, trainer.device, trainer.recipe.precision)
