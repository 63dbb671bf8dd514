"""Fixtures of the command line's tests: the small world of the pipeline's tests, and ways to run a command."""

import shutil
from pathlib import Path

import pytest
from smallworld import World, make_store


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory, made: World) -> Path:
    """A store with an encoder and without a bank, shared: read only."""
    return make_store(made.data, tmp_path_factory.mktemp("untrained") / "weave.zarr", embedded=False, D=16)


@pytest.fixture
def bankless(untrained: Path, tmp_path: Path) -> Path:
    """A copy of a store with an encoder and without a bank."""
    return Path(shutil.copytree(untrained, tmp_path / "bankless.zarr"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, without the user's variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("PATCHCLI_STORE", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
