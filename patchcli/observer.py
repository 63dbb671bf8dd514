"""What a long run tells while it works; the command line draws it, a library user may."""

import warnings
from collections import Counter
from pathlib import Path

from patchcli.errors import Ended


class Observer:
    """The silent default: progress goes nowhere, problems become Python warnings.

    With `dry` a verb checks its input, calls `plan`, and ends there: nothing is written.
    """

    dry = False

    def progress(self, task: str, done: float, total: float | None, detail: str = "") -> None:
        """`done` of `total` steps of a task; `detail` is a short text beside the bar."""

    def problem(self, line: str, left_out: bool = True) -> None:
        """An input that was left out while the rest goes on, or that should be looked at."""
        warnings.warn(line, stacklevel=3)

    def note(self, line: str) -> None:
        """Something worth knowing that is no problem."""

    def detail(self, line: str) -> None:
        """Something for who wants to know more."""

    def remarks(self) -> "Remarks":
        """What remarks about images are made to: as notes on this observer."""
        return Remarks(self)

    def plan(self, reads: str, writes: str, disk: int = 0) -> None:
        """What is about to be read and written, of about `disk` bytes; raises Ended in a dry run."""
        if self.dry:
            raise Ended


class Remarks:
    """What is worth a note about many images: said of the first at once, and at the end of how many others."""

    def __init__(self, observer: Observer) -> None:
        self._observer, self._counts = observer, Counter[str]()

    def __call__(self, path: Path | str, line: str) -> None:
        """Remark something about an image."""
        self._counts[line] += 1
        if self._counts[line] == 1:
            self._observer.note(f"{path}: {line}")

    def close(self) -> None:
        """Say how many others there were."""
        for line, count in self._counts.items():
            if count > 1:
                self._observer.note(f"{count - 1} other image{'s' * (count > 2)}: {line}")
