"""Arrays in, maps out: python examples/python_api.py [DATA IMAGE...]

Without arguments it draws its own images. Paste the cells (# %%) into a notebook to see the results as pictures.
"""

# %% Images of good parts, and images to score
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import patchcli

rng = np.random.default_rng(0)
work = Path(tempfile.mkdtemp(prefix="patchcli-example-"))


def part(scratched: bool = False) -> np.ndarray:
    """A synthetic part, (160, 160) uint8."""
    y, x = np.mgrid[:160, :160]
    image = 128 + 50 * np.sin(x / 4) * np.sin(y / 4) + rng.normal(0, 5, x.shape)
    if scratched:
        image[70:74, 40:110] += 90
    return image.clip(0, 255).astype(np.uint8)


if len(sys.argv) > 2 and "ipykernel" not in sys.modules:  # not in a notebook
    data, images = Path(sys.argv[1]), sys.argv[2:]
else:
    data, images = work / "good", {"good": part(), "scratched": part(scratched=True)}
    data.mkdir()
    for number in range(20):
        Image.fromarray(part()).save(data / f"{number:02}.png")

# %% Train, once; the store keeps encoder and bank
store = work / "example.zarr"
patchcli.train(data, store, steps=100, images=patchcli.ImageOptions(size=(160, 160)))
patchcli.embed(store)
patchcli.calibrate(store, source="loo")  # thresholds, with leave-one-out over the good images

# %% Detect, as often as you like
detector = patchcli.Detector.open(store)
results = dict(zip(images, detector([*images.values()] if isinstance(images, dict) else images), strict=True))
for name, result in results.items():
    print(f"{name}: {result.score:.4g} at {result.peak}, {result.verdict} (p = {result.p_value:.3g})")
    print(f"  map {result.map.shape} {result.map.dtype}; {len(result.regions)} regions; nearest: {result.nearest.image}")

# %% A notebook shows this as a picture: the map over the image
result  # noqa: B018
