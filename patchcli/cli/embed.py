"""patchcli embed."""

from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def embed(
    store: options.Store = options.STORE,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="Keep fewer vectors: no distance grows by more than this.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option("--keep", metavar="SHARE", help="Keep this share of the vectors, 10% or 0.1, well spread.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store vectors as float16: half the size on disk.")] = False,
    overwrite: options.Overwrite = False,
    force: Annotated[
        bool, typer.Option("--force", help="Embed even an encoder whose training failed or stopped before it was of use.")
    ] = False,
    memory: options.Memory = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Embed every patch of the good images into the store's bank.

    Killed in the middle, the same command goes on where it stopped. A thinned bank says by how much distances may be off;
    so do the records and maps made with it.

    Example: patchcli embed --store grid.zarr

    Example: patchcli embed --tolerance 0.02
    """
    with Terminal(quiet, verbose, dry_run, "finished work is kept, run again to resume") as terminal:
        share = None if keep is None else options.share("--keep", keep)
        limit = options.memory(memory)
        from patchcli.verbs.embed import embed

        done = embed(
            store,
            tolerance=tolerance,
            keep=share,
            half=half,
            memory=limit,
            device=device,
            threads=threads,
            overwrite=overwrite,
            force=force,
            observer=terminal,
        )
        vectors = ", ".join(f"{count:,} {scale}" for scale, count in done.vectors.items())
        terminal.note(f"the bank holds {vectors} vectors of {done.images} images ({done.embedded} embedded now)")
        if any(done.radius.values()):
            bounds = ", ".join(f"{radius:.3g} ({scale})" for scale, radius in done.radius.items())
            terminal.note(f"a distance is off by at most {bounds}")
        terminal.note("next: patchcli calibrate (for verdicts), or patchcli score")
