"""A bank of many vectors, from noisy copies of a data set:

    python examples/benchmarks/large.py STORE VECTORS... [--memory M] [--workers 1 2] [--shards 2 3]

STORE has a trained encoder and a data set with test images. For each number of vectors, its good images are copied with noise
(a standard deviation of 2 grey levels) until their patches are as many. As many workers as --workers has at most embed and
index the copies. Test images are scored by one process, by workers that each have the whole bank, and by workers that share
it. All have one thread, and M megabytes for the bank. Printed are seconds, the largest memory of any process, and whether
records and maps are the same. At last the bank is thinned to a hundredth, by one process and by workers.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

import patchcli
from patchcli.bank.build import Shape
from patchcli.store import Store

NOISE, TESTS = 2.0, 16


def run(*arguments: object) -> tuple[str, float, int]:
    """What a command prints, its seconds, and the largest memory of any of its processes, in bytes."""
    begun, most = time.perf_counter(), 0
    command = [sys.executable, "-m", "patchcli", *map(str, arguments), "--threads", "1", "--quiet"]
    with tempfile.TemporaryFile("w+") as out, subprocess.Popen(command, stdout=out) as process:
        while process.poll() is None:
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                try:
                    most = max(most, one.memory_info().rss)
                except psutil.Error:  # it has ended
                    continue
            time.sleep(0.1)
        if process.returncode:
            sys.exit(f"{' '.join(command)}: status {process.returncode}")
        out.seek(0)
        return out.read(), time.perf_counter() - begun, most


def copied(trained: Store, folder: Path, vectors: int) -> Path:
    """A store of the same encoder, and of noisy copies of the good images that have so many patches."""
    rng, images = np.random.default_rng(0), trained.images
    count = -(-vectors * len(images) // Shape.of(trained, "float32").vectors)
    good = folder / "data" / "train" / "good"
    good.mkdir(parents=True)
    for number in range(count):
        (pixels,) = images.read(number % len(images), number % len(images) + 1)
        noisy = pixels + rng.normal(0, NOISE, pixels.shape) * (number >= len(images))
        Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(good / f"{number:06}.png", compress_level=1)
    store = folder / "store.zarr"
    _, height, width, _ = images.shape
    patchcli.extract(folder / "data", store, patchcli.ImageOptions(size=f"{height}x{width}"))
    shutil.rmtree(folder / "data")
    with Store.writing(store) as opened:
        opened.write_encoder(trained.encoder.weights(), trained.encoder.attributes, {})
    return store


def same(lines: str) -> list[dict[str, object]]:
    """Records without their times, and without the folder of their maps."""
    return [json.loads(line) | {"time": None, "map": None} for line in lines.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("vectors", nargs="+", type=int)
    parser.add_argument("--memory", type=int, default=400)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--shards", type=int, nargs="*", default=[2, 3])
    options = parser.parse_args()
    if find_spec("distributed") is None:
        sys.exit("large.py needs Dask: pip install 'patchcli[cluster]'")
    trained, memory = Store.open(options.store), f"{options.memory}M"
    spread = [(count, "images") for count in options.workers] + [(count, "shards") for count in options.shards]
    ways = {f"{count} by {what}": ["--workers", count, "--spread", what] for count, what in spread}
    tests = sorted(Path(trained.source.root).glob("test/*/*"))
    tests = tests[:: -(-len(tests) // TESTS)]
    for vectors in options.vectors:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            store = copied(trained, folder, vectors)
            several = ["--workers", max(options.workers)] if options.workers else []
            _, seconds, most = run("embed", "--store", store, *several, "--memory", memory, "--force")
            made = sum(patchcli.embed(store, force=True).vectors.values())
            print(f"{made:,} vectors: embedded and indexed in {seconds:.0f} s, {most / 1e6:.0f} MB")
            expected = None
            for way, arguments in ({"one process": []} | ways).items():
                maps = folder / "maps"
                out, seconds, most = run("score", *tests, "--store", store, "--memory", memory, "--out", maps, *arguments)
                found = same(out), {path.name: path.read_bytes() for path in maps.rglob("*.tiff")}
                expected = expected or found
                figures = f"{len(tests)} images in {seconds:6.1f} s, {most / 1e6:5.0f} MB"
                print(f"    {way:12} {figures}; {'the same' if found == expected else 'NOT THE SAME'}", flush=True)
                shutil.rmtree(maps)
            bounds = []
            for way, arguments in (("one process", []), (f"{max(options.workers, default=1)} workers", several)):
                thinned = folder / "thinned.zarr"
                shutil.copytree(store, thinned)
                _, seconds, most = run("embed", "--store", thinned, "--keep", "1%", "--memory", memory, "--force", *arguments)
                made = patchcli.embed(thinned, force=True)
                bounds.append((made.vectors, made.radius))
                same_bank = "the same" if bounds[-1] == bounds[0] else "NOT THE SAME"
                print(
                    f"    {way:12} {sum(made.vectors.values()):,} kept in {seconds:6.1f} s, {most / 1e6:5.0f} MB; {same_bank}"
                )
                shutil.rmtree(thinned)


if __name__ == "__main__":
    main()
