"""Find defects in images when only good images are at hand: Patch SVDD (Yi & Yoon, ACCV 2020).

The verbs of the command line are functions here: data, extract, train, embed, calibrate, score, evaluate,
watch, write_report, import_weights, info, demo; and bank_list, bank_remove, bank_add and audit for what a bank holds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchcli.verbs.audit import audit
    from patchcli.verbs.bank_edit import bank_add, bank_remove
    from patchcli.verbs.bank_list import bank_list
    from patchcli.verbs.calibrate import calibrate
    from patchcli.verbs.data import data
    from patchcli.verbs.demo import demo
    from patchcli.verbs.embed import embed
    from patchcli.verbs.evaluate import evaluate
    from patchcli.verbs.extract import extract
    from patchcli.verbs.import_weights import import_weights
    from patchcli.verbs.info import info
    from patchcli.verbs.report import write_report
    from patchcli.verbs.score import score
    from patchcli.verbs.train import train
    from patchcli.verbs.watch import watch

__all__ = [
    "audit", "bank_add", "bank_list", "bank_remove", "calibrate", "data", "demo", "embed", "evaluate", "extract",
    "import_weights", "info", "score", "train", "watch", "write_report",
]  # fmt: skip
_HOMES = {"bank_add": "bank_edit", "bank_remove": "bank_edit", "write_report": "report"}


def __getattr__(name: str) -> Any:
    """Load a verb when it is first used, so that importing patchcli (and `--help`) stays quick."""
    if name not in __all__:
        raise AttributeError(f"module 'patchcli' has no attribute {name!r}")
    return getattr(import_module(f"patchcli.verbs.{_HOMES.get(name, name)}"), name)
