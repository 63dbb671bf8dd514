"""Depth, orientation, masks and large images through all verbs: what a file means is the same everywhere."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from smallworld import HOLE, SIZE, Told, make_store, texture, write_plain

import patchcli
from patchcli.datasets import decoding, images
from patchcli.detection.detector import Setup
from patchcli.detection.evaluation import totals
from patchcli.errors import InputError, StoreError
from patchcli.store import Store
from patchcli.verbs.cut_patches import cut_patches
from patchcli.verbs.extraction import ImageOptions
from patchcli.verbs.outputs import Outputs

BITS = 12


def write_deep(root: Path, bits: int = BITS, orientation: int = 1, images: int = 4) -> Path:
    """A data set as MVTec AD has it, of 16-bit TIFF whose camera fills `bits`, stored as the orientation says."""
    rng = np.random.default_rng(0)
    full = 2**bits - 1

    def save(name: str, defective: bool = False) -> None:
        values = texture(rng, *SIZE).astype(np.uint32) * full // 255
        if defective:
            values[HOLE] = np.array((230, 20, 20)) * full // 255
        values[0, 0] = full
        stored = values if orientation == 1 else np.rot90(values)  # 6: turn by 90 degrees clockwise to see it upright
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tags = [(274, 3, 1, orientation, True)]
        tifffile.imwrite(path, np.ascontiguousarray(stored).astype(np.uint16), metadata=None, photometric="rgb", extratags=tags)

    for number in range(images):
        save(f"train/good/{number:03}.tif")
    save("test/good/000.tif")
    for number in range(2):
        save(f"test/hole/{number:03}.tif", True)
        mask = np.zeros(SIZE, np.uint8)
        mask[HOLE] = 1
        mask[HOLE[0], 100:105] = 255  # another class
        exif = Image.Exif()
        exif[274] = orientation
        target = root / f"ground_truth/hole/{number:03}_mask.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask if orientation == 1 else np.ascontiguousarray(np.rot90(mask))).save(target, exif=exif)
    return root


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set of 12 bits, lying on its side, and its store."""
    folder = tmp_path_factory.mktemp("deep")
    data = write_deep(folder / "weave", orientation=6)
    return data, make_store(data, folder / "weave.zarr", D=8)


def test_the_store_keeps_what_the_camera_gives(deep: tuple[Path, Path]) -> None:
    opened = Store.open(deep[1])
    assert opened.source.reader == images.Reader(BITS)
    assert opened.images.read(0, 1).dtype == np.uint16
    assert opened.images.sizes == [SIZE] * 4
    stored = opened.images.read(0, 4)
    wanted = np.stack([opened.canvas.fit(opened.source.reader.read(deep[0] / name)) for name in opened.images.ids])
    np.testing.assert_array_equal(stored, wanted)
    assert len(np.unique(stored)) > 1000
    np.testing.assert_allclose(opened.images.mean, stored.mean(axis=0) / 257, atol=0.01)


def test_eval_takes_scores_own_maps_of_images_that_are_turned(deep: tuple[Path, Path], tmp_path: Path) -> None:
    store, told = deep[1], Told()
    records = list(patchcli.score(store, outputs=Outputs(tmp_path / "maps", overlay=True), observer=told))
    own = patchcli.evaluate(store, observer=told)
    read = patchcli.evaluate(store, maps=tmp_path / "maps", observer=told)
    assert told.problems == []
    (product,), (again,) = ([row for row in totals(rows) if row.map in ("product", "maps")] for rows in (own, read))
    assert (again.image_auroc, again.pixel_auroc) == (product.image_auroc, product.pixel_auroc)
    assert (again.aupro_30, again.pixel_ap) == (product.aupro_30, product.pixel_ap)
    assert again.note == "" and again.images == 3
    assert product.pixel_auroc is not None and product.pixel_auroc > 0.9
    for record in records:
        assert tifffile.imread(str(record.map)).shape == SIZE
        assert np.asarray(Image.open(str(record.overlay))).shape == (*SIZE, 3)
    page = patchcli.write_report(store, out=tmp_path / "page.html", observer=told)
    assert page.stat().st_size > 10_000 and told.problems == []


