"""embed: a bank is made once, goes on where it was stopped, and follows the encoder."""

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from smallworld import WORKING, Told, World, leftovers, make_store, part_folder, parts, tree, without

import patchcli
from patchcli import runtime
from patchcli.bank import pages
from patchcli.datasets import images
from patchcli.errors import IncompleteError, InputError, StoreError
from patchcli.features import dense as embedding
from patchcli.store import Bank, Blocks, Store, Thinning
from patchcli.store import bank as bank_module
from patchcli.verbs.extraction import ImageOptions


@pytest.fixture
def single_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image a block."""
    monkeypatch.setattr(bank_module, "CHUNK_BYTES", 1)


def _fail_at_block(monkeypatch: pytest.MonkeyPatch, number: int, error: Callable[[], BaseException]) -> None:
    write = Blocks.write_block

    def failing(self: Blocks, block: int, features: Any) -> None:
        if block == number:
            raise error()
        write(self, block, features)

    monkeypatch.setattr(Blocks, "write_block", failing)


def held(bank: Bank, scale: str) -> np.ndarray:
    """The vectors of a whole bank, in the order of their ids."""
    ids, vectors = (np.concatenate(column) for column in zip(*pages.stream(bank, scale)(), strict=True))
    assert sorted(ids.tolist()) == list(range(len(ids)))
    return vectors[np.argsort(ids)]


def test_the_bank_holds_the_features_of_every_patch(made: World) -> None:
    opened = Store.open(made.store)
    encoder = opened.encoder.restore(torch.device("cpu"))
    grids = embedding.grids(encoder, 128, 128, {})
    features = embedding.embed(encoder, opened.images.read(0, 10), opened.mean, grids, torch.device("cpu"))
    bank = opened.bank()
    for scale, (rows, columns) in {"big": (5, 5), "small": (25, 25)}.items():
        vectors = held(bank, scale)
        assert vectors.shape == (10 * rows * columns, 16)
        np.testing.assert_allclose(vectors.reshape(features[scale].shape), features[scale].numpy(), atol=1e-5)
    assert parts(made.store).keys() == {"images", "encoder", "bank"}  # the blocks are gone


def test_a_finished_bank_is_left_as_it_is(world: World) -> None:
    before, held = tree(world.store), parts(world.store)
    again = patchcli.embed(world.store)
    assert (again.images, again.vectors, again.embedded) == (10, {"big": 250, "small": 6250}, 0)
    assert tree(world.store) == before
    identity = Store.open(world.store).bank().identity
    assert patchcli.embed(world.store, overwrite=True).embedded == 10
    assert (parts(world.store), leftovers(world.store)) == (held, set())
    assert Store.open(world.store).bank().identity == identity


@pytest.mark.usefixtures("single_blocks")
@pytest.mark.parametrize("stop", [0, 3])
def test_stopped_and_gone_on_is_as_if_never_stopped(world: World, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    whole = parts(world.store)
    without(world.store, "bank")
    with monkeypatch.context() as patched:
        _fail_at_block(patched, stop, lambda: OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            patchcli.embed(world.store)
    with pytest.raises(IncompleteError, match=rf"half-written \({stop} of 10 blocks\); run: `embed\(\)`"):
        Store.open(world.store).bank()
    monkeypatch.setattr(bank_module, "CHUNK_BYTES", 1 << 30)  # another version's taste of blocks changes nothing
    told = Told()
    assert patchcli.embed(world.store, observer=told).embedded == 10 - stop
    assert (parts(world.store), leftovers(world.store)) == (whole, set())
    assert told.notes[:-1] == ([f"resuming: {stop} of 10 blocks are done"] if stop else [])
    assert "6,500 vectors will need" in told.notes[-1]
    assert ("embed", 10 - stop, 10 - stop) in told.progressed
    assert told.progressed[-1] == ("index", 6250, 6250)


def test_the_precision_is_that_of_training_and_stays_with_the_bank(
    tmp_path: Path, made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bfloat16 an image of the bank still has distance 0: bank and queries are embedded alike."""
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: True)
    store = make_store(made.data, tmp_path / "it.zarr", D=8, precision="bfloat16")
    bank = Store.open(store).bank()
    rounded, identity = held(bank, "small"), bank.identity
    assert bank.precision == "bfloat16"
    assert max(record.score for record in patchcli.score(store, [made.data / "train"])) == 0
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: False)
    assert patchcli.embed(store).embedded == 0  # what is there stays
    told = Told()
    patchcli.Detector.open(store, observer=told)
    assert [line for line in told.notes if "this CPU emulates" in line]
    assert patchcli.embed(store, overwrite=True).embedded == 10  # on this machine, float32 is faster
    exact = Store.open(store).bank()
    assert (exact.precision, exact.identity == identity) == ("float32", False)
    assert 1e-5 < np.abs(held(exact, "small") - rounded).mean() < 0.01


