"""The criterion that chooses a checkpoint, and the maps to use: how well they find synthetic defects in good images.

The validation images are good images that the encoder does not learn from. Synthetic defects are drawn into copies of them,
and both are scored against a small memory bank of other good images, as Algorithm 2 of the supplement scores images. No test
image takes part.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcli.datasets.images import Pixels
from patchcli.detection import maps, metrics
from patchcli.errors import InputError, TrainingError
from patchcli.features.dense import embed
from patchcli.features.encoder import Encoder, Scale
from patchcli.features.fixed import FLOORS
from patchcli.features.grid import PatchGrid
from patchcli.features.pretrained import PretrainedEncoder
from patchcli.training import defects
from patchcli.training.images import GoodImages
from patchcli.training.trainer import Weights, arrays, check_finite

JUDGED_EVERY = 100  # steps
TOLERANCE = 0.03  # a criterion below the best by no more than this may be as good
COLLAPSES_FROM = 150  # the step from which features that are nearly a line or a point count as a collapse
LEAST_RANK, LEAST_SPREAD = 1.5, 1e-3  # features below these are nearly a line or a point
BANK, COPIES = 24, 4  # images in the bank, at most; damaged copies of each validation image
WINDOW = 256  # pixels a side
SURE = 1  # standard errors by which another choice must be better than the one with more maps, or with the first floor
MANY_COPIES = 16  # damaged copies of each validation image that choose the floor, and the maps to end with
TOGETHER = 128  # queries whose distances are computed at a time: they stay in the cache
BINS = 1000  # of a histogram of map values
TINY = 1e-12
SEED = 1  # the same defects whatever the seed of training


@dataclass(frozen=True)
class Judgement:
    """How good an encoder is."""

    criterion: float  # pixel AUROC over the synthetic defects; from so few images it is noisy
    rank: float  # effective rank of the good images' features, the least of all scales
    spread: float  # their standard deviation over their root mean square, the least of all scales
    exponents: dict[str, float]  # of the maps in their product; a map that is not named is not used


@dataclass(frozen=True)
class Choice:
    """A product of maps."""

    exponents: dict[str, float]
    figure: float  # how well it finds the synthetic defects
    lack: float  # by how much the best choice finds them better,
    error: float  # and the standard error of that


@dataclass(frozen=True)
class Candidate:
    """The encoder's weights after a step, their criterion (None if nothing judged them), and the maps to use."""

    step: int
    criterion: float | None
    weights: Weights
    exponents: dict[str, float]  # of the maps in their product; empty: the product of all


