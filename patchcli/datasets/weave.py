"""A synthetic data set in MVTec AD layout: plaid cloth in 2/2 twill, with four kinds of defects drawn by code."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchcli.datasets.images import write_png

SIDE = 160  # pixels
YARN = 8.0  # pixels a yarn
_SETT = np.array([0, 2, 1, 3])  # colours of four neighbouring yarns, repeated: as long as the twill repeats
_COLOURS = np.array([(0.62, 0.56, 0.46), (0.38, 0.42, 0.40), (0.70, 0.64, 0.52), (0.50, 0.40, 0.36)])
_FINE = 2  # rendered finer, then averaged

Floats = NDArray[np.float64]


@dataclass
class _Cloth:
    """One piece of cloth under the camera: what a defect may change before (or after) it is drawn."""

    u: Floats  # (H, W) cloth coordinates in pixels, across the warp
    v: Floats  # across the weft
    missing: NDArray[np.bool_]  # where the warp yarn is gone
    paint: list[tuple[Floats, Floats]] = field(default_factory=list)  # (alpha (H, W), colour (3,)) laid over


def _blob(rng: np.random.Generator, cloth: _Cloth, radius: float) -> tuple[Floats, Floats, Floats]:
    """Offsets (dy, dx) and distance in radii from a random place well inside the image."""
    h, w = cloth.u.shape
    y, x = np.mgrid[:h, :w] / _FINE
    cy, cx = rng.uniform(0.2 * SIDE, 0.8 * SIDE, 2)
    dy, dx = y - cy, x - cx
    return dy, dx, np.hypot(dy, dx) / radius


def _bent(rng: np.random.Generator, cloth: _Cloth) -> NDArray[np.bool_]:
    """Yarns pushed aside."""
    *_, r = _blob(rng, cloth, rng.uniform(9, 13))
    angle = rng.uniform(0, 2 * np.pi)
    push = rng.uniform(6.0, 7.5) * np.exp(-0.5 * r**2)
    cloth.u = cloth.u + push * np.cos(angle)
    cloth.v = cloth.v + push * np.sin(angle)
    mask: NDArray[np.bool_] = push > 1.5
    return mask


def _broken(rng: np.random.Generator, cloth: _Cloth) -> NDArray[np.bool_]:
    """A stretch of one warp yarn missing."""
    dy, dx, _ = _blob(rng, cloth, 1)
    at = np.unravel_index(int(np.hypot(dy, dx).argmin()), dy.shape)
    yarn = np.floor(cloth.u / YARN)
    cloth.missing = (yarn == yarn[at]) & (np.abs(dy) < rng.uniform(14, 24))
    return cloth.missing


def _contamination(rng: np.random.Generator, cloth: _Cloth) -> NDArray[np.bool_]:
    """A stain with a wavy rim that lets the weave through."""
    dy, dx, r = _blob(rng, cloth, rng.uniform(10, 16))
    angle, phases = np.arctan2(dy, dx), rng.uniform(0, 2 * np.pi, 3)
    rim = 1 + sum(0.15 * np.sin(k * angle + phase) for k, phase in enumerate(phases, 2))
    alpha = rng.uniform(0.5, 0.65) / (1 + np.exp((r / rim - 1) * 9))
    cloth.paint.append((alpha, np.array((0.30, 0.26, 0.20)) + rng.uniform(-0.05, 0.05, 3)))
    mask: NDArray[np.bool_] = alpha > 0.12
    return mask


def _thread(rng: np.random.Generator, cloth: _Cloth) -> NDArray[np.bool_]:
    """A loose thread lying on the cloth, with its shadow."""
    dy, dx, _ = _blob(rng, cloth, 1)
    angle, bend, half = rng.uniform(0, np.pi), rng.uniform(-0.012, 0.012), rng.uniform(18, 32)
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    away = across - bend * along**2 - 1.5 * np.sin(along / 7)
    inside = np.abs(along) < half
    shadow = 0.35 * np.exp(-0.5 * ((away - 2) / 1.5) ** 2) * inside
    fibre = 0.9 * np.exp(-0.5 * (away / 1.0) ** 4) * inside
    cloth.paint += [(shadow, np.zeros(3)), (fibre, np.array((0.70, 0.66, 0.58)))]
    mask: NDArray[np.bool_] = (np.abs(away) < 2.2) & inside
    return mask


DEFECTS: dict[str, Callable[[np.random.Generator, _Cloth], NDArray[np.bool_]]] = {
    "bent": _bent, "broken": _broken, "contamination": _contamination, "thread": _thread,
}  # fmt: skip


def render(rng: np.random.Generator, defect: str | None = None) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A picture (SIDE, SIDE, 3) of cloth placed and lit at random, and the mask of its defect."""
    y, x = np.mgrid[: SIDE * _FINE, : SIDE * _FINE] / _FINE
    turn, shift = np.deg2rad(rng.uniform(-0.5, 0.5)), rng.uniform(0, YARN * len(_SETT), 2)
    wobble = 0.5 * np.sin(y / 23 + rng.uniform(0, 6)), 0.5 * np.sin(x / 29 + rng.uniform(0, 6))
    cloth = _Cloth(
        x * np.cos(turn) + y * np.sin(turn) + shift[0] + wobble[0],
        y * np.cos(turn) - x * np.sin(turn) + shift[1] + wobble[1],
        np.zeros(x.shape, bool),
    )
    mask = DEFECTS[defect](rng, cloth) if defect else np.zeros(x.shape, bool)
    i, j = np.floor(cloth.u / YARN).astype(int), np.floor(cloth.v / YARN).astype(int)
    across = cloth.u / YARN - i - 0.5, cloth.v / YARN - j - 0.5  # -0.5 to 0.5 over a yarn's width
    warp_on_top = ((i - j) % 4 < 2) & ~cloth.missing
    round_, along = np.where(warp_on_top, across[0], across[1]), np.where(warp_on_top, across[1], across[0])
    shade = 0.45 + 0.55 * np.cos(np.pi * 0.9 * round_) - 0.18 * np.abs(along)
    shade = np.where(cloth.missing & ((i - j) % 4 < 2), 0.5 * shade, shade)
    fibre = 0.05 * np.sin(2 * np.pi * (round_ * 2.5 + along * 0.8))
    colour = _COLOURS[np.where(warp_on_top, _SETT[i % len(_SETT)], _SETT[j % len(_SETT)])]
    picture = colour * (shade + fibre)[..., None]
    for alpha, paint in cloth.paint:
        picture = picture * (1 - alpha[..., None]) + paint * alpha[..., None]
    slope = rng.uniform(-0.08, 0.08, 2)
    light = rng.uniform(0.88, 1.12) * (1 + slope[0] * (x / SIDE - 0.5) + slope[1] * (y / SIDE - 0.5))
    picture = picture * light[..., None] * rng.uniform(0.97, 1.03, 3)
    picture = picture.reshape(SIDE, _FINE, SIDE, _FINE, 3).mean((1, 3)) + rng.normal(0, 0.03, (SIDE, SIDE, 3))
    coarse = mask.reshape(SIDE, _FINE, SIDE, _FINE).mean((1, 3)) >= 0.5
    return (picture * 255).clip(0, 255).round().astype(np.uint8), coarse


def write_dataset(folder: Path, seed: int, train: int = 100, good: int = 16, each: int = 5) -> None:
    """Write train/good, test/<kind> and ground_truth/<kind> below `folder`."""
    rng = np.random.default_rng(seed)
    wanted = [("train/good", None, train), ("test/good", None, good), *((f"test/{d}", d, each) for d in DEFECTS)]
    for place, defect, count in wanted:
        (folder / place).mkdir(parents=True, exist_ok=True)
        if defect:
            (folder / "ground_truth" / defect).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels, mask = render(rng, defect)
            write_png(folder / place / f"{number:03}.png", pixels)
            if defect:
                grey = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255
                write_png(folder / "ground_truth" / defect / f"{number:03}_mask.png", grey)
