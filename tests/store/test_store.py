"""The store: what is written comes back, what is damaged is refused, a kill leaves the old version or the new one."""

import contextlib
import gc
import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from patchcli.errors import DamagedError, IncompleteError, InputError, StoreError
from patchcli.features.grid import PatchGrid
from patchcli.observer import Observer
from patchcli.store import (
    Bank,
    Blocks,
    EncoderAttributes,
    Source,
    Store,
    Thinning,
    Thresholds,
    digest_of,
    existing,
    locked,
    revision,
    stores_in,
)
from patchcli.store import bank as bank_module
from patchcli.store import parts as parts_module
from patchcli.store import root as root_module

SOURCE = Source("/somewhere/weave", "plain", "weave", "0" * 64)
D = 6
GRIDS = {"big": PatchGrid(70, 80, 64, 16), "small": PatchGrid(70, 80, 32, 4)}
IMPORTED = EncoderAttributes("hierarchical", D, "imported")
IMAGES = 11  # one whole block of images, and a rest
PAGE = {
    "vectors": np.arange(8, dtype=np.float32).reshape(2, 4) / 7,
    "ids": np.array([3, 1]),
    "low": np.ones((1, 4), np.float32),
}


class KilledError(BaseException):
    """Stands for an interruption: nothing catches it."""


def _images(count: int = IMAGES) -> list[tuple[str, tuple[int, int], NDArray[np.uint8]]]:
    rng = np.random.default_rng(count)
    return [
        (f"train/good/gewürz 漢{i}.png", (100 + i, 200 - i), rng.integers(0, 256, (70, 80, 3), np.uint8)) for i in range(count)
    ]


def _weights(seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    shapes = {"enc.conv1.weight": (4, 3, 3, 3), "enc.conv1.bias": (4,), "scale": ()}
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in shapes.items()}


def _make(path: Path, count: int = IMAGES, overwrite: bool = False) -> None:
    """A store of images and an encoder."""
    with Store.creating(path, SOURCE, overwrite) as new:
        new.write_images(iter(_images(count)), 70, 80)
    _train(path, 0)


def _train(path: Path, seed: int, **attributes: Any) -> str:
    with Store.writing(path) as opened:
        return opened.write_encoder(_weights(seed), EncoderAttributes("hierarchical", D, "imported", **attributes), {})


