"""Nearest neighbour search against faiss, and what a whole `score` costs, in one run:

    python examples/benchmarks/search.py STORE [VECTORS ...]     # search, at the bank's own size and blown up
    python examples/benchmarks/search.py STORE --tolerances      # how small and how fast a thinned bank is
    python examples/benchmarks/search.py STORE --memory 1000000  # peak memory of `patchcli score --memory 300M`
    python examples/benchmarks/search.py --wide                  # vectors as long as pretrained features, on one thread

STORE has a whole bank and a data set with test images. A bank is blown up by copies with normal noise (σ = 0.01). Times are
for the small scale, K=32: 3,249 queries an image of 256×256. Needs: pip install '.[benchmarks]'
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from patchcli.bank import pages as paged
from patchcli.bank import search
from patchcli.bank import thinning as cover
from patchcli.bank.search import brute, pruned, trees
from patchcli.datasets import images, layouts
from patchcli.detection.detector import Detector
from patchcli.detection.stream import stream as scored
from patchcli.features import dense as embedding
from patchcli.observer import Observer
from patchcli.store import Store
from patchcli.verbs.writer import write_map

IMAGES, CPU = 10, torch.device("cpu")
SHARD = trees.shard_size(64, 1 << 40)


def loaded(store: Store) -> tuple[np.ndarray, list[torch.Tensor], list[Path]]:
    """The bank's small vectors in image order, queries (3249, 64) of up to 10 test images spread over all, their files."""
    bank = store.bank()
    ids, vectors = (np.concatenate(column) for column in zip(*paged.stream(bank, "small")(), strict=True))
    samples = layouts.read(Path(store.source.root), store.source.layout).split("test")
    files = [sample.path for sample in samples[:: max(1, len(samples) // IMAGES)]][:IMAGES]
    encoder, (height, width) = store.encoder.restore(CPU), store.images.mean.shape[:2]
    grids = embedding.grids(encoder, height, width, {})
    queries = [
        embedding.embed(encoder, images.resize(images.Reader().read(file), height, width)[None], store.images.mean, grids, CPU)[
            "small"
        ]
        for file in files
    ]
    return vectors[np.argsort(ids)], [q.reshape(-1, q.shape[-1]) for q in queries], files


def blown_up(vectors: np.ndarray, count: int) -> np.ndarray:
    """`count` vectors: these, and copies of them with noise."""
    rng = np.random.default_rng(0)
    parts = [vectors[:count]]
    while sum(map(len, parts)) < count:
        part = vectors[: count - sum(map(len, parts))]
        parts.append(part + rng.normal(0, 0.01, part.shape).astype(np.float32))
    return np.concatenate(parts)


def indexed(vectors: np.ndarray) -> tuple[trees.Pages, float]:
    """Pages in memory, and the seconds that they took."""
    begun = time.perf_counter()
    numbered = np.arange(len(vectors)), vectors
    axes = trees.axes_of([numbered], len(vectors))
    shards = trees.shards(zip(*(np.array_split(part, 1 + len(vectors) // 32768) for part in numbered), strict=True), SHARD)
    pages = [page for shard in shards for page in trees.cut(*shard, axes)]
    low, high = (np.array([getattr(page, side)[0] for page in pages]) for side in ("low", "high"))
    index = trees.Index(axes, low, high, max(page.radius for page in pages))
    return trees.Pages(index, pages.__getitem__, 1 << 40), time.perf_counter() - begun


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The median time of a call."""
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken))


def compare(vectors: np.ndarray, queries: list[torch.Tensor]) -> None:
    """One bank: pruned alone and in batches against faiss IndexFlatL2, and that it is exact."""
    try:
        import faiss
    except ImportError:
        raise SystemExit("faiss is what this compares with and is not installed; run: pip install '.[benchmarks]'") from None
    faiss.omp_set_num_threads(torch.get_num_threads())
    flat = faiss.IndexFlatL2(vectors.shape[1])
    flat.add(vectors)
    pages, built = indexed(vectors)
    pruned.search(queries[0][:2], pages)  # loads what is compiled
    single = seconds(lambda: [pruned.search(q, pages) for q in queries]) / len(queries)
    batch = seconds(lambda: pruned.search(torch.cat(queries[:8]), pages)) / len(queries[:8])
    few = queries[:2]
    flat_seconds = seconds(lambda: [flat.search(q.numpy(), 1) for q in few]) / len(few)
    distance, index = pruned.search(queries[0], pages)
    squared, first = brute.nearest(queries[0], [(torch.arange(len(vectors)), torch.from_numpy(vectors))])
    exact = squared.sqrt().float()
    squared, named = flat.search(queries[0].numpy(), 1)
    off = np.abs(np.sqrt(np.maximum(squared[:, 0], 0)) - exact.numpy()).max()
    print(
        f"{len(vectors):>9,} vectors: pruned {single * 1e3:7.1f} ms an image, {batch * 1e3:7.1f} ms in batches of 8, "
        f"built in {built:.1f} s; faiss {flat_seconds * 1e3:8.0f} ms: {flat_seconds / single:.1f} and "
        f"{flat_seconds / batch:.1f} times"
    )
    print(
        f"{'':>19}against brute force: pruned off by {float((distance - exact).abs().max()):.1e}, other index in "
        f"{float((index != first).float().mean()):.2%}; faiss off by {off:.1e}, other index in "
        f"{float((torch.from_numpy(named[:, 0]) != first).float().mean()):.2%}"
    )


def wide(count: int = 16384, asked: int = 1024) -> None:
    """Long vectors, whose variances along their axes fall as a power: each search, faiss, and what "auto" takes."""
    import faiss

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    for D in (384, 768, 1536):
        for power in (1.0, 1.5, 2.0):
            scales = np.arange(1, D + 1) ** (-power / 2)
            bank, queries = ((rng.normal(size=(n, D)) * scales).astype(np.float32) for n in (count, asked))
            pages, _ = indexed(bank)
            flat = faiss.IndexFlatL2(D)
            flat.add(bank)
            q, blocks = torch.from_numpy(queries), [(torch.arange(count), torch.from_numpy(bank))]
            pruned.search(q[:2], pages)  # loads what is compiled
            ways = {
                "pruned": lambda q=q, pages=pages: pruned.search(q, pages),
                "brute": lambda q=q, blocks=blocks: brute.nearest(q, blocks),
                "faiss": lambda queries=queries, flat=flat: flat.search(queries, 1),
            }
            best = {name: min(seconds(way, 1) for _ in range(3)) for name, way in ways.items()}
            whole, held = (bank - pages.index.axes.centre) ** 2, pages.index.axes.turned(bank) ** 2
            share, chosen = held.sum() / whole.sum(), search.suited("pruned", pages)
            times = ", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in best.items())
            print(f"D {D}, 64 axes hold {share:.0%}: {times}; auto takes {chosen}")


def steps(detector: Detector, files: list[Path]) -> dict[str, float]:
    """Seconds of each step of `score` over images, one step after the other."""
    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        begun = time.perf_counter()
        result = work()
        if detector.device.type == "cuda":
            torch.cuda.synchronize()
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - begun
        return result

    with tempfile.TemporaryDirectory() as folder:
        for batch in (files[n : n + 8] for n in range(0, len(files), 8)):
            pixels = timed("decode", lambda batch=batch: [detector.reader.read(file) for file in batch])
            features = timed("embed", lambda pixels=pixels: detector.embed_pixels(pixels))
            found = timed("search", lambda features=features: detector.nearest(features.scales))
            results = timed("maps", lambda found=found, features=features: detector.results(found, features.sizes))
            for result, file in zip(results, batch, strict=True):
                values = timed("maps", lambda result=result: result.map)
                timed("write", lambda v=values, f=file: write_map(Path(folder) / f"{f.stem}.tiff", v, {}))
    return spent


def shares(store: Store, files: list[Path]) -> None:
    """The steps of `score`, one after the other, and the whole, where they overlap."""
    detector = Detector.open(store, device="cpu", search="pruned", memory=1 << 40)
    detector(files[0])  # loads pages and what is compiled
    spent = steps(detector, files)
    samples = [layouts.Sample(file.name, file, "query", "") for file in files]
    whole = seconds(lambda: list(scored(detector, samples, 8, Observer())), 1)
    total = sum(spent.values())
    parts = ", ".join(f"{name} {value / total:.0%}" for name, value in spent.items())
    print(f"score, step by step: {len(files) / total:.1f} images a second: {parts}")
    print(f"score, overlapping, without writing: {len(files) / whole:.1f} images a second")


def tolerances(vectors: np.ndarray, queries: list[torch.Tensor]) -> None:
    """Size, speed and the largest error measured of banks thinned to each tolerance."""
    pages, _ = indexed(vectors)
    asked = torch.cat(queries[:8])
    exact, _ = pruned.search(asked, pages)
    whole = seconds(lambda: pruned.search(asked, pages)) / 8
    print(f"tolerance 0: {len(vectors):,} vectors, {whole * 1e3:.0f} ms an image; typical distance {float(exact.median()):.3f}")
    for tolerance in (0.005, 0.01, 0.02, 0.05, 0.1):
        begun = time.perf_counter()
        rows, radius = cover.select(pages, tolerance=tolerance)
        kept = np.concatenate([part for _, part in cover.kept(pages, rows)])
        taken = time.perf_counter() - begun
        thinned, _ = indexed(kept)
        distance, _ = pruned.search(asked, thinned)
        error = distance.double() - exact.double()
        speed = seconds(lambda thinned=thinned: pruned.search(asked, thinned)) / 8
        print(
            f"tolerance {tolerance}: {len(kept) / len(vectors):.1%} kept in {taken:.1f} s, radius {radius:.5f}, largest "
            f"error {float(error.max()):.5f} (least {float(error.min()):.0e}), {speed * 1e3:.0f} ms an image"
        )


def memory(path: Path, count: int) -> None:
    """Peak memory of `patchcli score` on a bank of `count` small vectors, with and without a bound, and that maps are equal."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        large = Path(shutil.copytree(path, Path(folder) / "large.zarr"))
        blow_up(large, count)
        held = Store.open(large).bank()
        needed = sum(paged.memory(held, scale) for scale in held.scales)
        print(f"a bank of {held.vectors('small'):,} small vectors, {needed / 1e6:.0f} MB in memory")
        results = {}
        for name, store, options in (
            ("the store as it was", path, []),
            ("blown up", large, []),
            ("blown up, --memory 300M", large, ["--memory", "300M"]),
        ):
            command = [sys.executable, "-m", "patchcli", "score", "--store", store, "--quiet", *options]
            begun = time.perf_counter()
            process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE)
            assert process.stdout is not None
            results[name], peak = [], 0
            for line in process.stdout:
                results[name].append(json.loads(line))
                status = Path(f"/proc/{process.pid}/status").read_text()  # Linux: wait4 would count the parent's memory too
                peak = int(status.split("VmHWM:")[1].split()[0])
            assert process.wait() == 0
            taken = (time.perf_counter() - begun) / len(results[name])
            print(f"{name}: peak {peak / 1e3:.0f} MB, {taken:.2f} s an image with the start")
        assert results["blown up"] == results["blown up, --memory 300M"]
        print("the records of the last two are equal")


def blow_up(path: Path, count: int) -> None:
    """Make a store's bank hold at least `count` small vectors, of copies of its images."""
    with Store.writing(path) as store:
        bank, ids, sizes = store.bank(), store.images.ids, store.images.sizes
        copies = -(-count // bank.vectors("small"))
        grids = embedding.grids(store.encoder.restore(CPU), *store.images.mean.shape[:2], store.encoder.attributes.strides)
        images = (
            (f"{copy}/{ids[n]}", sizes[n], store.images.read(n, n + 1)[0]) for copy in range(copies) for n in range(bank.images)
        )
        with store.editing(images, f"{path} {copies} times") as edit, edit.writing_bank(grids, bank.D) as new:
            for scale, grid in grids.items():

                def stream(scale: str = scale, patches: int = grid.patches) -> Iterator[tuple[np.ndarray, np.ndarray]]:
                    rng = np.random.default_rng(0)
                    for copy in range(copies):
                        for held, vectors in paged.stream(bank, scale)():
                            noise = rng.normal(0, 0.01, vectors.shape) if copy else 0
                            yield held + copy * bank.images * patches, (vectors + noise).astype(np.float32)

                vectors = copies * bank.images * grid.patches
                paged.write(new, scale, stream, vectors, half=False, budget=1 << 28, progress=lambda done: None)


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    if sys.argv[1] == "--wide":
        wide()
        return
    path = Path(sys.argv[1])
    if sys.argv[2:3] == ["--memory"]:
        memory(path, int(sys.argv[3]))
        return
    vectors, queries, files = loaded(Store.open(path))
    print(f"{path.name}, {torch.get_num_threads()} threads, {len(queries)} test images")
    if sys.argv[2:3] == ["--tolerances"]:
        tolerances(vectors, queries)
        return
    for count in (len(vectors), *map(int, sys.argv[2:])):
        compare(blown_up(vectors, count), queries)
    shares(Store.open(path), files)


if __name__ == "__main__":
    main()
