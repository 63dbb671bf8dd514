"""extract: which images a store takes, and when it is left as it is."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from smallworld import SIZE, Told, World, save, texture, touched, tree, truncate, write_plain

import patchcli
from patchcli.datasets import images
from patchcli.errors import InputError, StoreError
from patchcli.store import Store
from patchcli.verbs.extraction import ImageOptions


def test_images_ids_sizes_and_mean(world: World, tmp_path: Path) -> None:
    save(world.data / "train" / "good" / "größe 漢.png", texture(np.random.default_rng(5), 90, 200))
    Image.new("L", (100, 70), 77).save(world.data / "train" / "good" / "010.bmp")
    before = touched(world.data)
    found = patchcli.extract(world.data, tmp_path / "s.zarr", ImageOptions(size=(96, 80)))
    assert (found.images, found.height, found.width, found.fresh) == (12, 96, 80, True)
    assert touched(world.data) == before
    store = Store.open(tmp_path / "s.zarr")
    numbered = [f"train/good/{i:03}.png" for i in range(10)]
    assert store.images.ids == [*numbered, "train/good/010.bmp", "train/good/größe 漢.png"]
    assert store.images.sizes == [SIZE] * 10 + [(70, 100), (90, 200)]
    expected = np.stack([images.resize(images.Reader().read(world.data / name), 96, 80) for name in store.images.ids])
    np.testing.assert_array_equal(store.images.read(0, 12), expected)
    np.testing.assert_allclose(store.images.mean, expected.mean(axis=0), rtol=1e-5)
    assert store.source.layout == "mvtec"
    assert store.source.category == "weave"
    assert store.source.root == str(world.data)


def test_the_default_size(tmp_path: Path) -> None:
    data = write_plain(tmp_path / "good", 2, (64, 64))
    found = patchcli.extract(data, tmp_path / "s.zarr")
    assert (found.height, found.width) == (128, 128)  # enlarged to what training needs, no more


def test_the_same_images_again(world: World) -> None:
    before = touched(world.store)
    assert patchcli.extract(world.data, world.store).fresh is False
    assert patchcli.extract(world.data, world.store, ImageOptions(size=(128, 128)), overwrite=True).fresh is False
    assert touched(world.store) == before


def test_the_store_follows_a_moved_data_set(world: World) -> None:
    before = tree(world.store)
    moved = world.data.rename(world.data.with_name("moved"))
    assert patchcli.extract(moved, world.store).fresh is False
    assert Store.open(world.store).source.root == str(moved)
    changed = {name for name, digest in tree(world.store).items() if before[name] != digest}
    assert changed == {"zarr.json"}  # images, encoder and bank stay
    assert len(list(patchcli.score(world.store))) == 5


def test_changed_images_are_another_data_set(world: World) -> None:
    save(world.data / "train" / "good" / "003.png", texture(np.random.default_rng(9), *SIZE))
    before = tree(world.store)
    with pytest.raises(StoreError, match=r"not \(or no longer\).*`store`.*`overwrite`"):
        patchcli.extract(world.data, world.store)
    assert tree(world.store) == before
    assert patchcli.extract(world.data, world.store, ImageOptions(size=(128, 128)), overwrite=True).fresh
    assert not Store.open(world.store).holds("encoder")  # learned from the images that are gone


def test_another_size_is_not_the_same(kept: World) -> None:
    with pytest.raises(StoreError, match=r"128x128 \(height x width\), not 128x96.*`store`.*`overwrite`"):
        patchcli.extract(kept.data, kept.store, ImageOptions(size=(128, 96)))


def test_a_test_image_is_no_training_image(world: World) -> None:
    manifest = Store.open(world.store).source.manifest
    for name in ("test", "ground_truth"):
        shutil.rmtree(world.data / name)
    assert patchcli.extract(world.data, world.store).fresh is False
    assert Store.open(world.store).source.manifest == manifest


def test_unreadable_images_are_left_out(world: World, tmp_path: Path) -> None:
    truncate(world.data / "train" / "good" / "002.png")
    (world.data / "train" / "good" / "005.png").write_text("no image")
    told = Told()
    found = patchcli.extract(world.data, tmp_path / "s.zarr", ImageOptions(size=(128, 128)), observer=told)
    assert found.images == 8
    assert [problem.split(": ")[0] for problem in told.problems] == [
        str(world.data / "train" / "good" / name) for name in ("002.png", "005.png")
    ]
    store = Store.open(tmp_path / "s.zarr")
    assert [name[-7:] for name in store.images.ids] == [f"{i:03}.png" for i in (0, 1, 3, 4, 6, 7, 8, 9)]
    np.testing.assert_allclose(store.images.mean, store.images.read(0, 8).mean(axis=0), rtol=1e-5)
    assert told.progressed[-1] == ("extract", 10, 10)


def test_a_library_user_is_warned(tmp_path: Path) -> None:
    data = write_plain(tmp_path / "good", 3)
    truncate(data / "001.png")
    with pytest.warns(UserWarning, match=r"001\.png: cannot be decoded"):
        patchcli.extract(data, tmp_path / "s.zarr", ImageOptions(size=(64, 64)))


def test_no_image_is_not_enough(tmp_path: Path) -> None:
    data = write_plain(tmp_path / "good", 1)
    truncate(data / "000.png")
    with pytest.raises(InputError, match=r"expected good images, found 0 that can be read, of 1 files"):
        patchcli.extract(data, tmp_path / "s.zarr", ImageOptions(size=(64, 64)), observer=Told())
    assert [child.name for child in tmp_path.iterdir()] == ["good"]


def test_a_failed_overwrite_keeps_the_store(kept: World, tmp_path: Path) -> None:
    data = write_plain(tmp_path / "one", 1)
    truncate(data / "000.png")
    with pytest.raises(InputError, match=r"found 0 that can be read, of 1 files"):
        patchcli.extract(data, kept.store, overwrite=True, observer=Told())


# ---- the images' own size -------------------------------------------------------------------------------------------


def test_native_images_are_as_they_are(tmp_path: Path) -> None:
    data = write_plain(tmp_path / "good", 3, (150, 200))
    (tmp_path / "good" / "broken.png").write_bytes(b"no image")
    found = patchcli.extract(data, tmp_path / "s.zarr", ImageOptions(size="native"), observer=Told())
    assert (found.height, found.width) == (150, 200)
    stored = Store.open(tmp_path / "s.zarr").images.read(0, 1)[0]
    np.testing.assert_array_equal(stored, images.Reader().read(data / "000.png"))
    assert not patchcli.extract(data, tmp_path / "s.zarr", ImageOptions(size="native"), observer=Told()).fresh


@pytest.mark.parametrize(("size", "expected"), [("keep:96", (96, 128)), ("keep:150", (150, 200)), ("keep:301", (301, 401))])
def test_the_aspect_ratio_is_kept(tmp_path: Path, size: str, expected: tuple[int, int]) -> None:
    data = write_plain(tmp_path / "good", 2, (150, 200))
    write_plain(tmp_path / "good" / "half", 1, (75, 100))
    found = patchcli.extract(data, tmp_path / "s.zarr", ImageOptions(size=size))
    assert (found.height, found.width) == expected


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("native", "`size` native: expected good images of one size, found 2 of 3 have 150x200 .*; give `size=fit:HEIGHTx"),
        ("keep:128", "`size` keep:128: expected good images of one aspect ratio, found 2 of 3 have 150x200"),
        ("keep:40", "`size`: expected at least 64x64"),
    ],
)
def test_images_that_are_not_alike(tmp_path: Path, size: str, says: str) -> None:
    data = write_plain(tmp_path / "good", 2, (150, 200))
    if size != "keep:40":
        write_plain(tmp_path / "good" / "other", 1, (90, 200))
    with pytest.raises(InputError, match=says):
        patchcli.extract(data, tmp_path / "s.zarr", ImageOptions(size=size))
    assert not (tmp_path / "s.zarr").exists()


# ---- images of any shape, with their aspect ratio -------------------------------------------------------------------


def test_images_of_any_shape_fit(tmp_path: Path) -> None:
    data = write_plain(tmp_path / "good", 1, (150, 200))
    write_plain(data / "tall", 1, (400, 100))
    write_plain(data / "tiny", 1, (40, 33))
    found = patchcli.extract(data, tmp_path / "s.zarr", ImageOptions(size="fit:96x128"))
    store = Store.open(tmp_path / "s.zarr")
    assert (found.height, found.width, store.canvas.keeps_aspect) == (96, 128, True)
    assert [store.canvas.covered(*map(int, size)) for size in store.images.sizes] == [(96, 128), (96, 24), (96, 79)]
    tall = store.images.read(1, 2)[0]
    np.testing.assert_array_equal(tall[:, :24], images.resize(images.Reader().read(data / "tall" / "000.png"), 96, 24))
    np.testing.assert_array_equal(tall[:, 24:48], tall[:, 23::-1])  # mirrored, and mirrored again
    np.testing.assert_array_equal(tall[:, 48:72], tall[:, :24])
    assert not patchcli.extract(data, tmp_path / "s.zarr", ImageOptions(size="fit:96x128")).fresh
    with pytest.raises(StoreError, match=r"images are 96x128 \(fitted into\), not 96x128 \(height x width\)"):
        patchcli.extract(data, tmp_path / "s.zarr", ImageOptions(size=(96, 128)))


@given(st.integers(32, 5000), st.integers(32, 5000), st.integers(64, 600), st.integers(64, 600))
def test_a_fitted_image_keeps_its_aspect_ratio(height: int, width: int, canvas_height: int, canvas_width: int) -> None:
    covered = images.Canvas(canvas_height, canvas_width, True).covered(height, width)
    assert covered[0] == canvas_height or covered[1] == canvas_width
    assert 1 <= covered[0] <= canvas_height and 1 <= covered[1] <= canvas_width
    scale = covered[0] / height if covered[0] == canvas_height else covered[1] / width
    other = covered[1] - width * scale if covered[0] == canvas_height else covered[0] - height * scale
    assert abs(other) <= 0.5 + 1e-9 or 1 in covered or covered == (canvas_height, canvas_width)
    assert images.Canvas(canvas_height, canvas_width).covered(height, width) == (canvas_height, canvas_width)


@pytest.mark.parametrize("size", ["", "x", "fit:", "fit:native", "12x12x12", "keep:", "keep:64x64", "fit:96x-128", "1e3"])
def test_sizes_that_are_none(tmp_path: Path, size: str) -> None:
    data = write_plain(tmp_path / "good", 2)
    with pytest.raises(InputError, match=r"`size`: expected 256, 256x320 \(height x width\), fit:256x320, keep:256 or native"):
        patchcli.extract(data, tmp_path / "s.zarr", ImageOptions(size=size))
