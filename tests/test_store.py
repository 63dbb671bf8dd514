"""The store: what is written comes back, what is damaged is refused, what was interrupted is mended."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from patchcli import store as store_module
from patchcli.errors import IncompleteError, InputError, StoreError
from patchcli.grid import PatchGrid
from patchcli.store import Bank, Store, digest_of, existing, stores_in

DATASET = {"root": "/somewhere/weave", "layout": "plain", "category": "weave", "manifest": "0" * 64}
D = 6
GRIDS = {"big": PatchGrid(70, 80, 64, 16), "small": PatchGrid(70, 80, 32, 4)}
IMAGES = 11  # one whole block of images, and a rest


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


def _images(count: int = IMAGES) -> list[tuple[str, tuple[int, int], NDArray[np.uint8]]]:
    rng = np.random.default_rng(count)
    return [
        (f"train/good/gewürz 漢{i}.png", (100 + i, 200 - i), rng.integers(0, 256, (70, 80, 3), np.uint8))
        for i in range(count)
    ]


def _weights(seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    shapes = {"enc.conv1.weight": (4, 3, 3, 3), "enc.conv1.bias": (4,), "scale": ()}
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in shapes.items()}


def _make(path: Path, count: int = IMAGES, overwrite: bool = False) -> Store:
    with Store.creating(path, DATASET, overwrite) as new:
        new.write_images(iter(_images(count)), 70, 80)
    opened = Store.open(path, "r+")
    opened.write_encoder(_weights(), {"architecture": "hierarchical", "D": D}, {})
    return opened


def _features(block: int, count: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(block)
    return {scale: rng.normal(size=(count, *grid.shape, D)).astype(np.float32) for scale, grid in GRIDS.items()}


def _fill(bank: Bank, blocks: Iterator[int] | range) -> None:
    for block in blocks:
        start, stop = bank.bounds(block)
        bank.write_block(block, _features(block, stop - start))


def _edit(metadata: Path, **attributes: Any) -> None:
    content = json.loads(metadata.read_text())
    content["attributes"].update(attributes)
    metadata.write_text(json.dumps(content))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weave.zarr"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images a block of the bank: three blocks, the last of three images."""
    largest = GRIDS["small"].patches * D * 4
    monkeypatch.setattr(store_module, "BANK_CHUNK_BYTES", 4 * largest + 1)


# ---- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 8, 11, 16])
def test_images_come_back(path: Path, count: int) -> None:
    images = _images(count)
    with Store.creating(path, DATASET) as new:
        assert new.write_images(iter(images), 70, 80) == count
    opened = Store.open(path)
    assert opened.dataset == DATASET
    assert opened.images.shape == (count, 70, 80, 3)
    assert opened.images.chunks == (8, 70, 80, 3)
    assert opened.image_ids == [name for name, _, _ in images]
    assert opened.image_sizes.tolist() == [list(size) for _, size, _ in images]
    pixels = np.stack([pixels for _, _, pixels in images])
    np.testing.assert_array_equal(opened.read_images(0, count), pixels)
    np.testing.assert_array_equal(opened.read_images(count - 1, count), pixels[-1:])
    assert opened.mean.dtype == np.float32
    np.testing.assert_allclose(opened.mean, pixels.mean(axis=0), rtol=1e-6)


def test_no_pickle_in_the_files(path: Path) -> None:
    _make(path)
    codecs = [
        codec["name"]
        for metadata in path.rglob("zarr.json")
        for codec in json.loads(metadata.read_text()).get("codecs", [])
    ]
    assert "vlen-utf8" in codecs  # the ids
    assert not [name for name in codecs if "pickle" in name]


def test_versions_are_kept(path: Path) -> None:
    _make(path)
    attributes = Store.open(path).attributes
    assert attributes["format_version"] == 1
    assert attributes["versions"]["zarr"] == zarr.__version__
    assert set(attributes["versions"]) >= {"patchcli", "torch", "zarr", "numpy"}


def test_nothing_is_left_of_a_failed_creation(path: Path) -> None:
    def images() -> Iterator[tuple[str, tuple[int, int], NDArray[np.uint8]]]:
        yield from _images(9)
        raise RuntimeError("the camera caught fire")

    with pytest.raises(RuntimeError, match="caught fire"), Store.creating(path, DATASET) as new:
        new.write_images(images(), 70, 80)
    assert list(path.parent.iterdir()) == []
    assert not existing(path)


