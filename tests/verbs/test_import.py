"""import: published weights come in as they are; anything else is refused and never executed."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from smallworld import World

import patchcli
from patchcli.errors import IncompleteError, InputError, StoreError
from patchcli.features.flat import FlatEncoder
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.store import EncoderAttributes, Store, digest_of


class Evil:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def weights(D: int = 64, seed: int = 4) -> dict[str, torch.Tensor]:
    """A state dict as the authors publish it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dict(HierarchicalEncoder(D).state_dict())


def saved(path: Path, state: object, zipped: bool = True) -> Path:
    """Written by torch.save, also in the older form that the published files have."""
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize(("D", "zipped"), [(64, False), (16, True)])
def test_weights_come_in(world: World, tmp_path: Path, D: int, zipped: bool) -> None:
    state = weights(D)
    path = saved(tmp_path / "weave.pkl", state, zipped)
    before = path.read_bytes()
    digest = patchcli.import_weights(path, world.store, overwrite=True)
    assert path.read_bytes() == before
    store = Store.open(world.store)
    read = store.encoder.weights()
    assert digest == digest_of(read) == digest_of({name: values.numpy() for name, values in state.items()})
    for name, values in state.items():
        np.testing.assert_array_equal(read[name], values.numpy())
    assert store.encoder.attributes == EncoderAttributes("hierarchical", D, "imported", digest, file="weave.pkl")
    assert patchcli.embed(world.store).embedded == 10
    assert {record.encoder for record in patchcli.score(world.store)} == {digest}
    with pytest.raises(IncompleteError, match=r"the encoder was imported, there is nothing to resume"):
        patchcli.train(store=world.store, resume=True, steps=1)


def test_an_encoder_is_not_replaced_unasked(kept: World, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds an encoder already.*`overwrite`.*`store`"):
        patchcli.import_weights(saved(tmp_path / "weave.pkl", weights()), kept.store)


@pytest.mark.parametrize("form", ["pickle", "legacy", "zip"])
def test_code_in_a_pickle_is_not_run(kept: World, tmp_path: Path, form: str) -> None:
    touched = tmp_path / "touched"
    path = tmp_path / "evil.pkl"
    state = {**weights(), "more": Evil(touched)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Evil(touched), protocol=2))
    else:
        saved(path, state, zipped=form == "zip")
    with pytest.raises(InputError, match=r"evil\.pkl: expected a state dict .*it was not executed"):
        patchcli.import_weights(path, kept.store, overwrite=True)
    assert not touched.exists()
    pickle.loads(pickle.dumps(Evil(touched), protocol=2))
    assert touched.exists()  # it would have


def _changed(**changes: Any) -> dict[str, Any]:
    return {**weights(), **changes}


def _without(name: str) -> dict[str, Any]:
    return {key: values for key, values in weights().items() if key != name}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (_without("enc.conv3.weight"), r"enc\.conv3\.weight is missing"),
        (_without("conv2.bias"), r"conv2\.bias is missing"),
        (_changed(**{"enc.conv9.weight": torch.zeros(3)}), r"the unknown name enc\.conv9\.weight"),
        (_changed(**{"enc.conv1.bias": torch.zeros(3)}), r"enc\.conv1\.bias has the shape \(3,\), not \(32,\)"),
        (_changed(**{"conv2.bias": torch.zeros(0)}), r"conv2\.bias|shape"),
        (_changed(**{"conv2.bias": torch.tensor(1.0)}), r"conv2\.bias has the shape \(\), not \(64,\)"),
        (_changed(**{"conv1.bias": torch.full((128,), float("nan"))}), r"NaN or infinity"),
        (_changed(**{"conv1.bias": torch.full((128,), float("inf"))}), r"NaN or infinity"),
        (dict(FlatEncoder(64).state_dict()), r"is missing|the unknown name"),
        ({0: torch.zeros(3)}, r"is missing|the unknown name"),
        ({}, r"is missing"),
        ([1, 2, 3], r"found list"),
        (torch.zeros(3), r"found Tensor"),
        ({"epoch": 3, "weights": weights()}, r"found a dict whose values are not all tensors"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)  # fmt: skip
def test_other_weights_are_refused(kept: World, tmp_path: Path, state: object, says: str) -> None:
    path = saved(tmp_path / "other.pkl", state)
    with pytest.raises(InputError, match=rf"other\.pkl: expected a state dict .*({says})"):
        patchcli.import_weights(path, kept.store, overwrite=True)


@pytest.mark.parametrize("content", [b"some notes\nof mine\n", b"", b"\x89PNG\r\n", b"PK\x03\x04 cut short"])
def test_files_that_are_no_weights(kept: World, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"notes\.pkl: expected a state dict of .*, found "):
        patchcli.import_weights(path, kept.store, overwrite=True)


def test_no_file(kept: World, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pkl", tmp_path):
        with pytest.raises(InputError, match=r"(no such file|found a folder); expected weights"):
            patchcli.import_weights(path, kept.store, overwrite=True)
