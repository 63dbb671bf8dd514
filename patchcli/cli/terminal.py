"""What a verb says: data on standard output, everything else on standard error, and the exit status."""

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
from patchcli.cli.shell import in_shell
from patchcli.errors import Ended, InputError, PatchcliError
from patchcli.observer import Observer

FORMATS = ("table", "jsonl", "csv")
REJECTED, BAD_INPUT, INTERNAL, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 2, 70, 130, 141, 143


class Terminal(Observer):
    """One verb's run: `with Terminal(quiet, verbose) as terminal`. Errors within become one line and an exit status.

    `again` says how a run that was cut off is continued, where it can be.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False, dry_run: bool = False, again: str = "") -> None:
        self.quiet, self.verbose, self.dry, self.again = quiet, verbose, dry_run, again
        self.problems = 0
        drawn = _is_terminal(sys.stderr) and not quiet and os.environ.get("TERM") not in ("dumb", "unknown")
        self._bar = Bar(sys.stderr) if drawn else None
        self._lock = threading.RLock()  # maps are written, and problems with them told, in a thread

    # ---- standard error -----------------------------------------------------------------------------------------

    def progress(self, task: str, done: float, total: float | None, detail: str = "") -> None:
        """Draw a bar, where standard error is a terminal."""
        if self._bar is not None:
            with self._lock, _undisturbed():
                self._bar.update(task, done, total, detail)

    def problem(self, line: str, left_out: bool = True) -> None:
        """An input that is left out, or should be looked at: said at once, and exit status 2 at the end."""
        self.problems += 1
        self._write(f"patchcli: {'left out' if left_out else 'problem'}: {line}")

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
        with self._beside_the_bar(), _undisturbed():
            print(text.visible(in_shell(line), sys.stderr.encoding), file=sys.stderr, flush=True)

    @contextmanager
    def _beside_the_bar(self) -> Iterator[None]:
        """Lines that are written within stand above the bar."""
        with self._lock:
            if self._bar is not None:
                with _undisturbed():
                    self._bar.draw(shown=False)
            yield
            if self._bar is not None:
                with _undisturbed():
                    self._bar.draw()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with self._lock, _undisturbed():
                self._bar.remove()

    # ---- standard output ----------------------------------------------------------------------------------------

    def check_format(self, form: str | None) -> None:
        """Refuse an unknown --format, or a standard output that is closed, before the work begins."""
        if form not in (None, *FORMATS):
            raise InputError(f"--format: expected {', '.join(FORMATS)}, found {form!r}")
        if sys.stdout is None:
            raise InputError("standard output is closed; expected a place for the records, such as > FILE")

    def form(self, form: str | None) -> str:
        """The form that is asked for, else a terminal's or a pipe's default."""
        return form or ("table" if _is_terminal(sys.stdout) else "jsonl")

    def write(self, records: Iterable[Any], form: str | None, columns: Mapping[str, str]) -> None:
        """Dataclasses or dictionaries as a table (a terminal's default), JSON Lines or CSV.

        `columns`: key → heading of a table, the most important first. A table and CSV give a list's length.
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

    def write_pairs(self, found: Mapping[str, Any]) -> None:
        """A table of one key and its value a line."""
        self._print_lines(text.pairs(found, text.columns(sys.stdout), sys.stdout.encoding))

    def _print_lines(self, lines: Iterable[str], headed: bool = False) -> None:
        """Visible text; the first line is in bold type where that is a heading and the terminal has it."""
        self.close()
        bold = headed and _is_terminal(sys.stdout) and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        for number, line in enumerate(lines):
            self._print(f"\x1b[1m{line}\x1b[0m" if bold and not number else line)

    def _print(self, line: str) -> None:
        """A line on standard output, as soon as it is there; raises InputError where it cannot be written."""
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
        """Say in a line or two what ended the run; the exit status."""
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
            self._write(f"patchcli: error: {error}")
            return BAD_INPUT
        if isinstance(error, OSError):
            where = f" ({error.filename})" if error.filename else ""
            again = f"; {self.again}" if self.again else " and rerun"
            self._write(f"patchcli: error: {error.strerror or error}{where}; fix this{again}")
            return BAD_INPUT
        if _is_out_of_memory(error):
            self._write("patchcli: error: not enough memory; free some, or work with less: a smaller --size or --memory")
            return INTERNAL
        found = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        advice = "report it with" if self.verbose else "run again with --verbose and report it with"
        self._write(f"patchcli: internal error: {found}; {advice} the traceback")
        return INTERNAL


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Work goes on where standard error takes no more."""
    try:
        yield
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """What is written from now on is dropped, so that Python's last flush does not fail."""
    with suppress(OSError):  # a test's stream has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's and NumPy's, or PyTorch's, which is a RuntimeError on a CPU."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _json(row: Mapping[str, Any]) -> str:
    """One line of JSON in UTF-8, or in ASCII for a stream of another encoding; what is not printed as itself is escaped."""
    line = json.dumps(row, ensure_ascii=codecs.lookup(sys.stdout.encoding).name != "utf-8")
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _csv(values: Iterable[Any]) -> str:
    """One row; a terminal gets no control characters, and a pipe what its encoding has."""
    written = io.StringIO()
    csv.writer(written).writerow(values)
    row = written.getvalue().removesuffix("\r\n")
    if _is_terminal(sys.stdout):
        return text.visible(row, sys.stdout.encoding)
    return row.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding)


def _cell(value: Any) -> Any:
    return len(value) if isinstance(value, list) else files.spreadsheet(value)
