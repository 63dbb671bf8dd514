"""What every layout gives: a data set as a list of samples."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Words for good and defective images, as names of folders and as labels in a table.
GOOD = frozenset({"good", "ok", "normal"})
BAD = frozenset({"bad", "ko", "ng", "nok", "defect", "defective", "anomaly", "anomalous", "abnormal"})


@dataclass(frozen=True)
class Sample:
    """One image of a data set."""

    id: str  # path below the data set's root, with forward slashes
    path: Path
    split: str  # train, validation, test; or what no verb takes by itself: unused, test_private, test_private_mixed
    kind: str  # "good", or the kind of defect; "unlabelled" in the private splits
    masks: tuple[Path, ...] = ()  # of one image, to be united
    nonzero: bool = False  # masks hold label values: all but 0 is defect

    @property
    def defective(self) -> bool:
        """The image-level label."""
        return self.kind != "good"


@dataclass
class Dataset:
    """What a folder or a manifest was understood to hold."""

    root: Path  # the folder, or the manifest file
    layout: str
    category: str
    samples: list[Sample]
    problems: list[str] = field(default_factory=list)  # one line each: masks without an image, unusable rows, …
    _digests: dict[Path, str] = field(default_factory=dict, repr=False)

    def split(self, name: str) -> list[Sample]:
        """The samples of one split, in order."""
        return [sample for sample in self.samples if sample.split == name]

    def manifest(self) -> str:
        """sha256 over the ids and contents of the training images: the identity of what is learned from."""
        whole = hashlib.sha256()
        for sample in self.split("train"):
            whole.update(f"{sample.id}\t{self._digest(sample.path)}\n".encode())
        return whole.hexdigest()

    def set_aside(self, share: float) -> dict[str, str]:
        """Training images to keep out of training and bank, about this share of them: id → sha256 of the content.

        The content decides, so that copies of an image are on one side, and nothing about an image makes it likelier.
        """
        digests = {sample.id: self._digest(sample.path) for sample in self.split("train")}
        last = max(sorted(digests.values())[: round(share * len(digests))], default="")
        return {name: digest for name, digest in digests.items() if digest <= last}

    def duplicates(self) -> list[list[Sample]]:
        """Samples with the same file content, in groups that are not of the test images alone.

        Only files of equal length are read; a file that cannot be is passed over.
        """
        lengths: dict[int, list[Sample]] = {}
        groups: dict[str, list[Sample]] = {}
        for sample in self.samples:
            lengths.setdefault(sample.path.stat().st_size, []).append(sample)
        for sample in (sample for same in lengths.values() if len(same) > 1 for sample in same):
            try:
                groups.setdefault(self._digest(sample.path), []).append(sample)
            except OSError:
                continue
        return [group for group in groups.values() if len(group) > 1 and {sample.split for sample in group} != {"test"}]

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = digest(path)
        return self._digests[path]


def digest(path: Path) -> str:
    """sha256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Layout:
    """One way to lay a data set out."""

    form: str  # what it is recognised by, and where its good training images are
    fits: Callable[[Path], bool]
    read: Callable[[Path], Dataset]
    folders: tuple[str, ...]  # folders below the root whose images it takes; "" is the root itself


def held_out(name: str) -> bool:
    """Whether a good image of this name is for testing, where a data set has no split of its own: one in five.

    The name's sha256 decides, so that no image changes sides when others are added or taken away.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % 5 == 0


def subfolders(folder: Path) -> Iterator[Path]:
    """The folders directly inside a folder, by name; hidden ones are passed over."""
    return (child for child in sorted(folder.iterdir()) if child.is_dir() and not child.name.startswith("."))
