"""Find defects in images when all you have is images of good parts: Patch SVDD (Yi & Yoon, ACCV 2020).

Arrays: `Detector.open(store)` scores arrays, PIL images and files, and returns a `Result` for each. Files: the verbs of the
command line are functions here. Where the paper's algorithms are:

    Algorithm 1, 2-3   a patch and its jitter          training.sampling.dense_batch
    Algorithm 1, 4     SVDD'                           training.losses.PatchSVDDLoss
    Algorithm 1, 5     a neighbour                     training.sampling.dense_batch
    Algorithm 1, 6     SSL                             training.losses.PositionClassifier
    Algorithm 1, 7     the total loss                  training.losses.total
    Algorithm 1, 9     f_big and f_small               features.hierarchical.HierarchicalEncoder
    Algorithm 1, 10-17 the sets S_big and S_small      bank.build.embed_block
    Algorithm 2, 2-6   distances to the nearest        detection.detector.Detector.nearest
    Algorithm 2, 7-10  from patches to pixels          detection.maps.spread
    Algorithm 2, 11    the product                     detection.maps.multiply
    Algorithm 2, 12    the maximum                     detection.result.Result.score
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchcli.bank.build import BankSummary
    from patchcli.cluster import Cluster
    from patchcli.datasets.layouts import Sample
    from patchcli.datasets.roi import Roi
    from patchcli.datasets.survey import Kind
    from patchcli.detection.calibration import Calibration
    from patchcli.detection.detector import Detector, Setup
    from patchcli.detection.evaluation import Row
    from patchcli.detection.records import Record
    from patchcli.detection.regions import Region, RegionOptions
    from patchcli.detection.result import Nearest, Result
    from patchcli.detection.verification import Check
    from patchcli.errors import DamagedError, ExportError, IncompleteError, InputError, PatchcliError, StoreError, TrainingError
    from patchcli.observer import Observer
    from patchcli.store import Store, Thresholds, VectorFiles
    from patchcli.training.loop import Trained
    from patchcli.training.recipe import Recipe
    from patchcli.verbs.audit import Audited, audit
    from patchcli.verbs.bank_edit import bank_add, bank_remove
    from patchcli.verbs.bank_list import BankImage, bank_list
    from patchcli.verbs.calibrate import calibrate
    from patchcli.verbs.cut_patches import cut_patches
    from patchcli.verbs.data import data
    from patchcli.verbs.demo import Demo, demo
    from patchcli.verbs.embed import embed, embed_part
    from patchcli.verbs.evaluate import evaluate
    from patchcli.verbs.export import export
    from patchcli.verbs.exported import Exported, ExportedScale
    from patchcli.verbs.extract import extract
    from patchcli.verbs.extraction import Extracted, ImageOptions
    from patchcli.verbs.import_weights import import_weights
    from patchcli.verbs.info import Info, info
    from patchcli.verbs.outputs import Outputs
    from patchcli.verbs.report import write_report
    from patchcli.verbs.score import score
    from patchcli.verbs.train import train
    from patchcli.verbs.verify import verify
    from patchcli.verbs.watch import watch
    from patchcli.verbs.watcher import WatchRecord

# Where each public name is; loaded when it is first used, so that importing patchcli (and `--help`) stays quick.
_HOMES = {
    "bank.build": ["BankSummary"],
    "cluster": ["Cluster"],
    "datasets.layouts": ["Sample"],
    "datasets.roi": ["Roi"],
    "datasets.survey": ["Kind"],
    "detection.calibration": ["Calibration"],
    "detection.detector": ["Detector", "Setup"],
    "detection.evaluation": ["Row"],
    "detection.records": ["Record"],
    "detection.regions": ["Region", "RegionOptions"],
    "detection.result": ["Nearest", "Result"],
    "detection.verification": ["Check"],
    "errors": ["DamagedError", "ExportError", "IncompleteError", "InputError", "PatchcliError", "StoreError", "TrainingError"],
    "observer": ["Observer"],
    "store": ["Store", "Thresholds", "VectorFiles"],
    "training.loop": ["Trained"],
    "training.recipe": ["Recipe"],
    "verbs.audit": ["Audited", "audit"],
    "verbs.bank_edit": ["bank_add", "bank_remove"],
    "verbs.bank_list": ["BankImage", "bank_list"],
    "verbs.calibrate": ["calibrate"],
    "verbs.cut_patches": ["cut_patches"],
    "verbs.data": ["data"],
    "verbs.demo": ["Demo", "demo"],
    "verbs.embed": ["embed", "embed_part"],
    "verbs.evaluate": ["evaluate"],
    "verbs.export": ["export"],
    "verbs.exported": ["Exported", "ExportedScale"],
    "verbs.extract": ["extract"],
    "verbs.extraction": ["Extracted", "ImageOptions"],
    "verbs.import_weights": ["import_weights"],
    "verbs.info": ["Info", "info"],
    "verbs.outputs": ["Outputs"],
    "verbs.report": ["write_report"],
    "verbs.score": ["score"],
    "verbs.train": ["train"],
    "verbs.verify": ["verify"],
    "verbs.watch": ["watch"],
    "verbs.watcher": ["WatchRecord"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Audited",
    "BankImage",
    "BankSummary",
    "Calibration",
    "Check",
    "Cluster",
    "DamagedError",
    "Demo",
    "Detector",
    "ExportError",
    "Exported",
    "ExportedScale",
    "Extracted",
    "ImageOptions",
    "IncompleteError",
    "Info",
    "InputError",
    "Kind",
    "Nearest",
    "Observer",
    "Outputs",
    "PatchcliError",
    "Recipe",
    "Record",
    "Region",
    "RegionOptions",
    "Result",
    "Roi",
    "Row",
    "Sample",
    "Setup",
    "Store",
    "StoreError",
    "Thresholds",
    "Trained",
    "TrainingError",
    "VectorFiles",
    "WatchRecord",
    "audit",
    "bank_add",
    "bank_list",
    "bank_remove",
    "calibrate",
    "cut_patches",
    "data",
    "demo",
    "embed",
    "embed_part",
    "evaluate",
    "export",
    "extract",
    "import_weights",
    "info",
    "score",
    "train",
    "verify",
    "watch",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'patchcli' has no attribute {name!r}")
    return getattr(import_module(f"patchcli.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
