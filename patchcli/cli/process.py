"""The process around a verb: standard streams, SIGTERM, and the exit status of errors that nothing else catches."""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from patchcli.cli.terminal import BROKEN_PIPE, TERMINATED, Terminal


def run(app: Callable[[], Any]) -> NoReturn:
    """Run the command line and exit."""
    _set_up_libraries()
    _open_streams()
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # clean up as after Ctrl-C
    try:
        app()
    except SystemExit as end:
        if isinstance(end.__context__, OSError):  # Typer exits with 1 if the pipe of its own output is closed
            sys.exit(BROKEN_PIPE)
        raise
    except BaseException as error:
        sys.exit(Terminal(verbose=bool({"-v", "--verbose"} & set(sys.argv))).explain(error))
    sys.exit()


def _set_up_libraries() -> None:
    """What must be set before anything heavy is imported; what the user has set stays.

    Threads of OpenMP (PyTorch's) that have nothing to do sleep: when they spin, they take the cores from other threads and
    other jobs. OpenBLAS (NumPy's) has no threads: its products are small here, and its threads spin after each.
    Most objects are those of imported modules, and last: the garbage collector looks for cycles less often than after every
    700th of them, and not at exit.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)


def _open_streams() -> None:
    """Open /dev/null for closed streams: else a file opened later would get their number and receive their text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
