"""Everything patchcli refuses, as one tree; each leaf is also the standard error that a caller would expect.

PatchcliError
├── InputError (ValueError)      what was given cannot be used: a path, an image, a mask, weights, an option
├── StoreError (ValueError)      the store is missing, of another format, data set or encoder, or damaged
│   ├── IncompleteError          a part of the store is not made yet, or half-written; the message says how to go on
│   └── DamagedError             what is stored is not what was written; the message says how to repair it
└── TrainingError (ArithmeticError)   the optimisation left the finite numbers

A message says in one or two lines what was expected, what was found and what to do. `Ended` is no error.
"""


class PatchcliError(Exception):
    """Root of all errors that patchcli raises on purpose."""


class InputError(PatchcliError, ValueError):
    """Something that the user named cannot be used."""


class StoreError(PatchcliError, ValueError):
    """The store is not what the command needs."""


class IncompleteError(StoreError):
    """A part of the store is missing or half-written."""


class DamagedError(StoreError):
    """A part of the store has changed or is lost."""


class Ended(Exception):  # noqa: N818
    """A run ends early as it should: it is a dry one, or another process tells why it cannot begin."""


class TrainingError(PatchcliError, ArithmeticError):
    """Training produced numbers that are not finite."""