# ---- what is no store -----------------------------------------------------------------------------------------------


def test_missing_store(path: Path) -> None:
    for mode in ("r", "r+"):
        with pytest.raises(StoreError, match=r"weave\.zarr: no store found.*patchcli train DATA.*--store"):
            Store.open(path, mode)
    assert not path.exists()


@pytest.mark.parametrize("version", [2, "1", None])
def test_another_format_version(path: Path, version: object) -> None:
    _make(path)
    _edit(path / "zarr.json", patchcli={**Store.open(path).attributes, "format_version": version})
    with pytest.raises(StoreError, match=r"expected a patchcli store of format 1, found .*--store"):
        Store.open(path)


def test_a_foreign_zarr_group(path: Path) -> None:
    zarr.open_group(str(path), mode="w", zarr_format=3).create_array("cells", data=np.arange(3))
    with pytest.raises(StoreError, match=r"found another Zarr group"):
        Store.open(path)


def test_a_group_of_broken_json(path: Path) -> None:
    _make(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"weave\.zarr: .*--store"):
        Store.open(path)


def test_an_array_is_missing(path: Path) -> None:
    _make(path)
    shutil.rmtree(path / "images" / "mean")
    with pytest.raises(StoreError, match=r"images/mean: array is missing"):
        Store.open(path).mean  # noqa: B018


def test_no_overwrite_without_being_asked(path: Path) -> None:
    _make(path)
    with pytest.raises(StoreError, match=r"already exists.*--store.*--overwrite"), Store.creating(path, DATASET):
        pytest.fail("must not come here")
    assert Store.open(path).images.shape[0] == IMAGES


def test_overwrite_replaces_a_store(path: Path) -> None:
    _make(path)
    _make(path, count=3, overwrite=True)
    assert Store.open(path).images.shape[0] == 3
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_overwrite_fills_an_empty_folder(path: Path) -> None:
    path.mkdir()
    assert _make(path, overwrite=True).images.shape[0] == IMAGES


def test_a_failed_overwrite_keeps_the_store(path: Path) -> None:
    _make(path)
    with pytest.raises(KilledError), Store.creating(path, DATASET, overwrite=True):
        raise KilledError
    assert Store.open(path).images.shape[0] == IMAGES


def test_overwrite_never_replaces_a_folder_of_something_else(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match=r"not a store"), Store.creating(path, DATASET, overwrite=True):
        pytest.fail("must not come here")
    assert (path / "thesis.txt").read_text() == "years of work"


def test_overwrite_never_replaces_a_file(path: Path) -> None:
    path.write_text("years of work")
    with pytest.raises(StoreError, match=r"not a store"), Store.creating(path, DATASET, overwrite=True):
        pytest.fail("must not come here")
    assert path.read_text() == "years of work"


def test_overwrite_never_replaces_a_foreign_zarr_group(path: Path) -> None:
    zarr.open_group(str(path), mode="w", zarr_format=3).create_array("cells", data=np.arange(3))
    with pytest.raises(StoreError, match=r"not a store|another Zarr group"), Store.creating(path, DATASET, True):
        pass
    np.testing.assert_array_equal(zarr.open_group(str(path), mode="r")["cells"][:], np.arange(3))


def test_stores_in_a_folder(tmp_path: Path) -> None:
    for name in ("wood.zarr", "grid.zarr"):
        _make(tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert [found.name for found in stores_in(tmp_path)] == ["grid.zarr", "wood.zarr"]
    with pytest.raises(InputError, match=r"no store found in this folder"):
        stores_in(tmp_path / "notes")


# ---- encoder --------------------------------------------------------------------------------------------------------


def test_encoder_comes_back(path: Path) -> None:
    opened, weights = _make(path), _weights(1)
    digest = opened.write_encoder(weights, {"architecture": "flat", "D": D, "steps": 7}, {})
    again = Store.open(path)
    assert again.encoder_attributes == {"architecture": "flat", "D": D, "steps": 7, "sha256": digest}
    read = again.read_encoder()
    assert sorted(read) == sorted(weights)
    for name, values in weights.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], values)
    assert again.read_training_state() == {}
    assert sorted(child.name for child in path.iterdir()) == ["encoder", "images", "zarr.json"]


