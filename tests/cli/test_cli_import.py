"""patchcli import."""

import pickle
from pathlib import Path

import pytest
import torch
from commands import done, records, refused
from smallworld import World

from patchcli.features import pretrained
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


def test_from_a_backbone_to_scores(timm: object, made: World) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(pretrained.create("test_resnet").state_dict(), "resnet.pth")
    done("extract", made.data, "--store", "s.zarr", "--size", 128)
    result = done("import", "resnet.pth", "--backbone", "test_resnet", "--layers", "1,2", "--store", "s.zarr")
    assert "test_resnet, layers 1, 2: 80 features every 4 pixels of 128x128" in result.stderr
    (found,) = records(done("info", "--store", "s.zarr"))
    assert found["encoder_options"] == {"backbone": "test_resnet", "layers": [1, 2]}
    assert "backbone test_resnet, layers 1+2" in done("info", "--store", "s.zarr", "--format", "table").stdout
    done("embed", "--store", "s.zarr")
    scored = records(done("score", "--store", "s.zarr"))
    exponents = found["encoder_exponents"]
    assert all((record["score_fixed"] is None) == ("fixed" not in exponents) for record in scored)
    assert all(record["score"] > 0 and record["score_pretrained"] > 0 for record in scored)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), ("WEIGHTS: expected a file of weights, or --backbone",)),
        (("--backbone", "test_resnet", "--layers", "2;3"), ("--layers: expected numbers such as 2,3, found '2;3'",)),
        (("--backbone", "test_resnet", "--layers", "2,9"), ("--layers: expected numbers from 0 to 4", "found 9")),
        (("--backbone", "resnet_50"), ("--backbone: expected a model of timm", "found 'resnet_50'")),
        (("missing.pth", "--backbone", "test_resnet"), ("missing.pth: no such file",)),
        (("--layers", "2"), ("WEIGHTS: expected a file of weights, or --backbone",)),
    ],
)  # fmt: skip
def test_what_is_refused_of_a_backbone(timm: object, kept: World, arguments: tuple[str, ...], says: tuple[str, ...]) -> None:
    refused("import", *arguments, "--store", kept.store, "--overwrite", says=says)
