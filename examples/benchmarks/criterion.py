"""How far the chosen checkpoint is from the best: python examples/benchmarks/criterion.py DATA... [--steps N] [--seeds S...]

Training chooses a checkpoint by synthetic defects in good images. This script also evaluates every judged checkpoint on the
test images, with their labels, which training never sees. For each run it prints the chosen checkpoint, the best by each
figure, and Spearman's correlation of criterion and figure over the run. No choice without labels can be expected to reach
the best.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import patchcli
from patchcli.detection.evaluation import totals
from patchcli.store import Store
from patchcli.training.criterion import JUDGED_EVERY
from patchcli.verbs.extraction import ImageOptions

FIGURES = ("image_auroc", "pixel_auroc", "aupro_30")


def judged(store: Path, copy: Path) -> tuple[float, np.ndarray]:
    """The criterion of the present averaged weights, and their figures (of the last map, the product)."""
    opened = Store.open(store)
    state = opened.encoder.training_state()
    shutil.copytree(store, copy)
    weights = {name.removeprefix("average."): values for name, values in state.items() if name.startswith("average.")}
    with Store.writing(copy) as other:
        other.write_encoder(weights, opened.encoder.attributes, {})
    patchcli.embed(copy)
    row = totals(patchcli.evaluate(copy))[-1]
    shutil.rmtree(copy)
    return float(state["judged"][-1][1]), np.array([getattr(row, name) for name in FIGURES], float)  # None: nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--size", type=int, help="working size of the images")
    parser.add_argument("--encoder", default="hierarchical", help="as of patchcli train")
    options = parser.parse_args()
    if options.steps < JUDGED_EVERY:
        parser.error(
            f"--steps: expected {JUDGED_EVERY} or more, since training judges every so many steps; found {options.steps}"
        )
    print(f"{'data':18}{'seed':6}{'step':>6}{'criterion':>11}" + "".join(f"{name:>13}" for name in FIGURES))
    misses = []
    for data in options.data:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                store, copy = Path(folder) / "bench.zarr", Path(folder) / "copy.zarr"
                size = (options.size, options.size) if options.size else None
                patchcli.train(data, store, images=ImageOptions(size=size), steps=0, seed=seed, encoder=options.encoder)
                steps, criteria, rows = range(JUDGED_EVERY, options.steps + 1, JUDGED_EVERY), [], []
                for step in steps:
                    patchcli.train(store=store, resume=True, steps=step)
                    criterion, row = judged(store, copy)
                    criteria.append(criterion)
                    rows.append(row)
                    print(f"{data.name:18}{seed:<6}{step:6}{criterion:11.4f}" + "".join(f"{x:13.4f}" for x in row), flush=True)
                of_steps, chosen = np.array(rows), steps.index(Store.open(store).encoder.attributes.chosen)
                best = of_steps.max(axis=0)
                misses.append(best - of_steps[chosen])
                for what, values in (
                    (f"chosen: {steps[chosen]}", of_steps[chosen]),
                    ("best", best),
                    ("correlation", [spearmanr(criteria, column).statistic for column in of_steps.T]),
                ):
                    print(f"{data.name:18}{seed:<6}{what:17}" + "".join(f"{value:13.4f}" for value in values), flush=True)
    for what, over in (("mean miss", np.mean), ("worst miss", np.max)):
        print(f"{what:41}" + "".join(f"{value:13.4f}" for value in over(misses, axis=0)))


if __name__ == "__main__":
    main()
