"""Text for a terminal: no character controls the terminal, and lines fit its width."""

import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

LEAST = 16  # width to which texts are shortened before a table loses a column
GAP = "  "


def visible(text: str, encoding: str = "utf-8") -> str:
    """The text with escapes for control characters, for marks that reorder a line, and for what the encoding lacks."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def cells(text: str) -> int:
    """Columns that a visible text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shortened(text: str, width: int, encoding: str = "utf-8") -> str:
    """A visible text, or an ellipsis and its end if the whole is wider than `width`."""
    if cells(text) <= width:
        return text
    mark = "…" if visible("…", encoding) == "…" else "..."
    while text and cells(mark + text) > width:
        text = text[1:]
    return mark + text


def padded(text: str, width: int, right: bool = False) -> str:
    """The text filled with spaces to a width."""
    space = " " * (width - cells(text))
    return space + text if right else text + space


def wrapped(text: str, width: int, hanging: str = "") -> list[str]:
    """Lines of a text, broken between words; all but the first begin with `hanging`."""
    return textwrap.wrap(text, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)


def columns(stream: TextIO | None) -> int | None:
    """Columns of the terminal, or of the variable COLUMNS; None if the stream is no terminal, or closed."""
    if os.environ.get("COLUMNS", "").isdecimal() and int(os.environ["COLUMNS"]):
        return int(os.environ["COLUMNS"])
    if stream is None or not stream.isatty():
        return None
    return os.get_terminal_size(stream.fileno()).columns or shutil.get_terminal_size().columns


def cell(value: Any) -> str:
    """How a table shows a value."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return str(len(value))
    if isinstance(value, dict):
        items = {key: "+".join(map(str, item)) if isinstance(item, list) else cell(item) for key, item in value.items()}
        return ", ".join(f"{key} {item}" for key, item in items.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(
    rows: Sequence[Mapping[str, Any]], headings: Mapping[str, str], width: int | None, encoding: str = "utf-8"
) -> list[str]:
    """Lines of a table, the heading first. `headings`: key → heading, the most important first.

    A table wider than `width` loses its last columns, and its texts (ids, paths) lose their beginning.
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


def pairs(values: Mapping[str, Any], width: int | None, encoding: str = "utf-8") -> list[str]:
    """Lines with a key and its value; long values continue on the next line, broken between words."""
    left = max(map(cells, values)) + len(GAP)
    room = None if width is None else max(LEAST, width - left)
    lines = []
    for key, value in values.items():
        text = visible(cell(value), encoding)
        parts = [text] if room is None else wrapped(text, room)
        shown = [part if room is None else shortened(part, room, encoding) for part in parts or [""]]
        lines += [padded(key if not n else "", left) + part for n, part in enumerate(shown)]
    return lines
