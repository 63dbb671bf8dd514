"""patchcli demo."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.eval import COLUMNS
from patchcli.cli.terminal import Terminal


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for all that the demo makes.")] = Path("patchcli-demo"),
    steps: Annotated[int | None, typer.Option("--steps", help="Training steps. [default: 150]")] = None,
    seed: options.Seed = None,
    form: options.Format = None,
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Make a small woven-texture data set with defects, run every step on it and write an overview page.

    Example: patchcli demo
    """
    with Terminal(quiet, verbose, dry_run) as terminal:
        terminal.check_format(form)
        from patchcli.verbs.demo import STEPS, demo

        wanted = STEPS if steps is None else steps
        result = demo(folder, steps=wanted, seed=seed or 0, threads=threads, observer=terminal)
        terminal.write(result.rows, form, {key: COLUMNS[key] for key in COLUMNS if key != "kind"})
        terminal.note(f"open {result.page} in a browser; the data set, the store and the maps are beside it")
