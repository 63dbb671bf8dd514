"""patchcli embed."""

from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def embed(
    store: options.Store = options.STORE,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", metavar="DISTANCE", help="Thin the bank so far that no distance grows by more than this."),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            "--keep", metavar="SHARE", parser=options.share, help="Thin the bank to this share of its vectors, 10% or 0.1."
        ),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store vectors as float16, at half the size on disk.")] = False,
    precision: Annotated[
        options.PrecisionName,
        typer.Option(
            "--precision",
            help="Number format of the encoder, for the bank and for all images scored against it. auto is that of the present "
            "bank, else that of training where this CPU has it.",
        ),
    ] = "auto",
    overwrite: options.Overwrite = False,
    force: Annotated[
        bool, typer.Option("--force", help="Embed even if the training failed or stopped too early to be useful.")
    ] = False,
    *,
    budget: options.Budget,
    messages: options.Planned,
) -> None:
    """Embed every patch of the good images into the bank.

    If interrupted, run the same command again to resume. After thinning, the largest possible error of a distance is
    printed here and stored in records and maps.

    Example: patchcli embed --store grid.zarr

    Example: patchcli embed --tolerance 0.02
    """
    with Terminal(**vars(messages), again="finished work is kept, run again to resume") as terminal:
        from patchcli.verbs.embed import embed

        embedded = embed(
            store,
            tolerance=tolerance,
            keep=keep,
            half=half,
            precision=precision,
            overwrite=overwrite,
            force=force,
            observer=terminal,
            **vars(budget),
        )
        vectors = ", ".join(f"{count:,} {scale}" for scale, count in embedded.vectors.items())
        terminal.note(f"the bank holds {vectors} vectors of {embedded.images} images ({embedded.embedded} embedded now)")
        if any(embedded.radius.values()):
            bounds = ", ".join(f"{radius:.3g} ({scale})" for scale, radius in embedded.radius.items())
            terminal.note(f"a distance is off by at most {bounds}")
        terminal.note("next: patchcli calibrate (for verdicts), or patchcli score")
