"""The machine: device, threads, processes that train together, and stopping on a signal."""

import contextlib
import functools
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from threadpoolctl import ThreadpoolController

from patchcli.errors import Ended, InputError

T = TypeVar("T")
TWICE = 0.3  # seconds within which two signals are one
MOST_THREADS = 1 << 12  # no machine has more cores
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16")


def device(name: str = "auto") -> torch.device:
    """The device by that name; auto is the GPU where there is one."""
    if name not in DEVICES:
        raise InputError(repr(name), parameter="device", expected=f"one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        advice = "use `device=cpu`, or install a CUDA build of torch"
        raise InputError("no CUDA device found by PyTorch", parameter="device", subject=name, advice=advice)
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def precision(name: str, device: torch.device, automatic: bool = True) -> str:
    """float32 or bfloat16; auto is bfloat16 on a CPU that multiplies it in hardware, where it is `automatic`.

    Raises InputError for another name, and for bfloat16 on a CPU that would emulate it, far slower than float32.
    """
    if name not in PRECISIONS:
        raise InputError(repr(name), parameter="precision", expected=" or ".join(PRECISIONS))
    fast = device.type != "cpu" or cpu_has_bfloat16()
    if name == "bfloat16" and not fast:
        problem = "this CPU has no bfloat16 instructions, it would be slower"
        raise InputError(problem, parameter="precision", subject=name, advice="take float32")
    if name == "auto":
        return "bfloat16" if automatic and fast and device.type == "cpu" else "float32"
    return name


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; otherwise PyTorch emulates it."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def devices() -> list[torch.device]:
    """Every kind of device that is there, the CPU first."""
    return [torch.device(name) for name in ("cpu", "cuda") if name == "cpu" or torch.cuda.is_available()]


@dataclass(frozen=True)
class Process:
    """One of `size` processes that train together; rank 0 is the one that writes."""

    rank: int = 0
    size: int = 1

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, the same in each."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def after_first(self, device: torch.device) -> Iterator[None]:
        """Until every process is here; where the first one fails within, the others raise Ended."""
        failed = torch.ones(1, device=device)
        try:
            yield
            failed.zero_()
        finally:
            self.total(failed)
        if failed.item():
            raise Ended


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[tuple[Process, torch.device]]:
    """This process among those that `torchrun` started, and its device; a lone one without torchrun."""
    if not dist.is_torchelastic_launched():
        yield Process(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Process(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()


def set_threads(threads: int | None) -> None:
    """Bound the CPU threads of PyTorch, of NumPy, and, through the environment, of the compiled searches."""
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise InputError(f"{threads}", parameter="threads", expected="1 or more" if threads < 1 else f"{MOST_THREADS} at most")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    if "OPENBLAS_NUM_THREADS" not in os.environ:  # else it has as many as the user wants, or none, as commands set it
        blas = ThreadpoolController().select(user_api="blas")
        if any(library.num_threads > threads for library in blas.lib_controllers):
            blas.limit(limits=threads)


class _Setting:
    """A setting of the whole process, for as long as any thread is within."""

    def __init__(self, made: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
        self._lock, self._within, self._made = threading.Lock(), 0, made

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._setting = self._made()
                self._setting.__enter__()
            self._within += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                self._setting.__exit__(None, None, None)


@functools.cache
def one_blas_thread() -> contextlib.AbstractContextManager[None]:
    """Within, NumPy's matrix products take one thread: others would spin for a while after each, beside the search."""
    blas = ThreadpoolController().select(user_api="blas")
    return _Setting(lambda: blas.limit(limits=1))


@functools.cache
def full_float32() -> contextlib.AbstractContextManager[None]:
    """Within, a GPU's convolutions have no TF32, so that features are those of a CPU."""
    return _Setting(lambda: torch.backends.cudnn.flags(enabled=True, allow_tf32=False))


def memory(limit: int | None = None) -> int:
    """Bytes that a bank may hold in memory: the limit, or half of what is free."""
    return free_memory() // 2 if limit is None else limit


def free_memory() -> int:
    """Bytes of memory that are free."""
    import psutil

    return int(psutil.virtual_memory().available)


def megabytes(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e6:,.1f} MB" if size < 1e8 else f"{size / 1e6:,.0f} MB"


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[], int]]:
    """Within, SIGINT and SIGTERM only make the yielded function give their number instead of 0; a later one acts at once.

    Not one that comes with the first: timeout(1) and others signal a process and its group.
    """
    signals: list[tuple[float, int]] = []

    def note(number: int, frame: Any) -> None:
        now = time.monotonic()
        if signals and now - signals[0][0] > TWICE:
            if callable(handler := before[signal.Signals(number)]):
                handler(number, frame)
            raise KeyboardInterrupt
        signals.append((now, number))

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are the caller's
        before = {}
    try:
        yield lambda: signals[0][1] if signals else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, the next one made in another thread while this one is worked on.

    The thread is no daemon, since compiled code that is cut off when Python ends aborts the process; it ends by itself
    after the item at hand when the items are no longer wanted, or the main thread is over.
    """
    line: queue.Queue[tuple[list[T], BaseException | None, bool]] = queue.Queue(1)  # item, error, over
    left = threading.Event()

    def put(entry: tuple[list[T], BaseException | None, bool]) -> bool:
        while not left.is_set() and threading.main_thread().is_alive():
            with contextlib.suppress(queue.Full):
                line.put(entry, timeout=0.1)
                return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(([item], None, False)):
                    return
        except BaseException as error:  # raised again where the items are wanted
            put(([], error, True))
        else:
            put(([], None, True))

    threading.Thread(target=run).start()
    over = False
    try:
        while not over:
            item, error, over = line.get()
            if error is not None:
                raise error
            yield from item
    finally:
        left.set()
