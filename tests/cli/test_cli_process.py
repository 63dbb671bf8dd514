"""The process around a verb: what is set before libraries load, and what a command loads."""

import os
import subprocess
import sys

import pytest
from smallworld import World
from threadpoolctl import threadpool_info, threadpool_limits

from patchcli import runtime

_SEEN = """
import gc, os, sys
from patchcli.cli.process import run

def seen():
    print(*(os.environ[name] for name in ("OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS")), gc.get_threshold()[0] > 10_000)
    print({"torch", "numpy"} & sys.modules.keys())

run(seen)
"""


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "ACTIVE", "OPENBLAS_NUM_THREADS": "2"}])
def test_idle_threads_sleep_unless_the_user_wants_otherwise(own: dict[str, str]) -> None:
    set_here = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if name not in set_here} | own
    done = subprocess.run([sys.executable, "-c", _SEEN], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [" ".join([*(set_here | own).values(), "True"]), "set()"]


@pytest.mark.parametrize(("own", "left"), [(None, 1), ("3", 3)], ids=str)
def test_threads_are_those_of_numpy_too(monkeypatch: pytest.MonkeyPatch, own: str | None, left: int) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if own is not None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", own)
    with threadpool_limits(3, "blas"):
        runtime.set_threads(1)
        assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} == {left}


def test_a_score_loads_only_what_it_uses(made: World) -> None:
    image = made.data / "test" / "hole" / "000.png"
    command = [sys.executable, "-X", "importtime", "-m", "patchcli", "score", image, "--store", made.store, "--threads", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    loaded = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"torch", "zarr", "patchcli.detection.detector"} <= loaded
    assert not loaded & {"sklearn", "scipy.special", "scipy.stats", "scipy.ndimage", "pykeops", "rich", "patchcli.training"}
