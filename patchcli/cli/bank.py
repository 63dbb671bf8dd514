"""patchcli bank: what it holds, image by image."""

from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal

LIST_COLUMNS = {"image": "image", "width": "width", "height": "height", "vectors_big": "big", "vectors_small": "small"}
AUDIT_COLUMNS = {
    "image": "image", "score": "score", "deviation": "deviation", "peak_x": "peak x", "peak_y": "peak y",
    "nearest_image": "nearest other", "nearest_x": "x", "nearest_y": "y",
}  # fmt: skip

bank = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, audit, remove and add the good images of the bank.\n\nExample: patchcli bank audit",
)


@bank.command("list")
def list_images(
    store: options.Store = options.STORE,
    form: options.Format = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """List the images that the bank holds, with the vectors kept of each.

    Example: patchcli bank list --format csv
    """
    with Terminal(quiet, verbose) as terminal:
        terminal.check_format(form)
        from patchcli.verbs.bank import bank_list

        terminal.write(bank_list(store), form, LIST_COLUMNS)


@bank.command()
def audit(
    store: options.Store = options.STORE,
    form: options.Format = None,
    search: options.Search = "auto",
    memory: options.Memory = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Score every good image against all others, so that a bad one among them is found.

    The most anomalous come first; a deviation above 5 or so deserves a look.

    Example: patchcli bank audit | head -3 | jq -r .image
    """
    with Terminal(quiet, verbose) as terminal:
        terminal.check_format(form)
        from patchcli.verbs.bank import audit

        records = audit(store, search=search, memory=options.memory(memory), device=device, threads=threads, observer=terminal)
        terminal.write(records, form, AUDIT_COLUMNS)


@bank.command()
def remove(
    names: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Ids as `bank list` prints, or paths; - reads them from stdin.")
    ],
    null: options.Null = False,
    store: options.Store = options.STORE,
    memory: options.Memory = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Take images out of the store and its bank; the others are not embedded again.

    The image files stay where they are. The encoder is as it was: train again where it must not have seen the image.

    Example: patchcli bank remove train/good/017.png
    """
    with Terminal(quiet, verbose, dry_run) as terminal:
        from patchcli.verbs.bank import bank_remove

        done = bank_remove(
            store, _given(names, null), memory=options.memory(memory), device=device, threads=threads, observer=terminal
        )
        terminal.note(f"the bank holds {done.images} images")


@bank.command()
def add(
    paths: Annotated[list[str], typer.Argument(metavar="PATHS...", help="Good images and folders; - reads them from stdin.")],
    null: options.Null = False,
    store: options.Store = options.STORE,
    force: Annotated[
        bool, typer.Option("--force", help="Add test images of the data set too, and those it labels as defective.")
    ] = False,
    memory: options.Memory = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Put more good images into the store and its bank; the others are not embedded again.

    Example: patchcli bank add new_shift/*.png
    """
    with Terminal(quiet, verbose, dry_run) as terminal:
        from patchcli.verbs.bank import bank_add

        done = bank_add(
            store,
            _given(paths, null),
            force=force,
            memory=options.memory(memory),
            device=device,
            threads=threads,
            observer=terminal,
        )
        terminal.note(f"the bank holds {done.images} images ({done.embedded} embedded now)")


def _given(arguments: list[str], null: bool) -> list[str]:
    """The arguments, or the names on standard input where they are -."""
    return list(options.listed(null)) if arguments == ["-"] else arguments
