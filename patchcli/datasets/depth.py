"""How many bits the files of a data set use."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from patchcli.datasets import decoding, images
from patchcli.datasets.images import Depth
from patchcli.datasets.layouts import Sample
from patchcli.errors import InputError


def depth(samples: Iterable[Sample], large: bool) -> Depth:
    """The depth of a data set, of its good training images; those that cannot be read do not count."""

    def heads() -> Iterator[tuple[decoding.Head, images.Highest]]:
        for sample in samples:
            try:
                head = decoding.head(sample.path)
            except InputError:
                continue
            yield head, lambda path=sample.path: _highest(path, large)  # type: ignore[misc]

    return Depth.of(heads())


def _highest(path: Path, large: bool) -> int:
    try:
        return decoding.read(path, large).highest
    except InputError:
        return 0
