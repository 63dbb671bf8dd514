"""The machine: device, threads, and stopping on a signal."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch

from patchcli.errors import InputError

DEVICES = ("auto", "cpu", "cuda")


def device(name: str = "auto") -> torch.device:
    """The device by that name; auto is the GPU where there is one."""
    if name not in DEVICES:
        raise InputError(f"--device: expected one of {', '.join(DEVICES)}, found {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device found by PyTorch; use --device cpu, or install a CUDA build of torch")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def set_threads(threads: int | None) -> None:
    """Bound the CPU threads of PyTorch (and, through the environment, of the compiled searches)."""
    if threads is None:
        return
    if threads < 1:
        raise InputError(f"--threads: expected 1 or more, found {threads}")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT and SIGTERM only make the yielded function true; a second one interrupts at once."""
    seen: list[int] = []

    def note(number: int, _frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals are the caller's
        before = {}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
