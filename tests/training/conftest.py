"""Stores to train on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from patchcli.store import Store
from patchcli.training import alignment, criterion
from patchcli.verbs.extract import extract
from patchcli.verbs.extraction import ImageOptions


@pytest.fixture
def judged_path(tmp_path: Path, make_images: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images, one of which validates; judged every other step. They count as aligned."""
    monkeypatch.setattr(criterion, "JUDGED_EVERY", 2)
    monkeypatch.setattr(alignment, "ALIGNED", 0.0)
    make_images(tmp_path / "six", 6, (128, 128))
    extract(tmp_path / "six", tmp_path / "six.zarr", ImageOptions(size=(128, 128)))
    return tmp_path / "six.zarr"


@pytest.fixture
def judged_store(judged_path: Path) -> Iterator[Store]:
    """The same, open to be written."""
    with Store.writing(judged_path) as store:
        yield store


@pytest.fixture
def not_aligned(judged_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No images count as aligned."""
    monkeypatch.setattr(alignment, "ALIGNED", 1.1)
