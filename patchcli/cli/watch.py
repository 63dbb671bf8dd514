"""patchcli watch."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def watch(
    folder: Annotated[Path, typer.Argument(help="Where images arrive; folders below it count too.")],
    store: options.Store = options.STORE,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="FILE.jsonl",
            help="Append the records here; what it holds is never scored again. [default: a file of this folder and store "
            "below ~/.local/state/patchcli]",
        ),
    ] = None,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", help="Between two looks at the folder.")] = 1.0,
    out: Annotated[Path | None, typer.Option("--out", help="Write float32 TIFF anomaly maps below this folder.")] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="With --out: heat maps as PNG too; needs patchcli calibrate before.")
    ] = False,
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
    """Score images as they arrive in a folder: a JSON record a line, as it happens.

    An image is taken when its file did not change between two looks and can be decoded; one that is overwritten is scored
    again. Ctrl-C or SIGTERM end it after the running image, with exit status 0 unless something was left out. After a
    restart, or a kill, it goes on with what has no record in the log.

    Example: patchcli watch /mnt/camera --log line3.jsonl | jq -r 'select(.verdict == "reject") | .file'
    """
    with Terminal(quiet, verbose, again="run again to go on with what has no record") as terminal:
        terminal.check_format("jsonl")
        from patchcli.verbs.watch import watch

        records = watch(
            folder,
            store,
            log=log,
            every=every,
            out=out,
            overlay=overlay,
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
        terminal.write(records, "jsonl", {})
