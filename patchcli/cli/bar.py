"""The line at the bottom of a terminal that says what is being done, and how far it is."""

import time
from typing import TextIO

from patchcli.cli.text import cells, columns, padded, shortened, visible

EVERY = 0.1  # seconds between two drawings
NARROW, WIDE = 10, 40  # columns of the bar itself
ERASE = "\r\x1b[K"


class Bar:
    """Draws one task at a time, and takes it away when it is done. The stream is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._task: str | None = None
        self._begun = self._from = self._drawn = 0.0
        self._line = ""

    def update(self, task: str, done: float, total: float | None, detail: str) -> None:
        """`done` of `total` of a task, which may be another than before; drawn at most every tenth of a second."""
        now = time.monotonic()
        if task != self._task:
            self._task, self._begun, self._from, self._drawn = task, now, done, 0.0
        if total is not None and done >= total:
            self.remove()
        elif total is None or now - self._drawn >= EVERY:
            self._drawn, self._line = now, self._text(done, total, detail, now)
            self.draw()

    def draw(self) -> None:
        """Show the line, again after `erase`."""
        if self._line:
            self._stream.write(ERASE + self._line)
            self._stream.flush()

    def erase(self) -> None:
        """Make room for other lines."""
        if self._line:
            self._stream.write(ERASE)
            self._stream.flush()

    def remove(self) -> None:
        """Erase it for good, until the next update."""
        self.erase()
        self._line, self._task = "", None

    def _text(self, done: float, total: float | None, detail: str, now: float) -> str:
        encoding, width = self._stream.encoding, (columns(self._stream) or 80) - 1
        detail = visible(detail, encoding)
        if total is None:
            return shortened("  ".join(filter(None, (self._task, f"{done:g}" * bool(done), detail))), width, encoding)
        left = (now - self._begun) * (total - done) / (done - self._from) if done > self._from else None
        text = f"  {done / total:4.0%}  {padded('' if left is None else f'{_clock(left)} left', 12)}"
        fixed = len(f"{self._task}  ") + len(text)
        room = width - fixed - NARROW - 2
        detail = shortened(detail, room, encoding) if room > NARROW else ""
        length = max(NARROW, min(WIDE, width - fixed - (cells(detail) + 2 if detail else 0)))
        full, rest = "━─" if visible("━─", encoding) == "━─" else "#."
        filled = round(length * done / total)
        return f"{self._task}  {full * filled}{rest * (length - filled)}{text}{f'  {detail}' * bool(detail)}".rstrip()


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