def test_a_12_bit_and_an_8_bit_camera_give_one_score(deep: tuple[Path, Path], tmp_path: Path) -> None:
    """The same picture in all depths that a file may have, with the same store."""
    pixels = texture(np.random.default_rng(5), *SIZE)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    values = pixels.astype(np.uint32) * 4095 // 255
    tifffile.imwrite(tmp_path / "b.tif", values.astype(np.uint16), photometric="rgb")
    first, second = patchcli.score(deep[1], [tmp_path / "a.png", tmp_path / "b.tif"])
    assert second.score == pytest.approx(first.score, rel=0.05)


def test_values_above_the_depth_are_a_problem_everywhere(deep: tuple[Path, Path], tmp_path: Path) -> None:
    bright = tmp_path / "bright.tif"
    tifffile.imwrite(bright, np.full((*SIZE, 3), 4096, np.uint16), photometric="rgb")
    told = Told()
    with pytest.raises(InputError, match="no image could be scored"):
        list(patchcli.score(deep[1], [bright], observer=told))
    with pytest.raises(InputError, match="no image to add"):
        patchcli.bank_add(deep[1], [bright], observer=told)
    expected = f"{bright}: expected values up to 4095 (the good images have 12 bits), found 4096"
    assert [line.split(";")[0] for line in told.problems] == [expected] * 2


def test_depth_is_said_stated_and_refused(tmp_path: Path) -> None:
    data, store, told = write_deep(tmp_path / "weave", bits=10), tmp_path / "s.zarr", Told()
    assert patchcli.extract(data, store, ImageOptions(size=(128, 128)), observer=told).bits == 10
    assert told.notes == ["16-bit files with values up to 1023: taken as 10 bits; if the camera has more, give `bits`"]
    with pytest.raises(StoreError, match="the store's images have 10 bits, not 12"):
        patchcli.extract(data, store, ImageOptions(bits=12))
    told = Told()
    assert patchcli.extract(data, store, ImageOptions(size=(128, 128), bits=12), overwrite=True, observer=told).bits == 12
    assert told.notes == []
    assert Store.open(store).images.read(0, 1).max() < 20_000
    with pytest.raises(InputError, match="`bits`: expected 8 to 16, found 7"):
        patchcli.extract(data, tmp_path / "t.zarr", ImageOptions(bits=7))
    told = Told()
    with pytest.raises(InputError, match="expected good images, found 0 that can be read, of 4 files"):
        patchcli.extract(data, tmp_path / "t.zarr", ImageOptions(bits=8), observer=told)
    assert len(told.problems) == 4


def test_16_bit_files_of_8_bit_values_are_no_black_pictures(tmp_path: Path) -> None:
    data = write_deep(tmp_path / "weave", bits=8)
    patchcli.extract(data, tmp_path / "s.zarr", ImageOptions(size=(128, 128)), observer=Told())
    opened = Store.open(tmp_path / "s.zarr")
    assert (opened.images.read(0, 1).dtype, opened.source.reader.bits) == (np.uint8, 8)
    assert opened.images.read(0, 1).mean() > 60


def test_training_and_bank_of_deep_images(deep: tuple[Path, Path], tmp_path: Path) -> None:
    """Both ways of learning draw synthetic defects; bank add and audit read pixels of the store's depth."""
    data = write_deep(tmp_path / "weave", images=10)
    store = tmp_path / "s.zarr"
    patchcli.train(data, store, images=ImageOptions(size=(128, 128)), steps=2, D=8, batch=2, observer=Told())
    patchcli.embed(store)
    patchcli.bank_add(store, [data / "test/good/000.tif"], force=True, observer=Told())
    opened = Store.open(store)
    assert (opened.images.read(0, 1).dtype, len(opened.images)) == (np.uint16, 11)
    assert len(patchcli.audit(store)) == 11
    cut_patches(store, str(tmp_path / "patches"))
    assert Image.open(next((tmp_path / "patches").rglob("*.png"))).mode == "RGB"


