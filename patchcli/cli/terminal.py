"""The output of a verb: data on standard output, everything else on standard error, and the exit status."""

import codecs
import csv
import dataclasses
import io
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TextIO

import typer

from patchcli import files
from patchcli.cli import text
from patchcli.cli.bar import Bar
from patchcli.cli.shell import explained, in_shell
from patchcli.errors import Ended, InputError, PatchcliError
from patchcli.observer import Observer

REJECTED, BAD_INPUT, INTERNAL, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 2, 70, 130, 141, 143


class Terminal(Observer):
    """One run of a verb: `with Terminal(quiet, verbose) as terminal`. An error inside becomes one line and an exit status.

    `again` says how to resume the run after an interruption, if that is possible.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False, dry_run: bool = False, again: str = "") -> None:
        self.quiet, self.verbose, self.dry, self.again = quiet, verbose, dry_run, again
        self.problems = 0
        drawn = _is_terminal(sys.stderr) and not quiet and os.environ.get("TERM") not in ("dumb", "unknown")
        self._bar = Bar(sys.stderr) if drawn else None
        self._lock = threading.RLock()  # a thread writes the maps and reports problems with them

    # ---- standard error -----------------------------------------------------------------------------------------

    def progress(self, task: str, done: float, total: float | None, detail: str = "") -> None:
        """Draw a bar if standard error is a terminal."""
        if self._bar is not None:
            with self._lock, _undisturbed():
                self._bar.update(task, done, total, detail)

    def problem(self, line: str, left_out: bool = True) -> None:
        """Print at once that an input is left out or suspect; the exit status will be 2."""
        self.problems += 1
        self._write(f"patchcli: {'left out' if left_out else 'problem'}: {in_shell(line)}")

    def note(self, line: str) -> None:
        """Print unless --quiet."""
        if not self.quiet:
            self._write(f"patchcli: {in_shell(line)}")

    def detail(self, line: str) -> None:
        """Print with --verbose."""
        if self.verbose:
            self._write(f"patchcli: {in_shell(line)}")

    def plan(self, reads: str, writes: str, disk: int = 0) -> None:
        """Print and end with --dry-run."""
        if self.dry:
            from patchcli.runtime import megabytes

            self.note(f"would read {reads}")
            self.note(f"would write {writes}{f' (about {megabytes(disk)})' if disk else ''}")
        super().plan(reads, writes, disk)

    def _write(self, line: str) -> None:
        with self._beside_the_bar(), _undisturbed():
            print(text.visible(line, sys.stderr.encoding), file=sys.stderr, flush=True)

    @contextmanager
    def _beside_the_bar(self) -> Iterator[None]:
        """Lines that are written inside appear above the bar."""
        with self._lock:
            if self._bar is not None:
                with _undisturbed():
                    self._bar.draw(shown=False)
            yield
            if self._bar is not None:
                with _undisturbed():
                    self._bar.draw()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            with self._lock, _undisturbed():
                self._bar.remove()

    # ---- standard output ----------------------------------------------------------------------------------------

    def check_output(self) -> None:
        """Refuse a standard output that is closed, before the work begins."""
        if sys.stdout is None:
            raise InputError("standard output is closed; expected a place for the records, such as > FILE")

    def form(self, form: str | None) -> str:
        """The chosen form, else the default of a terminal or of a pipe."""
        return form or ("table" if _is_terminal(sys.stdout) else "jsonl")

    def write(self, records: Iterable[Any], form: str | None, columns: Mapping[str, str]) -> None:
        """Write dataclasses or dictionaries as a table (the default of a terminal), JSON Lines or CSV.

        `columns`: key → heading in a table, the most important first. Tables and CSV show the length of a list.
        """
        form = self.form(form)
        rows = (dataclasses.asdict(r) if dataclasses.is_dataclass(r) and not isinstance(r, type) else r for r in records)
        if form == "table":
            self._print_lines(text.table(list(rows), columns, text.columns(sys.stdout), sys.stdout.encoding), headed=True)
            return
        for number, row in enumerate(rows):
            if form == "jsonl":
                self._print(_json(row))
                continue
            if not number:
                self._print(_csv(row))
            self._print(_csv(map(_cell, row.values())))

    def write_pairs(self, values: Mapping[str, Any]) -> None:
        """Write a table with a key and its value on each line."""
        self._print_lines(text.pairs(values, text.columns(sys.stdout), sys.stdout.encoding))

    def _print_lines(self, lines: Iterable[str], headed: bool = False) -> None:
        """Print visible text; a heading in the first line is bold if the terminal can show it."""
        self.close()
        bold = headed and _is_terminal(sys.stdout) and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        for number, line in enumerate(lines):
            self._print(f"\x1b[1m{line}\x1b[0m" if bold and not number else line)

    def _print(self, line: str) -> None:
        """Print a line on standard output at once. Raises InputError if it cannot be written."""
        with self._beside_the_bar() if _is_terminal(sys.stdout) else self._lock:
            try:
                print(line, flush=True)
            except BrokenPipeError:
                raise
            except OSError as error:
                _give_up(sys.stdout)
                raise InputError(f"standard output cannot be written ({error.strerror}); fix this and rerun") from None

    # ---- how it ends --------------------------------------------------------------------------------------------

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        if error is None or isinstance(error, Ended):
            if self.problems:
                self._write(f"patchcli: done, but {self.problems} problem{'s' * (self.problems > 1)} reported above")
                raise typer.Exit(BAD_INPUT) from None
            if error is not None:
                raise typer.Exit from None
        elif not isinstance(error, typer.Exit | SystemExit):
            raise typer.Exit(self.explain(error)) from None

    def explain(self, error: BaseException) -> int:
        """Print in a line or two what ended the run; return the exit status."""
        if isinstance(error, BrokenPipeError):
            _give_up(sys.stdout)
            return BROKEN_PIPE
        if self.verbose:
            for line in "".join(traceback.format_exception(error)).splitlines():
                self._write(line)
        if isinstance(error, KeyboardInterrupt):
            self._write(f"patchcli: interrupted{f'; {self.again}' if self.again else ''}")
            return INTERRUPTED
        if isinstance(error, PatchcliError):
            self._write(f"patchcli: error: {explained(error)}")
            return BAD_INPUT
        if isinstance(error, OSError):
            where = f" ({error.filename})" if error.filename else ""
            again = f"; {self.again}" if self.again else " and rerun"
            self._write(f"patchcli: error: {error.strerror or error}{where}; fix this{again}")
            return BAD_INPUT
        if _is_out_of_memory(error):
            advice = "free some, or choose less, such as a smaller --size, --memory or --batch"
            self._write(f"patchcli: error: not enough memory; {advice}")
            return INTERNAL
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        advice = "report it with" if self.verbose else "run again with --verbose and report it with"
        self._write(f"patchcli: internal error: {what}; {advice} the traceback")
        return INTERNAL


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Continue if standard error cannot be written."""
    try:
        yield
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Discard what is written from now on, so that Python's last flush does not fail."""
    with suppress(OSError):  # streams of tests have no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_out_of_memory(error: BaseException) -> bool:
    """Of Python and NumPy, or of PyTorch, which raises a RuntimeError on a CPU."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _json(row: Mapping[str, Any]) -> str:
    """One line of JSON: UTF-8, or ASCII if the stream has another encoding; unprintable characters are escaped."""
    line = json.dumps(row, ensure_ascii=codecs.lookup(sys.stdout.encoding).name != "utf-8")
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _csv(values: Iterable[Any]) -> str:
    """One row; without control characters on a terminal, and with the characters that a pipe's encoding has."""
    written = io.StringIO()
    csv.writer(written).writerow(values)
    row = written.getvalue().removesuffix("\r\n")
    if _is_terminal(sys.stdout):
        return text.visible(row, sys.stdout.encoding)
    return row.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding)


def _cell(value: Any) -> Any:
    return len(value) if isinstance(value, list) else files.spreadsheet(value)