@pytest.mark.usefixtures("single_blocks")
def test_another_precision_is_embedded_anew_and_none_is_mixed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: True)
    store, whole = world.store, parts(world.store)
    with pytest.raises(InputError, match="`precision` bfloat16: the bank was embedded with float32; run: `embed"):
        patchcli.Detector.open(store, precision="bfloat16")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        _fail_at_block(patched, 4, KeyboardInterrupt)
        patchcli.embed(store, precision="bfloat16")
    assert len(list(patchcli.score(store))) == 5  # the bank before is there until then
    assert patchcli.embed(store).embedded == 6  # goes on as it began
    assert Store.open(store).bank().precision == "bfloat16"
    patchcli.Detector.open(store, precision="bfloat16")
    patchcli.bank_remove(store, ["train/good/003.png"])
    patchcli.bank_add(store, [world.data / "train/good/003.png"])
    assert Store.open(store).bank().precision == "bfloat16"
    assert max(record.score for record in patchcli.score(store, [world.data / "train"])) == 0
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        _fail_at_block(patched, 4, KeyboardInterrupt)
        patchcli.embed(store, overwrite=True, precision="bfloat16")
    assert patchcli.embed(store, precision="float32").embedded == 10
    assert parts(store)["encoder"] == whole["encoder"]
    assert Store.open(store).bank().precision == "float32"


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_precision_that_is_not_there(world: World, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: False)
    before = tree(world.store)
    for refused in (patchcli.embed, patchcli.Detector.open):
        with pytest.raises(InputError, match="`precision`"):
            refused(world.store, precision=precision)
    assert tree(world.store) == before


@pytest.mark.usefixtures("single_blocks")
def test_a_block_without_its_flag_is_done_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = parts(world.store)
    without(world.store, "bank")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        _fail_at_block(patched, 9, KeyboardInterrupt)
        patchcli.embed(world.store)
    with Store.writing(world.store) as opened:
        blocks = opened.part("blocks")
        assert blocks is not None
        blocks.array("done")[3] = 0
        blocks.array("big/features")[3] = 0.5  # as if it had been cut short
    assert patchcli.embed(world.store).embedded == 2
    assert parts(world.store) == whole


def _die_in_the_second_scale(patched: pytest.MonkeyPatch, at: str) -> None:
    original, calls = getattr(Bank, at), iter(range(100))

    def dying(self: Bank, *arguments: Any, **options: Any) -> Any:
        if next(calls) == (0 if at == "seal" else 1):
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    patched.setattr(Bank, at, dying)


