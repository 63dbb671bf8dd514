"""evaluate: the figures against scikit-learn on the maps that score writes, and what becomes of unusable masks."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from smallworld import HOLE, WORKING, Told, World, make_store, touched, truncate, write_dataset

import patchcli
from patchcli.detection.evaluation import FIGURES, totals
from patchcli.errors import InputError
from patchcli.verbs.extraction import ImageOptions
from patchcli.verbs.outputs import Outputs, description

CALIBRATED = {"image_recall", "image_false_alarms"}  # None without a calibration


def _expected_pixel_auroc(world: World, maps: Path, left_out: tuple[str, ...] = ()) -> float:
    labels, values = [], []
    for record in patchcli.score(world.store, outputs=Outputs(maps), observer=Told()):
        written = tifffile.imread(str(record.map))
        mask = np.zeros(written.shape, bool)
        if "hole" in record.image:
            if record.image in left_out:
                continue
            path = world.data / record.image.replace("test", "ground_truth").replace(".png", "_mask.png")
            mask = np.asarray(Image.open(path)) > 0
        labels.append(mask.ravel())
        values.append(written.ravel())
    return float(roc_auc_score(np.concatenate(labels), np.concatenate(values)))


def _swap_labels(data: Path) -> None:
    """Make the two kinds overlap, so that AUROC is not 1: a hole among the good, a good one among the holes."""
    hole, good = data / "test" / "hole" / "000.png", data / "test" / "good" / "000.png"
    hole_bytes, good_bytes = hole.read_bytes(), good.read_bytes()
    hole.write_bytes(good_bytes)
    good.write_bytes(hole_bytes)


def test_a_row_a_map_and_figures_as_of_scikit_learn(world: World, tmp_path: Path) -> None:
    _swap_labels(world.data)
    *rows, last = patchcli.evaluate(world.store)
    assert [(row.map, row.kind) for row in rows] == [("K=64", None), ("K=32", None), ("product", None)]
    assert last == replace(rows[2], kind="hole")  # the only kind there is
    records = list(patchcli.score(world.store))
    labels = ["hole" in record.image for record in records]
    scores = [
        [record.score_big for record in records],
        [record.score_small for record in records],
        [record.score for record in records],
    ]
    for row, column in zip(rows, scores, strict=True):
        assert (row.schema, row.category, row.images, row.defective) == ("patchcli.eval/1", "weave", 5, 3)
        assert row.encoder == records[0].encoder
        assert row.note == ""
        assert row.image_auroc == pytest.approx(roc_auc_score(labels, column))
        assert row.image_ap == pytest.approx(average_precision_score(labels, column))
        assert row.image_f1max_oracle is not None
        assert row.image_auroc_low is not None
        assert row.image_auroc_high is not None
        assert 0 <= row.image_auroc_low <= row.image_auroc <= row.image_auroc_high <= 1
        assert 0 < row.image_auroc < 1
    assert rows[2].pixel_auroc == pytest.approx(_expected_pixel_auroc(world, tmp_path / "maps"), abs=1e-9)
    assert len({(row.pixel_auroc, row.pixel_ap, row.pixel_f1max_oracle, row.aupro_30, row.aupro_05) for row in rows}) == 3
    assert all(row.pixel_auroc_low <= row.pixel_auroc <= row.pixel_auroc_high for row in rows)  # type: ignore[operator]


def test_a_hole_is_found_and_nothing_written(made: World) -> None:
    before = touched(made.store), touched(made.data)
    for row in patchcli.evaluate(made.store):
        assert row.image_auroc == 1
        assert row.pixel_auroc is not None
        assert row.pixel_auroc > 0.8
    assert (touched(made.store), touched(made.data)) == before


def test_maps_on_disk_give_the_image_figures_of_scoring(world: World, tmp_path: Path) -> None:
    """A map at the image's size may have another maximum than at the working size, which it says."""
    _swap_labels(world.data)
    records = list(patchcli.score(world.store, outputs=Outputs(tmp_path / "maps"), observer=Told()))
    for path in (tmp_path / "maps").rglob("*.tiff"):
        written = description(path)
        assert written["score"] == next(record.score for record in records if record.id == written["id"])
        tifffile.imwrite(path, 1 / (1 + tifffile.imread(path)), description=json.dumps(written), metadata=None)
    scored, maps = (patchcli.evaluate(world.store, maps=folder, observer=Told()) for folder in (None, tmp_path / "maps"))
    product = next(row for row in scored if row.map == "product" and row.kind is None)
    image_figures = [name for name in FIGURES if name.startswith("image") and name not in CALIBRATED]
    assert [getattr(maps[0], name) for name in image_figures] == [getattr(product, name) for name in image_figures]
    assert maps[0].pixel_auroc != product.pixel_auroc


