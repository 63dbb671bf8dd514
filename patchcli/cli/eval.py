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
        typer.Option("--maps", metavar="DIR", help="Evaluate the maps in this folder (of score --out or another tool)."),
    ] = None,
    metrics_out: Annotated[
        Path | None,
        typer.Option("--metrics", metavar="FILE", help="Write all figures to this .json file, as one nested object (for DVC)."),
    ] = None,
    form: options.Format = None,
    *,
    images: options.Images,
    search: options.Search,
    workers: options.Searchers,
    messages: options.Messages,
) -> None:
    """Compare scores and maps with the labels of the test images.

    For one store: figures for each map, and for each kind of defect. For a folder of stores, one per class: figures for
    each class, and their mean. Tables show AUROC, AUPRO (limits 0.3 and 0.05) and AP; JSON Lines also have F1-max at the
    oracle threshold and 95% bootstrap intervals. With a calibration, recall and false alarms are the shares of defective
    and of good images that are rejected.

    --maps reads test/KIND/STEM with the suffix .tiff, .tif, .npy or .png: one number per pixel, any size. The score of
    an image is the maximum of its map.

    Example: patchcli eval --format jsonl | jq .image_auroc

    Example: patchcli eval --maps maps/ --metrics metrics.json

    Example: patchcli eval --store stores/
    """
    with Terminal(**vars(messages)) as terminal:
        terminal.check_output()
        from patchcli.verbs.evaluate import evaluate

        rows = evaluate(
            store,
            maps=maps,
            metrics_out=metrics_out,
            mask_threshold=images.mask_threshold,
            cluster=workers.cluster(),
            setup=options.setup(search, images),
            observer=terminal,
        )
        empty = {key for key in ("kind", "image_recall", "image_false_alarms") if all(getattr(r, key) is None for r in rows)}
        terminal.write(rows, form, {key: heading for key, heading in COLUMNS.items() if key not in empty})
        if terminal.form(form) == "table":
            for note in dict.fromkeys(row.note for row in rows if row.note):
                terminal.note(note)
