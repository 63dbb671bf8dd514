"""Which maps to multiply: synthetic defects against true ones. python examples/benchmarks/maps.py STORE...

Each store holds an encoder of the default training or of `import --backbone`, and knows a data set with labels and masks. The
script embeds a copy with all maps, and prints what the criterion says of every product of maps beside its true figures, with
Spearman's correlation. Then it compares rules that take the largest product within so many standard errors of the best: by how
much their true figures fall short of the best product's, and so for the rule that is best on all other sets.
"""

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

import patchcli
from patchcli.datasets.sample_masks import mask_rule, read_mask
from patchcli.detection import maps
from patchcli.detection.detector import BATCH, Detector
from patchcli.detection.evaluation import Evaluation, MappedImage
from patchcli.detection.stream import stream
from patchcli.observer import Observer
from patchcli.store import Store
from patchcli.training import checkpoint
from patchcli.training.criterion import MANY_COPIES, Choice, Validation
from patchcli.verbs.sources import dataset

FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_30")
RULES = (0.0, 0.5, 1.0, 2.0, 3.0, np.inf)  # standard errors


def choices_of(store: Path) -> list[Choice]:
    """What good images alone say of each product of maps."""
    opened, cpu = Store.open(store), torch.device("cpu")
    images, encoder = checkpoint.good_images(opened), opened.encoder.restore(cpu)
    if opened.encoder.attributes.by_colour:
        images.centre_by_colour()
    validation = Validation.of(images, copies=MANY_COPIES)
    of_scale, _ = validation.maps(encoder, encoder.scales, cpu, opened.bank().precision)
    return validation.choices(of_scale)


def true_figures(store: Path, choices: list[Choice]) -> np.ndarray:
    """(choices, figures) on the test images."""
    detector, observer = Detector.open(store), Observer()
    data = dataset(detector)
    rule = mask_rule(data.samples, None, False)
    names = {str(number): str(number) for number in range(len(choices))}
    with Evaluation(names) as evaluation:
        for sample, result in stream(detector, data.split("test"), BATCH, observer):
            products = {n: maps.multiply(result.scale_maps, choice.exponents) for n, choice in zip(names, choices, strict=True)}
            good = np.zeros(result.size, bool)
            mask = read_mask(sample, result.size, rule, observer) if sample.defective else good
            evaluation.add(MappedImage(sample, result.size, products, None).measure(mask, None))
        rows = [row for row in evaluation.rows(data.category) if row.kind is None]
    return np.array([[getattr(row, name) for name in FIGURES] for row in rows], float)  # None: nan


def taken(choices: list[Choice], errors: float) -> int:
    """The number of the choice that a rule takes."""
    within = [n for n, one in enumerate(choices) if one.lack == 0 or errors == np.inf or one.lack <= errors * one.error]
    return min(within, key=lambda n: (-len(choices[n].exponents), choices[n].lack))


def main() -> None:
    stores = [Path(name) for name in sys.argv[1:]] or sys.exit(__doc__)
    print(f"{'store':32}{'maps':22}{'criterion':>10}{'lacks':>8}{'error':>8}" + "".join(f"{name:>13}" for name in FIGURES))
    lacks = []  # (stores, rules, figures): how far below the best product
    for store in stores:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(store, Path(folder) / "copy.zarr"))
            with Store.writing(copy) as opened:
                encoder = opened.encoder
                every = dict.fromkeys(encoder.restore(torch.device("cpu")).scales, 1.0)
                opened.write_encoder(encoder.weights(), replace(encoder.attributes, exponents=every, trouble=None), {})
            patchcli.embed(copy)
            choices = choices_of(copy)
            figures = true_figures(copy, choices)
        for choice, row in zip(choices, figures, strict=True):
            said = f"{choice.figure:10.3f}{choice.lack:8.3f}{choice.error:8.3f}"
            print(f"{store.name:32}{' '.join(choice.exponents):22}{said}" + "".join(f"{value:13.3f}" for value in row))
        criteria = [choice.figure for choice in choices]
        correlations = [spearmanr(criteria, column).statistic if len(set(column)) > 1 else np.nan for column in figures.T]
        print(f"{store.name:32}{'correlation':48}" + "".join(f"{value:13.2f}" for value in correlations), flush=True)
        lacks.append([figures.max(axis=0) - figures[taken(choices, errors)] for errors in RULES])
    of_rules = np.array(lacks)
    for number, errors in enumerate(RULES):
        print(
            f"{f'within {errors:g} errors: below the best by':80}" + "".join(f"{x:13.3f}" for x in of_rules[:, number].mean(0))
        )
    if len(stores) > 1:
        others = [int(np.delete(of_rules, n, 0).mean(axis=(0, 2)).argmin()) for n in range(len(stores))]
        left_out = np.array([of_rules[n, rule] for n, rule in enumerate(others)])
        print(f"{'the rule that is best on all other sets':80}" + "".join(f"{x:13.3f}" for x in left_out.mean(0)))
        print("rules:", ", ".join(f"{RULES[rule]:g}" for rule in others))


if __name__ == "__main__":
    main()
