"""The verbs, put together."""

from collections.abc import Callable
from typing import Annotated

import typer

from patchcli.cli.bank import bank
from patchcli.cli.calibrate import calibrate
from patchcli.cli.config import defaults
from patchcli.cli.data import data
from patchcli.cli.demo import demo
from patchcli.cli.embed import embed
from patchcli.cli.eval import evaluate
from patchcli.cli.export import export
from patchcli.cli.extract import extract
from patchcli.cli.help import Command, Root
from patchcli.cli.import_weights import import_weights
from patchcli.cli.info import info
from patchcli.cli.options import bundled
from patchcli.cli.report import report
from patchcli.cli.score import score
from patchcli.cli.terminal import Terminal
from patchcli.cli.train import train
from patchcli.cli.verify import verify
from patchcli.cli.watch import watch

# Headings of the help page, and the commands below them.
GROUPS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    "Learn": {"data": data, "extract": extract, "train": train, "import": import_weights, "embed": embed},
    "Detect": {"score": score, "watch": watch, "export": export},
    "Judge": {"calibrate": calibrate, "eval": evaluate, "report": report},
    "Maintain": {"info": info, "verify": verify, "bank": bank},
    "Try": {"demo": demo},
}

app = typer.Typer(name="patchcli", cls=Root, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
for heading, verbs in GROUPS.items():
    for name, verb in verbs.items():
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, name=name, rich_help_panel=heading)
        else:
            app.command(name, cls=Command, rich_help_panel=heading)(bundled(verb))


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("patchcli"))
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find defects in images when all you have is images of good parts (Patch SVDD).

    Set defaults in patchcli.toml, or below [tool.patchcli] in pyproject.toml, in this folder or one above: at the top for
    all commands, in a table ([train], [bank.add]) for one. Precedence: flags, then environment, then file.

    Example: patchcli train ./mvtec/grid && patchcli embed && patchcli score --out maps/
    """
    if not context.resilient_parsing and not context.obj:
        with Terminal():
            context.default_map = defaults(context)
