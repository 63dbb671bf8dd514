"""Commands as processes whose standard streams are pipes or pseudo-terminals.

The first `run_all` starts this file as a script, which imports everything once and then forks a process for each run.
"""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import NoReturn

ERASE = "\r\x1b[2K"
INTERNAL = 99  # of a process that ends by an exception


def lines_of(written: str) -> list[str]:
    """As they stand in the end, without the bar, which is taken away from the line below it."""
    written = re.sub("\n\x1b\\[\\?25h\r\x1b\\[1A", "\r", written)
    return [line.rsplit(ERASE, 1)[-1] for line in written.split("\n")]


@dataclass(frozen=True)
class Run:
    """One process; "pty" or "pipe" for each stream, "same" for a standard error on standard output's."""

    arguments: Sequence[str]
    stdout: str = "pipe"
    stderr: str = "pipe"
    stdin: str = ""
    stop_after: int | None = None  # lines on standard output, after which SIGTERM is sent
    columns: int = 80
    driver: str = ""  # Python that runs before the command


@dataclass(frozen=True)
class Outcome:
    """How it ended, and what it wrote; a pseudo-terminal's line ends are newlines again."""

    status: int
    stdout: str
    stderr: str

    @property
    def shown(self) -> list[str]:
        """Lines of standard error as they stand in the end, without the bar."""
        return lines_of(self.stderr)


def run_all(runs: Sequence[Run]) -> list[Outcome]:
    """Run one after another, in the working directory."""
    return [run_one(run) for run in runs]


def run_one(run: Run) -> Outcome:
    """Run a command in the working directory."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps({"folder": os.getcwd(), "run": asdict(run)}) + "\n")  # noqa: PTH109
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, f"the process that forks ended: {server.wait()}"
    return Outcome(**json.loads(answer))


@cache
def _server() -> "subprocess.Popen[str]":
    """The process that forks; it ends with this one, which holds the other end of its standard input."""
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "PATCHCLI_STORE")}
    environment["TERM"] = "xterm"
    command = [sys.executable, __file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _channel(kind: str, columns: int) -> tuple[int, int]:
    """A reading and a writing end."""
    if kind == "pipe":
        return os.pipe()
    reads, writes = pty.openpty()
    fcntl.ioctl(writes, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return reads, writes


def _collect(run: Run) -> Outcome | None:
    """What a forked process does; None in that process."""
    asked, answers = os.pipe()
    os.write(answers, run.stdin.encode())
    os.close(answers)
    out, err = _channel(run.stdout, run.columns), _channel("pipe" if run.stderr == "same" else run.stderr, run.columns)
    child = os.fork()
    if not child:
        streams = asked, out[1], out[1] if run.stderr == "same" else err[1]
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 256)
        return None
    for end in (asked, out[1], err[1]):
        os.close(end)
    written = {out[0]: b"", err[0]: b""}
    unread, stopped = set(written), False
    while unread:
        ready = select.select(list(unread), [], [], 60)[0]
        if not ready:  # a run that hangs is a failed one
            os.kill(child, signal.SIGKILL)
        for end in ready:
            try:
                piece = os.read(end, 1 << 16)
            except OSError:  # a pseudo-terminal whose other end is closed
                piece = b""
            written[end] += piece
            if not piece:
                unread.discard(end)
        if run.stop_after is not None and written[out[0]].count(b"\n") >= run.stop_after and not stopped:
            os.kill(child, signal.SIGTERM)
            stopped = True
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for end in written:
        os.close(end)
    texts = (written[end].replace(b"\r\n", b"\n").decode(errors="surrogateescape") for end in (out[0], err[0]))
    return Outcome(status, *texts)


def _main(run: Run) -> NoReturn:
    """The command line in a forked process, which ends without tearing down what it has imported: that takes a second."""
    from patchcli.cli import main

    sys.argv = ["patchcli", *run.arguments]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    status = INTERNAL
    try:
        exec(run.driver, {})
        main()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


if __name__ == "__main__":
    import gc
    import io
    from contextlib import redirect_stdout, suppress

    from loaded import small_cloth, weave

    from patchcli.cli.app import app

    weave.write_dataset, weave.SIDE = small_cloth, 128  # a small demo
    with suppress(SystemExit), redirect_stdout(io.StringIO()):
        app(["info", "--help"])  # loads what Typer loads late
    gc.freeze()  # a forked process need not look through, and copy, all that was imported
    for line in iter(sys.stdin.readline, ""):
        wanted = json.loads(line)
        run = Run(**wanted["run"])
        outcome = _collect(run)
        if outcome is None:
            os.chdir(wanted["folder"])
            _main(run)
        print(json.dumps(asdict(outcome)), flush=True)