def _features(block: int, count: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(block)
    return {scale: rng.normal(size=(count, *grid.shape, D)).astype(np.float32) for scale, grid in GRIDS.items()}


def _fill(blocks: Blocks, numbers: Iterator[int] | range) -> None:
    for block in numbers:
        start, stop = blocks.bounds(block)
        blocks.write_block(block, _features(block, stop - start))


def _pages(bank: Bank, seed: int = 0) -> None:
    """Two pages at each scale, and what is said of the whole."""
    for scale in GRIDS:
        bank.begin_index(scale, {"centre": np.zeros(4)})
        for number in range(2):
            bank.write_page(scale, number, {**PAGE, "ids": PAGE["ids"] + number + seed}, half=False)
        assert bank.read_begun(scale, "centre").tolist() == [0] * 4
        bank.write_index(scale, {"low": np.ones(2)}, vectors=4, pages=2, radius=0.5)


def _embed(path: Path, seed: int = 0) -> None:
    with Store.writing(path) as opened, opened.writing_bank(GRIDS, D) as bank:
        _pages(bank, seed)


def _thresholds(images: int) -> Thresholds:
    return Thresholds(
        schema="patchcli.calibration/1",
        source="each left out",
        images=images,
        false_alarms=0.25,
        confidence=0.95,
        threshold=0.5,
        pixel_threshold=0.75,
        review_rate=None,
        review_threshold=None,
        colour_low=0.0,
        colour_high=1.5,
        promise="at most 25% false alarms",
        encoder="0" * 64,
    )


def _calibrate(path: Path, scores: NDArray[np.float64]) -> None:
    with Store.writing(path) as opened:
        opened.write_calibration([f"{n}.png" for n in range(len(scores))], {"scores": scores}, _thresholds(len(scores)))


def _whole(path: Path) -> None:
    """A store with a part of every kind; a second bank has been begun."""
    _make(path)
    _embed(path)
    with Store.writing(path) as opened:
        opened.write_encoder(_weights(0), opened.encoder.attributes, {"history": np.ones((3, 4), np.float32)})
        opened.write_calibration(["a.png", "b.png"], {"scores": np.array([0.5, 0.25])}, _thresholds(2))
        _fill(opened.begin_blocks(GRIDS, D), range(1))


def _parts(path: Path) -> dict[str, dict[str, str]]:
    """What each part holds: sha256 of its files but for metadata, whatever its folder is called."""
    folders = {kind: path / named.name for kind, named in Store.open(path).root.parts.items()}
    return {
        kind: {
            str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in folder.rglob("*")
            if file.is_file() and file.name != "zarr.json"
        }
        for kind, folder in folders.items()
    }


def _array(path: Path, kind: str, name: str) -> Any:
    """An array as Zarr gives it."""
    return zarr.open_group(str(_folder(path, kind)), mode="r")[name]


def _folder(path: Path, kind: str) -> Path:
    return path / Store.open(path).root.parts[kind].name


def _left(path: Path) -> set[str]:
    """What lies in a store beside what its root names."""
    named = {part.name for part in Store.open(path).root.parts.values()}
    return {child.name for child in path.iterdir()} - named - {"zarr.json", ".lock"}


def _change(path: Path, kind: str, array: str, index: Any, value: float) -> None:
    """Write into an array as a program would: with a checksum that fits."""
    zarr.open_group(str(_folder(path, kind)), mode="r+")[array][index] = value  # type: ignore[index]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weave.zarr"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images a block of the bank: three blocks, the last of three images."""
    largest = GRIDS["small"].patches * D * 4
    monkeypatch.setattr(bank_module, "CHUNK_BYTES", 4 * largest + 1)


# ---- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 8, 11, 16])
def test_images_come_back(path: Path, count: int) -> None:
    images = _images(count)
    with Store.creating(path, SOURCE) as new:
        assert new.write_images(iter(images), 70, 80) == count
    opened = Store.open(path)
    assert opened.source == SOURCE
    assert opened.images.shape == (count, 70, 80, 3)
    assert len(opened.images) == count
    assert _array(path, "images", "train").chunks == (8, 70, 80, 3)
    assert opened.images.ids == [name for name, _, _ in images]
    assert opened.images.sizes == [size for _, size, _ in images]
    pixels = np.stack([pixels for _, _, pixels in images])
    np.testing.assert_array_equal(opened.images.read(0, count), pixels)
    np.testing.assert_array_equal(opened.images.read(count - 1, count), pixels[-1:])
    assert opened.images.mean.dtype == np.float32
    np.testing.assert_allclose(opened.images.mean, pixels.mean(axis=0), rtol=1e-6)


def test_black_images_are_not_taken_for_lost_ones(path: Path) -> None:
    with Store.creating(path, SOURCE) as new:
        black = [(name, size, pixels * 0) for name, size, pixels in _images(9)]
        new.write_images(iter(black), 70, 80)
    opened = Store.open(path)
    assert opened.images.read(0, 9).max() == 0
    assert list(opened.check()) == []
    (path / "images" / "train" / "c" / "1" / "0" / "0" / "0").unlink()
    with pytest.raises(DamagedError, match=r"images: missing \(a chunk of train\).*`overwrite`"):
        Store.open(path).images.read(8, 9)


def test_no_pickle_and_checksums_in_the_files(path: Path) -> None:
    _whole(path)
    arrays = [
        [codec["name"] for codec in content["codecs"]]
        for metadata in path.rglob("zarr.json")
        if "codecs" in (content := json.loads(metadata.read_text()))
    ]
    names = {name for codecs in arrays for name in codecs}
    assert "vlen-utf8" in names  # the ids
    assert not [name for name in names if "pickle" in name]
    assert {codecs[-1] for codecs in arrays} == {"crc32c"}


def test_versions_are_kept(path: Path) -> None:
    _make(path)
    content = json.loads((path / "zarr.json").read_text())["attributes"]["patchcli"]
    assert content["format_version"] == 1
    assert content["versions"] == Store.open(path).root.versions
    assert content["versions"]["zarr"] == zarr.__version__
    assert set(content["versions"]) >= {"patchcli", "torch", "zarr", "numpy"}


@pytest.mark.parametrize("there", [False, True], ids=["no folder", "an empty folder"])
def test_nothing_is_left_of_a_failed_creation(path: Path, there: bool) -> None:
    def images() -> Iterator[tuple[str, tuple[int, int], NDArray[np.uint8]]]:
        yield from _images(9)
        raise RuntimeError("the camera caught fire")

    if there:
        path.mkdir()
    with pytest.raises(RuntimeError, match="caught fire"), Store.creating(path, SOURCE) as new:
        new.write_images(images(), 70, 80)
    assert path.exists() == there
    assert not there or {child.name for child in path.iterdir()} <= {".lock"}
    assert not existing(path)
    _make(path)


# ---- what is no store -----------------------------------------------------------------------------------------------


def _opened(path: Path, write: bool) -> Store:
    if not write:
        return Store.open(path)
    with Store.writing(path) as opened:
        return opened


@pytest.mark.parametrize("write", [False, True])
def test_missing_store(path: Path, write: bool) -> None:
    with pytest.raises(StoreError, match=r"weave\.zarr: no store found.*`train\(data\)`.*`store`"):
        _opened(path, write)
    assert not path.exists()


@pytest.mark.parametrize("version", [2, "1", None, True])
def test_another_format_version(path: Path, version: object) -> None:
    _make(path)
    content = json.loads((path / "zarr.json").read_text())
    content["attributes"]["patchcli"]["format_version"] = version
    (path / "zarr.json").write_text(json.dumps(content))
    for write in (False, True):
        with pytest.raises(StoreError, match=r"expected a patchcli store of format 1, found .*`store`"):
            _opened(path, write)


def test_a_store_of_an_earlier_patchcli(path: Path) -> None:
    """Of the same format version, but without checksums."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    group.attrs["patchcli"] = {"format_version": 1, "dataset": SOURCE, "versions": {}}
    with pytest.raises(StoreError, match=r"found one of an earlier patchcli; make it again: `train\(data, overwrite\)`"):
        Store.open(path)
    _make(path, overwrite=True)
    assert list(Store.open(path).check()) == []


@pytest.mark.parametrize("write", [False, True])
def test_a_foreign_zarr_group(path: Path, write: bool) -> None:
    zarr.open_group(str(path), mode="w", zarr_format=3).create_array("cells", data=np.arange(3))
    before = sorted(path.rglob("*"))
    with pytest.raises(StoreError, match=r"found another Zarr group"):
        _opened(path, write)
    assert sorted(path.rglob("*")) == before


BROKEN = ["", "{", "[]", "{}", "null", '"text"', "\x00\x00", '{"attributes": null}', '{"attributes": {"patchcli": null}}']


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("write", [False, True])
def test_a_root_that_makes_no_sense(path: Path, content: str, write: bool) -> None:
    _make(path)
    (path / "zarr.json").write_text(content)
    with pytest.raises(StoreError, match=r"weave\.zarr: .*(`store`|make the store again, or restore a copy)"):
        _opened(path, write)


def test_every_flipped_bit_of_the_root_is_seen(path: Path) -> None:
    _whole(path)
    content, root = (path / "zarr.json").read_bytes(), Store.open(path).root
    rng, refused = np.random.default_rng(0), 0
    for at, byte in enumerate(content):
        (path / "zarr.json").write_bytes(content[:at] + bytes([byte ^ 1 << rng.integers(8)]) + content[at + 1 :])
        try:
            assert Store.open(path).root == root  # white space, or what zarr says of any group
        except StoreError:
            refused += 1
    assert refused > 0.6 * len(content)


def test_an_array_is_missing(path: Path) -> None:
    _make(path)
    shutil.rmtree(path / "images" / "mean")
    with pytest.raises(DamagedError, match=r"images: missing \(a chunk of mean\); extract the images again with `overwrite`"):
        Store.open(path).images.mean  # noqa: B018


def test_no_overwrite_without_being_asked(path: Path) -> None:
    _make(path)
    with pytest.raises(StoreError, match=r"already exists.*`store`.*`overwrite`"), Store.creating(path, SOURCE):
        pytest.fail("must not come here")
    assert Store.open(path).images.shape[0] == IMAGES


def test_overwrite_replaces_a_store(path: Path) -> None:
    _whole(path)
    with Store.creating(path, SOURCE, overwrite=True) as new:
        new.write_images(iter(_images(3)), 70, 80)
    assert Store.open(path).images.shape[0] == 3
    assert Store.open(path).root.parts.keys() == {"images"}
    assert _left(path) == set()
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_overwrite_fills_an_empty_folder(path: Path) -> None:
    path.mkdir()
    _make(path, overwrite=True)
    assert Store.open(path).images.shape[0] == IMAGES


def test_a_failed_overwrite_keeps_the_store(path: Path) -> None:
    _whole(path)
    before = _parts(path)
    with pytest.raises(KilledError), Store.creating(path, SOURCE, overwrite=True) as new:
        new.write_images(iter(_images(3)), 70, 80)
        raise KilledError
    assert _parts(path) == before
    assert _left(path) == set()


def test_images_that_are_written_again_keep_what_was_made_of_them(path: Path) -> None:
    _whole(path)
    before = _parts(path)
    (path / "images" / "train" / "c" / "0" / "0" / "0" / "0").unlink()
    assert len(list(Store.open(path).check("images"))) == 1
    with Store.creating(path, SOURCE, overwrite=True, repair=True) as new:
        new.write_images(iter(_images()), 70, 80)
    assert _parts(path) == before
    assert list(Store.open(path).check()) == []


def _thesis(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")


def _thesis_beside_a_part(path: Path) -> None:
    (path / "bank" / "c").mkdir(parents=True)
    (path / "thesis.txt").write_text("years of work")


def _foreign(path: Path) -> None:
    zarr.open_group(str(path), mode="w", zarr_format=3).create_array("cells", data=np.arange(3))


@pytest.mark.parametrize("make", [_thesis, _thesis_beside_a_part, _foreign, lambda path: path.write_text("years of work")])
def test_overwrite_never_replaces_something_else(path: Path, make: Callable[[Path], object]) -> None:
    make(path)
    before = {file: file.read_bytes() for file in (path, *path.rglob("*")) if file.is_file()}
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"not a store|already exists"), Store.creating(path, SOURCE, overwrite):
            pytest.fail("must not come here")
    assert {file: file.read_bytes() for file in (path, *path.rglob("*")) if file.is_file()} == before


def test_stores_in_a_folder(tmp_path: Path) -> None:
    for name in ("wood.zarr", "grid.zarr"):
        _make(tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert [found.name for found in stores_in(tmp_path)] == ["grid.zarr", "wood.zarr"]
    with pytest.raises(InputError, match=r"no store found in this folder"):
        stores_in(tmp_path / "notes")


# ---- encoder --------------------------------------------------------------------------------------------------------


def test_encoder_comes_back(path: Path) -> None:
    _make(path)
    weights = _weights(1)
    with Store.writing(path) as opened:
        digest = opened.write_encoder(weights, EncoderAttributes("flat", D, "trained", steps=7), {})
        assert opened.encoder.attributes.sha256 == digest  # the writer reads what it has just written
    again = Store.open(path)
    assert again.encoder.attributes == EncoderAttributes("flat", D, "trained", digest, steps=7)
    read = again.encoder.weights()
    assert sorted(read) == sorted(weights)
    for name, values in weights.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], values)
    assert again.encoder.training_state() == {}
    assert again.root.parts.keys() == {"encoder", "images"}
    assert _left(path) == set()


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
    _make(path)
    state = {"history": np.ones((3, 4), np.float32), "adam.enc.conv1.weight.step": np.array(3.0, np.float32)}
    with Store.writing(path) as opened:
        digest = opened.write_encoder(_weights(), IMPORTED, state)
    again = Store.open(path)
    assert digest == digest_of(_weights())  # the state is no part of the encoder
    assert sorted(again.encoder.weights()) == sorted(_weights())
    read = again.encoder.training_state()
    assert sorted(read) == sorted(state)
    for name, values in state.items():
        np.testing.assert_array_equal(read[name], values)


def test_no_encoder_yet(path: Path) -> None:
    with Store.creating(path, SOURCE) as new:
        new.write_images(iter(_images(2)), 70, 80)
    with pytest.raises(IncompleteError, match=r"no encoder yet.*run: `train\(\)`"):
        Store.open(path).encoder.weights()
    with pytest.raises(IncompleteError, match=r"no encoder yet"):
        Store.open(path).bank()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(path: Path, value: float) -> None:
    _make(path)
    _change(path, "encoder", "enc.conv1.weight", (0, 0, 0, 0), value)
    with pytest.raises(StoreError, match=r"NaN or infinity.*`overwrite`"):
        Store.open(path).encoder.weights()
    assert len(list(Store.open(path).check())) == 1


def test_weights_changed_behind_their_sha256(path: Path) -> None:
    _make(path)
    _change(path, "encoder", "enc.conv1.bias", 0, 0.25)
    with pytest.raises(StoreError, match=r"differ from their sha256.*`overwrite`"):
        Store.open(path).encoder.weights()
    assert len(list(Store.open(path).check("encoder"))) == 1


# ---- bank -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
def test_blocks_come_back(path: Path) -> None:
    _make(path)
    with Store.writing(path) as opened:
        blocks = opened.begin_blocks(GRIDS, D)
        assert (blocks.images, blocks.block, blocks.done.tolist()) == (IMAGES, 4, [0, 0, 0])
        assert [blocks.bounds(block) for block in range(3)] == [(0, 4), (4, 8), (8, 11)]
        _fill(blocks, range(3))
        blocks.check()
        for scale, grid in GRIDS.items():
            for block, (ids, vectors) in enumerate(blocks.stream(scale)):
                start, stop = blocks.bounds(block)
                np.testing.assert_array_equal(ids, np.arange(start * grid.patches, stop * grid.patches))
                np.testing.assert_array_equal(vectors, _features(block, stop - start)[scale].reshape(-1, D))
            assert block == 2
            assert len(list((_folder(path, "blocks") / scale / "features" / "c").iterdir())) == 3  # a block is a chunk
        with opened.writing_bank(GRIDS, D) as bank:
            _pages(bank)
    read = Store.open(path)
    assert (read.bank().images, read.bank().attributes.status) == (IMAGES, "complete")
    assert read.blocks() is None
    assert _left(path) == set()


def test_blocks_of_some_images_are_numbered_as_all(path: Path) -> None:
    """As `bank add` embeds the new ones alone."""
    _make(path)
    patches = GRIDS["big"].patches
    with Store.writing(path) as opened, opened.scratch_blocks(GRIDS, D, images=14, first=12) as blocks:
        assert [blocks.bounds(block) for block in range(len(blocks.done))] == [(12, 14)]
        _fill(blocks, range(1))
        ((ids, vectors),) = blocks.stream("big")
        np.testing.assert_array_equal(ids, np.arange(12 * patches, 14 * patches))
        np.testing.assert_array_equal(vectors, _features(0, 2)["big"].reshape(-1, D))
    assert _left(path) == set()


def test_pages_and_index_come_back(path: Path) -> None:
    _make(path)
    for half, dtype in ((False, np.float32), (True, np.float16)):
        with Store.writing(path) as opened, opened.writing_bank(GRIDS, D) as bank:
            _pages(bank)
            bank.begin_index("big", {"centre": np.zeros(4)})  # thinned: the pages are written a second time
            for number in range(2):
                bank.write_page("big", number, {**PAGE, "ids": PAGE["ids"] + number}, half)
            bank.write_index("big", {"low": np.ones(2)}, vectors=4, pages=2, radius=0.5)
        read = Store.open(path).bank()
        arrays, radius = read.read_index("big", ("centre", "low"))
        assert {name: values.tolist() for name, values in arrays.items()} == {"centre": [0] * 4, "low": [1, 1]}
        assert (radius, read.vectors("big")) == (0.5, 4)
        page = read.read_page("big", 1)
        assert page.keys() == PAGE.keys()
        np.testing.assert_array_equal(page["vectors"], PAGE["vectors"].astype(dtype))
        assert (page["vectors"].dtype, page["ids"].tolist()) == (dtype, [4, 2])
        assert sum(child.name.startswith("index") for child in (_folder(path, "bank") / "big").iterdir()) == 1
    with pytest.raises(StoreError, match=r"missing \(page 2 of big\); run: `embed\(overwrite\)`"):
        read.read_page("big", 2)


def test_an_index_that_was_not_finished_leaves_the_one_before(path: Path) -> None:
    _make(path)
    with Store.writing(path) as opened, opened.writing_bank(GRIDS, D) as bank:
        _pages(bank)
        bank.begin_index("big", {"centre": np.zeros(4)})
        bank.write_page("big", 0, {**PAGE, "ids": PAGE["ids"] + 5}, False)  # and no index
    assert Store.open(path).bank().read_page("big", 0)["ids"].tolist() == [3, 1]


@pytest.mark.usefixtures("small_blocks")
def test_block_of_a_wrong_shape(path: Path) -> None:
    _make(path)
    with Store.writing(path) as opened:
        blocks = opened.begin_blocks(GRIDS, D)
        with pytest.raises(ValueError, match=r"block 2 of big.*does not fit"):
            blocks.write_block(2, _features(2, 4))  # the last block has three images
        features = _features(0, 4)
        with pytest.raises(ValueError, match=r"block 0 of small.*does not fit"):
            blocks.write_block(0, {**features, "small": features["small"][:, :-1]})
        assert blocks.done.tolist() == [0, 0, 0]


@pytest.mark.usefixtures("small_blocks")
def test_a_bank_with_a_missing_block_is_not_finished(path: Path) -> None:
    _make(path)
    with Store.writing(path) as opened:
        blocks = opened.begin_blocks(GRIDS, D)
        _fill(blocks, iter([0, 2]))
        with pytest.raises(IncompleteError, match=r"blocks \[1\].*`embed\(\)`"):
            blocks.check()
    with pytest.raises(IncompleteError, match=r"half-written \(2 of 3 blocks\); run: `embed\(\)`"):
        Store.open(path).bank()
    assert list(Store.open(path).check()) == []  # unfinished is not damaged


@pytest.mark.usefixtures("small_blocks")
def test_a_bank_goes_on_with_its_own_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make(path)
    with Store.writing(path) as opened:
        _fill(opened.begin_blocks(GRIDS, D), range(1))
    monkeypatch.setattr(bank_module, "CHUNK_BYTES", 1 << 30)
    with Store.writing(path) as opened:
        again = opened.blocks()
        assert again is not None
        assert (again.block, again.done.tolist()) == (4, [1, 0, 0])
        _fill(again, range(1, 3))
        again.check()
        assert opened.begin_blocks(GRIDS, D).done.tolist() == [0]
        opened.drop_blocks()
        assert opened.blocks() is None
    assert _left(path) == set()


@pytest.mark.parametrize(
    ("seed", "attributes", "says"),
    [
        (1, {}, r"the bank belongs to encoder .*; run: `embed\(\)`"),
        # the same weights, but of another training
        (0, {"strides": {"big": 8}}, r"the bank has patches at other places than the encoder's; run: `embed\(\)`"),
    ],
)
def test_a_bank_of_another_encoder(path: Path, seed: int, attributes: dict[str, Any], says: str) -> None:
    _make(path)
    _embed(path)
    with Store.writing(path) as opened:
        opened.begin_blocks(GRIDS, D)
    _train(path, seed, **attributes)
    with pytest.raises(StoreError, match=says):
        Store.open(path).bank()
    assert Store.open(path).finished_bank() is None
    assert Store.open(path).blocks() is None


def test_no_bank_yet(path: Path) -> None:
    _make(path)
    with pytest.raises(IncompleteError, match=r"no bank yet; run: `embed\(\)`"):
        Store.open(path).bank()


@pytest.mark.usefixtures("small_blocks")
def test_a_lost_block_of_the_bank(path: Path) -> None:
    _make(path)
    with Store.writing(path) as opened:
        blocks = opened.begin_blocks(GRIDS, D)
        _fill(blocks, range(3))
        next((_folder(path, "blocks") / "small" / "features" / "c" / "1").rglob("0/0/0")).unlink()
        streamed = blocks.stream("small")
        assert next(streamed)[0][0] == 0
        with pytest.raises(StoreError, match=r"blocks: missing \(a chunk of small/features\).*`embed\(overwrite\)`"):
            next(streamed)
    assert len(list(Store.open(path).check("blocks"))) == 1


def test_the_bank_does_not_fit_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make(path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 10))  # type: ignore[attr-defined]
    says = r"the bank needs .* MB, 0 MB are free; make room.*`store`"
    with Store.writing(path) as opened, pytest.raises(StoreError, match=says):
        opened.begin_blocks(GRIDS, D)
    assert Store.open(path).root.parts.keys() == {"images", "encoder"}
    assert _left(path) == set()


def test_a_calibration_is_of_one_bank(path: Path) -> None:
    _make(path)
    _embed(path)
    with pytest.raises(IncompleteError, match=r"no calibration yet; run: `calibrate\(\)`"):
        Store.open(path).calibration  # noqa: B018
    scores = np.array([0.5, 0.25, np.pi])
    _calibrate(path, scores)
    read = Store.open(path).calibration
    np.testing.assert_array_equal(read.scores, scores)
    assert read.thresholds == _thresholds(3)
    _embed(path)  # the same again: it holds
    assert Store.open(path).calibration.thresholds == _thresholds(3)
    with Store.writing(path) as opened, opened.writing_bank(GRIDS, D) as bank:
        _pages(bank)
        bank.attributes = replace(bank.attributes, thinning=Thinning(half=True))
    with pytest.raises(StoreError, match=r"the calibration belongs to another bank; run: `calibrate\(\)`"):
        Store.open(path).calibration  # noqa: B018


# ---- damage ---------------------------------------------------------------------------------------------------------

REPAIRS = {
    "images": "extract the images again with `overwrite`",
    "encoder": "train again with `overwrite`",
    "blocks": "run: `embed(overwrite)`",
    "bank": "run: `embed(overwrite)`",
    "calibration": "run: `calibrate()`",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every part, shared: read only."""
    path = tmp_path_factory.mktemp("whole") / "weave.zarr"
    _whole(path)
    assert Store.open(path).root.parts.keys() == REPAIRS.keys()
    return path


def _read(path: Path) -> None:
    """Read all that a store holds, as the commands do."""
    opened = Store.open(path)
    opened.images.read(0, IMAGES)
    assert (len(opened.images.ids), len(opened.images.sizes), opened.images.mean.shape) == (IMAGES, IMAGES, (70, 80, 3))
    opened.encoder.weights()
    opened.encoder.training_state()
    bank = opened.bank()
    for scale in bank.scales:
        bank.read_index(scale, ("low", "centre"))
        for number in range(2):
            bank.read_page(scale, number)
    blocks = opened.blocks()
    assert blocks is not None
    blocks.check()
    for scale in blocks.scales:
        assert sum(len(ids) for ids, _ in blocks.stream(scale)) == IMAGES * GRIDS[scale].patches
    assert opened.calibration.scores.tolist() == [0.5, 0.25]
    calibration = opened.part("calibration")
    assert calibration is not None
    assert calibration.texts("id") == ["a.png", "b.png"]


def _harm(file: Path, how: str, at: int) -> None:
    content = file.read_bytes()
    if how == "lost":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[: at % len(content)])
    elif how == "zeroed":
        file.write_bytes(bytes(len(content)))
    else:
        at %= len(content)
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])