def test_digest_depends_on_names_shapes_and_numbers() -> None:
    weights = _weights()
    digests = {
        digest_of(weights),
        digest_of({**weights, "scale": weights["scale"] + 1}),
        digest_of({**weights, "enc.conv1.bias": weights["enc.conv1.bias"].reshape(2, 2)}),
        digest_of({("other" if name == "scale" else name): values for name, values in weights.items()}),
    }
    assert len(digests) == 4
    assert digest_of(dict(reversed(weights.items()))) == digest_of(weights)
    assert digest_of({name: values.astype(">f4") for name, values in weights.items()}) == digest_of(weights)


def test_training_state_comes_back(path: Path) -> None:
    opened = _make(path)
    state = {"history": np.ones((3, 4), np.float32), "adam.enc.conv1.weight.step": np.array(3.0, np.float32)}
    digest = opened.write_encoder(_weights(), {}, state)
    again = Store.open(path)
    assert digest == digest_of(_weights())  # the state is no part of the encoder
    assert sorted(again.read_encoder()) == sorted(_weights())
    read = again.read_training_state()
    assert sorted(read) == sorted(state)
    for name, values in state.items():
        np.testing.assert_array_equal(read[name], values)


def test_no_encoder_yet(path: Path) -> None:
    with Store.creating(path, DATASET) as new:
        new.write_images(iter(_images(2)), 70, 80)
    with pytest.raises(IncompleteError, match=r"no encoder yet; run: patchcli train"):
        Store.open(path).read_encoder()
    with pytest.raises(IncompleteError, match=r"no encoder yet"):
        Store.open(path).bank()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(path: Path, value: float) -> None:
    _make(path).group["encoder/enc.conv1.bias"][0] = value
    with pytest.raises(StoreError, match=r"NaN or infinity.*--overwrite"):
        Store.open(path).read_encoder()


def test_weights_changed_behind_their_sha256(path: Path) -> None:
    _make(path).group["encoder/enc.conv1.bias"][0] = 0.25
    with pytest.raises(StoreError, match=r"differ from their sha256.*--overwrite"):
        Store.open(path).read_encoder()


def test_weights_of_a_lost_chunk(path: Path) -> None:
    _make(path)
    (path / "encoder" / "enc.conv1.bias" / "c" / "0").unlink()
    with pytest.raises(StoreError, match=r"differ from their sha256"):
        Store.open(path).read_encoder()


# ---- bank -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
def test_bank_comes_back(path: Path) -> None:
    opened = _make(path)
    bank = opened.prepare_bank(GRIDS, D)
    assert (bank.images, bank.block, bank.done.tolist()) == (IMAGES, 4, [0, 0, 0])
    assert [bank.bounds(block) for block in range(3)] == [(0, 4), (4, 8), (8, 11)]
    _fill(bank, range(3))
    bank.check_blocks()
    for scale, grid in GRIDS.items():
        streamed = list(bank.blocks(scale))
        for block, (ids, vectors) in enumerate(streamed):
            start, stop = bank.bounds(block)
            np.testing.assert_array_equal(ids, np.arange(start * grid.patches, stop * grid.patches))
            np.testing.assert_array_equal(vectors, _features(block, stop - start)[scale].reshape(-1, D))
        assert len(list((path / "bank" / scale / "features" / "c").iterdir())) == 3  # a block is a chunk
    bank.finish(radius=0)
    read = Store.open(path).bank()
    assert (read.complete, read.attributes["radius"]) == (True, 0)
    assert not (path / "bank" / "small" / "features").exists()


PAGE = {
    "vectors": np.arange(8, dtype=np.float32).reshape(2, 4) / 7,
    "ids": np.array([3, 1]),
    "low": np.ones((1, 4), np.float32),
}


