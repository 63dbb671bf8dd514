"""What the values of an image file say about it, and about its data set."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from patchcli.datasets import decoding, images
from patchcli.datasets.images import Depth, full_scale
from patchcli.datasets.layouts import Dataset, Sample
from patchcli.datasets.sample_masks import mask_rule, read_mask
from patchcli.errors import InputError
from patchcli.observer import Observer, Remarks

SCHEMA = "patchcli.data/1"
DARK = 0.02  # of full scale: an image that is nowhere brighter is nearly black


Group = tuple[str, str]  # split and kind


@dataclass(frozen=True)
class Values:
    """The values of an image as its file stores them."""

    path: Path
    head: decoding.Head
    lowest: int
    highest: int
    full: int | None  # the highest value that it may have; None: that is the data set's


def look(path: Path, large: bool, remarks: Remarks) -> Values:
    """Decode an image and look at its values."""
    samples = decoding.read(path, large)
    for line in samples.remarks:
        remarks(path, line)
    images.check_size(path, samples.head)
    full = None if samples.head.bits == 16 else full_scale(samples.head.bits)
    return Values(path, samples.head, int(samples.values.min()), samples.highest, full)


def too_high(one: Values, bits: int, observer: Observer) -> bool:
    """Whether an image has higher values than the data set's depth; reports that, and images without a picture."""
    full = one.full or full_scale(bits)
    if one.highest > full:
        observer.problem(images.too_high(one.path, one.highest, bits))
        return True
    if one.lowest == one.highest:
        observer.problem(f"{one.path}: all pixels have the value {one.lowest}; expected a picture", left_out=False)
    elif one.highest < DARK * full:
        black = f"nearly black, no value is above {one.highest} of {full}"
        advice = "check the exposure, or state the camera's depth with `bits`"
        observer.problem(f"{one.path}: {black}; {advice}", left_out=False)
    return False


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


class Survey:
    """The images of a data set, by split and kind."""

    def __init__(self, dataset: Dataset, large: bool, mask_threshold: int | None, observer: Observer) -> None:
        self._dataset, self._large, self._observer = dataset, large, observer
        self._rule, self.remarks = mask_rule(dataset.samples, mask_threshold, large), observer.remarks()
        self._counts, self._masks = Counter[Group](), Counter[Group]()
        self._values: dict[Group, list[Values]] = {}

    def add(self, sample: Sample) -> None:
        """Read an image and its masks."""
        group = sample.split, sample.kind
        self._counts[group] += 1
        values = self._values.setdefault(group, [])
        try:
            values.append(look(sample.path, self._large, self.remarks))
        except InputError as error:
            self._observer.problem(str(error))
        else:
            mask = read_mask(sample, (values[-1].head.height, values[-1].head.width), self._rule, self._observer)
            self._masks[group] += mask is not None
            if mask is not None and mask.mean() > 0.5:
                self.remarks(sample.masks[0], "more than half of the image is marked as defective; 0 should be good")
        self._observer.progress("data", self._counts.total(), len(self._dataset.samples), sample.id)

    def kinds(self, bits: int | None) -> list[Kind]:
        """A line for each split and kind; without `bits`, the good training images say how many there are."""
        if bits is None:
            good = [one for (split, _), group in self._values.items() if split == "train" for one in group]
            bits = Depth.of((one.head, lambda one=one: one.highest) for one in good).bits  # type: ignore[misc]
        return [self._kind(group, bits) for group in self._values]

    def _kind(self, group: Group, bits: int) -> Kind:
        usable = [one for one in self._values[group] if not too_high(one, bits, self._observer)]
        sizes = Counter((one.head.height, one.head.width) for one in usable)
        common = sizes.most_common(1)[0][0] if sizes else (None, None)
        smallest = min(sizes, key=lambda size: size[0] * size[1]) if sizes else (None, None)
        return Kind(
            schema=SCHEMA,
            category=self._dataset.category,
            layout=self._dataset.layout,
            split=group[0],
            kind=group[1],
            images=self._counts[group],
            masks=self._masks[group],
            unreadable=self._counts[group] - len(usable),
            height=common[0],
            width=common[1],
            smallest_height=smallest[0],
            smallest_width=smallest[1],
            bits=bits,
            lowest=min((one.lowest for one in usable), default=None),
            highest=max((one.highest for one in usable), default=None),
            turned=sum(one.head.orientation != 1 for one in usable),
        )