@pytest.mark.parametrize("kind", REPAIRS)
@pytest.mark.parametrize("how", ["flipped", "lost", "cut", "zeroed"])
def test_every_damaged_file_is_refused_with_its_repair(whole: Path, tmp_path: Path, kind: str, how: str) -> None:
    _read(whole)
    assert list(Store.open(whole).check()) == []
    copied = Path(shutil.copytree(whole, tmp_path / "copied"))
    rng, folder = np.random.default_rng(3), _folder(copied, kind)
    inner = {file for file in folder.rglob("zarr.json") if file.parent != folder}  # not read: the metadata is consolidated
    for file in sorted({file for file in folder.rglob("*") if file.is_file()} - inner):
        content = file.read_bytes()
        _harm(file, how, int(rng.integers(1 << 20)))
        if file.parent.parent.name == "done" and how == "lost":  # a flag that is not there: the block is embedded again
            with pytest.raises(IncompleteError):
                _read(copied)
        else:
            with pytest.raises(DamagedError) as refused:
                _read(copied)
            assert str(refused.value).startswith(f"{folder}: ")
            assert str(refused.value).endswith(f"; {REPAIRS[kind]}")
            assert list(Store.open(copied).check()) == [str(refused.value)]
        file.write_bytes(content)
    _read(copied)


