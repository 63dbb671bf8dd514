"""Dense embedding against the forward pass patch by patch, in one run: python examples/benchmarks/embedding.py [THREADS [SIDE]]

An untrained encoder and random images (the time does not depend on their values). Patch by patch is measured in float32 with
several batch sizes and memory formats; the best one counts. bfloat16 is measured where the CPU has it.
"""

import sys
import time

import numpy as np
import torch

from patchcli import runtime
from patchcli.datasets.images import standardise
from patchcli.features.dense import embed, grids
from patchcli.features.hierarchical import HierarchicalEncoder

ROUNDS, IMAGES = 3, 8


@torch.inference_mode()
def per_patch(encoder: HierarchicalEncoder, images: torch.Tensor, geometry: dict, batch: int) -> dict[str, torch.Tensor]:
    """Features of every patch of one image (1, 3, H, W), each patch cut out."""
    out = {}
    for name, grid in geometry.items():
        patches = torch.stack([images[0, :, y : y + grid.K, x : x + grid.K] for y in grid.ys for x in grid.xs])
        out[name] = torch.cat([encoder(part, name) for part in patches.split(batch)])
    return out


def main() -> None:
    if len(sys.argv) > 1:
        torch.set_num_threads(int(sys.argv[1]))
    side = int(sys.argv[2]) if len(sys.argv) > 2 else 256
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8)
    mean = pixels.mean(axis=0, dtype=np.float32)
    torch.manual_seed(0)
    encoder = HierarchicalEncoder().eval()
    fast = HierarchicalEncoder().eval().to(memory_format=torch.channels_last)
    fast.load_state_dict(encoder.state_dict())
    geometry, cpu = grids(encoder, side, side, {}), torch.device("cpu")
    one = torch.from_numpy(standardise(pixels[:1], mean))

    ways = {f"per patch, batch {b}, {n}": (e, b) for b in (64, 256, 1024) for n, e in (("NCHW", encoder), ("NHWC", fast))}
    slow: dict[str, list[float]] = {name: [] for name in ways}
    precisions = ["float32", *(["bfloat16"] if runtime.cpu_has_bfloat16() else [])]
    dense: dict[str, list[float]] = {precision: [] for precision in precisions}
    reference = per_patch(encoder, one, geometry, 256)
    worst = {}
    for precision in precisions:
        features = embed(fast, pixels[:1], mean, geometry, cpu, precision)
        worst[precision] = max(float((features[n].reshape(-1, 64) - reference[n]).abs().max()) for n in geometry)
    for _ in range(ROUNDS):
        for name, (module, batch) in ways.items():
            begun = time.perf_counter()
            per_patch(module, one, geometry, batch)
            slow[name].append(1 / (time.perf_counter() - begun))
        for precision, rates in dense.items():
            begun = time.perf_counter()
            embed(fast, pixels, mean, geometry, cpu, precision)
            rates.append(IMAGES / (time.perf_counter() - begun))
    print(f"{torch.get_num_threads()} threads, {side}x{side}, median of {ROUNDS}; images per second")
    for name, rates in slow.items():
        print(f"{name:32}{np.median(rates):8.2f}")
    best = max(np.median(rates) for rates in slow.values())
    for precision, rates in dense.items():
        gain = f"{np.median(rates) / best:.1f} times the best per-patch way"
        print(f"{f'dense, {precision}':32}{np.median(rates):8.2f}   {gain}; features off by up to {worst[precision]:.1e}")


if __name__ == "__main__":
    main()
