"""Text for a terminal: no character of it acts on the terminal, and it has the width that is there."""

import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

LEAST = 16  # columns that a text is shortened to before a column of a table is left out
GAP = "  "


def visible(text: str, encoding: str = "utf-8") -> str:
    """The text with escapes for control characters, marks that reorder a line, and what the encoding does not have."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def cells(text: str) -> int:
    """How many columns a visible text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shortened(text: str, width: int, encoding: str = "utf-8") -> str:
    """The end of a visible text, behind an ellipsis, where all of it is wider than `width`."""
    if cells(text) <= width:
        return text
    mark = "…" if visible("…", encoding) == "…" else "..."
    while text and cells(mark + text) > width:
        text = text[1:]
    return mark + text


def padded(text: str, width: int, right: bool = False) -> str:
    """The text with spaces up to a width."""
    space = " " * (width - cells(text))
    return space + text if right else text + space


def columns(stream: TextIO) -> int | None:
    """Columns of the stream's terminal; None where it is none, unless COLUMNS says."""
    if os.environ.get("COLUMNS", "").isdecimal() and int(os.environ["COLUMNS"]):
        return int(os.environ["COLUMNS"])
    if not stream.isatty():
        return None
    return os.get_terminal_size(stream.fileno()).columns or shutil.get_terminal_size().columns


def cell(value: Any) -> str:
    """A table's text for a value."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return str(len(value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(item)}" for key, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(
    rows: Sequence[Mapping[str, Any]], headings: Mapping[str, str], width: int | None, encoding: str = "utf-8"
) -> list[str]:
    """Lines of a table, the heading first; `headings` are of the keys to show, the most important first.

    Where it is wider than `width`, the last columns are left out, and texts (ids, paths) lose their beginning.
    """
    grid = [[visible(cell(row[key]), encoding) for key in headings] for row in rows]
    numeric = [any(isinstance(row[key], int | float | list) for row in rows) for key in headings]
    widths = [max(map(cells, column)) for column in zip(headings.values(), *grid, strict=True)]
    if width is not None:
        least = [own if number else min(own, max(LEAST, cells(heading)))
                 for own, number, heading in zip(widths, numeric, headings.values(), strict=True)]  # fmt: skip
        while len(least) > 1 and sum(least) + len(GAP) * (len(least) - 1) > width:
            least.pop()
        widths = widths[: len(least)]
        while sum(widths) + len(GAP) * (len(widths) - 1) > width and widths != least:
            widest = max((n for n in range(len(widths)) if widths[n] > least[n]), key=widths.__getitem__)
            widths[widest] -= 1
    lines = []
    for texts in (list(headings.values()), *grid):
        parts = zip(texts, widths, numeric, strict=False)
        lines.append(GAP.join(padded(shortened(t, own, encoding), own, number) for t, own, number in parts).rstrip())
    return lines


def pairs(found: Mapping[str, Any], width: int | None, encoding: str = "utf-8") -> list[str]:
    """A line or more for each key and value: long values go on in the next line, between words."""
    left = max(map(cells, found)) + len(GAP)
    room = None if width is None else max(LEAST, width - left)
    lines = []
    for key, value in found.items():
        text = visible(cell(value), encoding)
        parts = [text] if room is None else textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
        shown = [part if room is None else shortened(part, room, encoding) for part in parts or [""]]
        lines += [padded(key if not n else "", left) + part for n, part in enumerate(shown)]
    return lines
