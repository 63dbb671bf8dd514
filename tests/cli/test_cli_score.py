"""patchcli score: what it prints, what it writes, and how it ends."""

import csv
import io
import json
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from commands import done, process, records
from PIL import Image
from smallworld import HOLE, World, save, texture, touched

import patchcli
from patchcli.verbs.score import Record

TEST_IMAGES = [*(f"test/good/{i:03}.png" for i in range(2)), *(f"test/hole/{i:03}.png" for i in range(3))]


@pytest.fixture(scope="session")
def scored(made: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """One run with maps and overlays: the folder, and the records."""
    maps = tmp_path_factory.mktemp("scored") / "deep" / "maps"
    before = touched(made.store), touched(made.data)
    result = done("score", "--store", made.store, "--out", maps, "--overlay")
    assert result.stderr == "patchcli: no verdicts: not calibrated; run: patchcli calibrate\n"
    assert done("score", "--store", made.store, "--quiet").stderr == ""
    assert (touched(made.store), touched(made.data)) == before
    return maps, records(result)


def test_a_record_an_image_with_every_field(made: World, scored: tuple[Path, list[dict[str, Any]]]) -> None:
    _, found = scored
    assert [record["image"] for record in found] == TEST_IMAGES
    for record in found:
        assert list(record) == [field.name for field in fields(Record)]
        assert record["schema"] == "patchcli.score/1"
        assert record["encoder"] == patchcli.info(made.store).encoder_sha256
    assert [Record(**{**record, "map": None, "overlay": None}) for record in found] == list(patchcli.score(made.store))


def test_maps_are_laid_out_as_the_data_set(made: World, scored: tuple[Path, list[dict[str, Any]]]) -> None:
    maps, found = scored
    written = {path.relative_to(maps).as_posix() for path in maps.rglob("*") if path.is_file()}
    expected = {str(Path(name).with_suffix(suffix)) for name in TEST_IMAGES for suffix in (".tiff", ".png")}
    assert written == expected
    for record in found:
        assert record["map"] == str((maps / record["image"]).with_suffix(".tiff"))
        assert record["overlay"] == str(maps / record["image"])
        values = tifffile.imread(record["map"])
        with Image.open(made.data / record["image"]) as image, Image.open(record["overlay"]) as drawn:
            assert values.shape == (image.height, image.width)
            assert drawn.size == image.size
        assert values.dtype == np.float32
        y, x = np.unravel_index(values.argmax(), values.shape)
        assert abs(int(x) - record["peak_x"]) <= 1
        assert abs(int(y) - record["peak_y"]) <= 1


def test_the_mask_is_outlined(scored: tuple[Path, list[dict[str, Any]]]) -> None:
    _, found = scored
    for record in found:
        red = (np.asarray(Image.open(record["overlay"])) == (255, 0, 0)).all(axis=2)
        rows, columns = HOLE
        if "hole" in record["image"]:
            assert red[rows.start - 1, columns].all()
            assert red[rows, columns.stop].all()
            assert not red[HOLE].any()
        else:
            assert not red.any()


def test_csv(made: World, scored: tuple[Path, list[dict[str, Any]]]) -> None:
    text = done("score", "--store", made.store, "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    for row, record in zip(rows, scored[1], strict=True):
        assert datetime.fromisoformat(row["time"]) > datetime.fromisoformat(record["time"])  # scored once more
        expected = {**record, "map": None, "overlay": None, "time": row["time"]}
        assert list(row) == list(expected)
        expected["time"] = row["time"]  # that of its own run
        assert row == {key: "" if value is None else str(value) for key, value in expected.items()}
        assert float(row["score"]) == record["score"]


def test_a_table_without_a_terminal(made: World, scored: tuple[Path, list[dict[str, Any]]]) -> None:
    result = done("score", "--store", made.store, "--format", "table")
    heading, *lines = result.stdout.splitlines()
    assert heading.split()[:2] == ["image", "score"]
    assert len(lines) == 5
    for line, record in zip(lines, scored[1], strict=True):
        assert line.split()[0] == record["image"]
        assert line.split()[1] == f"{record['score']:.4g}"
    assert "\x1b" not in result.stdout


def test_paths_from_standard_input(made: World, tmp_path: Path) -> None:
    image = save(tmp_path / "größe 漢.png", texture(np.random.default_rng(1), 70, 90))
    given = f"{made.data / 'test' / 'hole' / '001.png'}\n\n{image.name}\r\n"
    found = records(done("score", "-", "--store", made.store, "--out", "maps", stdin=given))
    assert [record["id"] for record in found] == ["test/hole/001.png", "größe 漢.png"]
    assert [record["image"] for record in found] == [given.split()[0], "größe 漢.png"]
    assert [record["map"] for record in found] == ["maps/test/hole/001.tiff", "maps/größe 漢.tiff"]
    assert Path("maps/größe 漢.tiff").is_file()


def test_files_and_folders(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    for name in ("in/img10.png", "in/img2.png", "in/deep/x.bmp", "in/.hidden/x.png"):
        save(tmp_path / name, texture(rng, 70, 90))
    found = records(done("score", "in", made.data / "test" / "good", "--store", made.store))
    assert sorted(record["image"] for record in found[:3]) == ["in/deep/x.bmp", "in/img10.png", "in/img2.png"]
    images = [record["image"] for record in found]
    assert images.index("in/img2.png") < images.index("in/img10.png")
    assert images[3:] == [str(made.data / name) for name in TEST_IMAGES[:2]]
    assert [record["id"] for record in found[3:]] == TEST_IMAGES[:2]
    monkeypatch.chdir(made.data / "test" / "hole")
    (record,) = records(done("score", "../hole/000.png", "--store", made.store))
    assert (record["image"], record["id"]) == ("../hole/000.png", "test/hole/000.png")


def test_names_that_differ_in_their_suffix(made: World, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("x.png", "x.bmp"):
        save(tmp_path / "in" / name, texture(rng, 70, 90))
    found = records(done("score", "in", "--store", made.store, "--out", "maps", "--overlay"))
    assert len(found) == 2
    assert len({name for record in found for name in (record["map"], record["overlay"])}) == 4
    for record in found:
        assert float(tifffile.imread(record["map"]).max()) == pytest.approx(record["score"], rel=0.02)
        assert Path(record["overlay"]).is_file()


def test_the_store_of_the_environment_and_quiet(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHCLI_STORE", str(made.store))
    assert len(records(done("score"))) == 5
    result = done("embed", "--quiet")
    assert (result.stdout, result.stderr) == ("", "")


def test_a_reader_that_leaves(made: World) -> None:
    """As `| head -1`: the first record is read while paths still come in, then nobody listens."""
    image = f"{made.data / 'test' / 'hole' / '001.png'}\n"
    with process("score", "-", "--store", made.store, "--quiet") as started:
        assert started.stdin and started.stdout and started.stderr
        started.stdin.write(image)
        started.stdin.flush()
        assert json.loads(started.stdout.readline())["id"] == "test/hole/001.png"
        started.stdout.close()
        started.stdin.write(image)
        started.stdin.close()
        assert started.stderr.read() == ""
        assert started.wait(timeout=60) == 141