@pytest.mark.parametrize("way", ["copy", "added"])
def test_test_images_in_the_bank_are_worth_a_note(world: World, way: str) -> None:
    told, good = Told(), world.data / "test" / "good"
    patchcli.evaluate(world.store, observer=told)
    assert told.notes == []
    if way == "copy":
        shutil.copy(world.data / "train" / "good" / "002.png", good / "900.png")
    else:
        patchcli.bank_add(world.store, good / "000.png", force=True, observer=Told())
    patchcli.evaluate(world.store, observer=told)
    (note,) = told.notes
    assert note.startswith(f"1 of {5 + (way == 'copy')} test images are in the bank (first: ")
    assert note.endswith("which says nothing of the figures; see: `audit()`")


def test_no_masks(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "weave", masks=False)
    told = Told()
    rows = patchcli.evaluate(make_store(data, tmp_path / "s.zarr", encoder="flat", D=8), observer=told)
    assert told.problems == []
    for row in rows:
        assert row.pixel_auroc is None
        assert row.image_auroc == 1
        assert row.note.startswith("pixel AUROC needs masks")


def test_only_good_or_only_defective_images(world: World) -> None:
    shutil.move(world.data / "test" / "good", world.data.with_name("good"))
    for row in patchcli.evaluate(world.store):
        assert row.image_auroc is None
        assert row.pixel_auroc is not None
        assert row.note.startswith("image AUROC needs good and defective images")
        assert "pixel AUROC" not in row.note
    shutil.move(world.data.with_name("good"), world.data / "test" / "good")
    shutil.rmtree(world.data / "test" / "hole")
    shutil.rmtree(world.data / "ground_truth")
    for row in patchcli.evaluate(world.store):
        assert row.image_auroc is row.pixel_auroc is None
        assert row.note.startswith("image AUROC needs good and defective images")
        assert "pixel AUROC needs defective images" in row.note


@pytest.mark.parametrize("kind", ["size", "empty", "cut"])
def test_a_mask_that_cannot_be_used(world: World, tmp_path: Path, kind: str) -> None:
    mask = world.data / "ground_truth" / "hole" / "001_mask.png"
    if kind == "cut":
        truncate(mask)
    else:
        pixels = np.full((20, 30), 255, np.uint8) if kind == "size" else np.zeros((140, 160), np.uint8)
        Image.fromarray(pixels).save(mask)
    told = Told()
    rows = patchcli.evaluate(world.store, observer=told)
    says = {
        "size": "expected a mask of the image's size, found 30x20, its image has 160x140",
        "empty": "mask of a defective image is empty; its pixels are left out",
        "cut": "mask cannot be decoded",
    }
    (problem,) = told.problems
    assert problem.startswith(f"{mask}: {says[kind]}")
    expected = _expected_pixel_auroc(world, tmp_path / "maps", left_out=("test/hole/001.png",))
    assert rows[2].pixel_auroc == pytest.approx(expected, abs=1e-9)
    assert (rows[2].images, rows[2].defective, rows[2].image_auroc) == (5, 3, 1)
    assert rows[2].note == "1 of 3 defective images have no usable mask, left out of pixel AUROC"


def test_a_mask_written_as_0_and_1(world: World) -> None:
    expected = patchcli.evaluate(world.store)
    for path in (world.data / "ground_truth" / "hole").iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray((mask > 0).astype(np.uint8)).save(path)
    assert patchcli.evaluate(world.store) == expected


