"""Flip single bits of a store's files, cut files short, take them away: every command gives the right result or says why not.

PYTHONPATH=tests/helpers python tests/faults/flips.py --count 1000 --seed 0
"""

import json
import random
from collections import Counter
from pathlib import Path

from processes import counted, done, main, run, write_world

READERS = {
    "score": ("score", "--store", "s.zarr", "--threads", "1"),
    "list": ("bank", "list", "--store", "s.zarr"),
    "info": ("info", "--store", "s.zarr"),
    "resume": ("train", "--resume", "--steps", "1", "--dry-run", "--store", "s.zarr", "--threads", "1"),
}


def harm(rng: random.Random, path: Path) -> str:
    """Damage a file at random; what was done."""
    content = path.read_bytes()
    kind = rng.choices(("flip", "cut", "remove", "zero"), (20, 1, 1, 1))[0]
    if kind == "remove":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(content[: rng.randrange(max(1, len(content)))])
    elif kind == "zero":
        path.write_bytes(bytes(len(content)))
    elif content:
        at, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
        path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
        kind = f"flip of bit {bit} at {at} of {len(content)}"
    return kind


def trial(folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How commands ended after each damage, and the faults: other results without a word, tracebacks, crashes."""
    rng, outcomes, faults = random.Random(seed), Counter[str](), list[str]()
    store = folder / "s.zarr"
    right = {name: done(folder, *command).records for name, command in READERS.items()}
    files = [path for path in sorted(store.rglob("*")) if path.is_file() and path.name != ".lock"]
    chunks = [path for path in files if path.name != "zarr.json"]
    metadata = [path for path in files if path.name == "zarr.json" and json.loads(path.read_text())["attributes"]]
    for _ in counted(count, "flip"):
        path = rng.choice(rng.choice((files, chunks, metadata, [store / "zarr.json"])))
        content = path.read_bytes()
        what = f"{harm(rng, path)} in {path.relative_to(folder)}"
        refused = changed = False
        for name, command in READERS.items():
            ended = run(folder, *command)
            if ended.fault:
                faults.append(f"{what}: {name}: {ended.fault}")
            elif ended.status == 2:
                refused = True
            elif ended.records != right[name]:
                changed = True
                faults.append(f"{what}: {name}: other results without a word")
        checked = run(folder, "info", "--check", "--store", "s.zarr")
        if checked.fault:
            faults.append(f"{what}: check: {checked.fault}")
        elif refused and checked.status == 0:
            faults.append(f"{what}: a command refused it, info --check found nothing")
        found = "refused" if refused else "found by info --check" if checked.status else "no effect"
        outcomes["silent" if changed else found] += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert {name: run(folder, *command).records for name, command in READERS.items()} == right
    return outcomes, faults


if __name__ == "__main__":
    main(__doc__, 1000, "damages", lambda folder, *drawn: trial(write_world(folder), *drawn))
