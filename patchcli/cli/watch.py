"""patchcli watch."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def watch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder in which images arrive, or in folders below it.")],
    store: options.Store = options.STORE,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="FILE.jsonl",
            help="Append records to this file; images that it contains are not scored again. [default: a file for this folder "
            "and store in ~/.local/state/patchcli]",
        ),
    ] = None,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", help="Time between two looks at the folder.")] = 1.0,
    out: options.Out = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="With --out: also write heat maps as PNG; needs patchcli calibrate first.")
    ] = False,
    *,
    regions: options.Regions,
    search: options.Search,
    messages: options.Messages,
) -> None:
    """Score images as they arrive in a folder.

    Prints one JSON record per line. An image is scored once its file has not changed between two looks and can be
    decoded; a file that changes later is scored again. Ctrl-C or SIGTERM ends the watch after the current image, with
    status 0 unless an image was left out. After a restart, images without a record in the log are scored.

    Example: patchcli watch /mnt/camera | jq -r 'select(.verdict=="reject").file'
    """
    with Terminal(**vars(messages), again="run again to score the images that have no record") as terminal:
        terminal.check_output()
        from patchcli.verbs.outputs import Outputs
        from patchcli.verbs.watch import watch

        records = watch(
            folder,
            store,
            log=log,
            every=every,
            outputs=Outputs(out, overlay),
            regions=regions.options(),
            mask_threshold=regions.mask_threshold,
            setup=options.setup(search, regions),
            observer=terminal,
        )
        terminal.write(records, "jsonl", {})
