"""patchcli eval."""

import csv
import io
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
from commands import done, records, refused, run
from smallworld import World, make_store, touched, write_dataset

import patchcli
from patchcli.detection.evaluation import Row


def test_rows_of_a_store(made: World) -> None:
    before = touched(made.store), touched(made.data)
    result = done("eval", "--store", made.store)
    assert result.stderr == ""
    rows = records(result)
    assert [row["map"] for row in rows] == ["K=64", "K=32", "product", "product"]
    assert [row["kind"] for row in rows] == [None, None, None, "hole"]
    for row in rows:
        assert list(row) == [field.name for field in fields(Row)]
        assert (row["schema"], row["category"], row["images"], row["defective"]) == ("patchcli.eval/1", "weave", 5, 3)
        assert row["image_auroc"] == 1
        assert 0.8 < row["pixel_auroc"] < 1
    table = done("eval", "--store", made.store, "--format", "table").stdout.splitlines()
    assert table[0].split("  ")[0] == "class"
    assert "note" not in table[0]  # there is none
    assert [f"{row['pixel_auroc']:.4g}" in line for row, line in zip(rows, table[1:], strict=True)] == [True] * 4
    assert (touched(made.store), touched(made.data)) == before


def test_without_masks(tmp_path: Path) -> None:
    write_dataset(tmp_path / "weave", images=3, masks=False)
    make_store(tmp_path / "weave", tmp_path / "s.zarr", encoder="flat", D=8)
    row, kind = records(done("eval", "--store", "s.zarr"))  # the flat encoder has one map
    assert kind == {**row, "kind": "hole"}
    assert row["map"] == "flat K=64"
    assert row["image_auroc"] is not None
    assert row["pixel_auroc"] is None
    assert row["note"].startswith("pixel AUROC needs masks")
    assert f"patchcli: {row['note']}" in done("eval", "--store", "s.zarr", "--format", "table").stderr.splitlines()
    parsed, _ = csv.DictReader(io.StringIO(done("eval", "--store", "s.zarr", "--format", "csv").stdout))
    assert parsed["pixel_auroc"] == ""
    assert parsed["note"] == row["note"]


def test_a_folder_of_stores(made: World, tmp_path: Path) -> None:
    write_dataset(tmp_path / "twill", images=3, seed=7)
    (tmp_path / "stores").mkdir()
    make_store(tmp_path / "twill", tmp_path / "stores" / "twill.zarr", encoder="flat", D=8)
    shutil.copytree(made.store, tmp_path / "stores" / "weave.zarr")
    rows = records(done("eval", "--store", "stores"))
    assert [(row["category"], row["map"]) for row in rows] == [
        ("twill", "flat K=64"), ("weave", "product"), ("average", "product"),
    ]  # fmt: skip
    assert rows[0]["pixel_auroc"] != rows[1]["pixel_auroc"]
    assert rows[2]["pixel_auroc"] == (rows[0]["pixel_auroc"] + rows[1]["pixel_auroc"]) / 2
    assert (rows[2]["images"], rows[2]["defective"], rows[2]["encoder"]) == (10, 6, None)


def test_maps_and_metrics(made: World, tmp_path: Path) -> None:
    done("score", "--store", made.store, "--out", "maps")
    row, kind = records(done("eval", "--store", made.store, "--maps", "maps", "--metrics", "metrics.json"))
    assert (row["map"], row["kind"], kind["kind"]) == ("maps", None, "hole")
    assert json.loads(Path("metrics.json").read_text())["weave"]["maps"]["aupro_30"] == row["aupro_30"]
    refused("eval", "--store", made.store, "--maps", "nowhere", says=("--maps nowhere: no such folder", "patchcli score"))
    refused("eval", "--store", made.store, "--metrics", "m.txt", says=("--metrics m.txt", "expected", ".json"))
    (tmp_path / "maps" / "test" / "hole" / "001.tiff").unlink()
    result = run("eval", "--store", made.store, "--maps", "maps")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "patchcli: left out: test/hole/001.png: no map; expected maps/test/hole/001 with one of .tiff, .tif, .npy, .png",
        "patchcli: done, but 1 problem reported above",
    ]
    assert [row["images"] for row in records(result)] == [4, 4]


def test_the_table_fits_on_80_columns(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    row = patchcli.evaluate(made.store)[-1]
    rows = [replace(row, category="transistor", map="product", kind="faulty_imprint", image_auroc=0.98765)]
    monkeypatch.setattr("patchcli.verbs.evaluate.evaluate", lambda *_, **__: rows)
    monkeypatch.setenv("COLUMNS", "80")
    heading, line = done("eval", "--format", "table").stdout.splitlines()
    assert max(len(heading), len(line)) <= 80
    assert line.split()[:4] == ["transistor", "product", "faulty_imprint", "0.9877"]
