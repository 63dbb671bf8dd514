"""Whether every device and search of a machine agrees with the reference: the CPU, and brute force.

Features may differ by 1e-4 of the largest one of their scale. In float32, another order of the sums makes up to 2e-5; TF32
makes 8e-4 and more, bfloat16 7e-3 and more (measured on four banks). Of a bank that was embedded with bfloat16, two machines
may differ by as much as either does from float32, and are allowed 2⁻⁵. A search gets the reference's features, so on every
device it must name the same patches. Scores are of the device's own features: where those moved by δ, a distance is off by at
most δ (triangle inequality), and a map grows with its distances.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcli.bank import search
from patchcli.detection.detector import Detector, Neighbours

SCHEMA = "patchcli.verify/1"
FEATURES = 1e-4  # of the largest feature of a scale
ROUNDED = 2.0**-5  # instead, where both are of bfloat16,
TYPICAL = 2.0**-8  # and what a typical feature is off by then
HALF = 2.0**-11  # what float16 in the bank adds to it
DISTANCES = 1e-6  # of the largest distance: float32 rounds each by 6e-8 of itself
IMAGES, SAMPLE = 4, 128  # images; patches of the first, at the finest scale, that every search is given
FEWER = 8  # times fewer, to tell what a search takes for each patch from what it takes at all
SECONDS, PATIENCE = 2.0, 10.0  # whole images are searched for as far as they take no longer; the reference's first, no longer

Scales = dict[str, Tensor]  # features of an image, (1, rows, columns, D) of each scale
Found = dict[str, Neighbours]
Shifts = Mapping[str, float]  # of each scale, a distance in the space of its features
REFERENCE, AGREES, DISAGREES, FAILS, UNAVAILABLE = "reference", "agrees", "disagrees", "fails", "unavailable"


@dataclass(frozen=True)
class Check:
    """What was compared, and how it agrees. A difference is a share: of the largest feature, distance or score."""

    schema: str
    check: str  # bank, calibration, embed on a device, or a search on a device
    status: str  # reference, agrees, disagrees, fails, or unavailable: a search that cannot work here
    device: str | None = None
    search: str | None = None
    ms: float | None = None  # milliseconds per image, one at a time: the median; of a sample of patches, extrapolated
    features: float | None = None  # the largest difference from the reference's
    nearest: float | None = None  # share of the patches that have the reference's nearest patch
    distance: float | None = None  # the largest difference from the reference's
    score: float | None = None  # the same, for the device's own features; None where a whole image takes too long
    images: int | None = None  # that were compared
    patches: int | None = None
    reason: str | None = None  # what disagrees or fails, or why it is unavailable


class Reference:
    """Some of a store's images, spread over all, as the CPU and brute force see them: each without itself in the bank.

    `detector` is on the CPU, with brute force.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector, count = detector, len(detector.images.ids)
        self.bound = ROUNDED if detector.bank.precision == "bfloat16" else FEATURES
        several = min(detector.at_once(IMAGES), count)
        self.numbers: list[int] = np.linspace(0, count - 1, several).round().astype(int).tolist()
        self.leaves_out = count > 1 and not detector.bank.attributes.thinning.selects
        self.images, self.embed_ms = self.embed(detector)
        self.largest = {scale: max(float(image[scale].abs().max()) for image in self.images) for scale in detector.grids}
        self.step = max(1, max(grid.patches for grid in detector.grids.values()) // SAMPLE)
        self.of_sample, self.search_ms = self.sample(detector)
        self.found: list[Found] = []  # of whole images: of none, where that takes too long
        if self.search_ms <= 1000 * PATIENCE:
            self.found, self.search_ms = self.whole(detector, self.images)
        self.scores = np.array([self.score(image, found) for image, found in enumerate(self.found)])

    def embed(self, detector: Detector) -> tuple[list[Scales], float]:
        """The images' features on a detector's device, and milliseconds per image."""
        images, seconds = [], []
        for number in (self.numbers[0], *self.numbers):  # the first time, it loads what it needs
            pixels, size = detector.images.read(number, number + 1), detector.images.sizes[number]
            begun = time.perf_counter()
            images.append(detector.embed_fitted(pixels, [size]).scales)
            if detector.device.type == "cuda":
                torch.cuda.synchronize(detector.device)
            seconds.append(time.perf_counter() - begun)
        return images[1:], 1000 * float(np.median(seconds[1:]))

    def nearest(self, detector: Detector, features: Mapping[str, Tensor], image: int = 0) -> Found:
        """What a detector finds for patches of an image."""
        return detector.nearest(features, self.numbers[image] if self.leaves_out else None)

    def sample(self, detector: Detector) -> tuple[Found, float]:
        """What a detector finds for a sample of patches, and milliseconds per image as extrapolated from it."""
        features = {scale: of_scale.flatten(0, 2)[:: self.step] for scale, of_scale in self.images[0].items()}
        few = {scale: of_scale[::FEWER] for scale, of_scale in features.items()}
        self.nearest(detector, few)  # loads and compiles what it needs
        begun = time.perf_counter()
        self.nearest(detector, few)
        halfway = time.perf_counter()
        found = self.nearest(detector, features)
        of_few, of_sample = halfway - begun, time.perf_counter() - halfway
        further = max(0.0, of_sample - of_few) * FEWER / (FEWER - 1)  # as many patches again
        return found, 1000 * (of_sample + further * (self.step - 1))

    def whole(self, detector: Detector, images: Sequence[Scales]) -> tuple[list[Found], float]:
        """What a detector finds for the first image, and as many more as there is time for; and milliseconds per image."""
        found: list[Found] = []
        seconds: list[float] = []
        for image, features in enumerate(images):
            if seconds and sum(seconds) + max(seconds) > SECONDS:
                break
            begun = time.perf_counter()
            found.append(self.nearest(detector, features, image))
            seconds.append(time.perf_counter() - begun)
        return found, 1000 * float(np.median(seconds))

    def score(self, image: int, found: Found, shifts: Shifts | None = None) -> float:
        """The score of an image; with shifts, if all its distances were larger by that."""
        shifted = {}
        for scale, of_scale in found.items():
            farther = of_scale.distances + np.float32((shifts or {}).get(scale, 0))
            shifted[scale] = replace(of_scale, distances=np.maximum(farther, 0))
        height, width = self.detector.canvas.covered(*self.detector.images.sizes[self.numbers[image]])
        return float(self.detector.pixel_maps(shifted)["multi"][0, :height, :width].max())

    def trouble(self, image: int, score: float, moved: Shifts) -> list[str]:
        """What is wrong with a score if no feature moved farther than that: a line, or none."""
        low, high = (self.score(image, self.found[image], {s: sign * by for s, by in moved.items()}) for sign in (-1, 1))
        if low * (1 - DISTANCES) <= score <= high * (1 + DISTANCES):
            return []
        name = self.detector.images.ids[self.numbers[image]]
        return [f"{name} scores {score:.6g}, expected {low:.6g} to {high:.6g}"]

    def moved(self, images: Sequence[Scales]) -> dict[str, float]:
        """By how much a feature of another device is off at most, at each scale."""
        pairs = list(zip(images, self.images, strict=True))
        return {s: max(float((own[s].cpu() - one[s]).norm(dim=-1).max()) for own, one in pairs) for s in self.largest}


def checks(reference: Reference, devices: Sequence[torch.device]) -> Iterator[Check]:
    """The bank, and what embeds and searches on each device."""
    yield check_bank(reference)
    for device in devices:
        detector, images = reference.detector, reference.images
        if device == detector.device:
            yield Check(SCHEMA, f"embed on {device}", REFERENCE, f"{device}", ms=_short(reference.embed_ms), images=len(images))
        else:
            try:
                detector = detector.on(device, "brute")
                images, ms = reference.embed(detector)
            except RuntimeError as error:  # torch's, where memory is short or a driver does not fit
                yield Check(SCHEMA, f"embed on {device}", FAILS, f"{device}", reason=_first_line(error))
                continue
            yield check_embedding(reference, device, images, ms)
        for name in sorted(search.METHODS, key=lambda name: name != detector.setup.search):  # the reference first
            yield check_search(reference, detector, name, images)


def check_bank(reference: Reference) -> Check:
    """Whether the bank's vectors of these images are their features."""
    detector, most, seen = reference.detector, 0.0, 0
    for scale, pages in detector.pages.items():
        features = [image[scale].flatten(0, 2).numpy() for image in reference.images]
        for page in pages:
            numbers, patches = np.divmod(page.ids, detector.grids[scale].patches)
            for number, own in zip(reference.numbers, features, strict=True):
                rows = np.flatnonzero(numbers == number)
                if len(rows):
                    most = max(most, apart(page.vectors[rows], own[patches[rows]], reference.largest[scale]))
                    seen += len(rows)
    thinning, reasons = detector.bank.attributes.thinning, []
    if most > (bound := reference.bound + HALF * thinning.half):
        reasons.append(f"its vectors differ from the features of their patches {_by(most, bound)}")
    whole = len(reference.numbers) * sum(grid.patches for grid in detector.grids.values())
    if not thinning.selects and seen != whole:
        reasons.append(f"it has {seen:,} of the {whole:,} vectors of {len(reference.numbers)} images")
    return _check("bank", reasons, features=most, images=len(reference.numbers), patches=seen)


def check_calibration(reference: Reference, scores: NDArray[np.float64]) -> Check:
    """Whether these scores, of all training images by leaving each out in turn, are the reference's."""
    own = scores[reference.numbers[: len(reference.found)]]
    rounded = float(np.sqrt(reference.detector.attributes.D)) * min(reference.bound, TYPICAL)
    moved = {scale: rounded * largest for scale, largest in reference.largest.items()}
    reasons = [line for image, score in enumerate(own.tolist()) for line in reference.trouble(image, score, moved)]
    return _check("calibration", reasons, score=apart(own, reference.scores), images=len(own))


def check_embedding(reference: Reference, device: torch.device, images: Sequence[Scales], ms: float) -> Check:
    """Whether the features of another device are the reference's."""
    most = max(
        apart(own[scale].cpu().numpy(), image[scale].numpy(), largest)
        for own, image in zip(images, reference.images, strict=True)
        for scale, largest in reference.largest.items()
    )
    reasons = [f"features differ {_by(most, reference.bound)}"] if most > reference.bound else []
    return _check(f"embed on {device}", reasons, device=f"{device}", ms=ms, features=most, images=len(images))


def check_search(reference: Reference, there: Detector, name: str, images: Sequence[Scales]) -> Check:
    """Whether a search on a detector's device finds the reference's neighbours, and for the device's features its scores."""
    check, device = f"{name} on {there.device}", f"{there.device}"
    if there is reference.detector and name == there.setup.search:
        found = reference.found or [reference.of_sample]
        patches = sum(of_scale.ids.size for one in found for of_scale in one.values())
        return Check(SCHEMA, check, REFERENCE, device, name, _short(reference.search_ms), images=len(found), patches=patches)
    if problem := search.method(name).problem(there.device, there.attributes.D):
        return Check(SCHEMA, check, UNAVAILABLE, device, name, reason=problem)
    try:
        return _compared(reference, there.on(there.device, name), check, images)
    except RuntimeError as error:
        return Check(SCHEMA, check, FAILS, device, name, reason=_first_line(error))


def _compared(reference: Reference, detector: Detector, check: str, images: Sequence[Scales]) -> Check:
    """A search by a sample of patches, and by whole images if that does not take too long."""
    of_sample, ms = reference.sample(detector)
    found, wanted = [of_sample], [reference.of_sample]
    scores: list[float] = []
    moved = reference.moved(images)
    if reference.found and ms <= 1000 * SECONDS:
        wanted = reference.found
        found, ms = reference.whole(detector, reference.images[: len(wanted)])
        if images is reference.images:
            scores = [reference.score(image, of_image) for image, of_image in enumerate(found)]
        elif all(map(np.isfinite, moved.values())):
            own, _ = reference.whole(detector, images[: len(wanted)])
            scores = [reference.score(image, of_image) for image, of_image in enumerate(own)]
    pairs = [(mine[s], theirs[s]) for mine, theirs in zip(found, wanted, strict=False) for s in theirs]
    patches = sum(theirs.ids.size for _, theirs in pairs)
    wrong = sum(int((mine.ids != theirs.ids).sum()) for mine, theirs in pairs)
    distance = max(apart(mine.distances, theirs.distances) for mine, theirs in pairs)
    reasons = [f"{wrong:,} of {patches:,} patches have another nearest patch"] if wrong else []
    reasons += [f"distances differ {_by(distance, DISTANCES)}"] if distance > DISTANCES else []
    reasons += [line for image, score in enumerate(scores) for line in reference.trouble(image, score, moved)]
    return _check(
        check,
        reasons,
        device=f"{detector.device}",
        search=detector.setup.search,
        ms=ms,
        nearest=1 - wrong / patches,
        distance=distance,
        score=apart(np.array(scores), reference.scores[: len(scores)]) if scores else None,
        images=len(found),
        patches=patches,
    )


def apart(values: NDArray[Any], reference: NDArray[Any], largest: float | None = None) -> float:
    """The largest difference as a share of the reference's largest value; infinite where a value is not finite."""
    difference = float(np.abs(values.astype(np.float64) - reference).max())
    if difference == 0:
        return 0.0
    largest = float(np.abs(reference).max()) if largest is None else largest
    return difference / largest if largest > 0 and np.isfinite(difference) else np.inf


def _check(check: str, reasons: Sequence[str], **figures: Any) -> Check:
    """A check that agrees unless there are reasons why not; differences and times with three digits."""
    for name in {"ms", "features", "distance", "score"} & figures.keys():
        figures[name] = _short(figures[name])
    return Check(SCHEMA, check, DISAGREES if reasons else AGREES, reason="; ".join(reasons) or None, **figures)


def _short(value: float | None) -> float | None:
    """The number with three digits, from 1,000 on a whole one; None if it is not finite."""
    if value is None or not np.isfinite(value):
        return None
    return round(value) if value >= 1000 else float(f"{value:.3g}")


def _by(most: float, bound: float) -> str:
    return f"by {most:.1e} of the largest, expected at most {bound:.1e}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