def test_pages_and_index_come_back(path: Path) -> None:
    bank = _make(path).prepare_bank(GRIDS, D)
    for half, dtype in ((False, np.float32), (True, np.float16)):
        name = bank.begin_index("big")
        for number in range(2):
            bank.write_page("big", name, number, {**PAGE, "ids": PAGE["ids"] + number}, half)
        bank.write_index("big", name, {"centre": np.zeros(4)}, 4, radius=0.5)
        arrays, attributes = bank.read_index("big")
        assert (arrays["centre"].tolist(), attributes, bank.vectors("big")) == ([0] * 4, {"radius": 0.5}, 4)
        page = bank.read_page("big", 1)
        assert page.keys() == PAGE.keys()
        np.testing.assert_array_equal(page["vectors"], PAGE["vectors"].astype(dtype))
        assert (page["vectors"].dtype, page["ids"].tolist()) == (dtype, [4, 2])
        assert sum(child.name.startswith("index") for child in (path / "bank" / "big").iterdir()) == 1
    with pytest.raises(StoreError, match=r"bank page 2 of big is missing; embed again: patchcli embed --overwrite"):
        bank.read_page("big", 2)


def test_an_index_that_was_not_finished_leaves_the_one_before(path: Path) -> None:
    bank = _make(path).prepare_bank(GRIDS, D)
    name = bank.begin_index("big")
    bank.write_page("big", name, 0, PAGE, False)
    bank.write_index("big", name, {"centre": np.zeros(4)}, 2)
    bank.write_page("big", bank.begin_index("big"), 0, {**PAGE, "ids": PAGE["ids"] + 5}, False)  # and killed
    assert bank.read_page("big", 0)["ids"].tolist() == [3, 1]


@pytest.mark.usefixtures("small_blocks")
def test_block_of_a_wrong_shape(path: Path) -> None:
    bank = _make(path).prepare_bank(GRIDS, D)
    with pytest.raises(ValueError, match=r"block 2 of big.*does not fit"):
        bank.write_block(2, _features(2, 4))  # the last block has three images
    features = _features(0, 4)
    with pytest.raises(ValueError, match=r"block 0 of small.*does not fit"):
        bank.write_block(0, {**features, "small": features["small"][:, :-1]})
    assert bank.done.tolist() == [0, 0, 0]


@pytest.mark.usefixtures("small_blocks")
def test_a_bank_with_a_missing_block_is_not_finished(path: Path) -> None:
    bank = _make(path).prepare_bank(GRIDS, D)
    _fill(bank, iter([0, 2]))
    with pytest.raises(IncompleteError, match=r"blocks \[1\].*patchcli embed"):
        bank.check_blocks()
    with pytest.raises(IncompleteError, match=r"half-written \(2 of 3 blocks\); run: patchcli embed"):
        Store.open(path).bank()


@pytest.mark.usefixtures("small_blocks")
def test_a_bank_goes_on_with_its_own_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = _make(path)
    _fill(opened.prepare_bank(GRIDS, D), range(1))
    monkeypatch.setattr(store_module, "BANK_CHUNK_BYTES", 1 << 30)
    again = Store.open(path, "r+").prepare_bank(GRIDS, D)
    assert (again.block, again.done.tolist()) == (4, [1, 0, 0])
    assert opened.prepare_bank(GRIDS, D, overwrite=True).done.tolist() == [0]


def test_a_bank_of_another_encoder(path: Path) -> None:
    opened = _make(path)
    bank = opened.prepare_bank(GRIDS, D)
    _fill(bank, range(1))
    bank.finish()
    opened.write_encoder(_weights(1), {"architecture": "hierarchical", "D": D}, {})
    with pytest.raises(StoreError, match=r"the bank is of encoder .*; run: patchcli embed"):
        Store.open(path).bank()
    assert Store.open(path, "r+").prepare_bank(GRIDS, D).done.tolist() == [0]


def test_a_bank_of_patches_at_other_places(path: Path) -> None:
    """The same weights, but of another training."""
    opened = _make(path)
    bank = opened.prepare_bank(GRIDS, D)
    _fill(bank, range(1))
    bank.finish()
    opened.write_encoder(_weights(), {**opened.encoder_attributes, "strides": {"big": 8}}, {})
    with pytest.raises(StoreError, match=r"the bank is of patches at other places than the encoder's; run: patchcli embed"):
        Store.open(path).bank()
    assert Store.open(path, "r+").prepare_bank(GRIDS, D).done.tolist() == [0]


def test_no_bank_yet(path: Path) -> None:
    _make(path)
    with pytest.raises(IncompleteError, match=r"no bank yet; run: patchcli embed"):
        Store.open(path).bank()