@pytest.mark.parametrize("kind", REPAIRS)
def test_a_part_that_is_gone_is_refused_with_its_repair(whole: Path, tmp_path: Path, kind: str) -> None:
    copied = Path(shutil.copytree(whole, tmp_path / "copied"))
    shutil.rmtree(_folder(copied, kind))
    with pytest.raises(DamagedError, match=rf"{kind}[-0-9a-f]*: missing \(its metadata\); {re.escape(REPAIRS[kind])}"):
        _read(copied)
    (line,) = Store.open(copied).check()
    assert REPAIRS[kind] in line


def test_a_part_of_another_version_is_refused(path: Path) -> None:
    """As a copy that was made while somebody wrote may have it."""
    _make(path)
    kept = Path(shutil.copytree(_folder(path, "encoder"), path.with_name("kept")))
    _train(path, 1)
    shutil.rmtree(_folder(path, "encoder"))
    kept.rename(_folder(path, "encoder"))
    with pytest.raises(DamagedError, match=r"damaged \(its metadata\); train again with `overwrite`"):
        Store.open(path).encoder.weights()


# ---- one version ----------------------------------------------------------------------------------------------------


def test_a_reader_keeps_its_version(path: Path) -> None:
    _whole(path)
    before, reader = _parts(path), Store.open(path)
    names = {named.name for named in reader.root.parts.values()}
    bank = reader.bank()
    assert revision(path) == reader.root.revision
    _train(path, 1)
    _embed(path, seed=5)
    _embed(path, seed=6)
    _calibrate(path, np.ones(3))
    with Store.writing(path) as opened:
        with opened.editing(iter(_images(4)), "1" * 64) as edit, edit.writing_bank(GRIDS, D) as new:
            _pages(new, seed=7)
        opened.drop_blocks()
    assert revision(path) != reader.root.revision
    np.testing.assert_array_equal(reader.images.read(0, IMAGES), np.stack([pixels for *_, pixels in _images()]))
    assert digest_of(reader.encoder.weights()) == digest_of(_weights(0))
    assert bank.read_page("big", 0)["ids"].tolist() == [3, 1]
    np.testing.assert_array_equal(reader.calibration.scores, [0.5, 0.25])
    assert list(reader.check()) == []
    assert _left(path) == names  # and nothing of the versions in between

    after = Store.open(path)
    assert digest_of(after.encoder.weights()) == digest_of(_weights(1))
    assert after.bank().read_page("big", 0)["ids"].tolist() == [10, 8]
    assert after.images.shape[0] == after.bank().images == 4
    del reader
    gc.collect()
    with Store.writing(path):
        pass
    assert bank.read_page("big", 0)["ids"].tolist() == [3, 1]  # who has a part of it is a reader too
    del bank
    gc.collect()
    with Store.writing(path):
        pass
    assert _left(path) == set()
    assert _parts(path).keys() == before.keys() - {"blocks"}


