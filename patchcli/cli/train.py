"""patchcli train."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal
from patchcli.features import TRAINED

if TYPE_CHECKING:
    EncoderName = str
else:
    EncoderName = Literal[(*TRAINED,)]
SamplerName = Literal["dense", "patch"]
ObjectiveName = Literal["contrast", "paper"]
RECIPE = "Recipe"  # heading in the help text


@dataclass(frozen=True)
class Recipe:
    """What the weights depend on; None leaves a value to the library."""

    encoder: Annotated[
        EncoderName | None,
        typer.Option(
            "--encoder",
            rich_help_panel=RECIPE,
            help="hybrid: the paper's (hierarchical), trained, and fixed features; flat: without its hierarchy; "
            "fixed: ready in seconds, nothing to train. [default: hybrid; with --objective paper: hierarchical]",
        ),
    ] = None
    sampler: Annotated[
        SamplerName | None,
        typer.Option(
            "--sampler",
            rich_help_panel=RECIPE,
            help="Train on large parts of images (dense), or on pairs of patches as the paper does. [default: dense]",
        ),
    ] = None
    objective: Annotated[
        ObjectiveName | None,
        typer.Option(
            "--objective",
            rich_help_panel=RECIPE,
            help="contrast (with a separation loss if images are not aligned), or the losses of the paper. "
            "[default: contrast; with --sampler patch: paper]",
        ),
    ] = None
    lam: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            metavar="WEIGHT",
            rich_help_panel=RECIPE,
            help="Weight of the SVDD' losses. [default: 0; with --objective paper: 0.5]",
        ),
    ] = None
    warmup: Annotated[
        int | None,
        typer.Option(
            "--warmup",
            metavar="N",
            rich_help_panel=RECIPE,
            help="Steps over which lambda rises from 0. [default: 0; with --objective paper: 100; with --sampler patch: 0]",
        ),
    ] = None
    D: Annotated[
        int | None,
        typer.Option("--dim", metavar="D", rich_help_panel=RECIPE, help="Length of a feature vector. [default: 64]"),
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            metavar="RATE",
            rich_help_panel=RECIPE,
            help="Learning rate of Adam; with the contrast it halves over 1000 steps. "
            "[default: 0.001; with --encoder flat: 0.0003]",
        ),
    ] = None
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            metavar="N",
            rich_help_panel=RECIPE,
            help="Images per step, or pairs per step with --sampler patch. [default: 4; with --sampler patch: 64]",
        ),
    ] = None
    precision: Annotated[
        options.PrecisionName | None,
        typer.Option(
            "--precision",
            rich_help_panel=RECIPE,
            help="Number format of the forward pass; auto is bfloat16 where the CPU has it. "
            "[default: auto; with --objective paper: float32]",
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", rich_help_panel=RECIPE, help=f"{options.SEED.help} [default: 0]")
    ] = None


@dataclass(frozen=True)
class Length:
    """When training ends."""

    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Steps in total. [default: 1000]")] = None
    epochs: Annotated[
        float | None, typer.Option("--epochs", metavar="N", help="Passes over the images in total, instead of steps.")
    ] = None
    minutes: Annotated[
        float | None, typer.Option("--minutes", metavar="M", help="Stop after this time, even if steps are left.")
    ] = None


def train(
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Data set, folder of good images, or manifest. [default: the images in the store]"),
    ] = None,
    store: options.Store = options.STORE,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in the store.")] = False,
    overwrite: options.Overwrite = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Write a page with the losses and the choice of checkpoint."),
    ] = None,
    *,
    length: Length,
    recipe: Recipe,
    extraction: options.Extraction,
    device: options.Device,
    messages: options.Planned,
) -> None:
    """Train the patch encoder on good images; it needs no labels.

    Ctrl-C stops after the current step and keeps a usable encoder. --resume then continues with the same result as
    without the stop.

    Example: patchcli train ./mvtec/grid --minutes 10

    Example: patchcli train --resume --steps 400

    Example: torchrun --nproc-per-node=2 -m patchcli train ./mvtec/grid
    """
    quiet = messages.quiet or os.environ.get("RANK", "0") != "0"
    again = "if a checkpoint was written, resume with: patchcli train --resume"
    with Terminal(quiet, messages.verbose, messages.dry_run, again) as terminal:
        terminal.progress("train", 0, None, "loading PyTorch")
        from patchcli.verbs.train import train

        chosen = {name: value for name, value in vars(recipe).items() if value is not None}
        trained = train(
            data,
            store,
            resume=resume,
            overwrite=overwrite,
            report=report,
            observer=terminal,
            **vars(length),
            images=extraction.options(),
            **vars(device),
            **chosen,
        )
        losses = ", ".join(f"{name} {value:.3f}" for name, value in trained.losses.items())
        terminal.note(f"{trained.steps} steps in {trained.seconds:.0f} s{': ' if losses else ''}{losses}")
        if trained.interrupted:
            state = trained.trouble or "the encoder is usable"
            terminal.note(f"interrupted; {state}; resume with: patchcli train --resume --store {store}")
            raise typer.Exit(128 + (trained.signal or signal.SIGINT))
        terminal.note(f"encoder {trained.sha256[:12]} (of step {trained.chosen}) is in {store}; next: patchcli embed")
