"""patchcli embed."""

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def embed(
    store: options.Store = options.STORE,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Embed every patch of the good images into the store's bank.

    Killed in the middle, the same command goes on where it stopped.

    Example: patchcli embed --store grid.zarr
    """
    with Terminal(quiet, verbose) as terminal:
        from patchcli.pipeline.embed import embed

        done = embed(store, device=device, threads=threads, overwrite=overwrite, observer=terminal)
        vectors = ", ".join(f"{count:,} {scale}" for scale, count in done.vectors.items())
        terminal.note(f"the bank holds {vectors} vectors of {done.images} images ({done.embedded} embedded now)")
