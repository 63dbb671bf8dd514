"""Store and images → one page: figures, scores, and the images with their anomalies."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from patchcli import files
from patchcli.cluster import Cluster
from patchcli.detection.detector import BATCH, Detector, Setup, opened
from patchcli.detection.evaluation import Row
from patchcli.detection.regions import RegionOptions
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.verbs.evaluate import evaluate
from patchcli.verbs.outputs import Outputs
from patchcli.verbs.report_page import page
from patchcli.verbs.scoring import Scoring
from patchcli.verbs.sources import Paths

LIMIT = 200  # images on the page


def write_report(
    detector: Detector | Path | str = "patchcli.zarr",
    paths: Paths | None = None,
    *,
    out: Path | str = "report.html",
    limit: int = LIMIT,
    regions: RegionOptions | None = None,
    mask_threshold: int | None = None,
    cluster: Cluster | None = None,
    setup: Setup | None = None,
    observer: Observer | None = None,
) -> Path:
    """Score images as `score` does, and write the page; its path.

    Figures are there for the test images of a data set with labels; verdicts where the store is calibrated. Of more than
    `limit` images those with the highest scores are shown, and the page says so. The workers of a `cluster` score the images
    and prepare the figures; the page is the same.
    """
    observer, out = observer or Observer(), files.target("out", out, ".html")
    if limit < 1:
        raise InputError(f"{limit}", parameter="limit", expected="1 image or more")
    detector = opened(detector, setup, observer)
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(out, cluster))
        if cluster is not None:
            cluster = stack.enter_context(cluster.kept(detector.setup.threads, observer))
        scoring = Scoring(
            detector,
            paths,
            Outputs(folder),
            regions or RegionOptions(),
            batch=BATCH,
            mask_threshold=mask_threshold,
            cluster=cluster,
            observer=observer,
        )
        scored, rows = list(scoring), list[Row]()
        if paths is None:
            try:
                rows = evaluate(detector, maps=folder, mask_threshold=mask_threshold, cluster=cluster)
            except InputError as error:
                observer.note(f"no figures: {error}")
        title = f"{detector.source.category}: {len(scored)} images"
        files.write_text(out, page(detector, scored, title, [], rows, limit, observer, mask_threshold))
    return out


def _folder(out: Path, cluster: Cluster | None) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder for the maps; near the page where workers may be on other machines, which see that place."""
    if cluster is None or cluster.scheduler is None:
        return tempfile.TemporaryDirectory()
    near = next(folder for folder in out.absolute().parents if folder.exists())
    return tempfile.TemporaryDirectory(prefix=".maps-", dir=near)
