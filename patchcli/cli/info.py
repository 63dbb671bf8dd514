"""patchcli info."""

from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def info(
    store: options.Store = options.STORE,
    check: Annotated[
        bool, typer.Option("--check", help="Read everything, and name what is damaged and how to repair it.")
    ] = False,
    form: options.Format = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Say what is in a store, and what is still to do.

    Example: patchcli info --store grid.zarr

    Example: patchcli info --check
    """
    with Terminal(quiet, verbose) as terminal:
        terminal.check_format(form)
        from patchcli.verbs.info import info

        found = info(store, check)
        if check:
            terminal.note(f"{store}: everything was read, nothing is damaged")
        if terminal.form(form) == "table":
            terminal.write_pairs({key: value for key, value in found.items() if value is not None})
        else:
            terminal.write([found], form, {})
