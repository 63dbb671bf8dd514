"""Fixtures of the pipeline's tests."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
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
    """A world that tests try to change and must not: refused calls leave it as it is."""
    folder = tmp_path_factory.mktemp("kept")
    copied = World(folder / "weave", folder / "weave.zarr")
    shutil.copytree(made.data, copied.data)
    shutil.copytree(made.store, copied.store)
    patchcli.extract(copied.data, copied.store)
    before = tree(folder)
    yield copied
    assert tree(folder) == before


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """`threads=` and `--threads` bound the whole process; undo that."""
    threads, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    yield
    torch.set_num_threads(threads)
    if variable is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    else:
        os.environ["OMP_NUM_THREADS"] = variable
