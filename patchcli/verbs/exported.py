"""What a program in another language needs beside an exported encoder: the JSON file that `export` writes."""

import json
import re
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from patchcli.errors import DamagedError, StoreError
from patchcli.features.encoder import Encoder
from patchcli.features.exporting import INPUT, Agreement
from patchcli.features.grid import PatchGrid
from patchcli.store import Store, Thresholds, VectorFiles
from patchcli.store.parts import Array

SCHEMA = "patchcli.export/1"


@dataclass(frozen=True)
class ExportedInput:
    """The input of the model, and how an image becomes one."""

    name: str
    any_size: bool  # whether height and width are free; else they are those below
    height: int  # the working size, which images are resized to: bicubic, with antialiasing
    width: int
    keeps_aspect: bool  # whether they keep their aspect ratio, with their reflection in what they do not cover
    bits: int  # of the good images; levels are 0 to 255 for any depth
    mean: list[float] | None  # level of each colour that is subtracted; None where it differs from pixel to pixel
    mean_file: str | None  # then this file has it: float32, little-endian, (height, width, 3)
    divisor: float = 255.0  # of what is left
    channels: str = "RGB"
    layout: str = "NCHW"
    dtype: str = "float32"


@dataclass(frozen=True)
class ExportedScale:
    """An output of the model, where its patches lie, and how their distances become a map."""

    output: str  # (batch, D, …): [:, :, i, j] is of the patch whose top left pixel is (i · dense_stride, j · dense_stride)
    D: int
    dense_stride: int
    K: int  # side of a patch, in pixels
    S: int  # of the grid of patches, for bank and map: row r begins at pixel min(r · S, height - K), and columns likewise
    rows: int
    columns: int
    exponent: float  # of the map in the product of the maps
    focus: float | None  # σ of a patch's weight around its middle; None, as `blur`: a pixel takes the mean of what covers it
    blur: float | None  # σ of the Gaussian over distances interpolated between the middles of patches
    bank: VectorFiles | None  # None before `embed`


@dataclass(frozen=True)
class Exported:
    """An exported encoder, and everything else that scoring needs."""

    schema: str
    patchcli: str  # version
    model: str  # the ONNX file, beside this one
    model_sha256: str
    architecture: str
    encoder: str  # sha256 of the weights, as in the store
    input: ExportedInput
    scales: list[ExportedScale]
    store: str
    bank: str | None  # sha256, as in records
    bank_precision: str | None  # of its features, float32 or bfloat16; the model computes in float32
    distance_error: float | None
    threshold: float | None  # a higher score is rejected; None, as the next three, without a calibration
    review_threshold: float | None
    pixel_threshold: float | None  # of maps at the size of the image
    roi: str | None  # sha256 of the region of interest that the thresholds hold for
    check: Agreement

    @property
    def text(self) -> str:
        """The JSON, with lists of numbers on one line."""
        return re.sub(r"\[[^\[\]{}\"]*\]", lambda found: re.sub(r"\s+", " ", found[0]), json.dumps(asdict(self), indent=2))


def mean_of(store: Store, encoder: Encoder) -> tuple[list[float] | None, Array | None]:
    """What is subtracted from levels: a number for each colour, or (H, W, 3) where it differs from pixel to pixel."""
    mean = store.mean if encoder.centred else np.zeros((1, 1, 3), np.float32)
    if (mean == mean[0, 0]).all():
        return [float(level) for level in mean[0, 0]], None
    return None, mean.astype("<f4")


def mean_file(file: Path) -> Path:
    """Where the mean of every pixel goes."""
    return file.with_suffix(".mean.f32")


def describe(
    store: Store, encoder: Encoder, grids: dict[str, PatchGrid], file: Path, digest: str, any_size: bool, agreement: Agreement
) -> Exported:
    """The description of a model that was written with this sha256."""
    attributes, bank = store.encoder.attributes, store.finished_bank()
    thresholds = None if bank is None else _thresholds(store)
    scales = []
    for name, grid in grids.items():
        scale, exponent = encoder.scales[name], attributes.exponents.get(name, 1.0)
        vectors = None if bank is None else bank.place(name)
        own = attributes.D, encoder.stride, grid.K, grid.S, *grid.shape
        scales.append(ExportedScale(name, *own, exponent, scale.focus, scale.blur, vectors))
    return Exported(
        schema=SCHEMA,
        patchcli=version("patchcli"),
        model=file.name,
        model_sha256=digest,
        architecture=attributes.architecture,
        encoder=attributes.sha256,
        input=_input(store, encoder, file, any_size),
        scales=scales,
        store=str(store.path),
        bank=None if bank is None else bank.identity,
        bank_precision=None if bank is None else bank.precision,
        distance_error=None if bank is None else max(bank.attributes.radius.values()),
        threshold=None if thresholds is None else thresholds.threshold,
        review_threshold=None if thresholds is None else thresholds.review_threshold,
        pixel_threshold=None if thresholds is None else thresholds.pixel_threshold,
        roi=None if thresholds is None else thresholds.roi,
        check=agreement,
    )


def _input(store: Store, encoder: Encoder, file: Path, any_size: bool) -> ExportedInput:
    canvas, (mean, whole) = store.canvas, mean_of(store, encoder)
    beside = None if whole is None else mean_file(file).name
    return ExportedInput(INPUT, any_size, canvas.height, canvas.width, canvas.keeps_aspect, store.source.bits, mean, beside)


def _thresholds(store: Store) -> Thresholds | None:
    """Those of the bank, None where there are none."""
    try:
        return store.calibration.thresholds
    except DamagedError:
        raise
    except StoreError:
        return None