def test_what_is_only_read_is_not_written(path: Path) -> None:
    _make(path)
    before = _parts(path)
    with pytest.raises(StoreError, match="open to read only"):
        Store.open(path).write_encoder(_weights(1), IMPORTED, {})
    assert (_parts(path), _left(path)) == (before, set())


def test_a_dry_run_takes_no_lock_and_leaves_all_as_it_is(path: Path) -> None:
    _make(path)
    (path / "bank-1f2e3d4c").mkdir()
    (path / ".lock").unlink()
    before = sorted(path.rglob("*"))
    observer = Observer()
    observer.dry = True
    with Store.writing(path, observer) as opened:
        assert len(opened.images) == IMAGES
    with locked(path, observer):
        pass
    assert sorted(path.rglob("*")) == before


# ---- kills ----------------------------------------------------------------------------------------------------------


def _edit(path: Path) -> None:
    with (
        Store.writing(path) as opened,
        opened.editing(iter(_images(4)), "1" * 64) as edit,
        opened.scratch_blocks(GRIDS, D, images=4, first=2) as blocks,
        edit.writing_bank(GRIDS, D) as bank,
    ):
        _fill(blocks, range(len(blocks.done)))
        _pages(bank, seed=7)


def _begin(path: Path) -> None:
    with Store.writing(path) as opened:
        opened.begin_blocks(GRIDS, D)


