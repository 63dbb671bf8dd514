"""Fixtures of the command line's tests: the small world of the pipeline's tests, and ways to run a command."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from smallworld import World, make_store, tree, write_dataset

import patchcli


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A data set and its store, shared: read only."""
    folder = tmp_path_factory.mktemp("made")
    data = write_dataset(folder / "weave")
    return World(data, make_store(data, folder / "weave.zarr", D=16))


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """A copy of data set and store to change at will; the store knows the copied data set."""
    copied = World(tmp_path / "weave", tmp_path / "weave.zarr")
    shutil.copytree(made.data, copied.data)
    shutil.copytree(made.store, copied.store)
    patchcli.extract(copied.data, copied.store)
    return copied


@pytest.fixture(scope="session")
def kept(made: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world that tests try to change and must not: refused commands leave it as it is."""
    folder = tmp_path_factory.mktemp("kept")
    copied = World(folder / "weave", folder / "weave.zarr")
    shutil.copytree(made.data, copied.data)
    shutil.copytree(made.store, copied.store)
    patchcli.extract(copied.data, copied.store)
    before = tree(folder)
    yield copied
    assert tree(folder) == before


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory, made: World) -> Path:
    """A store with an encoder and without a bank, shared: read only."""
    return make_store(made.data, tmp_path_factory.mktemp("untrained") / "weave.zarr", embedded=False, D=16)


@pytest.fixture
def bankless(untrained: Path, tmp_path: Path) -> Path:
    """A copy of a store with an encoder and without a bank."""
    return Path(shutil.copytree(untrained, tmp_path / "bankless.zarr"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder, without the user's variables; undo what `--threads` bounds in the whole process."""
    monkeypatch.chdir(tmp_path)
    for name in ("PATCHCLI_STORE", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    threads, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    yield
    torch.set_num_threads(threads)
    if variable is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    else:
        os.environ["OMP_NUM_THREADS"] = variable
