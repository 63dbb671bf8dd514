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
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Data set, folder of good images, or manifest (.csv, .jsonl).")],
    layout: options.Layout = None,
    bits: options.Bits = None,
    large: options.Large = False,
    mask_threshold: options.MaskThreshold = None,
    form: options.Format = None,
    *,
    messages: options.Messages,
) -> None:
    """Describe a data set: images, masks, sizes, bit depths.

    Nothing is written. Duplicates are reported as notes; images that cannot be used make the exit status 2.

    Example: patchcli data ./mvtec/grid

    Example: patchcli data parts.csv --format jsonl | jq .unreadable
    """
    with Terminal(**vars(messages)) as terminal:
        terminal.check_output()
        from patchcli.verbs.data import data as describe

        kinds = describe(data, layout, terminal, bits=bits, large=large, mask_threshold=mask_threshold)
        terminal.write(kinds, form, COLUMNS)
