"""What is in a store, and what is still to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcli.bank import pages
from patchcli.errors import DamagedError, IncompleteError, StoreError
from patchcli.store import FORMAT_VERSION, Bank, EncoderAttributes, Store, Thresholds

SCHEMA = "patchcli.info/1"
_SOURCE = ("root", "layout", "category", "manifest", "keeps_aspect", "bits", "large")  # fields that Info takes as they are
DONE = "score(out=maps/)"  # there is nothing else to do


@dataclass(frozen=True)
class Info:
    """What a store holds; None where it does not, or where it belongs to another encoder or bank."""

    schema: str
    store: str
    format_version: int
    root: str  # of the data set
    layout: str
    category: str
    manifest: str  # sha256 of the training images
    held_out: int  # images reserved for calibration
    images: int
    height: int  # the working size
    width: int
    keeps_aspect: bool
    bits: int
    large: bool
    encoder_architecture: str | None
    encoder_source: str | None  # trained, untrained, fitted or imported
    encoder_D: int | None  # noqa: N815
    encoder_options: dict[str, Any] | None  # backbone and layers of a pretrained encoder
    encoder_steps: int | None
    encoder_seconds: float | None
    encoder_sha256: str | None
    encoder_criterion: float | None
    encoder_exponents: dict[str, float] | None  # of the maps that are used, in their product; empty: the product of all
    encoder_trouble: str | None  # why it should not be embedded
    encoder_note: str | None
    recipe: dict[str, Any] | None
    bank: str | None  # complete, incomplete, or of another encoder
    bank_vectors: dict[str, int] | None  # of each scale
    bank_memory: int | None  # bytes
    bank_precision: str | None  # of the forward pass that embedded it: float32 or bfloat16
    distance_error: float | None
    calibration: str | None  # its promise
    threshold: float | None
    pixel_threshold: float | None
    next: str  # what to do next, as a call of a verb
    versions: dict[str, str]


def info(store: Path | str = "patchcli.zarr", check: bool = False) -> Info:
    """Data set, encoder, bank, calibration and the next command.

    With `check` everything in the store is read: raises StoreError with a line for each thing that is damaged.
    """
    opened = Store.open(store)
    if check and (damages := pages.damages(opened)):
        raise StoreError("\n".join(damages))
    source, (images, height, width, _) = opened.source, opened.images.shape
    encoder = opened.encoder.attributes if opened.holds("encoder") else None
    bank, bank_state, following = _bank(opened)
    thresholds, calibration, following = _calibration(opened) if bank else (None, None, following)
    following = (encoder.repair or "train(overwrite)") if bank is None and encoder and encoder.trouble else following
    return Info(
        schema=SCHEMA,
        store=str(store),
        format_version=FORMAT_VERSION,
        **{name: getattr(source, name) for name in _SOURCE},
        held_out=len(source.holdout),
        images=images,
        height=height,
        width=width,
        **_encoder(encoder),
        bank=bank_state,
        bank_vectors=None if bank is None else {scale: bank.vectors(scale) for scale in bank.scales},
        bank_memory=None if bank is None else pages.total_memory(bank),
        bank_precision=None if bank is None else bank.precision,
        distance_error=None if bank is None else max(bank.attributes.radius.values()),
        calibration=calibration,
        threshold=None if thresholds is None else thresholds.threshold,
        pixel_threshold=None if thresholds is None else thresholds.pixel_threshold,
        next=following,
        versions=opened.root.versions,
    )


def _encoder(encoder: EncoderAttributes | None) -> dict[str, Any]:
    """The fields of Info about the encoder."""
    own = [name for name in Info.__annotations__ if name == "recipe" or name.startswith("encoder_")]
    return {name: getattr(encoder, name.removeprefix("encoder_"), None) for name in own}


def _bank(store: Store) -> tuple[Bank | None, str | None, str]:
    """The bank, what there is of one, and what to do next."""
    try:
        return store.bank(), "complete", DONE
    except DamagedError:
        raise
    except StoreError as error:
        state = "incomplete" if store.blocks() else "of another encoder" if store.holds("bank") else None
        return None, state, error.run or DONE


def _calibration(store: Store) -> tuple[Thresholds | None, str | None, str]:
    """The thresholds, their promise, and what to do next."""
    try:
        return store.calibration.thresholds, store.calibration.thresholds.promise, DONE
    except IncompleteError:
        return None, None, DONE
    except DamagedError:
        raise
    except StoreError as error:
        return None, "of another bank", error.run or DONE
