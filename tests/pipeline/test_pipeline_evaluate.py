"""evaluate: the figures against scikit-learn on the maps that score writes, and what becomes of unusable masks."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from sklearn.metrics import roc_auc_score
from smallworld import Told, World, make_store, touched, truncate, write_dataset

import patchcli
from patchcli.errors import InputError
from patchcli.pipeline.evaluate import Row


def _expected_pixel_auroc(world: World, maps: Path, left_out: tuple[str, ...] = ()) -> float:
    labels, values = [], []
    for record in patchcli.score(world.store, out=maps, observer=Told()):
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
    rows = patchcli.evaluate(world.store)
    assert [row.map for row in rows] == ["K=64", "K=32", "product"]
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
        assert 0 < row.image_auroc < 1
    assert rows[2].pixel_auroc == pytest.approx(_expected_pixel_auroc(world, tmp_path / "maps"), abs=1e-9)
    assert len({row.pixel_auroc for row in rows}) == 3


def test_a_hole_is_found_and_nothing_written(made: World) -> None:
    before = touched(made.store), touched(made.data)
    for row in patchcli.evaluate(made.store):
        assert row.image_auroc == 1
        assert row.pixel_auroc is not None
        assert row.pixel_auroc > 0.8
    assert (touched(made.store), touched(made.data)) == before


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
    single = [patchcli.evaluate(stores / name)[-1] for name in ("a.zarr", "b.zarr")]
    assert single[0].image_auroc != single[1].image_auroc
    rows = patchcli.evaluate(stores)
    assert rows[:2] == single
    assert rows[2] == Row(
        "patchcli.eval/1", "average", "product",
        pytest.approx(np.mean([row.image_auroc for row in single])),  # type: ignore[arg-type]
        pytest.approx(np.mean([row.pixel_auroc for row in single])),  # type: ignore[arg-type]
        10, 6, "", None,
    )  # fmt: skip


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
    (row,) = patchcli.evaluate(make_store(made.data, tmp_path / "flat.zarr", encoder="flat", D=8))
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
