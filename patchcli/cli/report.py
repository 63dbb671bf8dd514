"""patchcli report."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def report(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Images and folders. [default: the data set's test images]")
    ] = None,
    store: options.Store = options.STORE,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="Where the page goes.")] = Path("report.html"),
    limit: Annotated[int, typer.Option("--limit", help="Images on the page, those with the highest scores.")] = 200,
    roi: options.Roi = None,
    min_area: options.MinArea = 1,
    mm_per_pixel: options.MmPerPixel = None,
    mask_threshold: options.MaskThreshold = None,
    large: options.Large = False,
    search: options.Search = "auto",
    memory: options.Memory = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Score images and write one HTML page to show a colleague; it needs no network and no other file.

    Figures, scores with the threshold, ROC, and for each image its map, its regions and the nearest normal patch.

    Example: patchcli report --out grid.html

    Example: patchcli report new/ --limit 50
    """
    with Terminal(quiet, verbose) as terminal:
        from patchcli.verbs.report import write_report

        page = write_report(
            store,
            paths or None,
            out=out,
            limit=limit,
            roi=roi,
            mask_threshold=mask_threshold,
            large=large,
            min_area=min_area,
            mm_per_pixel=mm_per_pixel,
            search=search,
            memory=options.memory(memory),
            device=device,
            threads=threads,
            observer=terminal,
        )
        terminal.note(f"{page} is written")
