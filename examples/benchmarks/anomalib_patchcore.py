"""Pretrained features against anomalib's PatchCore, with the same weights, pixels and metrics:

    python examples/benchmarks/anomalib_patchcore.py DATA [--weights FILE] [--backbone NAME] [--keep SHARE ...] [--rounds N]

DATA has test images with masks; without a file, timm fetches the weights. Each run is a process of its own on one thread. It
fits, from good images at the working size to a bank that is ready to search, then scores the test images in batches of 8; the
two sides take turns, and the least of N rounds counts. patchcli uses the backbone's map alone. anomalib's coreset is that of
seed 0; with --keep 1 both keep everything. Needs: pip install anomalib==2.7.0
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import patchcli
from patchcli.bank import search
from patchcli.datasets.images import resize_map
from patchcli.datasets.images import size as size_of
from patchcli.datasets.layouts import Sample
from patchcli.datasets.sample_masks import mask_rule, read_mask
from patchcli.detection import metrics
from patchcli.detection.detector import BATCH, Detector
from patchcli.detection.pixel_metrics import Pixels
from patchcli.features import pretrained
from patchcli.observer import Observer
from patchcli.store import Store
from patchcli.verbs import sources
from patchcli.verbs.extraction import ImageOptions

DIFFERS = """Before both blur (sigma 4), anomalib repeats a distance over its cell, and patchcli interpolates. anomalib scores
an image by the largest distance of a patch, weighed by 9 neighbours; patchcli by the maximum of the map."""
NEIGHBOURS = (9, 1)  # of anomalib's image score; 9 are its default
COLUMNS = ("image AUROC", "pixel AUROC", "pixel AP", "AUPRO", "vectors", "fit, s", "image, ms", "peak, MB")

Run = dict[str, Any]  # what a process says of its run


# ---- in a process of its own --------------------------------------------------------------------------------------------


def peak() -> float:
    """The peak of this process's memory in MB, on Linux; `getrusage` would have that of its parent too."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024 / 1e6


def batches(pixels: np.ndarray) -> Iterator[np.ndarray]:
    yield from (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))


def levels(pixels: np.ndarray) -> torch.Tensor:
    """Pixels (B, H, W, 3) → (B, 3, H, W), from 0 to 1."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2) / 255


class Anomalib:
    """Its PatchCore, on the layers and with the weights of a store's encoder."""

    def __init__(self, store: Store) -> None:
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        self.encoder: Any = store.encoder.restore(torch.device("cpu"))
        self.model = PatchcoreModel(self.encoder.layers, store.encoder.attributes.options["backbone"], pre_trained=False)
        backbone = self.model.feature_extractor.feature_extractor
        names = {name.replace(".", "_"): name for name in backbone.state_dict()}  # timm joins some with _
        used = self.encoder.backbone.state_dict()
        backbone.load_state_dict({names[name.replace(".", "_")]: values for name, values in used.items()}, strict=False)

    def __call__(self, pixels: np.ndarray) -> Any:
        return self.model((levels(pixels) - self.encoder.mean) / self.encoder.std)

    def fit(self, good: np.ndarray, share: float) -> None:
        self.model.train()
        for pixels in batches(good):
            self(pixels)
        if share < 1:
            self.model.subsample_embedding(share)
        else:
            self.model.memory_bank = torch.vstack(self.model.embedding_store)
            self.model.embedding_store.clear()
        self.model.eval()


@torch.inference_mode()
def of_anomalib(folder: Path, share: float) -> Iterator[Run]:
    good, test = (np.load(folder / name, mmap_mode="r") for name in ("good.npy", "test.npy"))
    torch.manual_seed(0)
    one, begun = Anomalib(Store.open(folder / "store.zarr")), time.perf_counter()
    one.fit(good, share)
    fit = time.perf_counter() - begun
    for neighbours in NEIGHBOURS:
        one.model.num_neighbors, begun = neighbours, time.perf_counter()
        results = [one(pixels) for pixels in batches(test)]
        each = (time.perf_counter() - begun) / len(test)
        np.save(folder / f"{neighbours}.npy", torch.cat([result.anomaly_map[:, 0] for result in results]).numpy())
        scores, vectors = torch.cat([result.pred_score for result in results]), len(one.model.memory_bank)
        yield {"maps": neighbours, "scores": scores.tolist(), "costs": [vectors, fit, each * 1000, peak()]}


def of_patchcli(folder: Path, share: float) -> Iterator[Run]:
    search.method("pruned")  # whose import compiles, or loads what an earlier one compiled
    test, begun = np.load(folder / "test.npy", mmap_mode="r"), time.perf_counter()
    patchcli.embed(folder / "store.zarr", keep=share if share < 1 else None, threads=1)
    detector = Detector.open(folder / "store.zarr", threads=1)
    fit, begun = time.perf_counter() - begun, time.perf_counter()
    features = (detector.embed_fitted(pixels, [test.shape[1:3]] * len(pixels)) for pixels in batches(test))
    results = [result for of_batch in features for result in detector.compare(of_batch)]
    each, vectors = (time.perf_counter() - begun) / len(test), detector.bank.vectors("pretrained")
    np.save(folder / "patchcli.npy", np.stack([result.map for result in results]))
    scores, error = [result.score for result in results], detector.distance_error
    yield {"maps": "patchcli", "scores": scores, "error": error, "costs": [vectors, fit, each * 1000, peak()]}


