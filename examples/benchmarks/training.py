"""What training adds to an untrained encoder: python examples/benchmarks/training.py [--minutes M] [--seeds S] DATA...

Each data set (MVTec AD layout) is trained on anew for each seed, and scored with the exact search. A row is printed for
the untrained encoder and for the trained one, then mean and worst over the seeds. Textures to add: textures.py.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import patchcli
from patchcli.pipeline.evaluate import totals
from patchcli.store import Store

FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_30")


def product(store: Path) -> dict[str, float]:
    """Figures of the product map, those that `patchcli eval` gives."""
    patchcli.embed(store)
    row = totals(patchcli.evaluate(store))[-1]
    return {name: value for name in FIGURES if (value := getattr(row, name, None)) is not None}


def say(data: Path, seed: object, what: str, figures: dict[str, float], note: str = "") -> None:
    print(f"{data.name:18}{seed!s:7}{what:11}" + "".join(f"{figures[n]:13.4f}" for n in figures) + note, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, help="working size of the images")
    parser.add_argument("--objective", help="as of patchcli train")
    options = parser.parse_args()
    recipe = {"objective": options.objective} if options.objective else {}
    size = (options.size, options.size) if options.size else None
    print(f"{'data':18}{'seed':7}{'encoder':11}" + "".join(f"{name:>13}" for name in FIGURES))
    for data in options.data:
        trained, untrained = [], []
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                store = Path(folder) / "bench.zarr"
                patchcli.train(data, store, size=size, steps=0, seed=seed, **recipe)
                untrained.append(product(store))
                say(data, seed, "untrained", untrained[-1])
                done = patchcli.train(store=store, minutes=options.minutes, resume=True)
                trained.append(product(store))
                criterion = Store.open(store).encoder_attributes["criterion"]
                note = f"   step {done.chosen} of {done.steps}, {done.seconds:.0f} s, criterion {criterion}"
                say(data, seed, "trained", trained[-1], note)
        for what, rows in (("untrained", untrained), ("trained", trained)):
            for name, over in (("mean", np.mean), ("worst", np.min)):
                say(data, name, what, {n: float(over([row[n] for row in rows])) for n in rows[0]})


if __name__ == "__main__":
    main()
