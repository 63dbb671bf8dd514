"""patchcli data."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal

COLUMNS = {
    "split": "split", "kind": "kind", "images": "images", "masks": "masks", "unreadable": "unreadable",
    "height": "height", "width": "width", "layout": "layout",
    "smallest_height": "smallest height", "smallest_width": "smallest width",
    "bits": "bits", "lowest": "lowest", "highest": "highest", "turned": "turned",
}  # fmt: skip


def data(
    data: Annotated[Path, typer.Argument(help="A data set, a folder of good images, or a manifest (.csv, .jsonl).")],
    layout: options.Layout = None,
    bits: options.Bits = None,
    large: options.Large = False,
    mask_threshold: options.MaskThreshold = None,
    form: options.Format = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show how a data set is understood: images, masks, sizes, depth, values, and what cannot be used.

    Nothing is written. Images that are there twice are notes; what would be left out makes the exit status 2.

    Example: patchcli data ./mvtec/grid

    Example: patchcli data parts.csv --format jsonl | jq .unreadable
    """
    with Terminal(quiet, verbose) as terminal:
        terminal.check_format(form)
        from patchcli.verbs.data import data as describe

        kinds = describe(data, layout, terminal, bits=bits, large=large, mask_threshold=mask_threshold)
        terminal.write(kinds, form, COLUMNS)
