"""Everything patchcli refuses, as one tree; each leaf is also the standard error that a caller would expect.

PatchcliError
├── InputError (ValueError)      an argument, or an image, a mask or a file that it names, cannot be used
├── StoreError (ValueError)      the store is missing, of another format, data set or encoder, or damaged
│   ├── IncompleteError          a part of the store is missing or half-written; the message says how to finish it
│   └── DamagedError             the store does not hold what was written; the message says how to repair it
├── TrainingError (ArithmeticError)   training collapsed or produced numbers that are not finite
└── ExportError (ArithmeticError)     an encoder cannot be exported, or has other features in the exported form

`Ended` is no error.
"""


class PatchcliError(Exception):
    """Root of all errors that patchcli raises on purpose; its text is one or two lines.

    Arguments and functions stand in backquotes in it, as in `size` or `embed(overwrite)`: the command line prints them
    as its flags and commands.
    """

    def __init__(
        self,
        found: str,
        *,
        parameter: str | None = None,
        subject: object = None,
        expected: str | None = None,
        advice: str | None = None,
        run: str | None = None,
    ) -> None:
        self.found = found  # what is wrong
        self.parameter = parameter  # the argument at fault, by its name in Python
        self.subject = subject  # what it is about: a path, a value
        self.expected = expected  # what would have been right
        self.advice = advice  # what to do
        self.run = run  # the verb to call, as in "embed(overwrite)"
        super().__init__(found)

    def __str__(self) -> str:
        named = None if self.parameter is None else f"`{self.parameter}`"
        head = " ".join(str(part) for part in (named, self.subject) if part is not None)
        text = self.found if self.expected is None else f"expected {self.expected}, found {self.found}"
        steps = (self.advice, self.run and f"run: `{self.run}`")
        return (f"{head}: " if head else "") + "; ".join(part for part in (text, *steps) if part)


class InputError(PatchcliError, ValueError):
    """An argument, or something that it names, cannot be used."""


class StoreError(PatchcliError, ValueError):
    """The store is not what the command needs."""


class IncompleteError(StoreError):
    """A part of the store is missing or half-written."""


class DamagedError(StoreError):
    """A part of the store has changed or is lost."""


class Ended(Exception):  # noqa: N818
    """A run ends early as it should: it is a dry run, or another process says why it cannot begin."""


class TrainingError(PatchcliError, ArithmeticError):
    """Training collapsed or produced numbers that are not finite."""


class ExportError(PatchcliError, ArithmeticError):
    """An encoder cannot be exported, or has other features in the exported form."""
