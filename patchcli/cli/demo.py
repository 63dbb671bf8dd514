"""patchcli demo."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.eval import COLUMNS
from patchcli.cli.terminal import Terminal


def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for everything that the demo writes.")] = Path(
        "patchcli-demo"
    ),
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Training steps.")] = 100,
    form: options.Format = None,
    threads: options.Threads = None,
    seed: Annotated[int, options.SEED] = 0,
    *,
    messages: options.Planned,
) -> None:
    """Try every step on synthetic images of cloth and their defects.

    Writes a data set, a store, anomaly maps and an overview page.

    Example: patchcli demo
    """
    with Terminal(**vars(messages)) as terminal:
        terminal.check_output()
        from patchcli.verbs.demo import demo

        result = demo(folder, steps=steps, seed=seed, threads=threads, observer=terminal)
        terminal.write(result.rows, form, {key: COLUMNS[key] for key in COLUMNS if key != "kind"})
        terminal.note(f"open {result.page} in a browser; data set, store and maps are in the same folder")
