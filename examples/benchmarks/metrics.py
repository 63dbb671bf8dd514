"""Time and memory of the pixel figures: python examples/benchmarks/metrics.py [IMAGES].

Random maps of 300×400 with random rectangles as defects of five kinds, in three of four images. All figures and intervals, over
all images and for each kind.
"""

import resource
import sys
import tempfile
import time

import numpy as np

from patchcli.detection.pixel_metrics import Pixels, SortedPixels


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 112
    rng = np.random.default_rng(0)
    regions, adding = 0, 0.0
    with tempfile.TemporaryFile() as file:
        pixels = Pixels(file)
        for number in range(images):
            values, mask = rng.gamma(2, 0.01, (300, 400)).astype(np.float32), np.zeros((300, 400), bool)
            drawn = int(rng.integers(1, 8)) if number % 4 else 0
            for y, x, height, width in rng.integers((0, 0, 3, 3), (280, 380, 30, 30), (drawn, 4)):
                mask[y : y + height, x : x + width] = True
            values[mask] *= 1.5
            began = time.process_time()
            pixels.add(f"kind {number % 5}" if drawn else "good", SortedPixels.of(values, mask))
            adding += time.process_time() - began
            regions += drawn
        began = time.process_time()
        figures = [pixels.figures(), *(pixels.figures({"good", f"kind {kind}"}) for kind in range(5))]
        took = time.process_time() - began
    print(f"{images} maps, {regions} rectangles: {adding:.1f} s to take in, {took:.1f} s for the figures (CPU time)")
    print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB resident; {figures[0]}")


if __name__ == "__main__":
    main()
