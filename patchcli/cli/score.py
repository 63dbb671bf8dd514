"""patchcli score."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import REJECTED, Terminal

COLUMNS = {
    "image": "image", "score": "score", "verdict": "verdict", "peak_x": "peak x", "peak_y": "peak y", "regions": "regions",
    "nearest_image": "nearest normal", "nearest_x": "x", "nearest_y": "y", "p_value": "p-value", "map": "map",
}  # fmt: skip


def score(
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Images and folders; - reads paths from standard input. [default: the data set's test images]"),
    ] = None,
    null: options.Null = False,
    store: options.Store = options.STORE,
    out: Annotated[Path | None, typer.Option("--out", help="Write float32 TIFF anomaly maps below this folder.")] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="With --out: heat maps as PNG too, the mask's outline in red.")
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 where an image was rejected; needs patchcli calibrate before.")
    ] = False,
    roi: options.Roi = None,
    min_area: options.MinArea = 1,
    mm_per_pixel: options.MmPerPixel = None,
    regions: Annotated[
        Path | None, typer.Option("--regions", help="Write the regions of all images into this .csv or .json (COCO) file.")
    ] = None,
    submission: Annotated[
        str | None,
        typer.Option("--submission", help="mvtec-ad-2: with --out, what that benchmark's server takes, of its private images."),
    ] = None,
    form: options.Format = None,
    mask_threshold: options.MaskThreshold = None,
    large: options.Large = False,
    search: options.Search = "auto",
    memory: options.Memory = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Score images: a record an image on standard output, and anomaly maps with --out.

    Where the store is calibrated, a record has a verdict (pass, review or reject), a p-value, and the regions: connected
    areas above the pixel threshold, which --min-area, --mm-per-pixel and --regions are about.

    Example: patchcli score --out maps/ --overlay

    Example: ls line3/*.png | patchcli score - | jq -r 'select(.verdict == "reject") | .image'

    Example: find line3 -name '*.png' -print0 | patchcli score -0 -

    Example: patchcli score --submission mvtec-ad-2 --out submission/

    Example: patchcli score --min-area 20 --mm-per-pixel 0.05 --roi part.png --regions regions.csv
    """
    rejected = False
    with Terminal(quiet, verbose, dry_run) as terminal:
        terminal.check_format(form)
        from patchcli.verbs.score import BATCH, Record, score

        piped = paths == ["-"]
        given: Iterable[str] | None = paths or None
        if piped:
            given = options.listed(null)
        records = score(
            store,
            given,
            out=out,
            overlay=overlay,
            batch=1 if piped else BATCH,
            device=device,
            search=search,
            memory=options.memory(memory),
            threads=threads,
            calibrated=exit_code,
            roi=roi,
            mask_threshold=mask_threshold,
            large=large,
            min_area=min_area,
            mm_per_pixel=mm_per_pixel,
            regions_out=regions,
            submission=submission,
            observer=terminal,
        )

        def watched() -> Iterator[Record]:
            nonlocal rejected
            for record in records:
                rejected |= record.verdict == "reject"
                yield record

        terminal.write(watched(), form, COLUMNS)
    if exit_code and rejected:
        raise typer.Exit(REJECTED)
