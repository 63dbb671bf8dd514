"""Tables S1 and S2 of the paper over the classes of MVTec AD: python examples/mvtec_tables.py MVTEC_FOLDER [options].

For every class (a folder with train/good) it trains a hierarchical and a flat encoder, each in its own store. Table S2 is the
ablation (flat K=64, hierarchical K=64, K=32, product), averaged over the classes; Table S1 is the product, class by class. If
interrupted, run the script again to resume.

It trains the paper's encoders by patchcli's default losses; `--paper` takes the paper's sampler, batch, learning rate and λ,
which needs a GPU and hours. `--weights FOLDER` trains nothing: it takes the weights that the authors published, one <class>.pkl
for each class, and prints Table S1 of those classes, with exact neighbours.
"""

import argparse
from pathlib import Path

import numpy as np

import patchcli
from patchcli.detection.evaluation import Row, totals
from patchcli.errors import StoreError
from patchcli.verbs.extraction import ImageOptions

PAPER = 0.921, 0.957  # image and pixel AUROC, the mean over the classes of MVTec AD (Yi & Yoon, ACCV 2020)


def prepare(data: Path, store: Path, architecture: str, options: argparse.Namespace) -> None:
    """Train and embed one class; resume an earlier run."""
    recipe = patchcli.Recipe(encoder=architecture, seed=options.seed)
    if options.paper:
        recipe = patchcli.Recipe.published(encoder=architecture, seed=options.seed, lr=1e-4, lam=1e-3)
    try:
        steps = patchcli.info(store).encoder_steps
    except StoreError:
        steps = None
    if steps is None:
        patchcli.train(data, store, steps=options.steps, recipe=recipe)
    elif steps < options.steps:
        patchcli.train(store=store, steps=options.steps, resume=True)
    patchcli.embed(store)


def imported(data: Path, store: Path, weights: Path) -> Row:
    """The product map of one class with published weights."""
    patchcli.extract(data, store, ImageOptions(size=(256, 256)))
    if patchcli.info(store).encoder_sha256 is None:
        patchcli.import_weights(weights, store)
    patchcli.embed(store)
    return totals(patchcli.evaluate(store))[-1]


def mean(rows: list[Row], figure: str) -> float:
    return float(np.mean([value for row in rows if (value := getattr(row, figure)) is not None]))


def table_s1(rows: list[Row], how: str) -> None:
    print(f"\nTable S1 ({how})\n{'class':16}{'image AUROC':>14}{'pixel AUROC':>14}")
    for row in rows:
        print(f"{row.category:16}{row.image_auroc:14.3f}{row.pixel_auroc:14.3f}")
    print(f"{'average':16}{mean(rows, 'image_auroc'):14.3f}{mean(rows, 'pixel_auroc'):14.3f}")
    print(f"{'paper, all 15':16}{PAPER[0]:14.3f}{PAPER[1]:14.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mvtec", type=Path)
    parser.add_argument("--out", type=Path, default=Path("mvtec-stores"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--paper", action="store_true")
    how.add_argument("--weights", type=Path)
    options = parser.parse_args()

    classes = sorted(folder for folder in options.mvtec.iterdir() if (folder / "train" / "good").is_dir())
    if not classes:
        parser.error(f"{options.mvtec}: no class folders with train/good in it")
    if options.weights:
        found = {folder: options.weights / f"{folder.name}.pkl" for folder in classes}
        found = {folder: weights for folder, weights in found.items() if weights.is_file()}
        if not found:
            parser.error(f"{options.weights}: no <class>.pkl of {', '.join(folder.name for folder in classes)}")
        stores = options.out / "published"
        rows = [imported(folder, stores / f"{folder.name}.zarr", weights) for folder, weights in found.items()]
        table_s1(rows, f"published weights, exact neighbours, {len(rows)} of {len(classes)} classes")
        return

    table: dict[str, list[Row]] = {}
    for folder in classes:
        for architecture in ("flat", "hierarchical"):
            store = options.out / architecture / f"{folder.name}.zarr"
            prepare(folder, store, architecture, options)
            for row in totals(patchcli.evaluate(store)):
                table.setdefault(row.map, []).append(row)

    table_s1(table["product"], f"steps {options.steps}, seed {options.seed}")

    print(f"\nTable S2 (average of {len(classes)} classes)\n{'map':16}{'image AUROC':>14}{'pixel AUROC':>14}")
    for name, rows in table.items():
        print(f"{name:16}{mean(rows, 'image_auroc'):14.3f}{mean(rows, 'pixel_auroc'):14.3f}")


if __name__ == "__main__":
    main()
