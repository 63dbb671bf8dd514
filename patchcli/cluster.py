"""Where the tasks of a run are done: in worker processes here, or on a running Dask cluster. The only import of distributed.

A task can be done again, anywhere, with the same result: it writes whole chunks or files, which are its own, and returns only
small things. What a worker that dies has begun is done by another.
"""

import contextlib
import logging
import os
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, TimeoutError
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from patchcli import runtime
from patchcli.errors import InputError, PatchcliError
from patchcli.observer import Observer, Remarks

AHEAD = 3  # tasks in flight for each thread of the workers
TRIES = 100  # at a task whose workers die
ANSWER, PATIENCE = 15.0, 5.0  # seconds until a scheduler must answer, and until it is looked whether there are workers

# How processes on this machine are started: they listen on the loopback address alone, at any free ports. What Dask does to
# watch its workers, and to give memory back at once, takes a quarter of the time of one that embeds.
LOCAL: dict[str, Any] = {
    "threads_per_worker": 1,
    "dashboard_address": "127.0.0.1:0",
    "scheduler_kwargs": {"dashboard": False},
    "silence_logs": logging.CRITICAL,
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
SETTINGS: dict[str, Any] = {
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "5s",
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}

Item = TypeVar("Item", contravariant=True)
Answer = TypeVar("Answer", covariant=True)
Said = list[tuple[str, tuple[Any, ...]]]  # methods of an observer, or "remark", and their arguments


class Task(Protocol[Item, Answer]):
    """What a worker opens once and then does for item after item; it is pickled, and so are its items and answers."""

    def open(self, observer: Observer) -> Callable[[Item], Answer]:
        """What to do for an item, with all that it needs loaded; what the observer is told reaches the user."""


class Runner(Protocol):
    """Does a task for items: this process, or workers that are there."""

    @property
    def workers(self) -> Sequence[str]:
        """The addresses of workers; none where this process works."""

    def __call__(
        self, task: Task[Item, Answer], items: Iterable[Item], pinned: Sequence[str] | None = None
    ) -> Iterator[Answer]:
        """The answers for items, in their order."""

    def forget(self) -> None:
        """Let go of what was opened for tasks, a version of a store too."""


SPREAD = ("auto", "images", "shards")


def check_part(part: tuple[int, int]) -> None:
    """Raise InputError unless it is the number of a part, from 1 on, and how many there are."""
    try:
        number, count = part
    except (TypeError, ValueError):
        raise InputError(
            f"{part!r}", parameter="part", expected="the number of a part and how many there are, such as (3, 40)"
        ) from None
    if not 1 <= number <= count:
        raise InputError(f"{number}/{count}", parameter="part", expected="a number from 1 to the count of parts, such as 3/40")


@dataclass(frozen=True)
class Cluster:
    """Who works: `workers` processes on this machine, or the Dask cluster whose scheduler has this address or wrote this file.

    All workers see the working directory, the store, the images and the outputs by the same paths, and have this version of
    patchcli. Scoring is `spread` over them by images, so that each has the whole bank, or by shards of the bank, so that every
    image visits all of them; "auto" takes shards where the workers' banks do not fit in memory together.
    """

    workers: int | None = None
    scheduler: str | None = None
    spread: str = "auto"

    def __post_init__(self) -> None:
        if self.spread not in SPREAD:
            raise InputError(repr(self.spread), parameter="spread", expected="auto, images or shards")
        if self.workers is None and self.scheduler is None:
            raise InputError("needs workers", parameter="spread", advice="give `workers` or `scheduler` too")
        if self.workers is not None and self.scheduler is not None:
            raise InputError("`workers` and `scheduler`: give one of the two")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"{self.workers}", parameter="workers", expected="1 or more")
        if find_spec("distributed") is None:
            name = "scheduler" if self.workers is None else "workers"
            raise InputError("needs Dask; run: pip install 'patchcli[cluster]'", parameter=name)

    def threads(self, wanted: int | None) -> int | None:
        """CPU threads of each worker: so many, or else an equal share of this machine's; None: as a running cluster has it."""
        if wanted is not None or self.workers is None:
            return wanted
        return max(1, len(os.sched_getaffinity(0)) // self.workers)

    def memory(self, wanted: int | None) -> int | None:
        """Bytes for the bank in each worker: so many, or else an equal share; None: half of what is free to it."""
        return wanted if wanted is not None or self.workers is None else runtime.memory() // self.workers

    def shards(self, bank: int, wanted: int | None) -> bool:
        """Whether workers share a bank of so many bytes, of which each may have so many as `memory` says."""
        return self.spread == "shards" or (self.spread == "auto" and bank > runtime.memory(self.memory(wanted)))

    @contextlib.contextmanager
    def started(self, threads: int | None, observer: Observer) -> Iterator["Running"]:
        """Within, the workers are there. Raises InputError if no scheduler answers."""
        with _client(self, self.threads(threads), observer) as (client, renew):
            running = Running(client, renew, observer)
            try:
                yield running
            finally:
                running.forget()

    @contextlib.contextmanager
    def kept(self, threads: int | None, observer: Observer) -> Iterator["Cluster"]:
        """Within, the same cluster, whose workers are there already and stay for all that is started."""
        with _client(self, self.threads(threads), observer) as client:
            yield _Kept(self.workers, self.scheduler, self.spread, client)

    def one_by_one(
        self, task: Task[Any, Any], items: Iterable[Any], several: int, threads: int | None, observer: Observer
    ) -> Iterator[Any]:
        """The answers of a task that takes a list of so many items at once, and gives a list of answers."""
        rest = iter(items)
        with self.started(threads, observer) as run:
            for answers in run(task, iter(lambda: list(islice(rest, several)), [])):
                yield from answers


@dataclass(frozen=True)
class _Kept(Cluster):
    """A cluster whose workers are there already."""

    client: Any = None  # and what is done while it waits for them


class Here:
    """This process, which does one item after another."""

    workers: Sequence[str] = ()

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._opened: tuple[Task[Any, Any], Callable[[Any], Any]] | None = None

    def __call__(
        self, task: Task[Item, Answer], items: Iterable[Item], pinned: Sequence[str] | None = None
    ) -> Iterator[Answer]:
        """The answers for items, in their order."""
        if self._opened is None or self._opened[0] is not task:
            self._opened = None  # before another is in memory
            self._opened = task, task.open(self._observer)
        return map(self._opened[1], items)

    def forget(self) -> None:
        """Let go of what was opened for tasks."""
        self._opened = None


@dataclass(frozen=True)
class Work:
    """Who does the tasks of a verb, and what each of them may use."""

    run: Runner
    threads: int | None  # CPU threads; None: as many as it likes
    memory: int | None  # bytes; None: half of what is free


@contextlib.contextmanager
def working(cluster: Cluster | None, threads: int | None, memory: int | None, observer: Observer) -> Iterator[Work]:
    """This process, or within the workers of a cluster; each may use so much."""
    if cluster is None:
        yield Work(Here(observer), threads, memory)
        return
    with cluster.started(threads, observer) as run:
        yield Work(run, cluster.threads(threads), cluster.memory(memory))


@contextlib.contextmanager
def local(workers: int, threads: int) -> Iterator[Any]:
    """A Dask cluster of so many processes on this machine, with so many CPU threads each."""
    import dask.config
    from distributed import LocalCluster

    counts = dict.fromkeys(
        THREADS, str(threads)
    )  # in `env` too: of what is set before the start, this process's own goes first
    spawned = {"MALLOC_ARENA_MAX": "1"} | counts  # in place of Dask's MALLOC_TRIM_THRESHOLD_
    settings = SETTINGS | {"distributed.nanny.pre-spawn-environ": spawned}
    with dask.config.set(settings), LocalCluster(n_workers=workers, env=counts, **LOCAL) as here:
        yield here


@contextlib.contextmanager
def _client(cluster: Cluster, threads: int | None, observer: Observer) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A client of the workers, and what is done while it waits for them."""
    from distributed import Client

    if isinstance(cluster, _Kept):
        yield cluster.client
        return
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is said in one line
    if cluster.workers is not None:
        assert threads is not None
        with local(cluster.workers, threads) as here, Client(here) as client:
            yield client, lambda: here.scale(cluster.workers)  # those that died while they started
        return
    scheduler = str(cluster.scheduler)
    named = {"address": scheduler} if "://" in scheduler or not Path(scheduler).exists() else {"scheduler_file": scheduler}
    try:
        client = Client(**named, timeout=ANSWER)
    except (OSError, ValueError, TypeError) as error:  # distributed raises all of them for what is no scheduler
        expected = "the address of a Dask scheduler, such as tcp://host:8786, or the file that it wrote"
        why = f"no scheduler answers ({type(error).__name__})"
        raise InputError(why, parameter="scheduler", subject=scheduler, advice=f"expected {expected}") from None
    told: list[bool] = []

    def tell() -> None:
        if not told and not client.nthreads():
            told.append(True)
            observer.note("waiting: the scheduler has no workers")

    with client:
        yield client, tell


class Running:
    """Workers that are there."""

    def __init__(self, client: Any, renew: Callable[[], None], observer: Observer) -> None:
        self._client, self._renew, self._observer = client, renew, observer
        self._here = version("patchcli"), str(Path.cwd())
        self._known: dict[int, tuple[Task[Any, Any], str]] = {}  # tasks by identity, under the names that workers know

    @property
    def workers(self) -> list[str]:
        """Their addresses."""
        return sorted(self._client.nthreads())

    def __call__(
        self, task: Task[Item, Answer], items: Iterable[Item], pinned: Sequence[str] | None = None
    ) -> Iterator[Answer]:
        """The answers for items, in their order; only some of them are on their way at a time.

        Where workers are `pinned`, each of n does every n-th item, so that it need not open what others do.
        """
        _, name = self._known.setdefault(id(task), (task, uuid.uuid4().hex))
        waiting: deque[tuple[Callable[[], Any], Any]] = deque()  # what asks again, and futures of answers

        def submit(number: int, item: Any) -> Any:
            at = {"workers": [pinned[number % len(pinned)]], "allow_other_workers": True} if pinned else {}
            return self._client.submit(_do, name, *self._here, task, item, pure=False, **at)

        remarks = self._observer.remarks()

        def answer(again: Callable[[], Any], future: Any) -> Any:
            value, said = _result(future, again, self._renew)
            for method, arguments in said:
                (remarks if method == "remark" else getattr(self._observer, method))(*arguments)
            return value

        try:
            for number, item in enumerate(items):
                again = partial(submit, number, item)
                waiting.append((again, again()))
                if len(waiting) >= AHEAD * max(1, sum(self._client.nthreads().values())):
                    yield answer(*waiting.popleft())
            while waiting:
                yield answer(*waiting.popleft())
            remarks.close()
        finally:
            with contextlib.suppress(Exception):
                self._client.cancel([future for _, future in waiting])

    def forget(self) -> None:
        """Let go of what workers have opened."""
        with contextlib.suppress(Exception):  # they may be gone
            self._client.run(_forget)


def _result(future: Any, again: Callable[[], Any], renew: Callable[[], None]) -> tuple[Any, Said]:
    """A task's answer, and what it told its observer."""
    from distributed import KilledWorker

    tries = 1
    while True:
        try:
            value, said = future.result(timeout=PATIENCE)
            return value, said
        except TimeoutError:
            renew()
        except KilledWorker:
            if tries == TRIES:
                raise InputError(
                    f"{TRIES} workers died of one task", parameter="workers", advice="give them more memory"
                ) from None
            tries, future = tries + 1, again()
        except ModuleNotFoundError as error:
            raise InputError(f"a worker has no {error.name}", parameter="scheduler", advice="install it there") from None
        except (CancelledError, OSError) as error:
            if isinstance(error, PatchcliError):
                raise
            raise InputError("the connection was lost", parameter="scheduler", advice="run this again to resume") from None


# ---- on a worker --------------------------------------------------------------------------------------------------------


class _Recorder(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self._said: Said = []

    def problem(self, line: str, left_out: bool = True) -> None:
        self._said.append(("problem", (line, left_out)))

    def note(self, line: str) -> None:
        self._said.append(("note", (line,)))

    def detail(self, line: str) -> None:
        self._said.append(("detail", (line,)))

    def remarks(self) -> Remarks:
        return _Remarks(self._said)

    def taken(self) -> Said:
        said = self._said[:]
        self._said.clear()
        return said


class _Remarks(Remarks):
    """Passes on every remark: whoever sent the tasks counts those of all."""

    def __init__(self, said: Said) -> None:
        self._said = said

    def __call__(self, path: Path | str, line: str) -> None:
        self._said.append(("remark", (path, line)))

    def close(self) -> None:
        pass


_LOCK = threading.Lock()  # what is opened is for one thread at a time
_opened: tuple[str, Callable[[Any], Any], _Recorder] | None = None  # of which run, what does its items, and what that told


def _do(run: str, wanted: str, folder: str, task: Task[Any, Any], item: Any) -> tuple[Any, Said]:
    """An item's answer, and what an observer was told; paths are meant from that folder, by patchcli of that version."""
    global _opened
    if (own := version("patchcli")) != wanted:
        raise _unfit(f"patchcli {own}; install {wanted}, as here")
    if not Path(folder).is_dir():
        raise _unfit(f"no folder {folder}; share it with all workers")
    with _LOCK, contextlib.chdir(folder):
        if _opened is None or _opened[0] != run:
            _opened = None  # before another is in memory
            recorder = _Recorder()
            work = task.open(recorder)
            recorder.taken()  # whoever sent the task was told this already
            _opened = run, work, recorder
        _, work, recorder = _opened
        return work(item), recorder.taken()


def _unfit(what: str) -> InputError:
    """The error for a worker that has something else than it should."""
    from distributed import get_worker

    return InputError(f"the worker {get_worker().address} has {what}", parameter="scheduler")


def _forget() -> None:
    global _opened
    with _LOCK:
        _opened = None
