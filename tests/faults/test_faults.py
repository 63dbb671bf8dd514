"""The scripts of this folder, each in a short form; their long forms are run by hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.mark.parametrize(("script", "count"), [("flips", 4), ("pairs", 3), ("kills", 3)])
def test_no_fault_is_found(script: str, count: int) -> None:
    command = [sys.executable, Path(__file__).with_name(f"{script}.py"), "--count", str(count), "--seed", "1"]
    place = {"PYTHONPATH": f"{HELPERS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=os.environ | place)
    assert found.stdout.endswith("; 0 faults\n"), found.stdout + found.stderr
    assert found.returncode == 0
