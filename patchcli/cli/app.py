"""The verbs, put together."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from patchcli.cli.bank import bank
from patchcli.cli.calibrate import calibrate
from patchcli.cli.config import defaults
from patchcli.cli.data import data
from patchcli.cli.demo import demo
from patchcli.cli.embed import embed
from patchcli.cli.eval import evaluate
from patchcli.cli.extract import extract
from patchcli.cli.import_weights import import_weights
from patchcli.cli.info import info
from patchcli.cli.report import report
from patchcli.cli.score import score
from patchcli.cli.terminal import Terminal
from patchcli.cli.train import train
from patchcli.cli.watch import watch


class _Group(TyperGroup):
    """Notes whether help is asked for, which a mistake in a settings file is no reason to refuse."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        ctx.obj = "--help" in args
        return super().parse_args(ctx, args)


# Plain help texts: rich markup would double the time that --help takes.
app = typer.Typer(name="patchcli", cls=_Group, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _version(asked: bool) -> None:
    if asked:
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
    """Find defects in images when only good images are at hand (Patch SVDD).

    Options can stand in patchcli.toml, or below [tool.patchcli] in pyproject.toml, here or in a folder above: at the top
    for all commands, in a table for one ([train], [bank.add]). Flags come before the environment, that before the file.

    Example: patchcli train ./mvtec/grid && patchcli embed && patchcli score --out maps/
    """
    if not context.resilient_parsing and not context.obj:
        with Terminal():
            context.default_map = defaults(context)


app.command()(data)
app.command()(extract)
app.command()(train)
app.command()(embed)
app.command()(calibrate)
app.command()(score)
app.command()(watch)
app.command()(report)
app.add_typer(bank, name="bank")
app.command(name="eval")(evaluate)
app.command(name="import")(import_weights)
app.command()(info)
app.command()(demo)
