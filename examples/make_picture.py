"""The README's picture: a test image of each kind of defect, and below it the anomaly map over the image.

    patchcli demo && python examples/make_picture.py patchcli-demo/cloth patchcli-demo/cloth.zarr examples/overview.jpg

DATA has the layout of MVTec AD, STORE has its encoder and bank. A red line marks the defect. Unless the store is calibrated,
each map has a colour scale of its own.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import patchcli
from patchcli.reporting.pictures import overlay

GAP = 4  # pixels between the images
NUMBER = "000"  # of the images to show


def columns(data: Path, detector: patchcli.Detector) -> list[tuple[np.ndarray, np.ndarray]]:
    """An image and its overlay for each kind of defect, (H, W, 3) uint8."""
    pairs = []
    for kind in sorted(folder.name for folder in (data / "test").iterdir() if folder.name != "good"):
        pixels = np.asarray(Image.open(data / "test" / kind / f"{NUMBER}.png").convert("RGB"))
        mask = np.asarray(Image.open(data / "ground_truth" / kind / f"{NUMBER}_mask.png").convert("L")) > 0
        result = detector(pixels)
        pairs.append((pixels, overlay(pixels, result.map, mask, result.colours)))
    return pairs


def grid(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Image.Image:
    """Images side by side, each above its overlay."""
    height, width = pairs[0][0].shape[:2]
    picture = Image.new("RGB", (len(pairs) * (width + GAP) - GAP, 2 * height + GAP), "white")
    for column, pair in enumerate(pairs):
        for row, pixels in enumerate(pair):
            picture.paste(Image.fromarray(pixels), (column * (width + GAP), row * (height + GAP)))
    return picture


def main() -> None:
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    data, store, out = map(Path, sys.argv[1:])
    picture = grid(columns(data, patchcli.Detector.open(store)))
    picture.save(out, quality=88, subsampling=0)
    print(f"{out}: {picture.width}x{picture.height} pixels, {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
