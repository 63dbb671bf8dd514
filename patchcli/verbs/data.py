"""Data set → what was understood of it, before anything is trained."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchcli.datasets import decoding, images, layouts
from patchcli.datasets.images import Depth, full_scale
from patchcli.datasets.layouts import Sample
from patchcli.datasets.masks import Rule
from patchcli.errors import InputError
from patchcli.observer import Observer, Remarks

SCHEMA = "patchcli.data/1"
DARK = 0.02  # of full scale: an image that is nowhere brighter is nearly black


@dataclass(frozen=True)
class Kind:
    """The images of one split and kind; sizes are in pixels, None where no image can be read."""

    schema: str
    category: str
    layout: str
    split: str  # train, validation, test; unused, test_private and test_private_mixed are for no verb by itself
    kind: str  # good, or the kind of defect
    images: int
    masks: int  # images with a usable mask
    unreadable: int  # images that will be left out
    height: int | None  # the most common size, upright
    width: int | None
    smallest_height: int | None  # the size of the fewest pixels
    smallest_width: int | None
    bits: int  # the depth of the data set, with which files of 16 bits are read
    lowest: int | None  # value as the files store it, and the highest
    highest: int | None
    turned: int  # images whose file says that they lie on their side or mirrored


@dataclass(frozen=True)
class _Seen:
    """An image's values as they are stored."""

    path: Path
    head: decoding.Head
    lowest: int
    highest: int
    full: int | None  # the highest value that it may have; None: that is the data set's


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
    rule, remarks = mask_rule(dataset.samples, mask_threshold, large), Remarks(observer)
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in dataset.samples:
        groups.setdefault((sample.split, sample.kind), []).append(sample)
    seen: dict[tuple[str, str], list[_Seen]] = {}
    masks: Counter[tuple[str, str]] = Counter()
    done = 0
    for group, samples in groups.items():
        seen[group] = []
        for sample in samples:
            try:
                found = _see(sample.path, large, remarks)
            except InputError as error:
                observer.problem(str(error))
            else:
                seen[group].append(found)
                mask = read_mask(sample, (found.head.height, found.head.width), rule, observer)
                masks[group] += mask is not None
                if mask is not None and mask.mean() > 0.5:
                    remarks(sample.masks[0], "more than half of the image is marked as defective; 0 should be good")
            done += 1
            observer.progress("data", done, len(dataset.samples), sample.id)
    if bits is None:
        good = [one for (split, _), group in seen.items() if split == "train" for one in group]
        bits = Depth.of((one.head, lambda one=one: one.highest) for one in good).bits  # type: ignore[misc]
    kinds = []
    for (split, kind), samples in groups.items():
        usable = [one for one in seen[split, kind] if not _too_high(one, bits, observer)]
        sizes = Counter((one.head.height, one.head.width) for one in usable)
        common = sizes.most_common(1)[0][0] if sizes else (None, None)
        smallest = min(sizes, key=lambda size: size[0] * size[1]) if sizes else (None, None)
        counts = len(samples), masks[split, kind], len(samples) - len(usable)
        lowest, highest = min((one.lowest for one in usable), default=None), max((one.highest for one in usable), default=None)
        turned = sum(one.head.orientation != 1 for one in usable)
        of = SCHEMA, dataset.category, dataset.layout, split, kind
        kinds.append(Kind(*of, *counts, *common, *smallest, bits, lowest, highest, turned))  # type: ignore[call-arg]
    remarks.close()
    for same in dataset.duplicates():
        first, *others = (sample.id for sample in same)
        observer.note(f"{', '.join(others)}: the same file content as {first}")
    return kinds


def _see(path: Path, large: bool, remarks: Remarks) -> _Seen:
    """Decode an image and look at its values."""
    samples = decoding.read(path, large)
    for line in samples.remarks:
        remarks(path, line)
    images.check_size(path, samples.head)
    full = None if samples.head.bits == 16 else full_scale(samples.head.bits)
    return _Seen(path, samples.head, int(samples.values.min()), samples.highest, full)


def _too_high(one: _Seen, bits: int, observer: Observer) -> bool:
    """Whether an image has higher values than the data set's depth; reports that, and images without a picture."""
    full = one.full or full_scale(bits)
    if one.highest > full:
        observer.problem(images.too_high(one.path, one.highest, bits))
        return True
    if one.lowest == one.highest:
        observer.problem(f"{one.path}: all pixels have the value {one.lowest}; expected a picture", left_out=False)
    elif one.highest < DARK * full:
        found = f"nearly black, no value is above {one.highest} of {full}"
        advice = "check the exposure, or state the camera's depth with --bits"
        observer.problem(f"{one.path}: {found}; {advice}", left_out=False)
    return False


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


def mask_rule(samples: Iterable[Sample], mask_threshold: int | None, large: bool) -> Rule:
    """What is a defect in the masks of a data set, but for those known to hold labels."""
    return Rule.of((path for sample in samples if not sample.nonzero for path in sample.masks), mask_threshold, large)


def read_mask(sample: Sample, shape: tuple[int, ...], rule: Rule, observer: Observer) -> NDArray[np.bool_] | None:
    """The sample's masks united, each checked against the image's (height, width); None, reported, where that fails."""
    if not sample.masks:
        return None
    united = np.zeros(shape, bool)
    for path in sample.masks:
        try:
            mask = rule.read(path, sample.nonzero)
        except InputError as error:
            observer.problem(str(error))
            return None
        if mask.shape != shape:
            found = f"{mask.shape[1]}x{mask.shape[0]}, its image has {shape[1]}x{shape[0]}"
            observer.problem(f"{path}: expected a mask of the image's size, found {found}")
            return None
        united |= mask
    if not united.any() and sample.defective:
        left_out = "mask of a defective image is empty; its pixels are left out"
        above = "" if sample.nonzero or not rule.threshold else f" (values above {rule.threshold} count: --mask-threshold)"
        observer.problem(f"{sample.masks[0]}: {left_out}{above}")
        return None
    return united
