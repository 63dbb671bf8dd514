"""patchcli import."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def import_weights(
    weights: Annotated[
        Path,
        typer.Argument(metavar="WEIGHTS", help="PyTorch state dict published by the authors of Patch SVDD (hazelnut.pkl)."),
    ],
    store: options.Store = options.STORE,
    overwrite: options.Overwrite = False,
    *,
    messages: options.Planned,
) -> None:
    """Use published weights as the encoder instead of training.

    Example: patchcli extract ./mvtec/hazelnut && patchcli import hazelnut.pkl
    """
    with Terminal(**vars(messages)) as terminal:
        from patchcli.verbs.import_weights import import_weights

        sha256 = import_weights(weights, store, overwrite, terminal)
        terminal.note(f"encoder {sha256[:12]} is in {store}; next: patchcli embed")