def test_data_shows_depth_range_and_orientation(deep: tuple[Path, Path]) -> None:
    told = Told()
    kinds = patchcli.data(deep[0], observer=told)
    assert told.problems == []
    assert {(k.bits, k.highest, k.height, k.width) for k in kinds} == {(BITS, 4095, *SIZE)}
    assert [(k.images, k.turned, k.masks) for k in kinds] == [(4, 4, 0), (1, 1, 0), (2, 2, 2)]
    assert {k.bits for k in patchcli.data(deep[0], bits=14, observer=told)} == {14}


def test_pictures_of_nothing_are_problems(tmp_path: Path) -> None:
    write_plain(tmp_path / "good", 3)
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "good/flat.png")
    dark = np.zeros((64, 64, 3), np.uint8)
    dark[9] = 4
    Image.fromarray(dark).save(tmp_path / "good/dark.png")
    told = Told()
    (kind,) = patchcli.data(tmp_path / "good", observer=told)
    assert (kind.images, kind.unreadable) == (5, 0)
    assert sorted(line.split("/")[-1] for line in told.problems) == [
        "dark.png: nearly black, no value is above 4 of 255; check the exposure, or state the camera's depth with `bits`",
        "flat.png: all pixels have the value 9; expected a picture",
    ]


def test_what_is_not_read_of_many_files_is_two_notes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "good").mkdir()
    for number in range(4):
        with tifffile.TiffWriter(tmp_path / f"good/{number}.tif") as tiff:
            for side in (64, 128):
                tiff.write(texture(rng, side, side), photometric="rgb", metadata=None)
    told = Told()
    patchcli.extract(tmp_path / "good", tmp_path / "s.zarr", ImageOptions(size=(128, 128)), observer=told)
    line = "2 pages; only page 2, the largest, is read"
    assert told.notes == [f"{tmp_path}/good/0.tif: {line}", f"3 other images: {line}"]
    assert Store.open(tmp_path / "s.zarr").images.sizes == [(128, 128)] * 4


def test_another_aspect_ratio_is_one_note(made: object, tmp_path: Path) -> None:
    wide = write_plain(tmp_path / "wide", 3, (100, 300))
    for size, count in (((128, 128), 2), ("fit:128x128", 0), ((100, 300), 0)):
        told = Told()
        patchcli.extract(wide, tmp_path / "s.zarr", ImageOptions(size=size), overwrite=True, observer=told)
        assert len(told.notes) == count
    told = Told()
    list(patchcli.score(made.store, [wide], observer=told))  # type: ignore[attr-defined]
    line = 'stretched, and no good image has its aspect ratio; extract with `size="fit:HxW"` to keep it'
    stretched = [note for note in told.notes if "no verdicts" not in note]
    assert stretched == [f"{wide}/000.png: {line}", f"2 other images: {line}"]


def test_large_images_are_read_when_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, store = write_plain(tmp_path / "good", 3), tmp_path / "s.zarr"
    monkeypatch.setattr(decoding, "LIMIT", 1000)
    told = Told()
    with pytest.raises(InputError):
        patchcli.train(data, store, images=ImageOptions(size=(128, 128)), steps=0, D=8, observer=told)
    assert all("more than 0 megapixels; if that is right, give `large`" in line for line in told.problems)
    told = Told()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patchcli.train(data, store, images=ImageOptions(size=(128, 128), large=True), steps=0, D=8, observer=told)
        patchcli.embed(store)
        assert len(list(patchcli.score(store, [data], observer=told))) == 3  # the store remembers
    assert told.problems == []


def test_a_jpeg_region_of_interest_is_what_was_drawn(made: object, tmp_path: Path) -> None:
    drawn = np.zeros(SIZE, np.uint8)
    drawn[20:90, 30:100] = 255
    Image.fromarray(drawn).save(tmp_path / "roi.jpg", quality=70)
    Image.fromarray(drawn).save(tmp_path / "roi.png")
    image = made.data / "test/hole/000.png"  # type: ignore[attr-defined]
    one, two = (
        next(
            patchcli.score(made.store, [image], outputs=Outputs(tmp_path / f"maps of {name}"), setup=Setup(roi=tmp_path / name))
        )  # type: ignore[attr-defined]
        for name in ("roi.jpg", "roi.png")
    )
    assert one.score == two.score
    inside = [(tifffile.imread(str(record.map)) > 0).sum() for record in (one, two)]
    assert abs(inside[0] - inside[1]) <= 0.01 * inside[1]
