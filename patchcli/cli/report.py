"""patchcli report."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def report(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATHS", help="Images and folders. [default: the test images]")
    ] = None,
    store: options.Store = options.STORE,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="Where to write the page.")] = Path("report.html"),
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", help="Show the N images with the highest scores on the page.")
    ] = 200,
    *,
    regions: options.Regions,
    search: options.Search,
    workers: options.Searchers,
    messages: options.Messages,
) -> None:
    """Score images and write one HTML page about them.

    The page needs no network and no other file. It shows figures, a histogram of the scores with the threshold, the ROC
    curve, and for each image its map, its regions and the nearest normal patch.

    Example: patchcli report --out grid.html

    Example: patchcli report new/ --limit 50
    """
    with Terminal(**vars(messages)) as terminal:
        from patchcli.verbs.report import write_report

        page = write_report(
            store,
            paths or None,
            out=out,
            limit=limit,
            regions=regions.options(),
            mask_threshold=regions.mask_threshold,
            cluster=workers.cluster(),
            setup=options.setup(search, regions),
            observer=terminal,
        )
        terminal.note(f"wrote {page}")
