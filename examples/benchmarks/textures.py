"""Data sets of real textures in MVTec AD layout: python examples/benchmarks/textures.py FOLDER [PHOTOGRAPH ...]

Tiles of photographs: brick, grass and gravel of scikit-image, or others that you name (of scikit-image, or an image file of
420 pixels a side or more). Good tiles for training come from the left two thirds of a photograph, test tiles from the right
third; some test tiles get one of five kinds of defects. Those are not the synthetic defects of training (training/defects.py
of the package), although both have smooth and dark spots. Tiles of one photograph overlap. The tiles of grain do not: each is
a new surface with the spectrum of gravel and random phases (Galerne et al., IEEE TIP 2011).
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import data

TEXTURES, SIDE = ("brick", "grass", "gravel", "grain"), 144
LEAST = 420  # pixels: a third of a narrower photograph holds no tile
TRAIN, GOOD, EACH = 80, 20, 5
Damaged = tuple[np.ndarray, np.ndarray]  # an image, and the mask (H, W) of its defect


def scratch(rng: np.random.Generator, tile: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> Damaged:
    """A thin line, brighter or darker."""
    angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.01, 0.01)
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    mask = (np.abs(across - bend * along**2) < 1.6) & (np.abs(along) < rng.uniform(14, 28))
    line = ndimage.gaussian_filter(mask.astype(float), 0.6)[..., None]
    return tile + rng.choice([-1, 1]) * rng.uniform(35, 60) * line, mask


def stain(rng: np.random.Generator, tile: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> Damaged:
    """Darkened, with a soft and wavy rim."""
    alpha = blob(rng, dy, dx, rng.uniform(8, 14))
    return tile * (1 - rng.uniform(0.3, 0.5) * alpha[..., None]), alpha > 0.3


def worn(rng: np.random.Generator, tile: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> Damaged:
    """Worn smooth."""
    alpha = blob(rng, dy, dx, rng.uniform(9, 14))
    return tile + (ndimage.gaussian_filter(tile, 3, axes=(0, 1)) - tile) * alpha[..., None], alpha > 0.5


def swirl(rng: np.random.Generator, tile: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> Damaged:
    """Turned around a point."""
    distance, radius = np.hypot(dy, dx), rng.uniform(14, 20)
    turn = rng.choice([-1, 1]) * rng.uniform(1.5, 2.5) * np.exp(-((distance / radius * 1.6) ** 2))
    y, x = np.mgrid[: tile.shape[0], : tile.shape[1]]
    moved = y - dy + dy * np.cos(turn) - dx * np.sin(turn), x - dx + dy * np.sin(turn) + dx * np.cos(turn)
    turned = [ndimage.map_coordinates(channel, moved, order=1, mode="reflect") for channel in np.moveaxis(tile, 2, 0)]
    return np.stack(turned, 2), distance < 0.8 * radius


def chip(rng: np.random.Generator, tile: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> Damaged:
    """A small piece, nearly black or nearly white."""
    mask = blob(rng, dy, dx, rng.uniform(4, 7)) > 0.5
    return np.where(mask[..., None], rng.choice([25, 225]) + rng.normal(0, 8, tile.shape), tile), mask


KINDS = {function.__name__: function for function in (scratch, stain, worn, swirl, chip)}


def blob(rng: np.random.Generator, dy: np.ndarray, dx: np.ndarray, radius: float) -> np.ndarray:
    """Opacity of a disc with a wavy rim."""
    angle = np.arctan2(dy, dx)
    rim = 1 + sum(0.2 * np.sin(k * angle + phase) for k, phase in enumerate(rng.uniform(0, 2 * np.pi, 4), 1))
    return 1 / (1 + np.exp(((np.hypot(dy, dx) / (radius * rim)) - 1) * 8))


def grain(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """An image with the grey photograph's spectrum and phases drawn anew."""
    grey, mean = photograph[..., 0], photograph.mean()
    phases = np.angle(np.fft.fft2(rng.standard_normal(grey.shape)))
    return mean + np.real(np.fft.ifft2(np.abs(np.fft.fft2(grey - mean)) * np.exp(1j * phases)))[..., None]


def cut(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """A random tile, under slightly different light."""
    y, x = (int(rng.integers(0, side - SIDE + 1)) for side in photograph.shape[:2])
    tile = photograph[y : y + SIDE, x : x + SIDE].astype(float)
    return tile * rng.uniform(0.93, 1.07) + rng.normal(0, 2, tile.shape)


def save(path: Path, values: np.ndarray) -> None:
    """Write an image (H, W, 1) or (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.clip(0, 255).round().astype(np.uint8).squeeze()).save(path)


def lay_out(
    folder: Path, train: int, good: Callable[[str], np.ndarray], broken: Callable[[Callable[..., Damaged]], Damaged]
) -> None:
    """Write a data set with `train` images for training: good("train") and good("test") draw one, broken(draw) one with a
    defect that `draw` draws."""
    for part, count in (("train", train), ("test", GOOD)):
        for number in range(count):
            save(folder / part / "good" / f"{number:03}.png", good(part))
    for kind, draw in KINDS.items():
        for number in range(EACH):
            damaged, mask = broken(draw)
            save(folder / "test" / kind / f"{number:03}.png", damaged)
            save(folder / "ground_truth" / kind / f"{number:03}_mask.png", mask[..., None] * 255.0)
    print(f"{folder}: {train} images to train with, {GOOD} good and {EACH * len(KINDS)} defective ones to test", flush=True)


def read(texture: str) -> np.ndarray:
    """A photograph (H, W, 1) or (H, W, 3) uint8."""
    path = Path(texture)
    grey_or_colour = np.asarray(Image.open(path).convert("RGB")) if path.is_file() else getattr(data, texture)()
    if min(grey_or_colour.shape[:2]) < LEAST:
        sys.exit(f"{texture}: expected {LEAST} pixels a side or more, found {grey_or_colour.shape[:2]}")
    return np.atleast_3d(grey_or_colour)


def write(folder: Path, texture: str, seed: int = 0) -> None:
    """One data set below `folder`."""
    rng, photograph = np.random.default_rng(seed), read("gravel" if texture == "grain" else texture)
    third = photograph.shape[1] * 336 // 512

    def tile(side: slice) -> np.ndarray:
        return cut(rng, grain(rng, photograph) if texture == "grain" else photograph[:, side])

    sides = {"train": slice(None, third), "test": slice(third, None)}

    def broken(draw: Callable[..., Damaged]) -> Damaged:
        y, x = np.mgrid[:SIDE, :SIDE]
        cy, cx = rng.uniform(0.2 * SIDE, 0.8 * SIDE, 2)
        return draw(rng, tile(sides["test"]), y - cy, x - cx)

    lay_out(folder, TRAIN, lambda part: tile(sides[part]), broken)


if __name__ == "__main__":
    for name in sys.argv[2:] or TEXTURES:
        write(Path(sys.argv[1]) / Path(name).stem, name)
