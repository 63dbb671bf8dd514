"""patchcli bank: the good images in it."""

from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.help import Command, Group
from patchcli.cli.terminal import Terminal

LIST_COLUMNS = {
    "image": "image",
    "width": "width",
    "height": "height",
    "vectors_big": "big",
    "vectors_small": "small",
    "vectors_fixed": "fixed",
    "vectors_pretrained": "pretrained",
}
AUDIT_COLUMNS = {
    "image": "image", "score": "score", "deviation": "deviation", "peak_x": "peak x", "peak_y": "peak y",
    "nearest_image": "nearest other", "nearest_x": "x", "nearest_y": "y",
}  # fmt: skip

bank = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, audit, remove or add good images of the bank.\n\nExample: patchcli bank audit",
)


@bank.command("list", cls=Command)
@options.bundled
def list_images(store: options.Store = options.STORE, form: options.Format = None, *, messages: options.Messages) -> None:
    """List the images in the bank and how many vectors each has.

    Example: patchcli bank list --format csv
    """
    with Terminal(**vars(messages)) as terminal:
        terminal.check_output()
        from patchcli.verbs.bank_list import bank_list

        terminal.write(bank_list(store), form, LIST_COLUMNS)


@bank.command(cls=Command)
@options.bundled
def audit(
    store: options.Store = options.STORE,
    form: options.Format = None,
    *,
    search: options.Search,
    workers: options.Searchers,
    messages: options.Messages,
) -> None:
    """Score every good image against the others, to find bad ones.

    The most anomalous images come first; look at those with a deviation above about 5.

    Example: patchcli bank audit | head -3 | jq -r .image
    """
    with Terminal(**vars(messages)) as terminal:
        terminal.check_output()
        from patchcli.verbs.audit import audit

        audited = audit(store, cluster=workers.cluster(), setup=options.setup(search), observer=terminal)
        terminal.write(audited, form, AUDIT_COLUMNS)


@bank.command(cls=Command)
@options.bundled
def remove(
    names: Annotated[
        list[str], typer.Argument(metavar="IMAGES", help="Ids as `bank list` prints them, or paths; - reads them from stdin.")
    ],
    null: options.Null = False,
    store: options.Store = options.STORE,
    *,
    budget: options.Budget,
    messages: options.Planned,
) -> None:
    """Remove images from the store and its bank.

    The other images are not embedded again, and no image file is deleted. The encoder stays as it is: if it must not
    have seen an image, train again.

    Example: patchcli bank remove train/good/017.png
    """
    with Terminal(**vars(messages)) as terminal:
        from patchcli.verbs.bank_edit import bank_remove

        edited = bank_remove(store, _named(names, null), observer=terminal, **vars(budget))
        terminal.note(f"the bank holds {edited.images} images")


@bank.command(cls=Command)
@options.bundled
def add(
    paths: Annotated[list[str], typer.Argument(metavar="PATHS", help="Good images and folders; - reads them from stdin.")],
    null: options.Null = False,
    store: options.Store = options.STORE,
    force: Annotated[
        bool, typer.Option("--force", help="Also add test images of the data set, even those labelled as defective.")
    ] = False,
    *,
    budget: options.Budget,
    messages: options.Planned,
) -> None:
    """Add good images to the store and its bank.

    The other images are not embedded again.

    Example: patchcli bank add new_shift/*.png
    """
    with Terminal(**vars(messages)) as terminal:
        from patchcli.verbs.bank_edit import bank_add

        edited = bank_add(store, _named(paths, null), force=force, observer=terminal, **vars(budget))
        terminal.note(f"the bank holds {edited.images} images ({edited.embedded} embedded now)")


def _named(arguments: list[str], null: bool) -> list[str]:
    """The arguments, or for - the names on standard input."""
    return list(options.listed(null)) if arguments == ["-"] else arguments
