"""info: what is in a store, and what is next."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from smallworld import World, part_folder, touched, truncate

import patchcli
from patchcli.errors import StoreError
from patchcli.store import Blocks, Store
from patchcli.store import bank as bank_module
from patchcli.verbs.extraction import ImageOptions


def test_what_is_next_at_each_stage(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "CHUNK_BYTES", 1)
    path = tmp_path / "s.zarr"
    patchcli.extract(made.data, path, ImageOptions(size=(128, 128)))
    found = patchcli.info(path)
    assert (found.images, found.height, found.width) == (10, 128, 128)
    assert found.encoder_sha256 is found.bank is None
    assert found.next.startswith("train()")

    trained = patchcli.train(store=path, steps=0, encoder="flat", D=8)
    found = patchcli.info(path)
    assert (found.encoder_architecture, found.encoder_D, found.encoder_steps) == ("flat", 8, 0)
    assert (found.encoder_sha256, found.encoder_source) == (trained.sha256, "untrained")
    assert found.bank is None
    assert found.next == "embed()"

    write = Blocks.write_block
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):

        def interrupted(self: Blocks, block: int, features: object) -> None:
            if block == 4:
                raise KeyboardInterrupt
            write(self, block, features)  # type: ignore[arg-type]

        patched.setattr(Blocks, "write_block", interrupted)
        patchcli.embed(path)
    found = patchcli.info(path)
    assert found.bank == "incomplete"
    assert found.next.startswith("embed()")
    assert patchcli.info(path, check=True) == found  # and nothing of it is damaged

    patchcli.embed(path)
    found = patchcli.info(path)
    assert found.bank == "complete"
    assert (found.bank_vectors, found.distance_error) == ({"big": 250}, 0)
    assert found.bank_memory > 250 * 8 * 4
    assert found.bank_precision == Store.open(path).bank().precision
    assert found.next.startswith("score(")

    patchcli.train(store=path, steps=0, encoder="flat", D=8, seed=1, overwrite=True)
    found = patchcli.info(path)
    assert found.bank == "of another encoder"
    assert found.next == "embed()"


def test_provenance(made: World) -> None:
    before = touched(made.store)
    found = patchcli.info(made.store)
    assert touched(made.store) == before
    opened = Store.open(made.store)
    assert found.schema == "patchcli.info/1"
    assert found.store == str(made.store)
    told = {
        key: getattr(opened.source, key) for key in ("root", "layout", "category", "manifest", "keeps_aspect", "bits", "large")
    }
    assert {key: getattr(found, key) for key in told} == told
    assert (found.height, found.width) == opened.source.size
    assert found.held_out == len(opened.source.holdout) == 0
    assert found.versions == opened.root.versions
    assert found.recipe["seed"] == 0
    assert json.loads(json.dumps(asdict(found))) == asdict(found)


def test_everything_is_read_and_each_damage_named(world: World) -> None:
    patchcli.calibrate(world.store, false_alarms=0.3)
    before = touched(world.store)
    assert patchcli.info(world.store, check=True) == patchcli.info(world.store)
    assert touched(world.store) == before
    arrays = {
        "images": "size", "encoder": "training/history", "bank": "small/index/0/ids", "calibration": "peaks",
    }  # fmt: skip
    repairs = {
        "images": "extract the images again with `overwrite`", "encoder": "train again with `overwrite`",
        "bank": "run: `embed(overwrite)`", "calibration": "run: `calibrate()`",
    }  # fmt: skip
    arrays["encoder"] = "training/average.conv2.bias"  # what only `resume` reads
    for kind, array in arrays.items():
        folder = part_folder(world.store, kind)
        truncate(next(path for path in (folder / array / "c").rglob("*") if path.is_file()))
    with pytest.raises(StoreError) as error:
        patchcli.info(world.store, check=True)
    lines = {line.split(": ")[0]: line for line in str(error.value).splitlines()}
    assert len(str(error.value).splitlines()) == 4
    for kind, array in arrays.items():
        line = lines[str(part_folder(world.store, kind))]
        assert array in line
        assert line.endswith(repairs[kind])


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store found"):
        patchcli.info(tmp_path / "s.zarr")
