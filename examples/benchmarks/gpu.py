"""What one GPU does, in one table, in one call of at most nine minutes:

    python examples/benchmarks/gpu.py [DATA ...] [--minutes 9] [--small]

DATA are data sets (MVTec AD layout, or plain folders of good images), which are trained and embedded at 256×256 pixels, or
stores that have a bank; without one, synthetic cloth is drawn. Each is verified and scored. Then come ways to run the encoder,
and searches in larger banks, against torch.cdist on the GPU and faiss on the same CPU. A row is printed as soon as it is
measured. What there is no time for, what fails and what needs a GPU that is not there are rows too. Without a GPU, or with
--small, everything is tiny: that tests this script, and its figures mean nothing.

A bank is blown up by copies with normal noise (σ = 0.01). Vectors of length 64 are those of the first data set; the variances
of those of length 768 fall along the axes as a power. Milliseconds are for an image of 256×256: 3,249 patches of K=32. In large
banks the CPU searches for fewer, and its time is scaled up. Needs: pip install '.[benchmarks]'
"""

import argparse
import faulthandler
import gc
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from search import indexed, seconds, steps

import patchcli
from patchcli.bank import search
from patchcli.datasets import layouts, weave
from patchcli.datasets.images import standardise
from patchcli.detection.detector import BATCH, Detector
from patchcli.verbs.extraction import ImageOptions
from patchcli.verbs.outputs import Outputs

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
QUERIES = 3249  # patches of K=32 in an image of 256×256
PAGE = 1 << 18  # vectors of a bank that are made at once
Found = Callable[[torch.Tensor], np.ndarray]  # queries (Q, D) → ids (Q,) of the nearest vectors
Work = Callable[[], dict[str, torch.Tensor]]  # features of a batch, by scale


class LateError(BaseException):
    """A measurement has had its time; no error that anything else would catch."""


class LeftOutError(Exception):
    """Why something is not measured."""


@dataclass(frozen=True)
class Figure:
    """What was measured; `goal` is for one H100-class GPU, and `met` says whether it is."""

    text: str
    note: str = ""
    goal: str = ""
    met: bool = True


class Table:
    """Rows, printed as they come."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes
        self.row("", "figure", "goal", "GPU, MB", "")

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def row(self, what: str, figure: str, goal: str, memory: str, note: str) -> None:
        print(f"{what:46}{figure:>16}  {goal:>10}  {memory:>8}  {note}".rstrip(), flush=True)

    def measure(self, what: str, work: Callable[[], Figure], needs: float = 5, limit: float = 90, gpu: bool = False) -> None:
        """A row for what `work` returns, or why there is nothing: it takes no longer than `limit` seconds.

        It does not begin when fewer than `needs` seconds are left, or with `gpu` where there is none.
        """
        if gpu and not GPU:
            return self.row(what, "–", "", "", "not measured: no GPU")
        if self.left < needs:
            return self.row(what, "–", "", "", "not run (time)")
        limit = min(limit, self.left)
        if GPU:
            torch.cuda.reset_peak_memory_stats()
        try:
            with at_most(limit):
                figure = work()
        except LateError:
            figure = Figure("–", f"not run (time): more than {limit:.0f} s")
        except LeftOutError as why:
            figure = Figure("–", f"not measured: {why}")
        except ImportError as error:
            figure = Figure("–", f"not measured: {error.name} is not installed")
        except torch.OutOfMemoryError:
            figure = Figure("–", "left out: too large for the GPU's memory")
        except Exception as error:  # one row fails, the others do not
            figure = Figure("–", f"FAILED: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
        finally:
            gc.collect()
            if GPU:
                torch.cuda.empty_cache()
        missed = [] if figure.met or not GPU else ["goal missed"]
        memory = f"{torch.cuda.max_memory_allocated() / 1e6:,.0f}" if GPU else ""
        return self.row(
            what, figure.text, figure.goal if GPU else "", memory, "; ".join([*missed, *filter(None, [figure.note])])
        )


@contextmanager
def at_most(limit: float) -> Iterator[None]:
    """Raise LateError within, after so many seconds."""

    def late(number: int, frame: object) -> None:
        raise LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Silent(patchcli.Observer):
    """Problems are in the rows."""

    def problem(self, line: str, left_out: bool = True) -> None:
        pass


# ---- a data set, from training to maps ------------------------------------------------------------------------------


def cloth(folder: Path, good: int, side: int) -> Path:
    """Synthetic cloth in MVTec AD layout."""
    weave.write_dataset(folder, seed=0, train=good, good=4, each=2)
    for path in folder.rglob("*.png"):
        Image.open(path).resize((side, side)).save(path)
    return folder


def photographs(store: Path, folder: Path, count: int, side: int) -> list[Path]:
    """So many PNG files of the store's test images, or of its good ones if there are none."""
    source = patchcli.Store.open(store).source
    data = layouts.read(Path(source.root), source.layout)
    samples = data.split("test") or data.split("train")
    folder.mkdir()
    files = [folder / f"{number:04}.png" for number in range(count)]
    for number, path in enumerate(files):
        if number < len(samples):
            Image.open(samples[number].path).convert("RGB").resize((side, side)).save(path)
        else:
            shutil.copy(files[number % len(samples)], path)
    return files