def _create(path: Path) -> None:
    with Store.creating(path, SOURCE, overwrite=True) as new:
        new.write_images(iter(_images(3)), 70, 80)


def _move(path: Path) -> None:
    with Store.writing(path) as opened:
        opened.update_source(replace(opened.source, root="/elsewhere"))


VERBS: dict[str, Callable[[Path], object]] = {
    "train": lambda path: _train(path, 1),
    "embed": lambda path: _embed(path, seed=5),
    "begin": _begin,
    "calibrate": lambda path: _calibrate(path, np.ones(3)),
    "edit": _edit,
    "create": _create,
    "move": _move,
}


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_of_the_root(self: Path, target: Path, _replace: Any = Path.replace) -> Path:
    if target.parent.suffix == ".zarr":
        _die()
    return cast(Path, _replace(self, target))


def _after(function: Callable[..., Any]) -> Callable[..., None]:
    def dying(*arguments: Any) -> None:
        function(*arguments)
        _die()

    return dying


# where a process dies, and whether its work is done then
MOMENTS: dict[str, tuple[tuple[Any, str, Callable[..., None]], bool]] = {
    "before a part is sealed": ((parts_module.Part, "seal", _die), False),
    "before the switch": ((root_module.Root, "write", _die), False),
    "at the rename of the root": ((Path, "replace", _die_of_the_root), False),
    "before the sweep": ((root_module.Root, "write", _after(root_module.Root.write)), True),
}


