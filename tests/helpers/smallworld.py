"""A small world for tests: a data set written by code, a store made from it, ways to compare folders, and fixtures."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import patchcli
from patchcli.observer import Observer
from patchcli.store import Store
from patchcli.verbs.extraction import ImageOptions

SIZE = (140, 160)  # height, width of nearly all images: neither square nor the store's working size
WORKING = (128, 128)
HOLE = (slice(50, 80), slice(60, 100))  # rows, columns of the defect


def texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """A woven pattern with noise."""
    y, x = np.mgrid[:height, :width]
    woven = 120 + 60 * np.sin(x * np.pi / 4) * np.sin(y * np.pi / 4)
    return np.clip(woven[..., None] + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


def save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """Write an image of any suffix, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_plain(root: Path, images: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """A folder of good images."""
    rng = np.random.default_rng(seed)
    for number in range(images):
        save(root / f"{number:03}.png", texture(rng, *size))
    return root


def write_dataset(root: Path, images: int = 10, masks: bool = True, seed: int = 0) -> Path:
    """train/good, two good test images, and three with a red hole; the last of them has the working size."""
    write_plain(root / "train" / "good", images, seed=seed)
    rng = np.random.default_rng(seed + 1)
    for number in range(2):
        save(root / "test" / "good" / f"{number:03}.png", texture(rng, *SIZE))
    for number, size in enumerate((SIZE, SIZE, WORKING)):
        pixels, mask = texture(rng, *size), np.zeros(size, np.uint8)
        pixels[HOLE], mask[HOLE] = (230, 20, 20), 255
        save(root / "test" / "hole" / f"{number:03}.png", pixels)
        if masks:
            save(root / "ground_truth" / "hole" / f"{number:03}_mask.png", mask)
    return root


def truncate(path: Path) -> Path:
    """Cut an image file in the middle."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with the sha256 of its bytes, every folder with an empty text."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def touched(folder: Path) -> dict[str, tuple[int, str]]:
    """As `tree`, with the times of the last change, but of locks: writing the same bytes again shows too."""
    held = {name: digest for name, digest in tree(folder).items() if not name.endswith(".lock")}
    return {name: ((folder / name).stat().st_mtime_ns, digest) for name, digest in held.items()}


def parts(store: Path) -> dict[str, dict[str, str]]:
    """As `tree`, of each part of a store: what it holds, whatever its folder is called, but for metadata."""
    return {
        kind: {name: digest for name, digest in tree(store / named.name).items() if not name.endswith("zarr.json")}
        for kind, named in Store.open(store).root.parts.items()
    }


def part_folder(store: Path, kind: str) -> Path:
    """Where a part of a store is."""
    return store / Store.open(store).root.parts[kind].name


def leftovers(store: Path) -> set[str]:
    """What lies in a store beside what it is made of."""
    named = {part.name for part in Store.open(store).root.parts.values()}
    return {path.name for path in store.iterdir()} - named - {"zarr.json", ".lock"}


def without(store: Path, kind: str) -> Path:
    """Take a part from a store."""
    with Store.writing(store) as opened:
        opened._switch(**{kind: None})
    return store


def dying(*arguments: Any, _replace: Any = Path.replace, **_: Any) -> Any:
    """Stands in for a function where a run is interrupted; for Path.replace, at the first file that is not one of zarr's."""
    if arguments and isinstance(arguments[0], Path) and arguments[0].suffix == ".partial":
        return _replace(*arguments)
    raise KeyboardInterrupt


class Told(Observer):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.progressed: list[tuple[str, float, float | None]] = []

    def progress(self, task: str, done: float, total: float | None, detail: str = "") -> None:
        self.progressed.append((task, done, total))

    def problem(self, line: str, left_out: bool = True) -> None:
        self.problems.append(line)

    def note(self, line: str) -> None:
        self.notes.append(line)


@dataclass(frozen=True)
class World:
    """A data set and the store made from it: extracted, with an untrained encoder, embedded."""

    data: Path
    store: Path


def make_store(data: Path, store: Path, embedded: bool = True, holdout: float | None = None, **recipe: Any) -> Path:
    """A store with an encoder of no training step (quick), the paper's unless another is named, and its bank."""
    recipe = {"encoder": "hierarchical", "precision": "float32"} | recipe
    patchcli.train(data, store, images=ImageOptions(size=WORKING, holdout=holdout), steps=0, observer=Told(), **recipe)
    if embedded:
        patchcli.embed(store)
    return store


def copy_of(world: World, folder: Path) -> World:
    """Data set and store copied below a folder; the store knows the copied data set."""
    copied = World(folder / "weave", folder / "weave.zarr")
    shutil.copytree(world.data, copied.data)
    shutil.copytree(world.store, copied.store)
    patchcli.extract(copied.data, copied.store)
    return copied


# ---- fixtures, for the tests of the library and of the command line -------------------------------------------------


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A data set and its store, shared: read only."""
    folder = tmp_path_factory.mktemp("made")
    data = write_dataset(folder / "weave")
    return World(data, make_store(data, folder / "weave.zarr", D=16))


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """A copy of data set and store to change at will."""
    return copy_of(made, tmp_path)


@pytest.fixture(scope="session")
def kept(made: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world that tests try to change and must not: refused calls leave it as it is."""
    folder = tmp_path_factory.mktemp("kept")
    copied = copy_of(made, folder)
    before = tree(folder)
    yield copied
    assert tree(folder) == before


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """`threads=` and `--threads` bound the whole process; undo that."""
    threads, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    yield
    torch.set_num_threads(threads)
    if variable is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    else:
        os.environ["OMP_NUM_THREADS"] = variable
