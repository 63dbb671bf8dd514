"""patchcli export."""

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
from commands import done, finished, refused
from smallworld import World, make_store, touched, without

pytest.importorskip("onnxruntime", reason="pip install '.[export]' brings it")
pytest.importorskip("onnxscript")

# The exporter's part, played by a process that is killed when the model is half written.
KILLED = """
import os, signal
from patchcli.features import exporting
def write(path, *_):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
exporting.write = write
"""


@pytest.fixture(scope="module")
def flat(made: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the encoder that is exported fastest, without a bank."""
    return make_store(made.data, tmp_path_factory.mktemp("flat") / "s.zarr", embedded=False, encoder="flat", D=4)


def test_it_says_what_it_wrote_and_nothing_else(flat: Path, tmp_path: Path) -> None:
    shutil.copytree(flat, "patchcli.zarr")
    status, stdout, stderr = finished("export", "encoder.onnx")
    assert (status, stdout) == (0, ""), stderr
    first, second, third = stderr.splitlines()
    assert first == "patchcli: wrote encoder.onnx (outputs: big), and beside it encoder.json"
    assert second.startswith("patchcli: the features of ONNX Runtime and PyTorch differ by at most ")
    assert third == "patchcli: the store has no bank yet; next: patchcli embed, then patchcli export --overwrite"
    assert {path.name for path in tmp_path.iterdir()} == {"patchcli.zarr", "encoder.onnx", "encoder.json"}
    assert json.loads(Path("encoder.json").read_text())["check"]["relative"] < 1e-5


def test_a_kill_leaves_nothing_under_the_name(flat: Path, tmp_path: Path) -> None:
    status, stdout, _ = finished("export", "encoder.onnx", "--store", flat, driver=KILLED)
    assert (status, stdout) == (-signal.SIGKILL, "")
    assert {path.suffix for path in tmp_path.iterdir()} == {".part"}


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("encoder.pt", "FILE encoder.pt: expected the name of a .onnx file"),
        (".onnx", "FILE .onnx: expected the name of a .onnx file"),
        ("folder.onnx", "FILE folder.onnx: expected the name of a file, found a folder"),
        ("there.onnx", "FILE there.onnx: exists already; replace it with --overwrite, or give another name"),
        ("described.onnx", "FILE described.json: exists already; replace it with --overwrite"),
        ("link.onnx", "FILE link.onnx: exists already"),
        ("nowhere/encoder.onnx", "FILE nowhere/encoder.onnx: no such folder: nowhere"),
        ("there.onnx/encoder.onnx", "expected a folder above it, found the file there.onnx"),
        (f"{'x' * 300}.onnx", "cannot be written (File name too long)"),
    ],
)
def test_names_that_cannot_be(flat: Path, tmp_path: Path, file: str, says: str) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for name in ("there.onnx", "described.json"):
        (tmp_path / name).write_text("kept")
    (tmp_path / "link.onnx").symlink_to("there.onnx")
    before = touched(tmp_path)
    assert len(refused("export", file, "--store", flat, says=(says,)).splitlines()) == 1
    assert touched(tmp_path) == before


def test_a_folder_is_never_replaced(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "encoder.json").mkdir()
    refused("export", "encoder.onnx", "--overwrite", "--store", flat, says=("encoder.json: expected the name of a file",))
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.json"]


def test_stores_that_have_no_encoder(world: World, tmp_path: Path) -> None:
    refused("export", "encoder.onnx", says=("patchcli.zarr: no store found",))
    says = "holds no encoder yet; import one with patchcli import, or train one; run: patchcli train"
    refused("export", "encoder.onnx", "--store", without(world.store, "encoder"), says=says)
    assert not list(tmp_path.glob("*.onnx")) + list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("name", ["onnxruntime", "onnxscript"])
def test_without_the_extra(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    says = (f"exporting needs {name}", "install it: pip install 'patchcli[export]'")
    assert len(refused("export", "encoder.onnx", "--store", flat, says=says).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run(flat: Path, tmp_path: Path) -> None:
    reads, writes = done("export", "encoder.onnx", "--store", flat, "--dry-run").stderr.splitlines()
    assert reads == f"patchcli: would read the encoder of {flat}"
    assert writes == "patchcli: would write encoder.onnx and encoder.json (about 1.3 MB)"
    (tmp_path / "encoder.json").write_text("kept")
    refused("export", "encoder.onnx", "--store", flat, "--dry-run", says=("encoder.json: exists already",))
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.json"]
