"""Kill commands at random moments: the store is the old or the new one, and the same command finishes the work.

PYTHONPATH=tests/helpers python tests/faults/kills.py --count 500 --seed 0
"""

import random
import shutil
import time
from collections import Counter
from pathlib import Path

from pairs import ONE, STORE, WRITERS, State, state
from processes import Command, counted, done, leftovers, main, run, write_world

COMMANDS = WRITERS | {
    "resume": ("train", *STORE, "--resume", "--steps", "2", *ONE),
    "train data": ("train", "data", *STORE, "--size", "128", "--steps", "2", "--batch", "1", "--dim", "8", "--overwrite", *ONE),
    "half": ("embed", *STORE, "--half", *ONE),
    "score": ("score", *STORE, "--out", "maps", "--overlay", "--regions", "regions.json", *ONE),
    "report": ("report", *STORE, "--out", "report.html", *ONE),
    "eval": ("eval", *STORE, "--metrics", "metrics.json", *ONE),
}
AGAIN = ("is in the bank", "not in the bank", "holds an encoder")  # a command that had been done refuses to do it again


def outputs(folder: Path) -> list[str]:
    """The files that commands write beside the stores; none is cut off."""
    maps = [path for path in (folder / "maps").rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(folder)) for path in [*maps, *folder.glob("*.json"), *folder.glob("*.html")])


def trial(folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Kills of commands drawn at random, and their faults."""
    rng, tried, faults = random.Random(seed), Counter[str](), list[str]()
    world, copied = write_world(folder / "world"), folder / "copy"
    before: State = {}
    right: dict[str, tuple[State, list[str], float]] = {}

    def fresh() -> None:
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(world, copied)

    for _ in counted(count, "kill"):
        name = rng.choice(list(COMMANDS))
        if name not in right:
            fresh()
            before = before or state(copied)
            begun = time.monotonic()
            done(copied, *COMMANDS[name])
            right[name] = state(copied), outputs(copied), time.monotonic() - begun
        stores, files, seconds = right[name]
        fresh()
        command, moment = Command(copied, *COMMANDS[name]), rng.uniform(0, seconds)
        time.sleep(moment)
        command.kill()
        killed = command.wait()
        at = f"{name} killed after {moment:.3f} s"
        read = run(copied, "info", "--check", *STORE)
        if read.status != 0:
            faults.append(f"{at}: then info --check: {read}")
        again = run(copied, *COMMANDS[name])
        had_been_done = again.status == 2 and any(word in again.stderr for word in AGAIN)
        if again.status != 0 and not had_been_done:
            faults.append(f"{at}: then the same command: {again}")
        if state(copied) != stores:
            faults.append(f"{at}: the stores are others than those of a run that nobody killed: {again.stderr}")
        if outputs(copied) != files:
            faults.append(f"{at}: files are {outputs(copied)}, not {files}")
        faults += [f"{at}: left over: {left}" for store in state(copied) for left in leftovers(copied / store)]
        tried["had ended" if killed.status == 0 else "already done" if had_been_done else "done again"] += 1
    return tried, faults


if __name__ == "__main__":
    main(__doc__, 500, "kills", trial)
