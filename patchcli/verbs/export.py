"""The store's encoder → an ONNX file for programs in other languages, and a JSON file with what else they need."""

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path

import torch

from patchcli import files
from patchcli.datasets.images import standardise
from patchcli.errors import InputError
from patchcli.features import dense, exporting
from patchcli.features.encoder import Encoder
from patchcli.observer import Observer
from patchcli.store import Store
from patchcli.verbs.exported import Exported, describe, mean_file, mean_of

IMAGES, SIDE = 2, 512  # training images that are compared, and pixels a side of the part of large ones


def export(
    file: Path | str, store: Path | str = "patchcli.zarr", overwrite: bool = False, observer: Observer | None = None
) -> Exported:
    """Write the encoder of a store as ONNX, for images of any number and size; returns the description beside it.

    The model has an output for each scale that scoring uses. The description is a JSON file of the same name; where a mean of
    each pixel is subtracted from images, a third file has it. Before the files get their names, ONNX Runtime computes the
    features of training images and of random ones: raises ExportError where PyTorch's are others (see exporting.compare).
    Needs the extra `export`. Raises InputError, and StoreError where the store has no encoder.
    """
    observer = observer or Observer()
    path = _target(Path(file), overwrite)
    exporting.check_installed()
    opened = Store.open(store)
    attributes, (height, width) = opened.encoder.attributes, opened.images.shape[1:3]
    encoder = opened.encoder.restore(torch.device("cpu"))
    grids = dense.grids(encoder, height, width, attributes.strides, attributes.exponents)
    if attributes.trouble:
        observer.note(f"the encoder may be of no use: {attributes.trouble}")
    _, mean = mean_of(opened, encoder)
    beside = [path.with_suffix(".json"), *([] if mean is None else [mean_file(path)])]
    size = sum(weights.nbytes for weights in encoder.state_dict().values()) + (0 if mean is None else mean.nbytes)
    observer.plan(f"the encoder of {store}", " and ".join(map(str, (path, *beside))), size)
    observer.progress("export", 0, None, "some seconds, of some backbones a minute")
    files.sweep(path.parent)
    with ExitStack() as stack:  # the files get their names in reverse, the description last
        described, *others = [stack.enter_context(files.replacing(each)) for each in beside]
        written = stack.enter_context(files.replacing(path))
        agreement, any_size = exporting.write(written, encoder, list(grids), _images(opened, encoder))
        for other in others:
            assert mean is not None
            other.write_bytes(mean.tobytes())
        digest = hashlib.sha256(written.read_bytes()).hexdigest()
        exported = describe(opened, encoder, grids, path, digest, any_size, agreement)
        described.write_text(exported.text + "\n", encoding="utf-8")
    if exported.bank_precision == "bfloat16":
        rounded = (
            "the bank was embedded with bfloat16, the model computes in float32: scores differ slightly from those of `score()`"
        )
        observer.note(f"{rounded}; `embed(precision=float32)` makes them the same")
    if not any_size:
        observer.note(f"the model takes images of {height}x{width} pixels only: this backbone cannot be exported for any size")
    return exported


def _target(path: Path, overwrite: bool) -> Path:
    """The path, where it can be written and nothing is lost."""
    files.target("file", path, ".onnx")
    if not path.parent.exists():
        raise InputError(f"no such folder: {path.parent}", parameter="file", subject=path)
    for each in (path, path.with_suffix(".json"), mean_file(path)):
        if os.path.lexists(each) and not overwrite:
            advice = "replace it with `overwrite`, or give another name"
            raise InputError("exists already", parameter="file", subject=each, advice=advice)
        if files.is_folder(each):
            raise InputError("expected the name of a file, found a folder", parameter="file", subject=each)
    return path


def _images(store: Store, encoder: Encoder) -> torch.Tensor:
    """Training images, standardised, to compare by; of large ones a part, unless the encoder takes them whole."""
    side = None if encoder.padded else SIDE
    pixels, mean = store.images.read(0, IMAGES)[:, :side, :side], store.mean[:side, :side]
    return torch.from_numpy(standardise(pixels, mean if encoder.centred else 0 * mean))
