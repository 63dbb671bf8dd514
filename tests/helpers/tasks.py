"""Tasks for workers in tests; they find this file on the path, as the tests do."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from patchcli.errors import InputError
from patchcli.observer import Observer


@dataclass(frozen=True)
class Workers:
    """The process that does an item, and its threads."""

    def open(self, observer: Observer) -> Callable[[int], tuple[int, str]]:
        return lambda _: (time.sleep(0.05), (os.getpid(), os.environ["OMP_NUM_THREADS"]))[1]


@dataclass(frozen=True)
class Squares:
    """Square a number; that below `deadly`, the worker dies of it at the first try."""

    seen: Path
    deadly: int = 0

    def open(self, observer: Observer) -> Callable[[int], int]:
        observer.note("opened")  # which nobody is told

        def square(number: int) -> int:
            marker = self.seen / str(number)
            if number < self.deadly and not marker.exists():
                marker.touch()
                os._exit(1)
            if number < 0:
                raise InputError(f"{number}", parameter="threads", expected="1 or more")
            observer.problem(f"{number} is odd") if number % 2 else observer.detail("even")
            return number * number

        return square
