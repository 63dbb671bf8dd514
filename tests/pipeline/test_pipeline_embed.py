"""embed: a bank is made once, goes on where it was stopped, and follows the encoder."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from smallworld import Told, World, tree

import patchcli
from patchcli import embedding, store, training
from patchcli.errors import IncompleteError, StoreError
from patchcli.store import Bank, Store


@pytest.fixture
def single_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image a block."""
    monkeypatch.setattr(store, "BANK_CHUNK_BYTES", 1)


def _fail_at_block(monkeypatch: pytest.MonkeyPatch, number: int, error: Callable[[], BaseException]) -> None:
    write = Bank.write_block

    def failing(self: Bank, block: int, features: Any) -> None:
        if block == number:
            raise error()
        write(self, block, features)

    monkeypatch.setattr(Bank, "write_block", failing)


def test_the_bank_holds_the_features_of_every_patch(made: World) -> None:
    opened = Store.open(made.store)
    encoder = training.load(opened, torch.device("cpu"))
    grids = embedding.grids(encoder, 128, 128)
    features = embedding.embed(encoder, opened.read_images(0, 10), opened.mean, grids, torch.device("cpu"))
    bank = opened.bank()
    for scale, (rows, columns) in {"big": (5, 5), "small": (25, 25)}.items():
        vectors = np.concatenate([vectors for _, vectors in bank.blocks(scale)])
        assert vectors.shape == (10 * rows * columns, 16)
        np.testing.assert_allclose(vectors.reshape(features[scale].shape), features[scale].numpy(), atol=1e-5)


def test_a_finished_bank_is_left_as_it_is(world: World) -> None:
    before = tree(world.store)
    again = patchcli.embed(world.store)
    assert (again.images, again.vectors, again.embedded) == (10, {"big": 250, "small": 6250}, 0)
    assert tree(world.store) == before
    assert patchcli.embed(world.store, overwrite=True).embedded == 10
    assert tree(world.store) == before


@pytest.mark.usefixtures("single_blocks")
@pytest.mark.parametrize("stop", [0, 3])
def test_stopped_and_gone_on_is_as_if_never_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    patchcli.embed(world.store, overwrite=True)
    whole = tree(world.store / "bank")
    with monkeypatch.context() as patched:
        _fail_at_block(patched, stop, lambda: OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            patchcli.embed(world.store, overwrite=True)
    with pytest.raises(IncompleteError, match=rf"half-written \({stop} of 10 blocks\); run: patchcli embed"):
        Store.open(world.store).bank()
    monkeypatch.setattr(store, "BANK_CHUNK_BYTES", 1 << 30)  # another version's taste of blocks changes nothing
    told = Told()
    assert patchcli.embed(world.store, observer=told).embedded == 10 - stop
    assert tree(world.store / "bank") == whole
    assert told.notes == ([f"going on: {stop} of 10 blocks are done"] if stop else [])
    assert told.progressed[-1] == ("embed", 10 - stop, 10 - stop)


@pytest.mark.usefixtures("single_blocks")
def test_a_block_without_its_flag_is_done_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    patchcli.embed(world.store, overwrite=True)
    whole = tree(world.store / "bank")
    bank = Store.open(world.store, "r+").group["bank"]
    bank["done"][3] = 0
    bank["big/features"][3] = 0.5  # as if it had been cut short
    bank.attrs["status"] = "incomplete"
    assert patchcli.embed(world.store).embedded == 1
    assert tree(world.store / "bank") == whole


def test_the_bank_follows_the_encoder(world: World) -> None:
    first = tree(world.store / "bank")
    trained = patchcli.train(store=world.store, steps=0, seed=1, overwrite=True)
    with pytest.raises(StoreError, match=r"the bank is of encoder .*patchcli embed"):
        patchcli.score(world.store)
    assert patchcli.embed(world.store).embedded == 10
    assert tree(world.store / "bank") != first
    assert {record.encoder for record in patchcli.score(world.store)} == {trained.sha256}


def test_an_interrupted_bank_of_another_encoder_is_begun_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BANK_CHUNK_BYTES", 1)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        _fail_at_block(patched, 4, KeyboardInterrupt)
        patchcli.embed(world.store, overwrite=True)
    patchcli.train(store=world.store, steps=0, seed=1, overwrite=True)
    assert patchcli.embed(world.store).embedded == 10


def test_embed_without_an_encoder(tmp_path: Path, made: World) -> None:
    patchcli.extract(made.data, tmp_path / "s.zarr", size=(128, 128))
    with pytest.raises(IncompleteError, match=r"no encoder yet; run: patchcli train"):
        patchcli.embed(tmp_path / "s.zarr")
