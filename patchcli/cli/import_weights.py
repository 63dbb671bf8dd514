"""patchcli import."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def import_weights(
    weights: Annotated[Path, typer.Argument(help="A PyTorch state dict of Patch SVDD's authors, such as hazelnut.pkl.")],
    store: options.Store = options.STORE,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Take published weights as the store's encoder, instead of training.

    Example: patchcli extract ./mvtec/hazelnut && patchcli import hazelnut.pkl && patchcli embed
    """
    with Terminal(quiet, verbose, dry_run) as terminal:
        from patchcli.verbs.import_weights import import_weights

        sha256 = import_weights(weights, store, overwrite, terminal)
        terminal.note(f"encoder {sha256[:12]} is in {store}; next: patchcli embed")
