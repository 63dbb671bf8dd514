"""The scripts of this folder, each in a short form; their long forms are run by hand."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("script", "count"), [("flips", 4), ("pairs", 3), ("kills", 3)])
def test_no_fault_is_found(script: str, count: int) -> None:
    command = [sys.executable, Path(__file__).with_name(f"{script}.py"), "--count", str(count), "--seed", "1"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert found.stdout.endswith("; 0 faults\n"), found.stdout + found.stderr
    assert found.returncode == 0
