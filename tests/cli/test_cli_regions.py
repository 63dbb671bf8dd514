"""score --regions, --min-area, --mm-per-pixel and --roi, calibrate --roi, and eval's recall, as commands."""

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from commands import done, records, refused, run
from PIL import Image
from smallworld import HOLE, SIZE, World, copy_of, write_plain


@pytest.fixture(scope="module")
def calibrated(made: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with a calibration, shared: read only but for what a test calibrates anew."""
    folder = tmp_path_factory.mktemp("regions")
    copied = copy_of(made, folder)
    write_plain(folder / "more", 12, seed=7)
    done("calibrate", "--store", copied.store, "--from", folder / "more", "--false-alarms", "25%")
    return copied


@pytest.fixture
def roi(tmp_path: Path) -> Path:
    """All but the right half, where the hole ends."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:, :70] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    return tmp_path / "roi.png"


def test_regions_of_a_record_and_of_the_files(calibrated: World, tmp_path: Path) -> None:
    hole = calibrated.data / "test" / "hole" / "000.png"
    arguments = ("score", hole, "--store", calibrated.store, "--mm-per-pixel", "0.5", "--out", tmp_path / "maps")
    (record,) = records(done(*arguments, "--regions", tmp_path / "r.csv"))
    first = record["regions"][0]
    values = tifffile.imread(record["map"])
    assert (first["peak"], first["peak_x"]) == (values.max(), np.unravel_index(values.argmax(), values.shape)[1])
    rows, columns = HOLE
    assert first["x"] < columns.stop and first["x"] + first["width"] > columns.start
    assert first["y"] < rows.stop and first["y"] + first["height"] > rows.start
    assert first["area_mm2"] == first["area"] / 4
    with (tmp_path / "r.csv").open(newline="") as file:
        assert [int(row["area"]) for row in csv.DictReader(file)] == [region["area"] for region in record["regions"]]
    (bounded,) = records(done(*arguments, "--min-area", first["area"] + 1))
    assert first not in bounded["regions"]
    assert bounded["verdict"] == record["verdict"] == "reject"


def test_outside_of_the_region_of_interest_nothing_counts(calibrated: World, roi: Path, tmp_path: Path) -> None:
    hole = calibrated.data / "test" / "hole" / "000.png"
    arguments = ("score", hole, "--store", calibrated.store, "--out", tmp_path / "maps")
    (whole,) = records(done(*arguments))
    (part,) = records(done(*arguments, "--roi", roi))
    assert part["score"] <= whole["score"]
    assert part["peak_x"] < 70
    values = tifffile.imread(part["map"])
    assert values[:, 70:].max() == 0 < values[:, :70].max()
    assert all(region["x"] + region["width"] <= 70 for region in part["regions"])


def test_a_calibration_of_a_region_of_interest_is_for_that_one(world: World, roi: Path, tmp_path: Path) -> None:
    write_plain(tmp_path / "more", 12, seed=7)
    store = ("--store", world.store)
    done("calibrate", *store, "--from", tmp_path / "more", "--false-alarms", "25%", "--roi", roi)
    assert all(record["verdict"] for record in records(done("score", *store, "--roi", roi, world.data / "test" / "good")))
    result = done("score", *store, world.data / "test" / "good")
    assert {record["verdict"] for record in records(result)} == {None}
    assert "no verdicts: the thresholds hold for another region of interest" in result.stderr


def test_eval_of_a_region_of_interest_is_that_of_images_cut_to_it(world: World, roi: Path, tmp_path: Path) -> None:
    for name in ("test/hole/002.png", "ground_truth/hole/002_mask.png"):
        (world.data / name).unlink()  # of another aspect ratio
    maps = [Path(record["map"]) for record in records(done("score", "--store", world.store, "--out", tmp_path / "maps"))]
    write_plain(tmp_path / "more", 12, seed=7)
    done("calibrate", "--store", world.store, "--from", tmp_path / "more", "--false-alarms", "25%", "--roi", roi)
    scored = records(done("eval", "--store", world.store, "--roi", roi))
    read = records(done("eval", "--store", world.store, "--maps", tmp_path / "maps", "--roi", roi))
    assert scored[2]["image_recall"] is not None
    for path in (*maps, *(world.data / "ground_truth").rglob("*.png"), *(world.data / "test").rglob("*.png")):
        if path.suffix == ".png":
            Image.open(path).crop((0, 0, 70, SIZE[0])).save(path)
        else:
            tifffile.imwrite(path, tifffile.imread(path)[:, :70])
    cut = records(done("eval", "--store", world.store, "--maps", tmp_path / "maps"))
    for row, own, other in zip(read, cut, scored[2:], strict=True):
        for figure in ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_30", "image_ap", "pixel_auroc_low"):
            assert row[figure] == pytest.approx(own[figure], abs=1e-9)
            assert row[figure] == pytest.approx(other[figure], abs=1e-3)
    Image.new("L", (70, 70), 1).save(tmp_path / "square.png")
    done_badly = run("eval", "--store", world.store, "--maps", tmp_path / "maps", "--roi", tmp_path / "square.png")
    assert done_badly.exit_code == 2 and "expected the aspect ratio of --roi, 70x70" in done_badly.stderr


def test_eval_tells_the_recall_at_the_threshold(calibrated: World, made: World) -> None:
    rows = records(done("eval", "--store", calibrated.store))
    verdicts = {record["image"]: record["verdict"] for record in records(done("score", "--store", calibrated.store))}
    defective = [verdict == "reject" for name, verdict in verdicts.items() if "hole" in name]
    good = [verdict == "reject" for name, verdict in verdicts.items() if "good" in name]
    for row in rows:
        told = (row["image_recall"], row["image_false_alarms"])
        assert told == ((np.mean(defective), np.mean(good)) if row["map"] == "product" else (None, None))
    assert {row["image_recall"] for row in records(done("eval", "--store", made.store))} == {None}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--min-area", "0"), ("--min-area: expected 1 pixel or more, found 0",)),
        (("--mm-per-pixel", "-1"), ("--mm-per-pixel: expected the size of a pixel in mm, above 0, found -1",)),
        (("--regions", "r.txt"), ("--regions r.txt: expected the name of a .csv or .json file",)),
        (("--regions", "r.csv"), ("holds no calibration yet", "patchcli calibrate")),
        (("--min-area", "5"), ("holds no calibration yet",)),
        (("--roi", "missing.png"), ("missing.png",)),
    ],
)
def test_refused(made: World, arguments: tuple[str, ...], says: tuple[str, ...]) -> None:
    refused("score", "--store", made.store, *arguments, says=says)
