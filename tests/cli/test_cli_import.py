"""patchcli import."""

import pickle
from pathlib import Path

import torch
from commands import done, records, refused
from smallworld import World

from patchcli.features.hierarchical import HierarchicalEncoder


class Evil:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def _saved(name: str, **changes: object) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        state = {**HierarchicalEncoder(16).state_dict(), **changes}
    torch.save({key: values for key, values in state.items() if values is not None}, name)
    return Path(name)


def test_from_published_weights_to_scores(made: World, world: World) -> None:
    path = _saved("weave.pkl")
    done("extract", made.data, "--store", "s.zarr", "--size", 128)
    result = done("import", path, "--store", "s.zarr")
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.endswith("is in s.zarr; next: patchcli embed")
    (found,) = records(done("info", "--store", "s.zarr"))
    assert (found["encoder_source"], found["encoder_steps"], found["next"]) == ("imported", None, "patchcli embed")
    assert found["encoder_sha256"][:12] in line
    done("embed", "--store", "s.zarr")
    assert {record["encoder"] for record in records(done("score", "--store", "s.zarr"))} == {found["encoder_sha256"]}

    says = ("the encoder was imported, there is nothing to resume",)
    refused("train", "--resume", "--steps", 1, "--store", "s.zarr", says=says)
    says = ("s.zarr: holds an encoder already (imported, ", "--resume", "--overwrite")
    refused("train", "--steps", 1, "--store", "s.zarr", says=says)
    says = ("holds an encoder already", "--overwrite", "--store")
    refused("import", path, "--store", world.store, says=says)
    done("import", path, "--store", world.store, "--overwrite")


def test_what_is_refused(kept: World, tmp_path: Path) -> None:
    def refuse(path: Path | str, *says: str) -> None:
        expected = "expected weights" if "no such file" in says else "expected a state dict"
        refused("import", path, "--store", kept.store, "--overwrite", says=(path, expected, *says))

    refuse("missing.pkl", "no such file")
    (tmp_path / "notes.txt").write_text("weights: see the other folder\n")
    refuse("notes.txt", "found ")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "touched"), protocol=2))
    refuse("evil.pkl", "it was not executed")
    refuse(_saved("evil2.pkl", more=Evil(tmp_path / "touched")), "it was not executed")
    assert not (tmp_path / "touched").exists()
    refuse(_saved("missing_name.pkl", **{"enc.conv3.weight": None}), "enc.conv3.weight is missing")
    refuse(_saved("shape.pkl", **{"enc.conv1.bias": torch.zeros(3)}), "has the shape (3,), not (32,)")
    refuse(_saved("nan.pkl", **{"enc.conv1.bias": torch.full((32,), float("nan"))}), "NaN")


def test_no_store_to_import_into() -> None:
    refused("import", _saved("weave.pkl"), says=("patchcli.zarr: no store found",))
