"""patchcli calibrate."""

from dataclasses import dataclass
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal

COLUMNS = {
    "threshold": "reject above", "review_threshold": "review above", "pixel_threshold": "pixel", "images": "images",
    "source": "source",
}  # fmt: skip


@dataclass(frozen=True)
class Guarantee:
    """What the thresholds guarantee."""

    false_alarms: Annotated[
        float | None,
        typer.Option(
            "--false-alarms",
            metavar="RATE",
            parser=options.share,
            help="Share of good images that may be rejected. [default: the lowest of 1, 2, 5, 10 and 20% that the number of "
            "images can guarantee]",
        ),
    ] = None
    confidence: Annotated[
        float, typer.Option("--confidence", metavar="SHARE", parser=options.share, help="Confidence of the guarantee.")
    ] = 0.95
    review: Annotated[
        float | None,
        typer.Option(
            "--review",
            metavar="RATE",
            parser=options.share,
            help="Higher rate, such as 5%, for a second threshold; images between the two get the verdict review.",
        ),
    ] = None


def calibrate(
    store: options.Store = options.STORE,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="Good images: holdout (those of train --holdout), validation (that split of the data set), loo (the "
            "images in the bank, each scored against the others), or a file or folder (may be repeated). "
            "[default: the first of holdout, validation and loo that exists]",
        ),
    ] = None,
    form: options.Format = None,
    *,
    guarantee: Guarantee,
    images: options.Images,
    search: options.Search,
    workers: options.Searchers,
    messages: options.Planned,
) -> None:
    """Set thresholds that guarantee a rate of false alarms.

    Needs good images that are not in the bank. The store keeps the thresholds; score then adds a verdict and a p-value
    to its records.

    Example: patchcli calibrate --false-alarms 1% --review 5%

    Example: patchcli calibrate --from more_good/ --false-alarms 5%
    """
    with Terminal(**vars(messages)) as terminal:
        terminal.check_output()
        from patchcli.verbs.calibrate import calibrate

        calibration = calibrate(
            store,
            source[0] if source in (["holdout"], ["validation"], ["loo"]) else source,
            **vars(guarantee),
            cluster=workers.cluster(),
            setup=options.setup(search, images),
            observer=terminal,
        )
        terminal.note(f"{calibration.promise}; next: patchcli score")
        terminal.write([calibration], form, COLUMNS)