@pytest.mark.parametrize("at", ["write_page", "write_index", "seal"])
def test_killed_while_it_is_indexed(world: World, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    whole = parts(world.store)
    without(world.store, "bank")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        _die_in_the_second_scale(patched, at)
        patchcli.embed(world.store)
    with pytest.raises(IncompleteError, match=r"half-written \((\d) of \1 blocks\); run: `embed\(\)`"):
        Store.open(world.store).bank()
    assert patchcli.embed(world.store).embedded == 0
    assert (parts(world.store), leftovers(world.store)) == (whole, set())
    assert len(list(patchcli.score(world.store))) == 5


@pytest.mark.parametrize("options", [{"overwrite": True}, {"half": True}], ids=str)
@pytest.mark.parametrize("at", ["write_page", "write_index", "seal", "_switch"])
def test_the_bank_before_is_there_until_the_new_one_is(
    world: World, monkeypatch: pytest.MonkeyPatch, at: str, options: dict[str, bool]
) -> None:
    whole, expected = parts(world.store), list(patchcli.score(world.store))
    switch = Store._switch

    def dying(self: Store, *arguments: Any, **named: Any) -> None:
        if named.get("bank") is not None:
            raise KeyboardInterrupt
        switch(self, *arguments, **named)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if at == "_switch":
            patched.setattr(Store, at, dying)
        else:
            _die_in_the_second_scale(patched, at)
        patchcli.embed(world.store, **options)  # type: ignore[arg-type]
    assert list(patchcli.score(world.store)) == expected
    assert parts(world.store)["bank"] == whole["bank"]
    assert leftovers(world.store) == set()
    again = patchcli.embed(world.store, **options)  # type: ignore[arg-type]
    assert parts(world.store).keys() == whole.keys()
    assert (parts(world.store) == whole) == ("half" not in options)
    assert again.vectors == {"big": 250, "small": 6250}
    assert patchcli.embed(world.store) == replace(again, embedded=0)


def test_blocks_left_by_a_kill_are_removed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the switch, before what was replaced is removed."""
    whole = parts(world.store)
    without(world.store, "bank")
    with monkeypatch.context() as patched:
        patched.setattr(Store, "_sweep", lambda self: None)
        patchcli.embed(world.store)
    (left,) = leftovers(world.store)
    assert (world.store / left / "small" / "features").exists()
    assert parts(world.store) == whole
    assert patchcli.embed(world.store).embedded == 0
    assert (parts(world.store), leftovers(world.store)) == (whole, set())


# ---- thinned --------------------------------------------------------------------------------------------------------


@pytest.fixture
def distances(made: World) -> Callable[[Path], dict[str, np.ndarray]]:
    """Distances of the test images' patches to a store's bank, by scale, from every vector it holds."""

    def of(path: Path) -> dict[str, np.ndarray]:
        opened = Store.open(path)
        bank, encoder = opened.bank(), opened.encoder.restore(torch.device("cpu"))
        paths = images.find(made.data / "test", problem=pytest.fail)
        pixels = np.stack([images.resize(images.Reader().read(file), 128, 128) for file in paths])
        grids = embedding.grids(encoder, 128, 128, {})
        found = {}
        for scale, queries in embedding.embed(encoder, pixels, opened.mean, grids, torch.device("cpu")).items():
            vectors = torch.cat([torch.from_numpy(v) for _, v in pages.stream(bank, scale)()]).double()
            found[scale] = torch.cdist(queries.reshape(-1, 16).double(), vectors).min(1).values.numpy()
        return found

    return of


@pytest.mark.parametrize(
    "options", [{"tolerance": 0.2}, {"keep": 0.1}, {"half": True}, {"tolerance": 0.2, "half": True}], ids=str
)
def test_distances_are_off_by_no_more_than_it_says(
    world: World, distances: Callable[[Path], dict[str, np.ndarray]], options: dict[str, Any]
) -> None:
    exact = distances(world.store)
    before = sum(path.stat().st_size for path in part_folder(world.store, "bank").rglob("*"))
    thinned = patchcli.embed(world.store, **options)
    assert thinned.embedded == 0  # what is there is thinned
    assert sum(path.stat().st_size for path in part_folder(world.store, "bank").rglob("*")) < before
    for scale, values in distances(world.store).items():
        bound = thinned.radius[scale]
        assert 0 < np.abs(values - exact[scale]).max() <= bound + 1e-9
        assert bound <= options.get("tolerance", np.inf) + (0.005 if "half" in options else 0)
        if not options.get("half"):
            assert (values >= exact[scale] - 1e-9).all()
    if "keep" in options:
        assert thinned.vectors == {"big": 25, "small": 625}
    records = list(patchcli.score(world.store))
    assert {record.distance_error for record in records} == {max(thinned.radius.values())}
    assert Store.open(world.store).bank().attributes.thinning.half == bool(options.get("half"))


def test_thinning_is_kept_until_another_is_asked_for(world: World) -> None:
    thinned = patchcli.embed(world.store, keep=0.2)
    before = tree(world.store)
    assert patchcli.embed(world.store) == thinned
    assert tree(world.store) == before
    patchcli.train(store=world.store, steps=0, seed=1, overwrite=True, encoder="hierarchical")
    assert patchcli.embed(world.store).vectors == thinned.vectors  # of another encoder, thinned alike
    assert patchcli.embed(world.store, keep=0.1).embedded == 10
    assert patchcli.embed(world.store, overwrite=True).vectors == {"big": 250, "small": 6250}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tolerance": 0.0}, "`tolerance`: expected a distance above 0, found 0.0"),
        ({"keep": 1.5}, "`keep`: expected a share such as 10% or 0.1, found 1.5"),
        ({"keep": True}, "`keep`: expected a share such as 10% or 0.1, found True"),
        ({"half": 1}, "`half`: expected True or False, found 1"),
        ({"half": "no"}, "`half`: expected True or False, found 'no'"),
        ({"keep": 0.5, "tolerance": 0.1}, "`tolerance` and `keep`: give one of the two"),
    ],
)
def test_thinning_that_cannot_be(made: World, options: dict[str, Any], says: str) -> None:
    before = tree(made.store)
    with pytest.raises(InputError, match=says):
        patchcli.embed(made.store, **options)
    assert tree(made.store) == before


def test_numpy_numbers_are_numbers(world: World, tmp_path: Path) -> None:
    """In every verb that keeps them in the store."""
    store = tmp_path / "numbers.zarr"
    size = np.array(WORKING)
    recipe: dict[str, Any] = {"seed": np.int64(3), "D": np.int64(8), "lr": np.float32(1e-3), "batch": np.int16(2)}
    patchcli.train(world.data, store, steps=1, images=ImageOptions(size=(size[0], size[1])), **recipe)
    patchcli.embed(store, half=np.True_)  # type: ignore[arg-type]
    found = patchcli.calibrate(store, source="loo", false_alarms=np.float32(0.25), confidence=np.float64(0.5))  # type: ignore[arg-type]
    assert (found.false_alarms, Store.open(store).encoder.attributes.recipe["seed"]) == (0.25, 3)  # type: ignore[index]
    patchcli.embed(store, keep=np.float32(0.5), half=np.True_)  # type: ignore[arg-type]
    assert Store.open(store).bank().attributes.thinning == Thinning(keep=0.5, half=True)


@pytest.mark.parametrize("memory", [1, 2_000_000])
def test_little_memory_gives_the_same_bank(world: World, memory: int) -> None:
    whole = {scale: held(Store.open(world.store).bank(), scale) for scale in ("big", "small")}
    expected = list(patchcli.score(world.store))
    patchcli.embed(world.store, memory=memory, overwrite=True)
    bank = Store.open(world.store).bank()
    for scale, vectors in whole.items():
        np.testing.assert_array_equal(held(bank, scale), vectors)
    assert list(patchcli.score(world.store)) == expected


def test_the_bank_follows_the_encoder(world: World) -> None:
    first, records = parts(world.store)["bank"], list(patchcli.score(world.store))
    trained = patchcli.train(store=world.store, steps=0, seed=1, overwrite=True, encoder="hierarchical")
    with pytest.raises(StoreError, match=r"the bank belongs to encoder .*`embed\(\)`"):
        patchcli.score(world.store)
    assert patchcli.embed(world.store).embedded == 10
    assert parts(world.store)["bank"] != first
    again = list(patchcli.score(world.store))
    assert {record.encoder for record in again} == {trained.sha256}
    assert {record.bank for record in again} == {Store.open(world.store).bank().identity}
    assert not {record.bank for record in again} & {record.bank for record in records}


def test_an_interrupted_bank_of_another_encoder_is_begun_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "CHUNK_BYTES", 1)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        _fail_at_block(patched, 4, KeyboardInterrupt)
        patchcli.embed(world.store, overwrite=True)
    assert "blocks" in parts(world.store)
    patchcli.train(store=world.store, steps=0, seed=1, overwrite=True, encoder="hierarchical")
    assert patchcli.embed(world.store).embedded == 10


def test_embed_without_an_encoder(tmp_path: Path, made: World) -> None:
    patchcli.extract(made.data, tmp_path / "s.zarr", ImageOptions(size=(128, 128)))
    with pytest.raises(IncompleteError, match=r"no encoder yet.*run: `train\(\)`"):
        patchcli.embed(tmp_path / "s.zarr")
