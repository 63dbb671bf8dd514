"""What an observer hears of a run: progress while the encoder learns, and notes when it has."""

from collections.abc import Callable

from patchcli.observer import Observer
from patchcli.training.loop import Bounds, Step, Trained, Training


def reported(observer: Observer, bounds: Bounds) -> Callable[[Step], None]:
    """A callback for each step, which reports progress in steps or in seconds: whichever end is nearer."""

    def report(step: Step) -> None:
        if step.judging:
            text = "judging the encoder" if step.step else "judging the untrained encoder"
        else:
            of = "" if step.steps is None else f" of {step.steps}"
            text = f"step {step.step}{of}" + ("" if step.criterion is None else f", criterion {step.criterion:.3f}")
        seconds = bounds.seconds
        if step.steps is None or (seconds is not None and step.seconds / seconds > step.step / step.steps):
            observer.progress("train", step.seconds, seconds, text)
        else:
            observer.progress("train", step.step, step.steps, text)

    return report


def not_aligned(alignment: float | None) -> str:
    """Why an encoder learns the separation."""
    return f"these images are not aligned (their mean explains {alignment or 0:.1%} of their detail)"


def note_end(observer: Observer, training: Training, trained: Trained) -> None:
    """Note what the images did not allow to learn, and which maps are used."""
    trainer = training.trainer
    if trainer.separates and trained.steps:
        observer.note(f"{not_aligned(trainer.alignment)}; the encoder learned from synthetic defects")
    if trained.collapsed:
        kept = f"the encoder of step {trained.chosen} is kept"
        observer.note(f"training failed again at step {trained.steps}, {kept}; lower `lr` to train longer")
    elif trained.setbacks:
        times = "once" if trained.setbacks == 1 else f"{trained.setbacks} times"
        observer.note(f"training failed {times} and resumed from an earlier step at a lower learning rate")
    if trained.exponents:
        scales = trainer.loss.encoder.scales
        names = " x ".join(scales[name].label for name in trained.exponents)
        why = (
            "chosen by synthetic defects in good images"
            if trained.judged
            else "which needs no training: nothing else was judged"
        )
        observer.note(f"the map is {names}, {why}")
    if trainer.loss.contrast and not trainer.separates and trainer.position_at_chance():
        observer.note("the position of a neighbour does not show in these images; the encoder learned from the contrast alone")
