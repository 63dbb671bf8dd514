"""Whether this machine scores as it should: every device and search against the CPU and brute force."""

from collections.abc import Sequence
from pathlib import Path

import torch

from patchcli import runtime
from patchcli.bank.search import METHODS
from patchcli.detection import verification
from patchcli.detection.detector import Detector, Setup
from patchcli.detection.verification import AGREES, DISAGREES, FAILS, REFERENCE, SCHEMA, Check, Reference
from patchcli.errors import DamagedError, IncompleteError, StoreError
from patchcli.observer import Observer
from patchcli.store import Store
from patchcli.verbs.goods import LOO


def verify(store: Path | str = "patchcli.zarr", *, threads: int | None = None, observer: Observer | None = None) -> list[Check]:
    """Embed and search a few of a store's own images on every device that is there, by every search, and compare.

    The bank's vectors of these images and, if it left each image out in turn, the calibration's scores are compared as well.
    Whatever disagrees with the reference, or fails, is reported as a problem. Raises StoreError where there is no whole bank.
    """
    observer = observer or Observer()
    opened, devices = Store.open(store), runtime.devices()
    detector = Detector(opened, Setup("cpu", "brute", threads=threads), observer, calibrated=False)
    observer.note(_about(detector, devices))
    total = 2 + len(devices) * (1 + len(METHODS))
    observer.progress("verify", 0, total, "the reference")
    reference, checks = Reference(detector), list[Check]()
    for check in verification.checks(reference, devices):
        checks.append(check)
        observer.progress("verify", len(checks), total, check.check)
    if (calibration := _calibration(opened, reference)) is not None:
        checks.append(calibration)
    for check in checks:
        if check.status in (DISAGREES, FAILS):
            observer.problem(f"{check.check} {check.status}: {check.reason}; {_advice(check, checks)}", left_out=False)
        elif check.reason:
            observer.note(f"{check.check}: {check.reason}")
    return checks


def _about(detector: Detector, devices: Sequence[torch.device]) -> str:
    """What is compared, and why it may take long."""
    vectors = sum(map(detector.bank.vectors, detector.grids))
    gpu = "".join(f", {torch.cuda.get_device_name(device)}" for device in devices if device.type == "cuda")
    machine = f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads{gpu}"
    return f"a bank of {vectors:,} vectors; {machine}; what compiles at its first use (keops) may take a minute"


def _calibration(store: Store, reference: Reference) -> Check | None:
    """The check of the calibration; None if there is none."""
    try:
        calibration = store.calibration
    except IncompleteError:
        return None
    except DamagedError:
        raise
    except StoreError as error:  # of another bank
        return Check(SCHEMA, "calibration", DISAGREES, reason=error.found)
    thresholds = calibration.thresholds
    if thresholds.source == LOO and thresholds.roi is None and reference.leaves_out and reference.found:
        return verification.check_calibration(reference, calibration.scores)
    return Check(SCHEMA, "calibration", AGREES)


def _advice(check: Check, checks: Sequence[Check]) -> str:
    """What to do about a check that is wrong."""
    if check.check == "bank":
        return "run: `embed(overwrite)`"
    if check.check == "calibration":
        return "run: `calibrate()`"
    sound = [one for one in checks if one.search and one.device == check.device and one.status in (REFERENCE, AGREES)]
    fastest = min(sound, key=lambda one: one.ms or 0, default=None)
    return f"use `search={fastest.search}`" if check.search and fastest else "use `device=cpu`"