def data_set(table: Table, data: Path, folder: Path, small: bool) -> Path:
    """Train and embed a data set, unless it is a store already; verify and score it. Its store."""
    name, side, given = data.stem, 128 if small else 256, (data / "zarr.json").exists()
    store = data if given else folder / f"{name}.zarr"
    folder.mkdir()

    def train() -> Figure:
        length = {"steps": 2} if small else {"steps": 1000, "minutes": 1.5}
        done = patchcli.train(data, store, images=ImageOptions(size=(side, side)), observer=Silent(), **length)
        each = done.seconds / max(1, done.steps)
        note = f"{1 / each:.1f} steps a second, of {done.steps}"
        return Figure(f"{1000 * each:.1f} s", note, "<= 20 s", 1000 * each <= 20)

    def embed() -> Figure:
        begun = time.perf_counter()
        bank = patchcli.embed(store, force=True, observer=Silent())
        taken = time.perf_counter() - begun
        vectors = ", ".join(f"{count:,} {scale}" for scale, count in bank.vectors.items())
        return Figure(f"{bank.images / taken:.1f} images/s", f"with the index; {vectors}")

    def verify() -> Figure:
        checks = patchcli.verify(store, observer=Silent())
        wrong = [f"{check.check}: {check.reason}" for check in checks if check.status in ("disagrees", "fails")]
        for check in checks:
            figures = {"of features": check.features, "of distances": check.distance, "of scores": check.score}
            off = [f"{figure:.1e} {of}" for of, figure in figures.items() if figure is not None]
            same = [] if check.nearest is None else [f"{check.nearest:.4%} the same patch"]
            about = ", ".join([check.status, *same, *off, *filter(None, [check.reason])])
            table.row(f"  {check.check}", "" if check.ms is None else f"{check.ms:g} ms", "", "", about)
        return Figure(f"{len(checks)} checks", "; ".join(wrong), "all agree", not wrong)

    def records() -> Figure:
        some = photographs(store, folder / "records", 2 if small else 16, side)
        cpu, here = (
            list(patchcli.score(Detector.open(store, device=device), some, observer=Silent()))
            for device in ("cpu", DEVICE.type)
        )
        off = max(abs(a.score - b.score) / max(abs(a.score), 1e-30) for a, b in zip(cpu, here, strict=True))
        places = ("nearest_image", "nearest_x", "nearest_y", "peak_x", "peak_y")
        same = np.mean([[getattr(a, p) == getattr(b, p) for p in places] for a, b in zip(cpu, here, strict=True)])
        return Figure(f"{off:.1e}", f"largest difference of a score; {same:.1%} of peaks and nearest patches are the same")

    def whole() -> Figure:
        files = photographs(store, folder / "photographs", 4 if small else 512, side)
        detector = Detector.open(store, device=DEVICE.type)
        list(patchcli.score(detector, files[:BATCH], observer=Silent()))  # loads and compiles what it needs
        outputs = Outputs(folder / "maps")
        taken = seconds(lambda: list(patchcli.score(detector, files, outputs=outputs, observer=Silent())), 1)
        rate = len(files) / taken
        return Figure(f"{rate:.1f} images/s", f"{len(files)} PNG files to maps", ">= 300", rate >= 300)

    def step_by_step() -> Figure:
        files = photographs(store, folder / "steps", 4 if small else 64, side)
        detector = Detector.open(store, device=DEVICE.type)
        detector(files[0])
        spent = steps(detector, files)
        total = sum(spent.values())
        return Figure(f"{len(files) / total:.1f} images/s", ", ".join(f"{name} {s / total:.0%}" for name, s in spent.items()))

    if not given:
        table.measure(f"{name}: train, 1,000 steps", train, needs=20, limit=150)
        table.measure(f"{name}: embed", embed, needs=10)
    if not (store / "zarr.json").exists():
        table.row(f"{name}: all else", "–", "", "", "not run: there is no store")
        return store
    table.measure(f"{name}: verify", verify, needs=20, limit=150)
    table.measure(f"{name}: records of {DEVICE.type} and cpu", records)
    table.measure(f"{name}: score, whole", whole, needs=15)
    table.measure(f"{name}: score, one step after the other", step_by_step)
    return store


