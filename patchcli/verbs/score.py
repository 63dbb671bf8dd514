"""Images and bank → anomaly maps and one record an image."""

from collections.abc import Iterator
from pathlib import Path

from patchcli.cluster import Cluster
from patchcli.detection.detector import BATCH, Detector, Setup, opened
from patchcli.detection.records import Record
from patchcli.detection.regions import RegionOptions
from patchcli.observer import Observer
from patchcli.verbs.outputs import Outputs
from patchcli.verbs.scoring import Scoring
from patchcli.verbs.sources import Paths


def score(
    detector: Detector | Path | str = "patchcli.zarr",
    paths: Paths | None = None,
    *,
    outputs: Outputs | None = None,
    regions: RegionOptions | None = None,
    batch: int = BATCH,
    calibrated: bool = False,
    mask_threshold: int | None = None,
    part: tuple[int, int] | None = None,
    cluster: Cluster | None = None,
    setup: Setup | None = None,
    observer: Observer | None = None,
) -> Iterator[Record]:
    """Score images (Algorithm 2): the given files and folders, one or many, or the test images of the store's data set.

    Yields a record an image as soon as its batch of `batch` images is scored; what cannot be read is reported to the
    observer and left out. `outputs` says which files are written; they need a detector with a calibration where they depend
    on its thresholds, and so do `regions` other than the default and `calibrated`. Values of masks above `mask_threshold`
    are defects in overlays; without it, see masks.Rule. `part`, as (3, 40) for the third of forty, scores some of the images,
    with the records and maps that they have in a whole run; a `cluster` scores them on its workers, with the same records.
    `setup` says how the detector of a store is opened. Input is checked before the first record.
    """
    observer = observer or Observer()
    scoring = Scoring(
        opened(detector, setup, observer),
        paths,
        outputs or Outputs(),
        regions or RegionOptions(),
        batch=batch,
        calibrated=calibrated,
        mask_threshold=mask_threshold,
        part=part or (1, 1),
        cluster=cluster,
        observer=observer,
    )
    return (record for _, record in scoring)
