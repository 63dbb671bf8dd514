"""What the README, the help texts and examples/ tell to type is typed: each line in a workshop of its own."""

import contextlib
import dataclasses
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from commands import run
from smallworld import SIZE, save, texture, write_dataset, write_plain

import patchcli
from patchcli.cli.app import app
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.training import criterion
from patchcli.verbs import watch as watch_module
from patchcli.verbs.extraction import ImageOptions
from patchcli.verbs.outputs import Outputs
from patchcli.verbs.score import Record

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else ""
ELSEWHERE = ("python3 -m venv", "patchcli demo")  # the gate types these
SETTINGS = 'size = "128"\ndim = 16\n[train]\nsteps = 2\n[watch]\nevery = 0.001\n'


def _fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def _examples(group: object) -> Iterator[str]:
    """The examples in the help of every command, on one line each."""
    for command in group.commands.values():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from _examples(command)
        yield from (" ".join(part.split()) for part in re.findall(r"Example: (.*?)(?:\n\n|\Z)", command.help, re.DOTALL))


TYPED = [re.sub(r"\s+#.*", "", line) for block in _fences("sh") for line in block.splitlines()]
LINES = [line for line in (*TYPED, *_examples(typer.main.get_command(app))) if not any(e in line for e in ELSEWHERE)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the documentation speaks of, small: data sets, folders of images, a calibrated store, its maps."""
    place = tmp_path_factory.mktemp("workshop")
    before = Path.cwd()
    os.chdir(place)
    try:
        write_dataset(Path("mvtec/grid"), images=20)
        for odd in Path("mvtec/grid").rglob("hole/002*"):  # of another size, and its mask
            odd.unlink()
        write_dataset(Path("mvtec/hazelnut"), images=4, seed=3)
        write_plain(Path("mvtec/grid/validation/good"), 299, (35, 40), seed=5)  # what a rate of 1 % takes
        for folder, images in (("parts", 10), ("line3", 3), ("new", 2), ("more_good", 59), ("new_shift", 2), ("camera", 2)):
            write_plain(Path(folder), images, seed=len(folder))
        save(Path("photo.png"), texture(np.random.default_rng(1), *SIZE))
        save(Path("part.png"), np.full((*SIZE, 3), 255, np.uint8))
        Path("parts.csv").write_text("path,label\n" + "".join(f"line3/00{n}.png,good\n" for n in range(3)))
        torch.save(dict(HierarchicalEncoder(64).state_dict()), "hazelnut.pkl")
        patchcli.train("mvtec/grid", images=ImageOptions(size=(128, 128)), steps=2, D=16)
        patchcli.embed()
        patchcli.calibrate(source=["more_good"], false_alarms=0.05)
        list(patchcli.score(outputs=Outputs("maps")))
        shutil.copytree("patchcli.zarr", "stores/grid.zarr")
        shutil.copytree("patchcli.zarr", "grid.zarr")
        shutil.copytree("mvtec/grid/train", "can/train")  # in the layout of MVTec AD 2
        shutil.copytree("mvtec/grid/test/good", "can/test_public/good")
        shutil.copytree("line3", "can/test_private")
        Path("patchcli.toml").write_text(SETTINGS)
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def workshop(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in, with `patchcli` on the PATH, where a watcher stops by itself and training takes two steps, or
    is judged every ten."""
    place = tmp_path / "workshop"
    shutil.copytree(built, place, copy_function=lambda old, new: (os.link if old.endswith(".png") else shutil.copy)(old, new))
    monkeypatch.chdir(place)
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    calls = [0]

    def over() -> bool:
        calls[0] += 1
        return calls[0] > 100

    monkeypatch.setattr(watch_module.runtime, "stopping", lambda: contextlib.nullcontext(over))
    train: Callable[..., object] = patchcli.train
    monkeypatch.setattr(patchcli, "train", lambda *a, **k: train(*a, **{"size": (128, 128), "steps": 2, **k, "minutes": 1}))
    monkeypatch.setattr(criterion, "JUDGED_EVERY", 10)
    return place


def typed(line: str) -> str:
    """Type a line of shell, `patchcli` in this process (it loads what it needs once), the rest in bash; what it writes."""
    lexer = shlex.shlex(line, posix=False, punctuation_chars="|&")
    lexer.whitespace_split, lexer.commenters = True, "#"
    written, stage = b"", list[str]()
    for token in (*lexer, "|"):
        if token not in ("|", "&&"):
            stage.append(token)
            continue
        words, stage = stage, []
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not installed")
        if words[0] != "patchcli":
            written = subprocess.run(["bash", "-c", " ".join(words)], input=written, stdout=subprocess.PIPE, check=True).stdout
            continue
        expanded = subprocess.run(["bash", "-c", f"printf '%s\\0' {' '.join(words[1:])}"], stdout=subprocess.PIPE, check=True)
        arguments = [os.fsdecode(word) for word in expanded.stdout.split(b"\0")[:-1]]
        result = run(*arguments, stdin=os.fsdecode(written))
        assert result.exit_code in ((0, 1) if "--exit-code" in arguments else (0,)), result.stderr
        written = result.stdout.encode()
    return written.decode()


@pytest.mark.parametrize("line", dict.fromkeys(LINES))
def test_what_the_documentation_types(line: str, workshop: Path) -> None:
    line = line.replace("/mnt/camera", "camera")
    if re.search(r"patchcli (train|extract) [./]", line):
        shutil.rmtree("patchcli.zarr")  # a new store, as for a user who begins with it
    if "--submission" in line:
        shutil.rmtree("patchcli.zarr")
        typed("patchcli train can && patchcli embed && patchcli calibrate --from more_good/ --false-alarms 5%")
    typed(line.replace("--steps 400", "--steps 3"))


def test_there_is_much_to_type() -> None:
    assert len(TYPED) > 25 and len(set(LINES)) > 40, "the README or the help texts are read wrongly"


def test_the_readmes_settings(workshop: Path) -> None:
    (settings,) = _fences("toml")
    Path("patchcli.toml").write_text(settings)
    assert json.loads(typed("patchcli info"))["store"].endswith("grid.zarr")


def test_the_readmes_record() -> None:
    (record,) = map(json.loads, _fences("json"))
    assert list(record) == [field.name for field in dataclasses.fields(Record)]


def test_the_readmes_library(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = _fences("python")
    shutil.rmtree("grid.zarr")
    exec(code.replace('"new/part.png"', '"photo.png"'), {})
    assert capsys.readouterr().out.startswith("photo.png 0.")


# ---- examples/ -----------------------------------------------------------------------------------------------------


def script(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script of examples/ in this process."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.syspath_prepend((ROOT / "examples" / name).parent)  # as Python does for a script
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


RUNS = {
    "python_api.py": (("mvtec/grid", "photo.png"), "photo.png: 0."),
    "mvtec_tables.py": (("mvtec", "--steps", 2), "Table S2"),
    "benchmarks/training.py": (("mvtec/grid", "--steps", 1, 2, "--seeds", 0, "--size", 128), "worst"),
    "benchmarks/criterion.py": (
        ("mvtec/grid", "--steps", 20, "--seeds", 0, "--size", 128, "--encoder", "flat"),
        "mean miss",
    ),
    "benchmarks/embedding.py": ((1, 64), "times the best per-patch way"),
    "benchmarks/metrics.py": ((4,), "MB resident"),
    "benchmarks/search.py": (("patchcli.zarr",), "faiss"),
    "benchmarks/textures.py": (("textures",), ""),
    "benchmarks/objects.py": (("objects", "duck"), ""),
}
NEEDS = {"benchmarks/search.py": "faiss", "benchmarks/textures.py": "skimage", "benchmarks/objects.py": "pybullet"}


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(
    name: str, workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    arguments, told = RUNS[name]
    script(name, *arguments, monkeypatch=monkeypatch)
    assert told in capsys.readouterr().out


def test_no_example_is_left_out() -> None:
    scripts = {path.relative_to(ROOT / "examples").as_posix() for path in (ROOT / "examples").rglob("*.*") if path.is_file()}
    others = {"benchmarks/README.md", "jq_pipeline.sh", "mvtec_class.sh"}
    assert {name for name in scripts if "__pycache__" not in name} == {*RUNS, *others}


@pytest.mark.parametrize(
    ("command", "told"),
    [("jq_pipeline.sh patchcli.zarr line3 2", "line3/00"), ("mvtec_class.sh mvtec/grid out", "schema,category")],
)
def test_a_shell_example_runs(command: str, told: str, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "jq" in command and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    monkeypatch.setenv("MINUTES", "0.01")
    found = subprocess.run(["bash", *f"{ROOT}/examples/{command}".split()], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert told in found.stdout
