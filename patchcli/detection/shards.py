"""A bank that workers share: each searches its pages, and of what they find the nearest counts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from patchcli import runtime
from patchcli.bank import pages
from patchcli.bank.search import pruned
from patchcli.bank.search.base import Search
from patchcli.bank.search.trees import Array
from patchcli.cluster import Cluster, Running, Task
from patchcli.detection.detector import Detector, Version
from patchcli.errors import InputError
from patchcli.observer import Observer
from patchcli.store import Store

Answer = TypeVar("Answer")
Asked = tuple[str, int, int, Array, tuple[int, int]]  # a scale, which of how many shards, queries (Q, D), and ids to skip


@dataclass(frozen=True)
class SearchShards:
    """The task to search shards of the bank of a version of a store."""

    version: Version
    readers: int

    def open(self, observer: Observer) -> Callable[[Asked], tuple[Array, Array]]:
        """What finds the nearest vector of a shard: squared distances (Q,) float64 and ids (Q,)."""
        setup = self.version.setup
        runtime.set_threads(setup.threads)
        bank = Store.open(self.version.store, self.version.revision).bank()
        budgets = pages.budgets(bank, bank.scales, runtime.memory(setup.memory), self.readers)
        of_scale = {scale: pages.read(bank, scale, budget) for scale, budget in budgets.items()}

        def nearest(asked: Asked) -> tuple[Array, Array]:
            scale, shard, count, queries, skip = asked
            return pruned.nearest(torch.from_numpy(queries), of_scale[scale].share(shard, count), skip)

        return nearest


class Shared(Search):
    """The search of a scale by all workers at once."""

    def __init__(self, run: Running, workers: Sequence[str], task: SearchShards, scale: str, size: int) -> None:
        self._run, self._task, self._scale = run, task, scale
        self._workers = workers[:size]  # no more than there are pages

    def __call__(self, queries: Tensor, skip: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
        """The nearest of what the shards have; of equally near vectors, the lowest id."""
        vectors, count = queries.cpu().numpy(), len(self._workers)
        asked = ((self._scale, shard, count, vectors, skip) for shard in range(count))
        found = list(self._run(self._task, asked, pinned=self._workers))
        squared, ids = (np.stack(column) for column in zip(*found, strict=True))
        best = np.lexsort((ids, squared), axis=0)[:1]
        nearest, number = (np.take_along_axis(values, best, 0)[0] for values in (squared, ids))
        return pruned.distances(nearest).to(queries.device), torch.from_numpy(number).to(queries.device)


def spread(
    detector: Detector,
    cluster: Cluster | None,
    here: Callable[[Detector], Iterator[Answer]],
    task: Callable[[Version], Task[list[Any], list[Answer]]],
    items: Iterable[Any],
    several: int,
    observer: Observer,
) -> Iterator[Answer]:
    """What `here` gives in this process, or else the answers of workers, each of which does a `task` for several items."""
    with _local(detector, cluster, observer) as own:
        if own is not None:
            yield from here(own)
            return
    assert cluster is not None
    yield from cluster.one_by_one(task(detector.version(cluster)), items, several, detector.setup.threads, observer)


@contextmanager
def _local(detector: Detector, cluster: Cluster | None, observer: Observer) -> Iterator[Detector | None]:
    """What scores images in this process: the detector, or one whose bank the workers share; None if each has a whole one."""
    if cluster is None:
        yield detector
        return
    setup, needed = detector.setup, pages.total_memory(detector.bank)
    if not cluster.shards(needed, setup.memory):
        observer.detail(f"each worker has the whole bank, {runtime.megabytes(needed)}, and takes some of the images")
        yield None
        return
    if setup.search not in ("auto", "pruned"):
        raise InputError(setup.search, parameter="search", expected="pruned, which alone searches a shared bank")
    observer.note(f"the workers share the bank, {runtime.megabytes(needed)}: every image visits all of them")
    with cluster.started(setup.threads, observer) as run:
        task = SearchShards(detector.version(cluster), len(run.workers))
        searches = {scale: Shared(run, run.workers, task, scale, len(of)) for scale, of in detector.pages.items()}
        yield detector.by(searches)
