"""Which images are the same file as others, or have the same content."""

from pathlib import Path

from patchcli import files
from patchcli.datasets import layouts
from patchcli.datasets.layouts import Sample


def copy_of(path: Path, other: Sample) -> str:
    """How a file that `same_images` found is said to be that other image."""
    return "" if files.real(path) == files.real(other.path) else f"a copy of {other.id}, "


def same_images(samples: list[Sample], others: list[Sample]) -> dict[Path, Sample]:
    """Paths of the samples that are a file of the others, or have the content of one, with that one."""
    paths = {files.real(other.path): other for other in others}
    copies = {sample.path: paths[files.real(sample.path)] for sample in samples if files.real(sample.path) in paths}
    rest = [sample for sample in samples if sample.path not in copies and not files.trouble(sample.path)]
    sizes = {sample.path.stat().st_size for sample in rest}
    contents = {
        layouts.digest(other.path): other
        for other in others
        if not files.trouble(other.path) and other.path.stat().st_size in sizes
    }
    if contents:
        copies |= {sample.path: contents[key] for sample in rest if (key := layouts.digest(sample.path)) in contents}
    return copies
