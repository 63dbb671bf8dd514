"""The process around a verb: what is set before libraries load, and what a command loads."""

import os
import subprocess
import sys

import pytest
from smallworld import World

_SEEN = """
import gc, os, sys
from patchcli.cli.process import run
run(lambda: print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules, gc.get_threshold()[0] > 10_000))
"""


@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_idle_threads_sleep_unless_the_user_wants_otherwise(own: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": own} if own else {}
    done = subprocess.run([sys.executable, "-c", _SEEN], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [own or "passive", "False", "True"]


def test_a_score_loads_only_what_it_uses(made: World) -> None:
    image = made.data / "test" / "hole" / "000.png"
    command = [sys.executable, "-X", "importtime", "-m", "patchcli", "score", image, "--store", made.store, "--threads", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    loaded = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"torch", "zarr", "patchcli.detection.detector"} <= loaded
    assert not loaded & {"sklearn", "scipy.special", "scipy.stats", "scipy.ndimage", "pykeops", "rich", "patchcli.training"}
