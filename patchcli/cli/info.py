"""patchcli info."""

from dataclasses import asdict
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.shell import in_shell
from patchcli.cli.terminal import Terminal


def info(
    store: options.Store = options.STORE,
    check: Annotated[bool, typer.Option("--check", help="Read everything; name what is damaged and how to repair it.")] = False,
    form: options.Format = None,
    *,
    messages: options.Messages,
) -> None:
    """Show what a store contains and what to do next.

    Example: patchcli info --store grid.zarr

    Example: patchcli info --check
    """
    with Terminal(**vars(messages)) as terminal:
        terminal.check_output()
        from patchcli.verbs.info import info

        contents = asdict(info(store, check))
        contents["next"] = in_shell(f"`{contents['next']}`")
        if check:
            terminal.note(f"{store}: read completely, no damage")
        if terminal.form(form) == "table":
            terminal.write_pairs({key: value for key, value in contents.items() if value is not None})
        else:
            terminal.write([contents], form, {})
