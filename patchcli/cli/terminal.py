"""What a verb says: data on standard output, everything else on standard error, and the exit status."""

import csv
import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer

from patchcli.errors import Ended, InputError, PatchcliError
from patchcli.observer import Observer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FORMATS = ("table", "jsonl", "csv")
REJECTED, BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


class Terminal(Observer):
    """One verb's run: `with Terminal(quiet, verbose) as terminal`. Errors within become one line and exit status 2."""

    def __init__(self, quiet: bool = False, verbose: bool = False, dry_run: bool = False) -> None:
        self.quiet, self.verbose, self.dry = quiet, verbose, dry_run
        self.problems = 0
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    # ---- standard error -----------------------------------------------------------------------------------------

    def progress(self, task: str, done: float, total: float | None, detail: str = "") -> None:
        """Draw a bar, where standard error is a terminal."""
        if self.quiet or not sys.stderr.isatty():
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            text = TextColumn("[dim]{task.fields[detail]}", markup=True)
            console = Console(stderr=True)
            self._progress = Progress(*columns, TimeRemainingColumn(), text, console=console, transient=True)
            self._progress.start()
        if task not in self._tasks:
            self._tasks[task] = self._progress.add_task(task, detail="")
        self._progress.update(self._tasks[task], completed=done, total=total, detail=detail)

    def problem(self, line: str) -> None:
        """An input that is left out: said at once, and exit status 2 at the end."""
        self.problems += 1
        self._write(f"patchcli: left out: {line}")

    def note(self, line: str) -> None:
        """Said unless --quiet."""
        if not self.quiet:
            self._write(f"patchcli: {line}")

    def detail(self, line: str) -> None:
        """Said with --verbose."""
        if self.verbose:
            self._write(f"patchcli: {line}")

    def plan(self, reads: str, writes: str, disk: int = 0) -> None:
        """Said under --dry-run, which ends here."""
        if self.dry:
            from patchcli.runtime import megabytes

            self.note(f"would read {reads}")
            self.note(f"would write {writes}{f' (about {megabytes(disk)})' if disk else ''}")
        super().plan(reads, writes, disk)

    def _write(self, line: str) -> None:
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr)

    def close(self) -> None:
        """Take the bars away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress, self._tasks = None, {}

    # ---- standard output ----------------------------------------------------------------------------------------

    def check_format(self, form: str | None) -> None:
        """Refuse an unknown --format before the work begins."""
        if form not in (None, *FORMATS):
            raise InputError(f"--format: expected {', '.join(FORMATS)}, found {form!r}")

    def write(self, records: Iterable[Any], form: str | None, columns: Mapping[str, str]) -> None:
        """Dataclasses or dictionaries as a table (a terminal's default; `columns`: key → heading), JSON Lines or CSV.

        A table and CSV give a list's length.
        """
        form = form or ("table" if sys.stdout.isatty() else "jsonl")
        rows = (dataclasses.asdict(r) if dataclasses.is_dataclass(r) and not isinstance(r, type) else r for r in records)
        if form == "table":
            self._table(list(rows), columns)
            return
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            if form == "jsonl":
                print(json.dumps(row, ensure_ascii=False), flush=True)
                continue
            if writer is None:
                writer = csv.DictWriter(sys.stdout, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow({key: len(value) if isinstance(value, list) else value for key, value in row.items()})
            sys.stdout.flush()

    def _table(self, rows: list[dict[str, Any]], columns: Mapping[str, str]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        self.close()
        table = Table(box=None, pad_edge=False, header_style="bold")
        for key, heading in columns.items():
            numeric = any(isinstance(row[key], int | float) for row in rows)
            table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell(row[key])) for key in columns))
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
        Console(width=width).print(table)

    # ---- how it ends --------------------------------------------------------------------------------------------

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None or isinstance(error, Ended):
            if self.problems:
                self._write(f"patchcli: done, but {self.problems} problem{'s' * (self.problems > 1)} reported above")
                raise typer.Exit(BAD_INPUT) from None
            if error is not None:
                raise typer.Exit from None
            return
        if self.verbose and not isinstance(error, typer.Exit | BrokenPipeError):
            traceback.print_exception(error)
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush cannot fail
            raise typer.Exit(BROKEN_PIPE) from None
        if isinstance(error, KeyboardInterrupt):
            self._write("patchcli: interrupted; nothing that was finished is lost, the same command goes on")
            raise typer.Exit(INTERRUPTED) from None
        if isinstance(error, PatchcliError):
            self._write(f"patchcli: error: {error}")
            raise typer.Exit(BAD_INPUT) from None
        if isinstance(error, OSError):
            where = f" ({error.filename})" if error.filename else ""
            self._write(f"patchcli: error: {error.strerror or error}{where}; mend that and run the same command again")
            raise typer.Exit(BAD_INPUT) from None


def cell(value: Any) -> str:
    """A table's text for a value."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return str(len(value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