@pytest.mark.usefixtures("small_blocks")
def test_a_lost_block_of_the_bank(path: Path) -> None:
    bank = _make(path).prepare_bank(GRIDS, D)
    _fill(bank, range(3))
    next((path / "bank" / "small" / "features" / "c" / "1").rglob("0/0/0")).unlink()
    streamed = bank.blocks("small")
    assert next(streamed)[0][0] == 0
    with pytest.raises(StoreError, match=r"bank block 1 of small holds NaN.*patchcli embed --overwrite"):
        next(streamed)


def test_the_bank_does_not_fit_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = _make(path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 10))  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match=r"the bank needs .* MB, 0 MB are free; make room.*--store"):
        opened.prepare_bank(GRIDS, D)
    assert not (path / "bank").exists()


# ---- interrupted replacements ---------------------------------------------------------------------------------------


def _kill_at_rename(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Die instead of the given rename of a folder, counted from 1."""
    rename, calls = Path.rename, iter(range(1, 100))

    def dying(self: Path, target: Path) -> Path:
        if self.is_dir() and next(calls) == number:
            raise KilledError
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)


@pytest.mark.parametrize("rename", [1, 2])
def test_a_kill_while_the_encoder_is_replaced(path: Path, monkeypatch: pytest.MonkeyPatch, rename: int) -> None:
    opened = _make(path)
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        _kill_at_rename(patched, rename)
        opened.write_encoder(_weights(1), {}, {})
    assert (path / "encoder").exists() == (rename == 1)
    recovered = Store.open(path, "r+")
    assert recovered.encoder_attributes["sha256"] == digest_of(recovered.read_encoder()) == digest_of(_weights(0))
    assert sorted(child.name for child in path.iterdir()) == ["encoder", "images", "zarr.json"]


def test_a_kill_before_the_old_encoder_is_removed(path: Path) -> None:
    opened = _make(path)
    shutil.copytree(path / "encoder", path / "before")
    digest = opened.write_encoder(_weights(1), {}, {})
    (path / "before").rename(path / "encoder.old")
    assert Store.open(path, "r+").encoder_attributes["sha256"] == digest
    assert sorted(child.name for child in path.iterdir()) == ["encoder", "images", "zarr.json"]


@pytest.mark.parametrize("part", ["encoder", "bank"])
def test_leftovers_by_name(path: Path, part: str) -> None:
    opened = _make(path)
    bank = opened.prepare_bank(GRIDS, D)
    _fill(bank, range(1))
    bank.finish()
    (path / part).rename(path / f"{part}.old")
    shutil.copytree(path / f"{part}.old", path / f"{part}.new")
    _edit(path / f"{part}.new" / "zarr.json", sha256="half", status="half")
    recovered = Store.open(path, "r+")
    assert recovered.bank().attributes["status"] == "complete"
    assert recovered.read_encoder().keys() == _weights().keys()
    assert sorted(child.name for child in path.iterdir()) == ["bank", "encoder", "images", "zarr.json"]


@pytest.mark.parametrize("rename", [1, 2])
def test_a_kill_while_the_store_is_replaced(path: Path, monkeypatch: pytest.MonkeyPatch, rename: int) -> None:
    _make(path)
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        _kill_at_rename(patched, rename)
        _make(path, count=3, overwrite=True)
    assert existing(path)
    assert Store.open(path, "r+").images.shape[0] == IMAGES
    _make(path, count=3, overwrite=True)
    assert Store.open(path).images.shape[0] == 3
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_a_backup_beside_the_store_is_left_alone(path: Path) -> None:
    _make(path)
    backup = path.with_name("weave.zarr.old")  # cp -r weave.zarr weave.zarr.old
    shutil.copytree(path, backup)
    Store.open(path, "r+")
    assert backup.exists()
    _make(path, count=3, overwrite=True)
    assert Store.open(backup).images.shape[0] == IMAGES


def test_opening_leaves_a_folder_that_is_no_store_alone(path: Path) -> None:
    (path / "bank.old").mkdir(parents=True)
    (path / "bank.old" / "accounts.txt").write_text("not ours")
    with pytest.raises(StoreError):
        Store.open(path, "r+")
    assert (path / "bank.old" / "accounts.txt").read_text() == "not ours"


def test_opening_to_read_does_not_mend(path: Path) -> None:
    _make(path)
    (path / "encoder").rename(path / "encoder.old")
    with pytest.raises(IncompleteError, match=r"no encoder yet"):
        Store.open(path).read_encoder()
    assert (path / "encoder.old").exists()
