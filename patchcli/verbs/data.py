"""Data set → what was understood of it, before anything is trained."""

from pathlib import Path

from patchcli.datasets import images, layouts
from patchcli.datasets.survey import Kind, Survey
from patchcli.observer import Observer


def data(
    data: Path | str,
    layout: str | None = None,
    observer: Observer | None = None,
    *,
    bits: int | None = None,
    large: bool = False,
    mask_threshold: int | None = None,
) -> list[Kind]:
    """Read every image and mask of a data set (a folder or a manifest) and count them by split and kind.

    What cannot be used, or holds no picture, is a problem for the observer; the same file content twice, once among the
    good images that are learned from, is a note. `bits`, `large` and `mask_threshold` are those of `extract` and `evaluate`.
    Raises InputError where there is nothing to learn from.
    """
    observer = observer or Observer()
    if bits is not None:
        images.check_bits(bits)
    dataset = layouts.read(Path(data), layout)
    for line in dataset.problems:
        observer.problem(line)
    survey = Survey(dataset, large, mask_threshold, observer)
    for sample in dataset.samples:
        survey.add(sample)
    kinds = survey.kinds(bits)
    survey.remarks.close()
    for same in dataset.duplicates():
        first, *others = (sample.id for sample in same)
        observer.note(f"{', '.join(others)}: the same file content as {first}")
    return kinds
