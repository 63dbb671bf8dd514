"""Help pages: panels on a terminal, plain text in a pipe, the examples last and never wrapped."""

import os
import sys
from typing import Any

from typer.core import TyperCommand, TyperGroup

from patchcli.cli import text, usage

WIDEST = 120  # columns; longer lines are hard to read
NAMES = 28  # columns for the names of options; a longer name has its explanation in the next line
EXAMPLE = "Example: "  # begins a paragraph of a docstring
Rows = list[tuple[str, str]]


class Command(TyperCommand):
    """A verb."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        usage.refuse_empty(self, args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(self, ctx))


class Group(TyperGroup):
    """A command that has commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(self, ctx))


class Root(Group):
    """The whole command line. It remembers a wish for help, which no mistake in a settings file may prevent."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        ctx.obj = "--help" in args
        return super().parse_args(ctx, args)

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with usage.one_line():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with usage.one_line():
            return super().invoke(ctx)


def page(command: Any, ctx: Any) -> str:
    """The help page of a command: usage, what it does, commands, arguments, options, examples."""
    usage_line = " ".join(("Usage:", ctx.command_path, *command.collect_usage_pieces(ctx)))
    paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
    examples = [part.removeprefix(EXAMPLE) for part in paragraphs if part.startswith(EXAMPLE)]
    on_terminal = sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    width = min(text.columns(sys.stdout) or 80, WIDEST)
    room = width - 4 if on_terminal else width - 2
    bodies = _lines(commands(command), room) | _lines(parameters(command, ctx), room)
    lines = [*text.wrapped(usage_line, width, " " * 7)]
    for paragraph in paragraphs:
        if not paragraph.startswith(EXAMPLE):
            lines += ["", *(f"  {line}" for line in text.wrapped(paragraph, width - 4))]
    lines += ["", *(_panels(bodies, width) if on_terminal else _plain(bodies))]
    if examples:
        lines += ["Examples:", *(f"  {example}" for example in examples)]
    return "\n".join(lines)


def parameters(command: Any, ctx: Any) -> dict[str, Rows]:
    """Arguments and options with their explanations, below their headings."""
    rows: dict[str, Rows] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
        usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
        heading = getattr(parameter, "rich_help_panel", None) or usual
        rows.setdefault(heading, []).append((_name(parameter), _explanation(parameter)))
    return {heading: named for heading, named in rows.items() if named}


def commands(command: Any) -> dict[str, Rows]:
    """A group's commands and what each does, below their headings."""
    rows: dict[str, Rows] = {}
    for name, child in getattr(command, "commands", {}).items():
        rows.setdefault(child.rich_help_panel or "Commands", []).append((name, child.get_short_help_str(1000)))
    return rows


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    value = "" if getattr(parameter, "is_flag", True) else parameter.metavar or "|".join(usage.choices(parameter))
    return " ".join(filter(None, (", ".join(sorted(parameter.opts, key=len)), value)))


def _explanation(parameter: Any) -> str:
    notes = [f"env: {parameter.envvar}"] if parameter.envvar else []
    if parameter.default is not None and parameter.default is not False:
        notes.append(f"default: {parameter.default}")
    return f"{parameter.help} [{'; '.join(notes)}]" if notes else str(parameter.help)


def _lines(sections: dict[str, Rows], width: int) -> dict[str, Rows]:
    """The sections' lines: a name and a gap, as wide in all of them, and a part of the explanation."""
    names = [name for rows in sections.values() for name, _ in rows]
    column = max((len(name) for name in names if len(name) <= NAMES), default=NAMES)
    lines: dict[str, Rows] = {heading: [] for heading in sections}
    for heading, rows in sections.items():
        for name, explanation in rows:
            parts = text.wrapped(explanation, width - column - 2)
            if len(name) > column:
                lines[heading].append((name, ""))
                name = ""
            lines[heading] += [(f"{name if not n else '':{column}}  ", part) for n, part in enumerate(parts)]
    return lines


def _plain(bodies: dict[str, Rows]) -> list[str]:
    lines = []
    for heading, body in bodies.items():
        lines += [f"{heading}:", *(f"  {name}{explanation}".rstrip() for name, explanation in body), ""]
    return lines


def _panels(bodies: dict[str, Rows], width: int) -> list[str]:
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console(file=sys.stdout, width=width, force_terminal=True, highlight=False)
    with console.capture() as capture:
        for heading, body in bodies.items():
            inside = Text("\n").join(Text.assemble((name, "cyan"), explanation) for name, explanation in body)
            console.print(Panel(inside, title=heading, title_align="left", border_style="dim"))
    return capture.get().splitlines()
