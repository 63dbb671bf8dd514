"""What training adds to what costs nothing: python examples/benchmarks/training.py DATA... [--minutes M...] [--seeds S...]

For each data set (MVTec AD layout) and seed, one run trains an encoder, and is evaluated after each of the times. The paper's
encoder untrained and the fixed features alone come first. A row has the figures of one map; mean and worst over the seeds
follow. On a busy machine, --steps S... measures after steps instead; the seconds are printed in both cases. --minutes without
a number leaves training out. --encoder flat and the rows of the maps are the ablation of Table S2. textures.py and objects.py
make more data sets.
"""

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import patchcli
from patchcli.detection.evaluation import Row, totals
from patchcli.store import Store
from patchcli.verbs.extraction import ImageOptions

FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_30")


def say(data: Path, seed: object, what: str, map_name: str, figures: list[float], note: str = "") -> None:
    numbers = "".join(f"{figure:13.4f}" for figure in figures)
    print(f"{data.name:18}{seed!s:7}{what:14}{map_name:9}{numbers}{note}", flush=True)


def figures(row: Row) -> list[float]:
    """The figures of one map; nan if a figure is not defined."""
    return np.array([getattr(row, name) for name in FIGURES], float).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--minutes", nargs="*", type=float, default=[5])
    parser.add_argument("--steps", nargs="+", type=int, default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--size", type=int, help="working size of the images")
    for name in ("objective", "sampler", "encoder"):
        parser.add_argument(f"--{name}", help="as of patchcli train")
    parser.add_argument("--lr", type=float, help="as of patchcli train")
    options = parser.parse_args()
    names = ("objective", "sampler", "encoder", "lr")
    recipe: dict[str, Any] = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    size = (options.size, options.size) if options.size else None
    print(f"{'data':18}{'seed':7}{'trained for':14}{'map':9}" + "".join(f"{name:>13}" for name in FIGURES))
    points: list[tuple[str, dict[str, Any]]] = [(f"{steps} steps", {"steps": steps}) for steps in options.steps]
    points = points or [(f"{minutes:g} min", {"minutes": minutes}) for minutes in options.minutes]
    for data in options.data:
        seen: dict[tuple[str, str], list[list[float]]] = defaultdict(list)

        def measure(store: Path, seed: int, what: str, note: str = "", data: Path = data, seen: Any = seen) -> None:
            patchcli.embed(store)
            for row in totals(patchcli.evaluate(store)):
                seen[what, row.map].append(figures(row))
                say(data, seed, what, row.map, figures(row), note)

        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                store, images = Path(folder) / "bench.zarr", ImageOptions(size=size)
                patchcli.train(data, store, images=images, steps=0, seed=seed, encoder=recipe.get("encoder", "hierarchical"))
                measure(store, seed, "untrained")
                patchcli.train(store=store, encoder="fixed", overwrite=True)
                measure(store, seed, "fixed")
                patchcli.train(store=store, steps=0, seed=seed, overwrite=True, **recipe)
                spent = 0.0
                for what, wanted in points:
                    if "minutes" in wanted:
                        wanted = {"minutes": wanted["minutes"] - spent / 60}
                    done = patchcli.train(store=store, resume=True, **wanted)
                    spent = done.seconds
                    attributes = Store.open(store).encoder.attributes
                    note = f"   step {done.chosen} of {done.steps}, {spent:.0f} s, criterion {attributes.criterion:.4f}"
                    measure(store, seed, what, note + ", separation" * attributes.separation)
        for (what, map_name), rows in seen.items():
            for name, over in (("mean", np.mean), ("worst", np.min)):
                say(data, name, what, map_name, np.asarray(over(rows, axis=0)).tolist())


if __name__ == "__main__":
    main()
