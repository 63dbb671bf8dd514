"""Two commands on one store at once: the end is that of one after the other, and a reader sees one version.

PYTHONPATH=tests/helpers python tests/faults/pairs.py --count 200 --seed 0
"""

import json
import random
import shutil
import time
from collections import Counter
from pathlib import Path

from processes import Command, Ended, counted, leftovers, main, parts, run, write_world

from patchcli.store import Store

STORE = ("--store", "s.zarr")
ONE = ("--threads", "1")
WRITERS: dict[str, tuple[str, ...]] = {
    "extract": ("extract", "data", *STORE),
    "extract others": ("extract", "more", *STORE, "--size", "128", "--overwrite"),
    "train": ("train", *STORE, "--steps", "2", "--seed", "3", "--batch", "1", "--dim", "8", "--overwrite", *ONE),
    "embed": ("embed", *STORE, "--overwrite", *ONE),
    "thin": ("embed", *STORE, "--keep", "20%", *ONE),
    "calibrate": ("calibrate", *STORE, "--false-alarms", "35%", *ONE),
    "add 0": ("bank", "add", "more/0.png", *STORE, *ONE),
    "add 1": ("bank", "add", "more/1.png", *STORE, *ONE),
    "remove": ("bank", "remove", "train/good/001.png", *STORE, *ONE),
    "make": ("train", "data", "--store", "new.zarr", "--size", "128", "--steps", "0", "--dim", "8", *ONE),
    "make others": ("extract", "more", "--store", "new.zarr", "--size", "128"),
}
READERS: dict[str, tuple[str, ...]] = {
    "score": ("score", *STORE, "--memory", "1K", *ONE),
    "list": ("bank", "list", *STORE),
    "eval": ("eval", *STORE, *ONE),
}
State = dict[str, dict[str, str]]  # of each store, the digests of its parts


class Trial:
    """A world to copy, and what pairs give one after the other."""

    def __init__(self, world: Path, folder: Path) -> None:
        self.world, self.folder = world, folder
        self._after: dict[tuple[str, ...], tuple[State, list[Ended]]] = {}

    def copy(self) -> Path:
        """The world anew."""
        copied = self.folder / "pair"
        shutil.rmtree(copied, ignore_errors=True)
        return Path(shutil.copytree(self.world, copied))

    def after(self, *names: str) -> tuple[State, list[Ended]]:
        """The stores after commands that run one after the other, and how these ended."""
        if names not in self._after:
            folder = self.copy()
            ended = [run(folder, *(WRITERS | READERS)[name]) for name in names]
            self._after[names] = state(folder), ended
        return self._after[names]

    def at_once(self, first: str, second: str, delay: float) -> list[str]:
        """Faults of two commands, the second begun `delay` seconds after the first."""
        folder = self.copy()
        commands = Command(folder, *WRITERS[first]), None
        time.sleep(delay)
        commands = commands[0], Command(folder, *(WRITERS | READERS)[second])
        ended = [command.wait() for command in commands]
        faults = [one.fault for one in ended if one.fault]
        stores = state(folder)
        for name in stores:
            with Store.writing(folder / name):  # a reader may have kept what it read
                pass
            faults += [f"left over in {name}: {left}" for left in leftovers(folder / name)]
        orders = [self.after(first, second), self.after(second, first)]
        if second in READERS:
            rows = [what.records for _, (*_, what) in (self.after(second), self.after(first, second))]
            if ended[1].records not in rows:
                faults.append("the reader saw neither the old nor the new version")
            orders = [self.after(first)]
        if stores not in [right for right, _ in orders]:
            faults.append(f"the end is that of no order: {[one.stderr for one in ended]}")
        return [f"{first} and {second} after {delay:.2f} s: {fault}" for fault in faults]


def state(folder: Path) -> State:
    """What the stores in a folder hold: digests of their parts and what the root says of the data set."""
    found: State = {}
    for store in sorted(folder.glob("*.zarr")):
        if not (store / "zarr.json").exists():
            found[store.name] = {"": "no store"}
            continue
        dataset = json.loads((store / "zarr.json").read_text())["attributes"]["patchcli"]["dataset"]
        found[store.name] = parts(store) | {"dataset": json.dumps(dataset, sort_keys=True)}
    return found


def trial(folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Pairs drawn at random, and their faults."""
    rng, tried, faults = random.Random(seed), Counter[str](), list[str]()
    world = write_world(folder / "world")
    of = Trial(world, folder)
    for _ in counted(count, "pair"):
        first, second = rng.choice(list(WRITERS)), rng.choice([*WRITERS, *READERS])
        found = of.at_once(first, second, rng.choice((0, 0, rng.uniform(0, 0.5))))
        tried["with faults" if found else "right"] += 1
        faults += found
    return tried, faults


if __name__ == "__main__":
    main(__doc__, 200, "pairs of commands at once", trial)
