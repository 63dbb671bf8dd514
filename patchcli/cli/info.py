"""patchcli info."""

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def info(
    store: options.Store = options.STORE,
    form: options.Format = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Say what is in a store, and what is still to do.

    Example: patchcli info --store grid.zarr
    """
    with Terminal(quiet, verbose) as terminal:
        terminal.check_format(form)
        from patchcli.pipeline.info import info

        found = info(store)
        if terminal.form(form) == "table":
            terminal.write_pairs({key: value for key, value in found.items() if value is not None})
        else:
            terminal.write([found], form, {})
