"""What every layout gives: a data set as a list of samples."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from patchcli import files
from patchcli.datasets import images

# Words for good and defective images and for masks, in any case, as names of folders; the former as labels in a table too.
GOOD = frozenset({"good", "ok", "normal"})
BAD = frozenset({"bad", "ko", "ng", "nok", "defect", "defective", "anomaly", "anomalous", "abnormal"})
MASKS = frozenset({"ground_truth", "masks", "mask"})


@dataclass(frozen=True)
class Sample:
    """One image of a data set."""

    id: str  # path below the data set's root, with forward slashes
    path: Path
    split: str  # train, validation, test; or what no verb takes by itself: unused, test_private, test_private_mixed
    kind: str  # "good", or the kind of defect; "unlabelled" in the private splits
    masks: tuple[Path, ...] = ()  # of one image, to be united
    nonzero: bool = False  # masks hold label values: all but 0 is defect
    given: str = ""  # the path by which the user named it, where one was given

    @property
    def image(self) -> str:
        """What the user calls it: the path as given, else the id."""
        return self.given or self.id

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
    files.check_regular(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Layout:
    """One way to lay a data set out."""

    form: str  # what it is recognised by, and where its good training images are
    fits: Callable[[Path], bool]
    read: Callable[[Path], Dataset]
    folders: tuple[str, ...]  # folders below the root, in any case, whose images it takes; "" is the root itself

    def takes(self, root: Path, path: Path) -> bool:
        """Whether an image at `path` would be one of the data set's; both without links."""
        if path == root or not path.is_relative_to(root):
            return path == root
        return "" in self.folders or path.relative_to(root).parts[0].casefold() in self.folders


def held_out(name: str) -> bool:
    """Whether a good image of this name is for testing, where a data set has no split of its own: one in five.

    The name's sha256 decides, so that no image changes sides when others are added or taken away.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % 5 == 0


# ---- folders --------------------------------------------------------------------------------------------------------


def subfolders(folder: Path) -> Iterator[Path]:
    """The folders directly inside a folder, by name; hidden and stray ones are passed over."""
    if files.is_folder(folder):
        yield from (c for c in sorted(folder.iterdir()) if not images.passed_over(c.name) and files.is_folder(c))


def below(root: Path, path: str) -> list[Path]:
    """The folders at a path below the root, whatever the case of their names."""
    folders = [root]
    for name in path.split("/"):
        folders = [child for folder in folders for child in subfolders(folder) if child.name.casefold() == name]
    return folders


def is_good(name: str) -> bool:
    """Whether a folder of this name holds good images."""
    return name.casefold() in GOOD


def holds_images(folder: Path) -> bool:
    """Whether there are images in a folder, at any depth."""
    return any(True for _ in images.walk(folder, problem=lambda line: None))


def broken(folder: Path) -> Iterator[str]:
    """A line for each link directly in a folder that leads nowhere."""
    for path in sorted(folder.iterdir()):
        leads_nowhere = path.is_symlink() and not (images.passed_over(path.name) or files.is_folder(path))
        if leads_nowhere and (why := files.trouble(path)):
            yield f"{path}: {why}"


def loose(folder: Path, expected: str) -> Iterator[str]:
    """A line for the images directly in a folder."""
    paths = [path for path in sorted(folder.iterdir()) if images.named_as_one(path) and not files.is_folder(path)]
    if paths:
        others = f" and {len(paths) - 1} more there" * (len(paths) > 1)
        yield f"{paths[0]}{others}: not used; expected {expected}"


def unused(folder: Path, taken: Collection[Path], expected: str) -> Iterator[str]:
    """A line for each folder in this one that holds images and is not taken, for images beside them, and broken links."""
    yield from broken(folder)
    yield from loose(folder, expected)
    for child in subfolders(folder):
        if child not in taken and holds_images(child):
            yield f"{child}: the images of this folder are not used; expected {expected}"


# ---- masks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mask:
    """A mask file, and the image that it is for."""

    path: Path
    folder: PurePosixPath  # of the image, below that of the test images; or one above it
    stem: str

    @property
    def key(self) -> tuple[str, str]:
        return self.folder.as_posix().casefold(), self.stem


def assign(
    places: Sequence[tuple[PurePosixPath, bool]], masks: Sequence[Mask], where: str
) -> tuple[list[tuple[Path, ...]], list[str]]:
    """The masks of each image, from its place below `where`: those of its folder; if it is defective, of the next above.

    Also a line for each mask that fits no image, or several, none of which then has it.
    """
    known: dict[tuple[str, str], list[Mask]] = {}
    for mask in masks:
        known.setdefault(mask.key, []).append(mask)
    keys: list[tuple[str, str] | None] = [None] * len(places)
    claims: Counter[tuple[str, str]] = Counter()
    for up in range(max((len(place.parents) for place, _ in places), default=0)):
        level: Counter[tuple[str, str]] = Counter()
        for number, (place, defective) in enumerate(places):
            if keys[number] is None and up < len(place.parents) and (defective or not up):
                key = place.parents[up].as_posix().casefold(), place.stem
                if key in known and not claims[key]:
                    keys[number] = key
                    level[key] += 1
        claims += level
    problems = []
    for key, group in known.items():
        for mask in group:
            if not claims[key]:
                expected = (PurePosixPath(where) / mask.folder / f"{mask.stem}.*").as_posix()
                problems.append(f"{mask.path}: mask without an image; expected {expected}")
            elif claims[key] > 1:
                problems.append(f"{mask.path}: {claims[key]} images share this mask's name")
    own = [tuple(mask.path for mask in known[key]) if key and claims[key] == 1 else () for key in keys]
    return own, problems
