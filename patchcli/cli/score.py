"""patchcli score."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from patchcli.cli import options
from patchcli.cli.terminal import REJECTED, Terminal

if TYPE_CHECKING:
    from patchcli.detection.records import Record

SubmissionName = Literal["mvtec-ad-2"]
COLUMNS = {
    "image": "image", "score": "score", "verdict": "verdict", "peak_x": "peak x", "peak_y": "peak y", "regions": "regions",
    "nearest_image": "nearest normal", "nearest_x": "x", "nearest_y": "y", "p_value": "p-value", "map": "map",
}  # fmt: skip


ExitCode = Annotated[
    bool, typer.Option("--exit-code", help="Exit with status 1 if an image is rejected; needs patchcli calibrate first.")
]


@dataclass(frozen=True)
class Files:
    """Which files are written."""

    out: options.Out = None
    overlay: Annotated[
        bool, typer.Option("--overlay", help="With --out: also write heat maps as PNG, with the outline of the mask in red.")
    ] = False
    regions_out: Annotated[
        Path | None,
        typer.Option("--regions", metavar="FILE", help="Write the regions of all images to this .csv or .json (COCO) file."),
    ] = None
    submission: Annotated[
        SubmissionName | None,
        typer.Option(
            "--submission", help="With --out: write what the benchmark's server expects, from its private test images."
        ),
    ] = None


def score(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATHS", help="Images and folders; - reads paths from standard input. [default: the test images]"
        ),
    ] = None,
    *,
    null: options.Null = False,
    store: options.Store = options.STORE,
    written: Files,
    exit_code: ExitCode = False,
    form: options.Format = None,
    part: options.Part = None,
    regions: options.Regions,
    search: options.Search,
    workers: options.Searchers,
    messages: options.Planned,
) -> None:
    """Score images; print one record per image.

    With a calibration, a record also has a verdict (pass, review or reject), a p-value, and regions: connected areas
    above the pixel threshold.

    Example: patchcli score --out maps/ --overlay

    Example: ls new/*.png | patchcli score - | jq -r 'select(.verdict=="reject").image'

    Example: find line3 -name '*.png' -print0 | patchcli score -0 -

    Example: patchcli score --submission mvtec-ad-2 --out submission/

    Example: patchcli score --part 3/40 --out maps/ > 3.jsonl

    Example: patchcli score --min-area 20 --roi part.png --regions regions.csv
    """
    verdicts: set[str | None] = set()
    with Terminal(**vars(messages)) as terminal:
        terminal.check_output()
        from patchcli.detection.detector import BATCH
        from patchcli.verbs.outputs import Outputs
        from patchcli.verbs.score import score

        piped = paths == ["-"]
        records = score(
            store,
            options.listed(null) if piped else paths or None,
            outputs=Outputs(**vars(written)),
            regions=regions.options(),
            batch=1 if piped else BATCH,
            calibrated=exit_code,
            mask_threshold=regions.mask_threshold,
            part=None if part is None else options.part(part),
            cluster=workers.cluster(),
            setup=options.setup(search, regions),
            observer=terminal,
        )
        terminal.write(_noted(records, verdicts), form, COLUMNS)
    if exit_code and "reject" in verdicts:
        raise typer.Exit(REJECTED)


def _noted(records: "Iterable[Record]", verdicts: set[str | None]) -> "Iterator[Record]":
    """The same records; their verdicts are collected."""
    for record in records:
        verdicts.add(record.verdict)
        yield record
