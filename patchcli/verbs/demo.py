"""Every step on a synthetic data set, to an overview page."""

from dataclasses import dataclass
from pathlib import Path

from patchcli import files
from patchcli.datasets import weave
from patchcli.detection.detector import BATCH, Detector
from patchcli.detection.evaluation import Row, totals
from patchcli.detection.regions import RegionOptions
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.verbs.embed import embed
from patchcli.verbs.evaluate import evaluate
from patchcli.verbs.extract import extract
from patchcli.verbs.extraction import ImageOptions
from patchcli.verbs.outputs import Outputs
from patchcli.verbs.report_page import page as page_of
from patchcli.verbs.scoring import Scoring
from patchcli.verbs.train import train

STEPS = 100
DISK = 60_000_000  # bytes of all that is written


@dataclass(frozen=True)
class Demo:
    """The page, and the table on it: a row per map."""

    page: Path
    rows: list[Row]


def demo(
    folder: Path | str = "patchcli-demo",
    *,
    steps: int = STEPS,
    seed: int = 0,
    threads: int | None = None,
    observer: Observer | None = None,
) -> Demo:
    """Make cloth with and without defects in `folder`, then extract, train, embed, score and evaluate it."""
    observer = observer or Observer()
    files.check_local("folder", folder)
    folder = Path(folder)
    data, store = folder / "cloth", folder / "cloth.zarr"
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not data.is_dir())):
        raise InputError(f"{folder}: expected a new or empty folder, or that of an earlier demo; name another")
    observer.plan("nothing", f"pictures, store, maps and page below {folder}", DISK)
    observer.note(f"making pictures of cloth in {data}")
    weave.write_dataset(data, seed)
    good = extract(data, store, ImageOptions(size=(weave.SIDE, weave.SIDE)), overwrite=True, observer=observer).images
    observer.note(f"training {steps} steps")
    if train(store=store, steps=steps, seed=seed, overwrite=True, threads=threads, observer=observer).interrupted:
        raise KeyboardInterrupt
    embed(store, observer=observer)
    rows = totals(evaluate(store, observer=observer))
    detector = Detector.open(store, observer=observer)
    outputs = Outputs(folder / "maps", overlay=True)
    scored = list(Scoring(detector, None, outputs, RegionOptions(), batch=BATCH, observer=observer))
    lines = [
        f"{good} pictures of good cloth were learned from, {rows[0].images} others were scored; "
        f"{rows[0].defective} of those have a defect. The images are drawn by code (seed {seed}).",
        f"Training took {steps} steps; no test image and no label was seen in it. K=64 and K=32 are learned, “fixed” needs no "
        "training. Synthetic defects in good images chose the maps that are multiplied.",
    ]
    page = folder / "overview.html"
    files.write_text(page, page_of(detector, scored, "patchcli demo: woven cloth", lines, rows, len(scored), observer))
    return Demo(page, rows)
