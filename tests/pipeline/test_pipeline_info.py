"""info: what is in a store, and what is next."""

import json
from pathlib import Path

import pytest
from smallworld import World, touched

import patchcli
from patchcli import store
from patchcli.errors import StoreError
from patchcli.store import Bank, Store


def test_what_is_next_at_each_stage(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BANK_CHUNK_BYTES", 1)
    path = tmp_path / "s.zarr"
    patchcli.extract(made.data, path, size=(128, 128))
    found = patchcli.info(path)
    assert (found["images"], found["height"], found["width"]) == (10, 128, 128)
    assert found["encoder_sha256"] is found["bank"] is None
    assert found["next"].startswith("patchcli train")

    trained = patchcli.train(store=path, steps=0, encoder="flat", D=8)
    found = patchcli.info(path)
    assert (found["encoder_architecture"], found["encoder_D"], found["encoder_steps"]) == ("flat", 8, 0)
    assert (found["encoder_sha256"], found["encoder_source"]) == (trained.sha256, "untrained")
    assert found["bank"] is None
    assert found["next"] == "patchcli embed"

    write = Bank.write_block
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):

        def interrupted(self: Bank, block: int, features: object) -> None:
            if block == 4:
                raise KeyboardInterrupt
            write(self, block, features)  # type: ignore[arg-type]

        patched.setattr(Bank, "write_block", interrupted)
        patchcli.embed(path)
    found = patchcli.info(path)
    assert found["bank"] == "incomplete"
    assert found["next"].startswith("patchcli embed")

    patchcli.embed(path)
    found = patchcli.info(path)
    assert found["bank"] == "complete"
    assert (found["bank_vectors"], found["distance_error"]) == ({"big": 250}, 0)
    assert found["bank_memory"] > 250 * 8 * 4
    assert found["next"].startswith("patchcli score")

    patchcli.train(store=path, steps=0, encoder="flat", D=8, seed=1, overwrite=True)
    found = patchcli.info(path)
    assert found["bank"] == "of another encoder"
    assert found["next"] == "patchcli embed"


def test_provenance(made: World) -> None:
    before = touched(made.store)
    found = patchcli.info(made.store)
    assert touched(made.store) == before
    opened = Store.open(made.store)
    assert found["schema"] == "patchcli.info/1"
    assert found["store"] == str(made.store)
    told = {key: value for key, value in opened.dataset.items() if key != "holdout"}
    assert {key: found[key] for key in told} == told
    assert found["held_out"] == len(opened.held_out) == 0
    assert found["versions"] == opened.attributes["versions"]
    assert found["recipe"]["seed"] == 0
    assert json.loads(json.dumps(found)) == found


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store found"):
        patchcli.info(tmp_path / "s.zarr")
