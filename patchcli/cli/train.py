"""patchcli train."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def train(
    data: Annotated[
        Path | None, typer.Argument(help="A data set, a folder of good images, or a manifest. [default: what the store holds]")
    ] = None,
    store: options.Store = options.STORE,
    layout: options.Layout = None,
    holdout: options.Holdout = None,
    size: options.Size = None,
    bits: options.Bits = None,
    large: options.Large = False,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps in all. [default: 1000]")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="The same in passes over the images.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Stop after so long, whatever the steps.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the store's checkpoint.")] = False,
    overwrite: options.Overwrite = False,
    encoder: Annotated[str | None, typer.Option("--encoder", help="hierarchical or flat. [default: hierarchical]")] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="dense (parts of images) or patch (as in the paper). [default: dense]")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option("--objective", help="contrast (and separation where needed), or paper. [default: contrast, patch: paper]"),
    ] = None,
    lam: Annotated[float | None, typer.Option("--lambda", help="Weight of the SVDD' losses. [default: 0, paper: 0.5]")] = None,
    warmup: Annotated[
        int | None, typer.Option("--warmup", help="Steps in which lambda rises. [default: 0, paper: 100, patch: 0]")
    ] = None,
    dim: Annotated[int | None, typer.Option("--dim", help="Length D of a feature. [default: 64]")] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", help="Learning rate of Adam; the contrast's halves in 1000 steps. [default: 1e-3; flat: 3e-4]"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Images a step (dense), or pairs (patch). [default: 4, 64]")
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="float32 or bfloat16. [default: float32]")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Draw losses, criterion and choice on a page.")
    ] = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train the patch encoder on good images; no labels, no defects.

    Ctrl-C stops after the running step and keeps a usable encoder; --resume goes on as if never stopped.

    Example: patchcli train ./mvtec/grid --minutes 10

    Example: patchcli train --resume --steps 400

    Example: torchrun --nproc-per-node=2 -m patchcli train ./mvtec/grid
    """
    again = "where a checkpoint was written, go on with: patchcli train --resume"
    with Terminal(quiet or os.environ.get("RANK", "0") != "0", verbose, dry_run, again) as terminal:
        terminal.progress("train", 0, None, "loading PyTorch")
        aside = None if holdout is None else options.share("--holdout", holdout)
        from patchcli.verbs.train import train

        given = {
            "encoder": encoder, "sampler": sampler, "objective": objective, "lam": lam, "warmup": warmup, "D": dim,
            "lr": lr, "batch": batch, "precision": precision, "seed": seed,
        }  # fmt: skip
        trained = train(
            data,
            store,
            layout=layout,
            holdout=aside,
            size=size,
            bits=bits,
            large=large,
            steps=steps,
            epochs=epochs,
            minutes=minutes,
            resume=resume,
            overwrite=overwrite,
            device=device,
            threads=threads,
            report=report,
            observer=terminal,
            **{name: value for name, value in given.items() if value is not None},
        )
        losses = ", ".join(f"{name} {value:.3f}" for name, value in trained.losses.items())
        terminal.note(f"{trained.steps} steps in {trained.seconds:.0f} s{': ' if losses else ''}{losses}")
        if trained.interrupted:
            usable = f"the encoder is usable, go on with: patchcli train --resume --store {store}"
            terminal.note(f"interrupted; {trained.trouble or usable}")
            raise typer.Exit(128 + (trained.signal or signal.SIGINT))
        terminal.note(f"encoder {trained.sha256[:12]} (of step {trained.chosen}) is in {store}; next: patchcli embed")
