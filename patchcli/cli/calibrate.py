"""patchcli calibrate."""

from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal

COLUMNS = {
    "threshold": "reject above", "review_threshold": "review above", "pixel_threshold": "pixel", "images": "images",
    "source": "source",
}  # fmt: skip


def calibrate(
    store: options.Store = options.STORE,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="holdout|validation|loo|PATH",
            help="Good images: those set aside by train --holdout, the data set's validation split, the bank's own each left "
            "out in turn, or files and folders (give --from again for more). [default: the first of these that there is]",
        ),
    ] = None,
    false_alarms: Annotated[
        str | None,
        typer.Option(
            "--false-alarms",
            metavar="RATE",
            help="Share of good images that may be rejected. [default: the least of 1, 2, 5, 10 and 20% that the images can "
            "promise]",
        ),
    ] = None,
    confidence: Annotated[str, typer.Option("--confidence", metavar="SHARE", help="Confidence of the promise.")] = "95%",
    review: Annotated[
        str | None,
        typer.Option("--review", metavar="RATE", help="A higher rate, such as 5%: what is above its threshold is for review."),
    ] = None,
    roi: options.Roi = None,
    mask_threshold: options.MaskThreshold = None,
    large: options.Large = False,
    form: options.Format = None,
    search: options.Search = "auto",
    memory: options.Memory = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Set thresholds from good images that the bank does not hold, for a promised rate of false alarms.

    The store keeps them; score then adds a verdict and a p-value to its records.

    Example: patchcli calibrate --false-alarms 1% --review 5%

    Example: patchcli calibrate --from more_good/ --false-alarms 5%
    """
    with Terminal(quiet, verbose, dry_run) as terminal:
        terminal.check_format(form)
        rate = None if false_alarms is None else options.share("--false-alarms", false_alarms)
        reviewed, limit = None if review is None else options.share("--review", review), options.memory(memory)
        from patchcli.verbs.calibrate import calibrate

        named = source[0] if source in (["holdout"], ["validation"], ["loo"]) else source
        record = calibrate(
            store,
            named,
            false_alarms=rate,
            confidence=options.share("--confidence", confidence),
            review=reviewed,
            roi=roi,
            mask_threshold=mask_threshold,
            large=large,
            device=device,
            search=search,
            memory=limit,
            threads=threads,
            observer=terminal,
        )
        terminal.note(f"{record.promise}; next: patchcli score")
        terminal.write([record], form, COLUMNS)