def _killed(work: Callable[[Path], object], path: Path, place: tuple[Any, str, Callable[..., None]]) -> None:
    """Do some work in a process that is killed at a place."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            setattr(*place)
            work(path)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("verb", "moment"), [both for both in product(VERBS, MOMENTS) if both != ("move", "before a part is sealed")]
)
def test_a_kill_leaves_the_old_version_or_the_new_one(whole: Path, path: Path, verb: str, moment: str) -> None:
    work, (place, done) = VERBS[verb], MOMENTS[moment]
    shutil.copytree(whole, path)
    old, old_source = _parts(path), Store.open(path).source
    expected = Path(shutil.copytree(path, path.with_name("expected")))
    work(expected)
    new, new_source = _parts(expected), Store.open(expected).source
    assert (new, new_source) != (old, old_source)

    _killed(work, path, place)
    assert (_parts(path), Store.open(path).source) == ((new, new_source) if done else (old, old_source))
    assert list(Store.open(path).check()) == []
    reader, left = Store.open(path), _left(path)
    assert left or verb == "move"  # reading does not mend
    work(path)  # the same again
    assert (_parts(path), Store.open(path).source) == (new, new_source)
    assert list(reader.check()) == []
    reader.close()
    with Store.writing(path):
        pass
    assert _left(path) == set()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_while_a_store_is_made(path: Path, moment: str) -> None:
    place, done = MOMENTS[moment]
    _killed(_create, path, place)
    assert existing(path) == done
    if not done:
        with pytest.raises(StoreError, match="no store found"):
            Store.open(path)
    with Store.creating(path, SOURCE, overwrite=done) as new:  # no --overwrite for what is no store yet
        new.write_images(iter(_images(3)), 70, 80)
    assert Store.open(path).images.shape[0] == 3
    assert _left(path) == set()


def test_what_a_switch_depends_on_is_on_disk_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _whole(path)
    synchronised, at_switch = set[Path](), list[set[Path]]()
    fsync, replace = os.fsync, Path.replace

    def noted(descriptor: int) -> None:
        synchronised.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def switched(self: Path, target: Path) -> Path:
        if target.name == "zarr.json" and target.parent == path:
            at_switch.append(set(synchronised) | {self})
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", switched)
    for work in (VERBS["train"], VERBS["calibrate"], _edit, _create):
        synchronised.clear()
        at_switch.clear()
        old = {_folder(path, kind) for kind in Store.open(path).root.parts}
        work(path)
        (before,) = at_switch
        parts = {_folder(path, kind) for kind in Store.open(path).root.parts}
        assert parts - old
        for folder in parts:
            files = {folder, *folder.rglob("*")}
            assert files.isdisjoint(before) if folder in old else files <= before
        assert path in synchronised


# ---- what is left alone ---------------------------------------------------------------------------------------------


def test_a_backup_beside_the_store_is_left_alone(path: Path) -> None:
    _make(path)
    backup = path.with_name("weave.zarr.old")  # cp -r weave.zarr weave.zarr.old
    shutil.copytree(path, backup)
    with Store.writing(path):
        pass
    assert backup.exists()
    _make(path, count=3, overwrite=True)
    assert Store.open(backup).images.shape[0] == IMAGES


def test_what_a_user_put_into_a_store_is_left_alone(path: Path) -> None:
    _make(path)
    theirs = {"bank.old", "encoder-of-monday", "notes", "bank-1f2e3d4", "bank-0f2e3d4c", "calibration", "blocks"}
    for name in theirs:
        (path / name / "deep").mkdir(parents=True)
        (path / name / "deep" / "accounts.txt").write_text("not ours")
    (path / "mine.part").write_text("not ours")
    (path / "bank-1f2e3d4d").symlink_to(path / "notes")
    (path / "bank-1f2e3d4c" / "c").mkdir(parents=True)  # ours: what a killed process left
    (path / "bank-1f2e3d4c" / "c" / "0").write_text("a chunk")
    (path / ".0a1b2c3d-123-0123456789ab.part").write_text("{")
    _train(path, 1)
    assert _left(path) == {*theirs, "mine.part", "bank-1f2e3d4d"}
    assert all((path / name / "deep" / "accounts.txt").read_text() == "not ours" for name in theirs)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "name", ["images/000.png", "images/good/000.png", "calibration/cam.json", "bank/0.npy", "mine.part", "images"]
)
def test_a_folder_with_files_of_a_user_is_not_replaced(tmp_path: Path, name: str, overwrite: bool) -> None:
    """Whatever it is called."""
    theirs = tmp_path / "project" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("not ours")
    with pytest.raises(StoreError, match="is not a store and will not be replaced" if overwrite else "already exists"):
        _make(tmp_path / "project", overwrite=overwrite)
    assert theirs.read_text() == "not ours"


def test_opening_leaves_a_folder_that_is_no_store_alone(path: Path) -> None:
    (path / "bank").mkdir(parents=True)
    (path / "bank" / "accounts.txt").write_text("not ours")
    with pytest.raises(StoreError, match="no store found"), Store.writing(path):
        pytest.fail("must not come here")
    assert (path / "bank" / "accounts.txt").read_text() == "not ours"
    assert [child.name for child in path.iterdir()] == ["bank"]


def test_opening_to_read_does_not_mend(path: Path) -> None:
    _make(path)
    (path / "bank-1f2e3d4c").mkdir()
    with pytest.raises(IncompleteError, match=r"no bank yet"):
        Store.open(path).bank()
    assert (path / "bank-1f2e3d4c").exists()
    with Store.writing(path):
        pass
    assert _left(path) == set()