def test_a_folder_of_stores(made: World, tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    stores.mkdir()
    shutil.copytree(made.store, stores / "b.zarr")
    other = write_dataset(tmp_path / "other", images=3, seed=7)
    _swap_labels(other)
    make_store(other, stores / "a.zarr", encoder="flat", D=8)
    single = [totals(patchcli.evaluate(stores / name))[-1] for name in ("a.zarr", "b.zarr")]
    assert single[0].image_auroc != single[1].image_auroc
    rows = patchcli.evaluate(stores)
    assert rows[:2] == single
    average = rows[2]
    assert (average.schema, average.category, average.map, average.kind) == ("patchcli.eval/1", "average", "product", None)
    assert (average.images, average.defective, average.note, average.encoder) == (10, 6, "", None)
    for name in FIGURES:
        if name.endswith(("_low", "_high")) or name in CALIBRATED:
            assert getattr(average, name) is None
        else:
            assert getattr(average, name) == pytest.approx(np.mean([getattr(row, name) for row in single]))


def test_the_average_says_what_it_lacks(made: World, tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    stores.mkdir()
    shutil.copytree(made.store, stores / "b.zarr")
    make_store(write_dataset(tmp_path / "other", images=3, masks=False), stores / "a.zarr", encoder="flat", D=8)
    rows = patchcli.evaluate(stores)
    assert rows[0].pixel_auroc is None
    assert rows[2].pixel_auroc == rows[1].pixel_auroc
    assert rows[2].note == "1 of 2 classes lack a figure"


def test_the_flat_encoder_has_one_row(made: World, tmp_path: Path) -> None:
    row, kind = patchcli.evaluate(make_store(made.data, tmp_path / "flat.zarr", encoder="flat", D=8))
    assert (row.kind, kind.kind, kind.map) == (None, "hole", "flat K=64")
    assert row.map == "flat K=64"
    assert row.image_auroc is not None
    assert row.pixel_auroc is not None


def test_nothing_to_evaluate(world: World, tmp_path: Path) -> None:
    for path in (world.data / "test").rglob("*.png"):
        truncate(path)
    told = Told()
    with pytest.raises(InputError, match=r"no test image could be read"):
        patchcli.evaluate(world.store, observer=told)
    assert len(told.problems) == 5
    shutil.rmtree(world.data / "test")
    shutil.rmtree(world.data / "ground_truth")
    with pytest.raises(InputError, match=r"no test images there; expected test/good and test/<kind of defect>"):
        patchcli.evaluate(world.store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no store found in this folder"):
        patchcli.evaluate(tmp_path / "empty")


# ---- kinds of defects -----------------------------------------------------------------------------------------------


def test_each_kind_against_all_good_images(world: World) -> None:
    """The row of a kind is what a data set with the other kinds taken away gives."""
    for folder in ("test", "ground_truth"):
        (world.data / folder / "cut").mkdir()
        for path in (world.data / folder / "hole").glob("002*"):
            path.rename(world.data / folder / "cut" / path.name)
    _swap_labels(world.data)
    rows = patchcli.evaluate(world.store)
    assert [(row.map, row.kind) for row in rows[2:]] == [("product", None), ("product", "cut"), ("product", "hole")]
    assert [(row.images, row.defective) for row in rows[2:]] == [(5, 3), (3, 1), (4, 2)]
    assert len({row.pixel_auroc for row in rows[2:]}) == len({row.aupro_30 for row in rows[2:]}) == 3
    shutil.rmtree(world.data / "test" / "cut")
    shutil.rmtree(world.data / "ground_truth" / "cut")
    assert replace(patchcli.evaluate(world.store)[2], kind="hole") == rows[4]


# ---- maps on disk ---------------------------------------------------------------------------------------------------


def test_maps_that_score_wrote(world: World, tmp_path: Path) -> None:
    _swap_labels(world.data)
    (world.data / "test" / "hole" / "000.png").rename(world.data / "test" / "hole" / "001.jpg")  # beside 001.png
    (world.data / "ground_truth" / "hole" / "000_mask.png").unlink()
    fresh = patchcli.evaluate(world.store, observer=Told())
    records = list(patchcli.score(world.store, outputs=Outputs(tmp_path / "maps", overlay=True), observer=Told()))
    assert any(str(record.map).endswith("001.png.tiff") for record in records)
    bare = tmp_path / "bare.zarr"  # no encoder is needed
    patchcli.extract(world.data, bare, ImageOptions(size=WORKING), observer=Told())
    before = touched(bare), touched(tmp_path / "maps")
    told = Told()
    rows = patchcli.evaluate(bare, maps=tmp_path / "maps", observer=told)
    assert (touched(bare), touched(tmp_path / "maps")) == before
    assert not any(" map" in problem for problem in told.problems)
    for row, product in zip(rows, fresh[2:], strict=True):
        assert (row.map, row.encoder) == ("maps", records[0].encoder)
        image_figures = [name for name in FIGURES if name.startswith("image")]  # the maximum, after resizing or before
        neutral = dict.fromkeys(image_figures)
        assert replace(row, map="product", **neutral) == replace(product, **neutral)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".png"])
def test_maps_of_another_tool(world: World, tmp_path: Path, suffix: str) -> None:
    """Of another size and number type; the figures are those of the map brought to the mask's size."""
    rng = np.random.default_rng(0)
    labels, values, scores = [], [], []
    for path in sorted((world.data / "test").rglob("*.png")):
        made = (rng.random((35, 40)) * 50000).astype(np.uint16)
        made[12:20, 15:25] += 9000 * (path.parent.name == "hole")
        target = (tmp_path / "maps" / "test" / path.parent.name / path.name).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npy":
            np.save(target, made[None].astype(np.float64))
        elif suffix == ".tif":
            tifffile.imwrite(target, made)
        else:
            Image.fromarray(made).save(target)
        size = Image.open(path).size
        mask = np.zeros(size[::-1], bool)
        if path.parent.name == "hole":
            mask[HOLE] = True
        resized = Image.fromarray(made.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        labels.append(mask.ravel())
        values.append(np.asarray(resized).ravel())
        scores.append(float(made.max()))
    row, _ = patchcli.evaluate(world.store, maps=tmp_path / "maps")
    assert row.pixel_auroc == pytest.approx(roc_auc_score(np.concatenate(labels), np.concatenate(values)), abs=1e-9)
    assert row.image_auroc == pytest.approx(roc_auc_score([False, False, True, True, True], scores))
    assert (row.map, row.encoder, row.images, row.note) == ("maps", None, 5, "")


def test_maps_that_cannot_be_used(world: World, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    list(patchcli.score(world.store, outputs=Outputs(maps)))
    hole, good = maps / "test" / "hole", maps / "test" / "good"
    (hole / "000.tiff").unlink()
    (hole / "001.tiff").write_text("no map")
    tifffile.imwrite(good / "001.tiff", np.full((140, 160), np.nan, np.float32))
    told = Told()
    row, _ = patchcli.evaluate(world.store, maps=maps, observer=told)
    assert (row.images, row.defective) == (2, 1)
    says = [
        f"{good}/001.tiff: expected a map of finite numbers",
        f"test/hole/000.png: no map; expected {hole}/000 with one of .tiff, .tif, .npy, .png",
        f"{hole}/001.tiff: map cannot be read",
    ]
    assert [problem.startswith(start) for problem, start in zip(told.problems, says, strict=True)] == [True] * 3
    shutil.rmtree(maps / "test")
    with pytest.raises(InputError, match=r"no map of a test image could be used from"):
        patchcli.evaluate(world.store, maps=maps, observer=Told())
    with pytest.raises(InputError, match=r"`maps` .*: no such folder"):
        patchcli.evaluate(world.store, maps=tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"`maps` .*: is the data set's own folder"):
        patchcli.evaluate(world.store, maps=world.data)


def test_maps_of_many_classes(made: World, tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    stores.mkdir()
    shutil.copytree(made.store, stores / "a.zarr")
    list(patchcli.score(made.store, outputs=Outputs(tmp_path / "maps" / "weave")))
    row, average = patchcli.evaluate(stores, maps=tmp_path / "maps")
    assert row == patchcli.evaluate(made.store, maps=tmp_path / "maps" / "weave")[0]
    assert (average.category, average.map, average.pixel_auroc) == ("average", "maps", row.pixel_auroc)


# ---- numbers for other programs -------------------------------------------------------------------------------------


def test_all_numbers_as_one_object(made: World, tmp_path: Path) -> None:
    out = tmp_path / "new" / "metrics.json"
    rows = patchcli.evaluate(made.store, metrics_out=out)
    assert [path.name for path in out.parent.iterdir()] == ["metrics.json"]
    found = json.loads(out.read_text())
    assert list(found) == ["weave"]
    assert list(found["weave"]) == ["K=64", "K=32", "product"]
    for row in rows:
        figures = found["weave"][row.map] if row.kind is None else found["weave"][row.map]["kinds"][row.kind]
        for name in (*FIGURES, "images", "defective"):
            assert figures.get(name) == getattr(row, name)
        assert not CALIBRATED & figures.keys()

    def leaves(value: object) -> list[object]:
        return [leaf for child in value.values() for leaf in leaves(child)] if isinstance(value, dict) else [value]

    assert {type(leaf) for leaf in leaves(found)} == {int, float}


def test_numbers_leave_out_what_is_missing_and_keep_all_stores(made: World, tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    stores.mkdir()
    for name in ("a.zarr", "b.zarr"):
        shutil.copytree(made.store, stores / name)
    patchcli.evaluate(stores, metrics_out=tmp_path / "m.json")
    found = json.loads((tmp_path / "m.json").read_text())
    assert list(found) == ["weave", "weave 2", "average"]
    assert found["weave"] == found["weave 2"]
    assert "image_auroc_low" in found["weave"]["product"]
    assert "image_auroc_low" not in found["average"]["product"]
    for name in ("metrics.yaml", "stores"):
        with pytest.raises(InputError, match=r"expected the name of a \.json file"):
            patchcli.evaluate(stores, metrics_out=tmp_path / name)
