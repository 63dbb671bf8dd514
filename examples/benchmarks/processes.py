"""What `patchcli score` costs as a process: start-up, two jobs beside each other, peak memory.

    python examples/benchmarks/processes.py STORE IMAGES [--package FOLDER] [--rounds N]

STORE has a whole bank, IMAGES is a folder of images. With --package, the patchcli in that folder (a checkout of an earlier
version, say) is measured too, run by run in turn. Seconds are the least of N runs; those of the CPU, of all threads, depend
less on what else the machine does.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import patchcli
from patchcli.datasets import images

HERE = Path(patchcli.__file__).parents[1]


def started(package: Path, store: Path, *arguments: object) -> subprocess.Popen[bytes]:
    """A `patchcli score` with the code below a folder."""
    command = [sys.executable, "-m", "patchcli", "score", "--store", store, "--quiet", *arguments]
    environment = os.environ | {"PYTHONPATH": str(package)}
    return subprocess.Popen(list(map(str, command)), env=environment, cwd=package, stdout=subprocess.DEVNULL)


def costs(package: Path, store: Path, *arguments: object, jobs: int = 1) -> tuple[float, float, float]:
    """Seconds, seconds of CPU, and peak memory in MB of so many jobs at once."""
    begun = time.perf_counter()
    running = [started(package, store, *arguments) for _ in range(jobs)]
    cpu = peak = 0.0
    for process in running:
        _, status, usage = os.wait4(process.pid, 0)  # Linux: of this process alone
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        cpu, peak = cpu + usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss * 1024 / 1e6)
    return time.perf_counter() - begun, cpu, peak


def resolved(path: str) -> Path:
    """The absolute path: each package runs in its own folder."""
    return Path(path).resolve()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=resolved)
    parser.add_argument("images", type=resolved)
    parser.add_argument("--package", type=resolved)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    files = list(images.find(given.images, problem=print))
    packages = [package for package in (given.package, HERE) if package is not None]
    with tempfile.TemporaryDirectory() as out:
        cases: dict[str, tuple[int, list[object]]] = {
            "one image": (1, [files[0]]),
            f"{len(files)} images with maps": (1, [given.images, "--out", out]),
            f"{len(files)} images with maps and overlays": (1, [given.images, "--out", out, "--overlay"]),
            f"two jobs of {len(files)} images with maps": (2, [given.images, "--out", out]),
        }
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, least of {given.rounds} runs")
        for name, (jobs, arguments) in cases.items():
            found: dict[Path, list[tuple[float, float, float]]] = {package: [] for package in packages}
            for _ in range(given.rounds):
                for package in packages:
                    found[package].append(costs(package, given.store, *arguments, jobs=jobs))
            for package, runs in found.items():
                wall, cpu, peak = (min(column) for column in zip(*runs, strict=True))
                print(f"{name:40} {package}: {wall:6.2f} s, {cpu:6.2f} s of CPU, {peak:5.0f} MB at most", flush=True)


if __name__ == "__main__":
    main()
