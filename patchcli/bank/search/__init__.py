"""Searches for nearest neighbours, all exact. A new one is a file here with a class of base.Search, and a line in METHODS.

Nothing heavy is imported before a search is used, so that the command line can offer the names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, cast

from patchcli.errors import InputError

if TYPE_CHECKING:
    import torch

    from patchcli.bank.search.base import Search
    from patchcli.bank.search.trees import Pages

LOOSE = 0.75  # of the vectors' variance: where the axes of a bank hold less, `pruned` can skip too little to pay

# The names that a user gives; each is a module here, with the class of this name.
METHODS = {"pruned": "Pruned", "brute": "Brute", "keops": "KeOps"}


def method(name: str) -> "type[Search]":
    """The class of a search."""
    return cast("type[Search]", getattr(import_module(f"{__name__}.{name}"), METHODS[name]))


def choose(name: str, device: "torch.device", D: int) -> tuple[str, str]:
    """The search to use for vectors of length D, and why it is not the named one, or "".

    "auto" is the one that the device prefers; in the place of one that does not work here comes the next that does.
    """
    if name not in ("auto", *METHODS):
        *names, last = METHODS
        raise InputError(repr(name), parameter="search", expected=f"auto, {', '.join(names)} or {last}")
    preferred = sorted(METHODS, key=lambda other: method(other).preference.get(device.type, len(METHODS)))
    candidates = preferred if name == "auto" else [name, *(other for other in preferred if other != name)]
    problems: dict[str, str] = {}
    chosen = next(one for one in candidates if not problems.setdefault(one, method(one).problem(device, D)))
    problem = problems[candidates[0]]
    return chosen, f"{problem}; searching with {chosen}, which is exact too" if problem else ""


def suited(name: str, pages: "Pages") -> str:
    """The search that "auto" takes for one scale: `name`, or brute force where pruning would find little to skip.

    So it is with vectors that are much longer than the axes are many, and vary alike in all directions.
    """
    if name != "pruned":
        return name
    axes, some = pages.index.axes, pages[0].vectors[:4096]
    whole, held = (some.astype("f8") - axes.centre) ** 2, axes.turned(some) ** 2
    return name if held.sum() >= LOOSE * whole.sum() else "brute"
