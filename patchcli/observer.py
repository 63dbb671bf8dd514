"""What a long run tells while it works; the command line draws it, a library user may."""

import warnings


class Observer:
    """The silent default: progress goes nowhere, problems become Python warnings."""

    def progress(self, task: str, done: float, total: float | None, detail: str = "") -> None:
        """`done` of `total` steps of a task; `detail` is a short text beside the bar."""

    def problem(self, line: str) -> None:
        """An input that was left out while the rest goes on."""
        warnings.warn(line, stacklevel=3)

    def note(self, line: str) -> None:
        """Something worth knowing that is no problem."""
