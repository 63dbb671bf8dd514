"""A store that cannot be written to is found out before the work."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from smallworld import SIZE, World, tree, write_plain

import patchcli
from patchcli.datasets import images
from patchcli.errors import PatchcliError
from patchcli.features import dense as embedding
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.verbs.extraction import ImageOptions

NOBODY = 65534


@pytest.fixture
def sealed(made: World) -> Iterator[Path]:
    """A folder with the store, weights and further images, of another user, that nobody may write to but root."""
    folder = Path(tempfile.mkdtemp())  # tmp_path lies below a folder that is closed to others
    shutil.copytree(made.store, folder / "s.zarr")
    write_plain(folder / "more", 2, SIZE, seed=5)
    torch.save(HierarchicalEncoder(16).state_dict(), folder / "w.pkl")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    yield folder
    if root:
        os.seteuid(0)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


VERBS: dict[str, Callable[[Path, Path], Any]] = {
    "train": lambda store, _: patchcli.train(store=store, overwrite=True, steps=1),
    "resume": lambda store, _: patchcli.train(store=store, resume=True, steps=1),
    "import": lambda store, _: patchcli.import_weights(store.with_name("w.pkl"), store, overwrite=True),
    "embed": lambda store, _: patchcli.embed(store, overwrite=True),
    "bank_add": lambda store, _: patchcli.bank_add(store, [store.with_name("more")]),
    "bank_remove": lambda store, _: patchcli.bank_remove(store, ["train/good/001.png"]),
    "calibrate": lambda store, _: patchcli.calibrate(store, false_alarms=0.3),
    "extract": lambda store, data: patchcli.extract(data, store, ImageOptions(size="192"), overwrite=True),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_store_that_cannot_be_written_to(sealed: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    store, before = sealed / "s.zarr", tree(sealed)
    monkeypatch.setattr(embedding, "embed", lambda *_: pytest.fail("work was done"))
    monkeypatch.setattr(images.Reader, "read", lambda *_: pytest.fail("an image was decoded"))
    with pytest.raises(PatchcliError, match=r"s\.zarr: .*cannot be written .*`store`") as refusal:
        VERBS[verb](store, sealed / "more")
    assert len(str(refusal.value).splitlines()) == 1
    assert tree(sealed) == before
