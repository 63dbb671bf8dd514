"""embed and score by the workers of a Dask cluster on this machine, against this process alone:

    python examples/benchmarks/scale.py STORE [--workers 1 2] [--kills N]

STORE has an encoder, a bank, and a data set with test images; it is copied, and the copy embedded anew and scored. This process
has one core, and so many workers of one thread have as many cores, which they share with the command; ratios are to this
process on one core. What it does with all cores, where other threads read and embed ahead, comes last. Workers are started
before; that a run opens the encoder and the bank on each of them counts. Banks and records are compared byte for byte. With
--kills, it goes on until so many workers were killed at random, and compares each time.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import patchcli
from patchcli import Cluster, Outputs, Setup
from patchcli.bank import search
from patchcli.cluster import local
from patchcli.store import Store

EVERY = 1.5  # seconds between two kills, on average
ALL = sorted(os.sched_getaffinity(0))  # cores


def bank_of(store: Path) -> dict[str, bytes]:
    """The files of the bank."""
    folder = store / Store.open(store).root.parts["bank"].name
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(store: Path, maps: Path, cluster: Cluster | None) -> tuple[list[float], Any]:
    """Seconds of embed and score, and what they made: the bank, the records, the maps."""
    begun = time.perf_counter()
    patchcli.embed(store, overwrite=True, cluster=cluster, threads=1)
    embedded = time.perf_counter()
    found = list(patchcli.score(store, outputs=Outputs(maps), cluster=cluster, setup=Setup(threads=1)))
    scored = time.perf_counter()
    records = [asdict(record) | {"time": None} for record in found]
    files = {str(path.relative_to(maps)): path.read_bytes() for path in sorted(maps.rglob("*.tiff"))}
    return [embedded - begun, scored - embedded], (bank_of(store), records, files)


def confine(cores: int) -> None:
    """Let this process, its threads, and what they start use so many cores."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), ALL[:cores])


def warm() -> None:
    """Import what is needed, and compile the search."""
    import sklearn.decomposition
    import sklearn.neighbors  # noqa: F401

    search.method("pruned")


@contextmanager
def cluster(workers: int) -> Iterator[tuple[Cluster, Any]]:
    """A cluster of processes of one thread, which have imported what they need."""
    import distributed

    with local(workers, 1) as running, distributed.Client(running) as client:
        client.run(warm)
        yield Cluster(scheduler=running.scheduler_address), running


@contextmanager
def killing(running: Any) -> Iterator[list[int]]:
    """Within, worker processes are killed at random; the list of them."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.wait(random.expovariate(1 / EVERY)):
            running.scale(len(running.worker_spec))  # one that is killed while it starts is not started again by itself
            alive = [nanny.process.process for nanny in running.workers.values() if nanny.process and nanny.process.process]
            if alive := [process for process in alive if process.is_alive()]:
                chosen = random.choice(alive)
                killed.append(chosen.pid)
                chosen._process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    if find_spec("distributed") is None:
        sys.exit("scale.py needs Dask: pip install 'patchcli[cluster]'")
    with tempfile.TemporaryDirectory() as name:
        store, maps = Path(name) / "store.zarr", Path(name) / "maps"
        shutil.copytree(options.store, store)
        warm()
        print(f"{'':24}{'embed, s':>10}{'ratio':>8}{'score, s':>10}{'ratio':>8}  same")
        confine(1)
        alone, made = run(store, maps, None)

        def row(name: str, seconds: list[float], of_row: Any) -> None:
            ratios = [one / other for one, other in zip(alone, seconds, strict=True)]
            figures = f"{seconds[0]:10.1f}{ratios[0]:8.2f}{seconds[1]:10.1f}{ratios[1]:8.2f}"
            print(f"{name:24}{figures}  {of_row == made}", flush=True)

        row("this process, 1 core", alone, made)
        for workers in options.workers:
            confine(workers)
            with cluster(workers) as (workplace, _):
                row(f"{workers} worker{'s' * (workers > 1)}, {workers} core{'s' * (workers > 1)}", *run(store, maps, workplace))
        confine(len(ALL))
        row(f"this process, {len(ALL)} cores", *run(store, maps, None))
        kills = same = runs = 0
        while kills < options.kills:
            with cluster(2) as (workplace, running), killing(running) as killed:
                _, of_workers = run(store, maps, workplace)
            kills, runs, same = kills + len(killed), runs + 1, same + (of_workers == made)
        if runs:
            print(f"{kills} workers killed in {runs} runs; the same bank, records and maps in {same}")


if __name__ == "__main__":
    main()
