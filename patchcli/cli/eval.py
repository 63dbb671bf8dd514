"""patchcli eval."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal

# JSON Lines and CSV have every figure.
COLUMNS = {
    "category": "class", "map": "map", "kind": "kind", "image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC",
    "aupro_30": "AUPRO 0.3", "image_recall": "recall", "image_false_alarms": "false alarms", "images": "images",
    "aupro_05": "AUPRO 0.05", "image_ap": "image AP", "pixel_ap": "pixel AP",
}  # fmt: skip


def evaluate(
    store: options.Store = options.STORE,
    maps: Annotated[
        Path | None,
        typer.Option("--maps", help="Read the maps below this folder, of score --out or another tool, instead of scoring."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--metrics", help="Write all numbers as one nested object into this .json file, for dvc.")
    ] = None,
    roi: options.Roi = None,
    mask_threshold: options.MaskThreshold = None,
    large: options.Large = False,
    form: options.Format = None,
    search: options.Search = "auto",
    memory: options.Memory = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compare scores and maps of the test images with their labels and masks.

    A store gives the figures of each map, and of the product by kind of defect; a folder of stores, one a class, the
    product's and their average. A table shows AUROC and AUPRO (limits 0.3 and 0.05); JSON Lines have AP, F1-max at the
    oracle's threshold and 95 % bootstrap intervals too. Where the store is calibrated, recall and false alarms are the
    shares of the defective and of the good images that are rejected.

    Maps are test/<kind>/<stem> with .tiff, .tif, .npy or .png, one number a pixel, of any size; a score is their maximum.

    Example: patchcli eval --format jsonl | jq .image_auroc

    Example: patchcli eval --maps maps/ --metrics metrics.json

    Example: patchcli eval --store stores/
    """
    with Terminal(quiet, verbose) as terminal:
        terminal.check_format(form)
        from patchcli.verbs.evaluate import evaluate

        rows = evaluate(
            store,
            maps=maps,
            roi=roi,
            out=out,
            device=device,
            search=search,
            memory=options.memory(memory),
            threads=threads,
            mask_threshold=mask_threshold,
            large=large,
            observer=terminal,
        )
        empty = {key for key in ("kind", "image_recall", "image_false_alarms") if all(getattr(r, key) is None for r in rows)}
        terminal.write(rows, form, {key: heading for key, heading in COLUMNS.items() if key not in empty})
        if terminal.form(form) == "table":
            for note in dict.fromkeys(row.note for row in rows if row.note):
                terminal.note(note)