@torch.inference_mode()
def of_features(folder: Path, _: float) -> Iterator[Run]:
    """How far apart the two features of a patch are at most, as a share of their length."""
    one, pixels = Anomalib(Store.open(folder / "store.zarr")), np.load(folder / "good.npy", mmap_mode="r")[:BATCH]
    one.model.train()
    ours = one.encoder.dense(levels(pixels), ["pretrained"])["pretrained"].permute(0, 2, 3, 1).flatten(0, 2)
    yield {"apart": ((one(pixels) - ours).norm(dim=1) / ours.norm(dim=1)).max().item()}


WORK = {"patchcli": of_patchcli, "anomalib": of_anomalib, "features": of_features}


def work(what: str, folder: Path, share: float) -> None:
    torch.set_num_threads(1)
    pretrained.timm()  # anomalib needs torchvision, as timm does
    for run in WORK[what](folder, share):
        print(json.dumps(run), flush=True)


# ---- the comparison -----------------------------------------------------------------------------------------------------


def apart(what: str, folder: Path, share: float = 1) -> list[Run]:
    """Do that in a process of its own, on one thread, with a store that has no bank yet."""
    shutil.rmtree(folder / "store.zarr", ignore_errors=True)
    shutil.copytree(folder / "encoder.zarr", folder / "store.zarr")
    settings = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    settings |= {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, str(folder), "--work", what, "--keep", str(share)]
    done = subprocess.run(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def prepared(folder: Path, options: argparse.Namespace) -> list[Sample]:
    """A store of the good images with the encoder, and the pixels of good and test images; the test images' samples."""
    store = folder / "encoder.zarr"
    patchcli.extract(options.data, store, ImageOptions(size=(options.size, options.size)))
    patchcli.import_weights(options.weights, store, backbone=options.backbone, layers=options.layers)
    with Store.writing(store) as opened:
        encoder = opened.encoder
        opened.write_encoder(encoder.weights(), replace(encoder.attributes, exponents={"pretrained": 1.0}), {})
    opened = Store.open(store)
    samples = sources.dataset(opened).split("test")
    np.save(folder / "good.npy", opened.images.read(0, len(opened.images)))
    np.save(folder / "test.npy", np.stack([opened.canvas.fit(opened.source.reader.read(one.path)) for one in samples]))
    return samples


def figures(samples: list[Sample], maps: np.ndarray, scores: list[float]) -> list[float | None]:
    """Image AUROC of the scores; pixel AUROC, AP and AUPRO of the maps at the masks' size."""
    rule, observer = mask_rule(samples, None, False), Observer()
    with tempfile.TemporaryFile() as file:
        pixels = Pixels(file)
        for sample, values in zip(samples, maps, strict=True):
            size = size_of(sample.path)
            mask = read_mask(sample, size, rule, observer) if sample.defective else np.zeros(size, bool)
            if mask is not None:
                pixels.add(sample.kind, resize_map(values, *size), mask)
        found = pixels.figures()
    aupro = found.aupro[0] if found.aupro else None
    return [metrics.auroc([sample.defective for sample in samples], scores), found.auroc, found.ap, aupro]


def compare(samples: list[Sample], folder: Path, share: float, rounds: int) -> None:
    """One share of the bank: the figures of each, and what it costs."""
    rows: dict[str, list[Run]] = {}
    for _ in range(rounds):
        for what in ("patchcli", "anomalib"):
            for run in apart(what, folder, share):
                label = what if what == "patchcli" else f"anomalib, {run['maps']} neighbour{'s' * (run['maps'] > 1)}"
                rows.setdefault(label, []).append(run)
    costs = {label: np.min([run["costs"] for run in runs], axis=0) for label, runs in rows.items()}
    for label, (run, *_) in rows.items():
        values = figures(samples, np.load(folder / f"{run['maps']}.npy"), run["scores"])
        numbers = "".join(f"{'–' if value is None else f'{value:.3f}':>13}" for value in values)
        vectors, *rest = costs[label]
        print(f"{label:22}{share:>7.0%}{numbers}{vectors:13,.0f}" + "".join(f"{value:13.1f}" for value in rest), flush=True)
    ratios = costs["anomalib, 9 neighbours"][1:] / costs["patchcli"][1:]
    error = rows["patchcli"][0]["error"]
    print(
        f"{'anomalib / patchcli':94}"
        + "".join(f"{value:13.2f}" for value in ratios)
        + f"   patchcli is off by {error:.3g} at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, help="as of patchcli import")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--layers", nargs="+", type=int)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--keep", nargs="+", type=float, default=[0.1, 1], help="shares of the bank")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if find_spec("anomalib") is None:
        sys.exit("anomalib_patchcore.py compares with anomalib: pip install anomalib==2.7.0")
    if options.work:
        return work(options.work, options.data, *options.keep)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = prepared(folder, options)
        (features,) = apart("features", folder)
        print(DIFFERS)
        print(f"The features of a patch differ by {features['apart']:.1e} of their length at most.")
        print(f"{options.data.name:22}{'bank':>7}" + "".join(f"{column:>13}" for column in COLUMNS))
        for share in options.keep:
            compare(samples, folder, share, options.rounds)
    return None


if __name__ == "__main__":
    main()
