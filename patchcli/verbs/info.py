"""What is in a store, and what is still to do."""

from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

from patchcli.bank import pages as paged
from patchcli.errors import DamagedError, IncompleteError, StoreError
from patchcli.store import FORMAT_VERSION, Store

SCHEMA = "patchcli.info/1"


def info(store: Path | str = "patchcli.zarr", check: bool = False) -> dict[str, Any]:
    """Data set, encoder, bank, calibration and the next command, as a flat dictionary ready for JSON.

    With `check` everything in the store is read: raises StoreError with a line for each thing that is damaged.
    """
    opened = Store.open(store)
    if check and (damaged := _damaged(opened)):
        raise StoreError("\n".join(damaged))
    found: dict[str, Any] = {"schema": SCHEMA, "store": str(store), "format_version": FORMAT_VERSION}
    found |= {key: getattr(opened.source, key) for key in ("root", "layout", "category", "manifest")}
    found["held_out"] = len(opened.source.holdout)
    found["images"], found["height"], found["width"] = opened.images.shape[:3]
    found["keeps_aspect"] = opened.canvas.keeps_aspect
    found["bits"], found["large"] = opened.source.reader.bits, opened.source.reader.large
    encoder = asdict(opened.encoder.attributes) if opened.holds("encoder") else {}
    for key in ("architecture", "source", "D", "steps", "seconds", "sha256", "criterion", "trouble"):
        found[f"encoder_{key}"] = encoder.get(key)
    judged = encoder.get("judged", True) or encoder["source"] == "untrained"
    found["encoder_note"] = None if judged else "never judged: too few good images to hold some out"
    found["recipe"] = encoder.get("recipe")
    bank = opened.holds("bank")
    found["bank"] = "complete" if bank else None
    told = {"calibration": "promise", "threshold": "threshold", "pixel_threshold": "pixel_threshold"}
    for key in ("bank_vectors", "bank_memory", "distance_error", *told):
        found[key] = None
    try:
        held = opened.bank()
    except DamagedError:
        raise
    except StoreError as error:
        found["next"] = (encoder.get("trouble") or str(error)).rsplit("run: ", 1)[-1]
        found["bank"] = "incomplete" if opened.blocks() else "of another encoder" if bank else None
    else:
        found["bank_vectors"] = {scale: held.vectors(scale) for scale in held.scales}
        found["bank_memory"] = paged.total_memory(held)  # bytes
        found["distance_error"] = max(held.attributes.radius.values())
        found["next"] = "patchcli score --out maps/"
        try:
            thresholds = opened.calibration.thresholds
        except IncompleteError:
            pass
        except DamagedError:
            raise
        except StoreError as error:
            found["calibration"], found["next"] = "of another bank", str(error).rsplit("run: ", 1)[-1]
        else:
            found |= {key: getattr(thresholds, name) for key, name in told.items()}
    found["versions"] = opened.root.versions
    return found


def _damaged(store: Store) -> list[str]:
    """A line for each thing that is damaged, with its repair."""
    lines = list(store.check())
    try:
        if not lines and (bank := store.finished_bank()) is not None:
            for scale in bank.scales:
                deque(paged.read(bank, scale, budget=0), maxlen=0)
    except IncompleteError:  # no encoder yet
        pass
    except StoreError as error:
        lines.append(str(error))
    return lines