# ---- searches in larger banks ---------------------------------------------------------------------------------------


class Bank:
    """`count` vectors: some, and copies of them with noise. Its pages are made each time that they are read."""

    def __init__(self, some: np.ndarray, count: int) -> None:
        self._some, self.count, self.D = torch.from_numpy(some).to(DEVICE), count, some.shape[1]

    def __len__(self) -> int:
        return -(-self.count // PAGE)

    def __iter__(self) -> Iterator[SimpleNamespace]:
        for first in range(0, self.count, PAGE):
            ids = torch.arange(first, min(first + PAGE, self.count), device=DEVICE)
            noise = torch.randn(len(ids), self.D, generator=torch.Generator(DEVICE).manual_seed(first), device=DEVICE)
            vectors = self._some[ids % len(self._some)] + 0.01 * noise * (ids >= len(self._some))[:, None]
            yield SimpleNamespace(ids=ids.cpu().numpy(), vectors=vectors.cpu().numpy())

    def whole(self) -> np.ndarray:
        """All vectors."""
        return np.concatenate([page.vectors for page in self])


def compare_with_all(name: str) -> Callable[[Bank], Found]:
    """A search that streams the bank's pages, and on a GPU keeps them there."""

    def make(bank: Bank) -> Found:
        if problem := search.method(name).problem(DEVICE, bank.D):
            raise LeftOutError(problem)
        searching = search.method(name)(bank, DEVICE, 1 << 40)
        return lambda queries: searching(queries.to(DEVICE))[1].cpu().numpy()

    return make


def pruned(bank: Bank) -> Found:
    """The search of the CPU."""
    pages, _ = indexed(bank.whole())
    searching = search.method("pruned")(pages, DEVICE, 0)
    return lambda queries: searching(queries)[1].numpy()


def faiss_flat(bank: Bank) -> Found:
    """faiss IndexFlatL2, on the CPU."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    flat = faiss.IndexFlatL2(bank.D)
    for page in bank:
        flat.add(page.vectors)
    return lambda queries: flat.search(queries.numpy(), 1)[1][:, 0]


def cdist(bank: Bank) -> Found:
    """torch.cdist, page by page."""
    pages = [torch.from_numpy(page.vectors).to(DEVICE) for page in bank]

    def find(queries: torch.Tensor) -> np.ndarray:
        on_device = queries.to(DEVICE)
        least, at = zip(*(torch.cdist(on_device, page).min(1) for page in pages), strict=True)
        number = torch.stack(least).argmin(0)
        return (torch.stack(at).gather(0, number[None])[0] + PAGE * number).cpu().numpy()

    return find


@dataclass(frozen=True)
class Way:
    """A way to search. `load` is about how many seconds a million vectors of length 64 take before the first query."""

    make: Callable[[Bank], Found]
    load: float
    cpu: bool = False
    gpu: bool = False  # only there

    def needs(self, count: int, D: int) -> float:
        """Seconds, about."""
        return 5 + self.load * count / 1e6 * max(1, D / 192)


WAYS = {
    "brute": Way(compare_with_all("brute"), 2),
    "keops": Way(compare_with_all("keops"), 2, gpu=True),
    "torch.cdist": Way(cdist, 2, gpu=True),
    "faiss": Way(faiss_flat, 4, cpu=True),
    "pruned": Way(pruned, 15, cpu=True),
}


def searches(table: Table, banks: list[np.ndarray], counts: tuple[int, ...], queries: int) -> None:
    """Every way in banks of each size, the CPU's last; the first way says what the others should find."""
    reference: dict[tuple[int, int], np.ndarray] = {}
    for count, cpu, some in product(counts, (False, True), banks):
        for name, way in WAYS.items():
            if way.cpu == cpu:
                compare(table, name, some, count, queries, reference)


def compare(
    table: Table, name: str, some: np.ndarray, count: int, queries: int, reference: dict[tuple[int, int], np.ndarray]
) -> None:
    """One way to search one bank."""
    way, D = WAYS[name], some.shape[1]

    def measured() -> Figure:
        if way.cpu and count * D > 1e9:
            raise LeftOutError(f"{4e-9 * count * D:.0f} GB are too much for the CPU")
        step = 13 if way.cpu and count > 500_000 else 1
        asked = torch.from_numpy(queries_of(some, queries)[::step])
        find = way.make(Bank(some, count))
        ids = find(asked)  # loads and compiles what it needs
        ms = 1000 * seconds(lambda: find(asked), 1 if way.cpu else 5) * QUERIES / len(asked)
        note = "the reference"
        if (count, D) in reference:
            others = float((ids != reference[count, D][::step]).mean())
            note = f"another patch in {others:.2%}" if others else "the same patches"
        elif step == 1:
            reference[count, D] = ids
        goal = ("<= 1 ms", ms <= 1) if (D, count) == (64, 10**6) and name in ("brute", "keops") else ("", True)
        return Figure(f"{ms:,.3g} ms" if ms < 1000 else f"{ms:,.0f} ms", note, *goal)

    what, needs = f"search {count:,} x {D}: {name}{', on the CPU' if way.cpu and GPU else ''}", way.needs(count, D)
    table.measure(what, measured, needs=needs, limit=3 * needs + 30, gpu=way.gpu)


def of_store(store: Path) -> np.ndarray:
    """A store's vectors at its finest scale, in order."""
    detector = Detector.open(store, device="cpu", search="brute")
    scale = max(detector.grids, key=lambda scale: detector.grids[scale].patches)
    ids, vectors = (np.concatenate(c) for c in zip(*((p.ids, p.vectors) for p in detector.pages[scale]), strict=True))
    return vectors[np.argsort(ids)]


def power_law(D: int, count: int) -> np.ndarray:
    """Vectors whose variances along the axes fall as a power."""
    scales = np.arange(1, D + 1) ** -0.75
    return (np.random.default_rng(0).normal(size=(count, D)) * scales).astype(np.float32)


def queries_of(vectors: np.ndarray, count: int) -> np.ndarray:
    """Queries: vectors spread over all, with noise."""
    some = vectors[np.linspace(0, len(vectors) - 1, count).astype(int)]
    return (some + np.random.default_rng(1).normal(0, 0.05, some.shape)).astype(np.float32)


# ---- the encoder ----------------------------------------------------------------------------------------------------


def graphed(work: Work) -> Work:
    """The same work as a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = work()

    def replay() -> dict[str, torch.Tensor]:
        graph.replay()
        return out

    return replay


def encoding(table: Table, store: Path, small: bool) -> None:
    """Ways to compute the learned features of a batch: images a second, and how far they are from those of float32."""
    detector = Detector.open(store, device=DEVICE.type, search="brute")
    encoder, batch, side = detector.encoder, 1 if small else 64, detector.canvas.height
    scales = [*encoder.learned] or [*encoder.scales]
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, detector.canvas.width, 3), dtype=np.uint8)
    rows = torch.from_numpy(standardise(pixels, detector.mean)).to(DEVICE)
    last = rows.contiguous(memory_format=torch.channels_last)

    def dense(of: torch.Tensor = last, precision: torch.dtype = torch.float32, compiled: bool = False) -> Work:
        run = torch.compile(encoder.dense) if compiled else encoder.dense

        def work() -> dict[str, torch.Tensor]:
            with torch.autocast(DEVICE.type, precision, enabled=precision != torch.float32, cache_enabled=False):
                return {scale: features.float() for scale, features in run(of, scales).items()}

        return work

    half = torch.bfloat16
    ways: dict[str, tuple[Callable[[], Work], bool]] = {  # and whether it is for a GPU alone
        "float32": (lambda: dense(rows), False),
        "float32, channels last": (dense, False),
        "bfloat16, channels last": (lambda: dense(precision=half), False),
        "float32, CUDA graph": (lambda: graphed(dense()), True),
        "bfloat16, CUDA graph": (lambda: graphed(dense(precision=half)), True),
        "float32, torch.compile": (lambda: dense(compiled=True), True),
        "bfloat16, torch.compile": (lambda: dense(precision=half, compiled=True), True),
    }
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        exact = {scale: features.clone() for scale, features in dense(rows)().items()}
        for name, (make, gpu) in ways.items():

            def measured(make: Callable[[], Work] = make) -> Figure:
                run = make()

                def once() -> dict[str, torch.Tensor]:
                    features = run()
                    if GPU:
                        torch.cuda.synchronize()
                    return features

                features = once()
                off = max(float((features[s] - exact[s]).abs().max() / exact[s].abs().max()) for s in exact)
                return Figure(f"{batch / seconds(once):,.0f} images/s", f"off by {off:.1e} of the largest feature")

            table.measure(f"encoder, {name}", measured, needs=60 if "compile" in name else 5, limit=60, gpu=gpu)

    def whole() -> Figure:
        taken = seconds(lambda: {s: f.cpu() for s, f in detector.embed_fitted(pixels, [(side, side)] * batch).scales.items()})
        return Figure(f"{batch / taken:,.0f} images/s", "what score does, from uint8 pixels to features on the CPU")

    table.measure("encoder, all of embedding", whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--minutes", type=float, default=9, help="that all of it may take")
    parser.add_argument("--small", action="store_true", help="everything tiny, as without a GPU")
    given = parser.parse_args()
    small = given.small or not GPU
    about = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if GPU else "no GPU: everything is tiny, on the CPU"
    print(f"{about}; torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    table = Table(given.minutes)
    faulthandler.dump_traceback_later(60 * given.minutes + 20, exit=True, file=sys.__stderr__)  # compiled code may not stop
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = given.data or [cloth(folder / "cloth", *((6, 128) if small else (50, 256)))]
        stores = [data_set(table, path, folder / f"{number}", small) for number, path in enumerate(data)]
        try:
            encoding(table, stores[0], small)
            banks = [of_store(stores[0]), power_law(768, 512 if small else 16_384)]
        except patchcli.PatchcliError as error:
            raise SystemExit(f"the rest needs the first data set: {error}") from None
        searches(table, banks, (1_000,) if small else (160_000, 10**6, 10**7), 100 if small else QUERIES)
    faulthandler.cancel_dump_traceback_later()
    print(f"host memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:,.1f} GB, {table.left:.0f} s left")


if __name__ == "__main__":
    main()