class Validation:
    """Good images (n, H, W, 3) and damaged copies of them, to score against a bank of other good images."""

    @classmethod
    def of(cls, images: GoodImages, window: tuple[int, int] = (WINDOW, WINDOW), copies: int = COPIES) -> "Validation":
        """The validation images of a set, and a bank of those that train."""
        return cls(images.read(images.validation), images.sample(BANK), images.mean, window, copies)

    def __init__(
        self,
        good: Pixels,
        bank: Pixels,
        mean: NDArray[np.float32],
        window: tuple[int, int] = (WINDOW, WINDOW),
        copies: int = COPIES,
    ) -> None:
        """Of images that are larger than `window`, (height, width), the middle counts."""
        top, left = (max(0, side - inside) // 2 for side, inside in zip(mean.shape, window, strict=False))
        rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
        good, bank, mean = good[:, rows, columns], bank[:, rows, columns], mean[rows, columns]
        rng = np.random.default_rng(SEED)
        damaged = [defects.damage_part(rng, image, bank[rng.integers(len(bank))]) for image in good for _ in range(copies)]
        self.bank, self.mean, self._good = bank, mean, len(good)
        self.queries = np.concatenate([good, np.stack([pixels for pixels, _ in damaged])])
        self.masks = np.concatenate([np.zeros(good.shape[:3], bool), np.stack([mask for _, mask in damaged])])
        self._of = np.concatenate([np.arange(len(good)), np.repeat(np.arange(len(good)), copies)])  # the image of each query
        self._unlearned: dict[str, NDArray[np.float32]] = {}  # maps of what training does not change

    def judge(self, encoder: Encoder, device: torch.device, precision: str = "float32") -> Judgement:
        """Score the queries against the bank, embedded with this precision. Raises ValueError if the map is not finite."""
        encoder = copy.deepcopy(encoder).eval()
        if encoder.unlearned and not self._unlearned:
            self._unlearned, _ = self.maps(encoder, encoder.unlearned, device, precision)
        learned, shapes = self.maps(encoder, encoder.learned, device, precision)
        found = self._pixel_auroc(maps.multiply(learned, dict.fromkeys(learned, 1.0)))
        exponents = self.best_maps({**learned, **self._unlearned}) if self._unlearned else {}
        ranks, spreads = zip(*shapes, strict=True)
        return Judgement(found, min(ranks), min(spreads), exponents)

    def maps(
        self, encoder: Encoder, scales: Mapping[str, Scale], device: torch.device, precision: str = "float32"
    ) -> tuple[dict[str, NDArray[np.float32]], list[tuple[float, float]]]:
        """The queries' map of each scale, and the `shape` of its bank."""
        height, width = self.mean.shape[:2]
        grids = {
            name: PatchGrid(height, width, scale.K, scale.judged or scale.stride(height, width))
            for name, scale in scales.items()
        }
        embedded = partial(embed, encoder, mean=self.mean, grids=grids, device=device, precision=precision)
        bank, queries = embedded(self.bank), embedded(self.queries)
        of_scale, shapes = {}, []
        for name, grid in grids.items():
            normal, features = bank[name].flatten(0, 2), queries[name]
            new = (features != features[self._of]).any(3)  # patches that a defect has changed, and
            new[: self._good] = True  # all of undamaged images
            parts = torch.split(features[new], TOGETHER)
            distances = torch.empty(new.shape, device=device)
            distances[new] = torch.cat([torch.cdist(part, normal).amin(1) for part in parts])
            distances = torch.where(new, distances, distances[self._of])
            of_scale[name] = maps.spread(distances.cpu().numpy(), grid, scales[name])
            shapes.append(shape(normal))
        return of_scale, shapes

    def best_maps(self, of_scale: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
        """The exponents of the product of all maps, or of fewer where that finds the defects better, by more than chance.

        Of the choices within SURE standard errors of the best, one with the most maps is taken (after Breiman et al. 1984).
        """
        within = [choice for choice in self.choices(of_scale) if choice.lack <= SURE * choice.error]
        return min(within, key=lambda choice: (-len(choice.exponents), choice.lack)).exponents

    def choices(self, of_scale: Mapping[str, NDArray[np.float32]]) -> list[Choice]:
        """Every product of maps, the largest first.

        An exponent is in proportion to the inverse of how much the logarithm of its map varies over the good images, so that no
        map drowns another. They add up to 1: the product is a geometric mean. Errors are the jackknife's over the validation
        images.
        """
        weights = {name: 1 / (float(np.log(values[: self._good] + TINY).std()) + TINY) for name, values in of_scale.items()}
        choices = []
        for size in range(len(weights), 0, -1):
            for names in combinations(weights, size):
                total = sum(weights[name] for name in names)
                choices.append({name: weights[name] / total for name in names})
        figures = np.array([self.figures(maps.multiply(of_scale, exponents)) for exponents in choices])
        lacks, errors = self.differences(figures[figures[:, 0].argmax()], figures)
        columns = figures[:, 0].tolist(), lacks.tolist(), errors.tolist()
        return [Choice(*each) for each in zip(choices, *columns, strict=True)]

    def differences(
        self, of: NDArray[np.float64], others: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """By how much the `figures` of a map are above those of `others`, and the standard errors of that."""
        gaps = of - others
        errors = gaps[:, 1:].std(axis=1) * np.sqrt(self._good - 1) if self._good > 1 else np.full(len(gaps), np.inf)
        return gaps[:, 0], errors

    def figures(self, found: NDArray[np.float32]) -> list[float]:
        """Mean of pixel and image AUROC: of all queries, then without those of each validation image in turn.

        The pixel AUROC is that of a histogram of BINS bins.
        """
        damaged, scores = (part.reshape(len(part), -1).max(axis=1) for part in (self.masks, found))
        edges = np.quantile(found[:, ::2, ::2], np.linspace(0, 1, BINS + 1)[1:-1])
        good, bad = np.empty((2, len(found), BINS))
        for index, (values, mask) in enumerate(zip(found, self.masks, strict=True)):
            bins = np.searchsorted(edges, values)
            good[index], bad[index] = (np.bincount(bins[part], minlength=BINS) for part in (~mask, mask))
        figures = []
        for left_out in (-1, *np.unique(self._of)):
            kept = self._of != left_out
            below, above = good[kept].sum(axis=0), bad[kept].sum(axis=0)
            pairs = below.sum() * above.sum()
            pixels = above @ (below.cumsum() - below / 2) / pairs if pairs else 0.5
            figures.append((pixels + (metrics.auroc(damaged[kept], scores[kept]) or 0.5)) / 2)
        return figures

    def _pixel_auroc(self, found: NDArray[np.float32]) -> float:
        return metrics.auroc(self.masks.ravel(), found.ravel()) or 0.5


class Criterion:
    """Judges the encoder as it learns, and keeps the last candidate that is as good as the best.

    With the paper's losses it only watches for a collapse: there it preferred an untrained encoder to better ones.
    """

    def __init__(self, images: GoodImages, objective: str, floor: dict[str, float] | None = None) -> None:
        self._images, self._objective = images, objective
        self._floor = floor or {}  # exponents of the maps that need no training, for as long as it has not proved its own
        self.judged: list[list[float]] = []  # step, criterion, rank, spread
        self.candidate: Candidate | None = None

    @cached_property
    def _validation(self) -> Validation:
        return Validation.of(self._images)

    def judge(self, step: int, encoder: Encoder, device: torch.device, precision: str = "float32") -> Candidate | None:
        """The encoder after a step as a candidate; None if the images are too few to validate with.

        Raises TrainingError if the features have collapsed, or the weights are not finite.
        """
        weights = arrays(encoder)
        check_finite(weights, step)
        if not len(self._images.validation):
            return None
        judgement = self._validation.judge(encoder, device, precision)
        if step >= COLLAPSES_FROM and (judgement.rank < LEAST_RANK or judgement.spread < LEAST_SPREAD):
            numbers = f"effective rank {judgement.rank:.2f}, spread {judgement.spread:.1e}"
            advice = "lower `lam` or `lr`, or raise `warmup`" if self._objective == "paper" else "lower `lr`"
            raise TrainingError(f"the features have collapsed ({numbers})", subject=f"step {step}", advice=advice)
        candidate = Candidate(step, judgement.criterion, weights, {} if self._objective == "paper" else judgement.exponents)
        if step % JUDGED_EVERY == 0 and (not self.judged or self.judged[-1][0] < step):
            self.judged.append([step, judgement.criterion, judgement.rank, judgement.spread])
            if step and self._holds(judgement.criterion):  # step 0 is there to compare with
                self.candidate = candidate
        return candidate

    def settled(
        self, last: Candidate | None, encoder: Encoder, device: torch.device, precision: str = "float32"
    ) -> Candidate | None:
        """The last candidate; the choice, it or an earlier one, has its maps chosen again, by more synthetic defects."""
        chosen = self.choice(last)
        if chosen is None or not chosen.exponents:
            return last
        encoder = copy.deepcopy(encoder)
        encoder.load_state_dict({name: torch.from_numpy(values) for name, values in chosen.weights.items()})
        judgement = Validation.of(self._images, copies=MANY_COPIES).judge(encoder, device, precision)
        settled = replace(chosen, exponents=judgement.exponents)
        if chosen is last:
            return settled
        self.candidate = settled
        return last

    def forget(self, step: int) -> None:
        """Forget what was judged after a step: training went back to it."""
        self.judged = [row for row in self.judged if row[0] <= step]

    def _holds(self, criterion: float) -> bool:
        """Whether the criterion has not fallen, by more than chance, from its best since the first step."""
        best = max((earlier for step, earlier, *_ in self.judged if step), default=criterion)
        return criterion >= best - TOLERANCE

    def choice(self, last: Candidate | None) -> Candidate | None:
        """The last candidate, or the earlier one if the criterion has fallen since; None if the criterion has no say."""
        if self._objective == "paper":
            return None
        return last if last is not None and last.criterion is not None and self._holds(last.criterion) else self.candidate

    def choose(self, last: Candidate | None, step: int, weights: Weights) -> Candidate:
        """The choice, or where there is none the weights after this step, with the maps that can be trusted then."""
        return self.choice(last) or Candidate(step, None, weights, self._floor)

    @property
    def gained(self) -> bool:
        """Whether the candidate beats the untrained encoder."""
        return (
            self.candidate is not None and self.candidate.criterion is not None and self.candidate.criterion > self.judged[0][1]
        )

    @property
    def usable(self) -> bool:
        """Whether there is an encoder to end with, whatever becomes of the weights."""
        return self._objective != "paper" and (self.gained or bool(self._floor))

    def unproven(self, step: int) -> str | None:
        """What is wrong with an encoder if training stops at this step; None if it beats the untrained one.

        None too where the criterion has no say, with the paper's losses and without validation images, and where the
        encoder has fixed features that are used until then.
        """
        compared = step == 0 or (self.judged and self.judged[0][0] == 0)  # at step 0 there may have been too few images
        no_say = self._objective == "paper" or not len(self._images.validation)
        if no_say or self._floor or not compared or self.gained:
            return None
        numbers = f" ({self.candidate.criterion:.3f}, untrained {self.judged[0][1]:.3f})" if self.candidate is not None else ""
        return f"training stopped at step {step}, before its criterion was above the untrained encoder's{numbers}"


def fit(encoder: Encoder, images: GoodImages, device: torch.device, window: tuple[int, int] = (WINDOW, WINDOW)) -> None:
    """Fit the fixed features of an encoder, if it has any, to good images.

    Their floor is the first, or another with which they find synthetic defects better, by more than SURE standard errors.
    """
    if "fixed" not in encoder.scales:
        return
    if not len(images.validation):
        images.fit(encoder, device, FLOORS[0])
        return
    validation, scale = Validation.of(images, window, MANY_COPIES), encoder.scales["fixed"]
    figures: list[list[float]] = []
    for floor in reversed(FLOORS):  # the first, which is taken most often, stays as it is then
        images.fit(encoder, device, floor)
        of_scale, _ = validation.maps(encoder, {"fixed": scale}, device)
        figures.insert(0, validation.figures(of_scale["fixed"]))
    lacks, errors = validation.differences(np.array(figures[0]), np.array(figures))
    if best := (-lacks - SURE * errors).argmax():
        images.fit(encoder, device, FLOORS[best])


def best_maps(encoder: PretrainedEncoder, images: GoodImages, device: torch.device) -> dict[str, float]:
    """Fit the fixed features beside a backbone; the exponents of the maps that find synthetic defects in good images best.

    The backbone's alone where there are too few images to validate with.
    """
    height, width = images.mean.shape[:2]
    if not len(images.validation):
        return {"pretrained": 1.0}
    window = min(height, WINDOW // encoder.stride * encoder.stride), min(width, WINDOW // encoder.stride * encoder.stride)
    try:
        encoder.check(*window)
    except InputError:  # a backbone of one size
        window = height, width
    fit(encoder, images, device, window)
    validation = Validation.of(images, window)
    of_scale, _ = validation.maps(encoder, encoder.scales, device)
    return validation.best_maps(of_scale)


def shape(features: Tensor) -> tuple[float, float]:
    """(effective rank, spread) of features (n, D): the exponential of the entropy of the singular values' shares
    (Roy & Vetterli 2007), and the standard deviation over the root mean square."""
    centred = (features - features.mean(0)).double()
    values = torch.linalg.svdvals(centred.T @ centred).sqrt()
    shares = values / values.sum().clamp_min(1e-300)
    rank = torch.special.entr(shares).sum().exp().item()
    return rank, (centred.square().mean() / features.double().square().mean().clamp_min(1e-300)).sqrt().item()
