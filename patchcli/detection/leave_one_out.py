"""Training images, each scored as if the bank did not hold it."""

from collections.abc import Iterator

from patchcli.detection.detector import Detector
from patchcli.detection.result import Result
from patchcli.errors import StoreError
from patchcli.observer import Observer


def check_whole(detector: Detector) -> None:
    """Raise StoreError for a bank of one image, or a thinned one, whose vectors may have covered what it left out."""
    if len(detector.images.ids) < 2:
        raise StoreError("leaving an image out needs at least 2 images", subject=detector.path, advice="add some: `bank_add()`")
    if detector.bank.attributes.thinning.selects:
        thinned = "leaving an image out needs the whole bank, this one is thinned"
        raise StoreError(thinned, subject=detector.path, run="embed(overwrite)")


def leave_one_out(detector: Detector, task: str, observer: Observer) -> Iterator[tuple[str, Result]]:
    """The id and the result of every training image of a whole bank; progress is that of `task`."""
    ids, sizes = detector.images.ids, detector.images.sizes
    for number, (name, size) in enumerate(zip(ids, sizes, strict=True)):
        if detector.roi is not None:
            detector.roi.check(name, *size)
        features = detector.embed_fitted(detector.images.read(number, number + 1), [size])
        (result,) = detector.compare(features, without=number)
        yield name, result
        observer.progress(task, number + 1, len(ids), name)
