"""The progress bar in the last line of a terminal."""

import time
from functools import partial
from typing import TYPE_CHECKING, TextIO

from patchcli.cli.text import columns, visible

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY = 0.1  # seconds between two drawings


class Bar:
    """Shows one task at a time and disappears when it is done. The stream is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._progress: Progress | None = None
        self._drawn = 0.0

    def update(self, task: str, done: float, total: float | None, detail: str) -> None:
        """Show `done` of `total` of a task, possibly a new one; draws at most every EVERY seconds."""
        if self._progress and (self._progress.tasks[0].description != task or (total is not None and done >= total)):
            self.remove()
        if total is None or (done < total and (not self._progress or time.monotonic() - self._drawn >= EVERY)):
            self._progress = self._progress or _started(self._stream, task)
            self._drawn = time.monotonic()
            text = visible(detail, self._stream.encoding)
            self._progress.update(self._progress.task_ids[0], total=total, completed=done, detail=text)
            self.draw()

    def draw(self, shown: bool = True) -> None:
        """Show the bar, or hide it to make room for other lines."""
        if self._progress:
            self._progress.console.width = (columns(self._stream) or 80) - 1
            self._progress.update(self._progress.task_ids[0], visible=shown, refresh=True)

    def remove(self) -> None:
        """Erase the bar until the next update."""
        progress, self._progress = self._progress, None
        if progress:
            progress.stop()


def _started(stream: TextIO, task: str) -> "Progress":
    """A Rich display that draws only on request, starts no thread and leaves the standard streams alone."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    console = Console(file=stream, force_terminal=True, force_interactive=True)
    column = partial(Column, no_wrap=True, overflow="crop" if console.options.ascii_only else "ellipsis")
    name = TextColumn("{task.description}", markup=False, table_column=column())
    detail = TextColumn("{task.fields[detail]}", markup=False, table_column=column(ratio=1))
    percent, left = TaskProgressColumn(table_column=column()), TimeRemainingColumn(table_column=column())
    progress = Progress(
        name,
        BarColumn(16),
        percent,
        left,
        detail,
        console=console,
        expand=True,
        speed_estimate_period=float("inf"),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    progress.add_task(task, total=None, visible=False, detail="")
    progress.start()
    console.show_cursor()  # a killed process could not restore it
    return progress
