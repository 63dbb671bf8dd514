"""What the README, the guides, the help texts and examples/ tell to type is typed: each line in a workshop of its own.

The workshop is built once. A copy shares its files by hard links, since patchcli replaces files and never writes into them;
the last fixture proves that.
"""

import contextlib
import dataclasses
import json
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from commands import run
from smallworld import SIZE, save, texture, touched, write_dataset, write_plain

import patchcli
from patchcli.bank.search import keops
from patchcli.cli.app import app
from patchcli.features import pretrained
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.training import criterion
from patchcli.verbs import watcher
from patchcli.verbs.extraction import ImageOptions
from patchcli.verbs.outputs import Outputs
from patchcli.verbs.score import Record

ROOT = Path(__file__).parents[2]
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "examples").rglob("*.md"))) if page.exists()]
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
# The gate types these, and test_cli_export and test_cluster.
ELSEWHERE = ("python3 -m venv", "patchcli demo", "patchcli export", "--workers")
CONFIDENCE = 0.2  # with it, 23 good images guarantee a rate of 1 %, and 5 a rate of 5 %
SETTINGS = f"""size = "128"
dim = 16
[train]
steps = 2
batch = 2
[calibrate]
confidence = {CONFIDENCE}
[watch]
every = 0.001
"""


def _fences(language: str, pages: Iterable[Path] = PAGES) -> list[str]:
    return [
        block
        for page in pages
        for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    ]


def _examples(group: object) -> Iterator[str]:
    """The examples in the help of every command, on one line each."""
    for command in group.commands.values():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from _examples(command)
        yield from (" ".join(part.split()) for part in re.findall(r"Example: (.*?)(?:\n\n|\Z)", command.help, re.DOTALL))


TYPED = [re.sub(r"\s+#.*", "", line) for block in _fences("sh") for line in block.splitlines()]
LINES = [line for line in (*TYPED, *_examples(typer.main.get_command(app))) if not any(e in line for e in ELSEWHERE)]


def small_store(data: str, store: str) -> None:
    """A store in two steps of training, with its bank and a calibration."""
    patchcli.train(data, store, images=ImageOptions(size=(128, 128)), steps=2, batch=2, D=16)
    patchcli.embed(store)
    patchcli.calibrate(store, ["more_good"], false_alarms=0.05, confidence=CONFIDENCE)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything that the documentation speaks of, small: data sets, folders of images, calibrated stores, maps."""
    place = tmp_path_factory.mktemp("workshop")
    with contextlib.chdir(place):
        write_dataset(Path("mvtec/grid"), images=20)
        for number in range(1, 12):  # fewer to embed; those that the documentation names stay
            Path(f"mvtec/grid/train/good/{number:03}.png").unlink()
        for odd in Path("mvtec/grid").rglob("hole/002*"):  # of another size, and its mask
            odd.unlink()
        write_dataset(Path("mvtec/hazelnut"), images=4, seed=3)
        write_plain(Path("mvtec/grid/validation/good"), 23, (35, 40), seed=5)
        for folder, images in (("parts", 10), ("line3", 3), ("new", 2), ("more_good", 5), ("new_shift", 2), ("camera", 2)):
            write_plain(Path(folder), images, seed=len(folder))
        save(Path("photo.png"), texture(np.random.default_rng(1), *SIZE))
        save(Path("part.png"), np.full((*SIZE, 3), 255, np.uint8))
        Path("parts.csv").write_text("path,label\n" + "".join(f"line3/00{n}.png,good\n" for n in range(3)))
        torch.save(dict(HierarchicalEncoder(64).state_dict()), "hazelnut.pkl")
        if find_spec("timm"):
            torch.save(pretrained.create("tf_efficientnet_lite0").state_dict(), "efficientnet-lite0.pth")
        small_store("mvtec/grid", "patchcli.zarr")
        list(patchcli.score(outputs=Outputs("maps")))
        shutil.copytree("patchcli.zarr", "stores/grid.zarr")
        shutil.copytree("patchcli.zarr", "grid.zarr")
        shutil.copytree("mvtec/grid/train", "can/train")  # in the layout of MVTec AD 2
        shutil.copytree("mvtec/grid/test/good", "can/test_public/good")
        shutil.copytree("line3", "can/test_private")
        small_store("can", "can.zarr")
        Path("patchcli.toml").write_text(SETTINGS)
    before = touched(place)
    yield place
    assert touched(place) == before, "a line wrote into a file that the workshops share"


@pytest.fixture
def workshop(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in, with `patchcli` on the PATH, where a watcher stops by itself, training takes two steps, or four, and
    nothing compiles."""
    place = tmp_path / "workshop"
    shutil.copytree(built, place, copy_function=os.link)
    monkeypatch.chdir(place)
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    looks = [0]

    def over() -> bool:
        looks[0] += 1
        return looks[0] > 100

    monkeypatch.setattr(watcher, "runtime", SimpleNamespace(stopping=lambda: contextlib.nullcontext(over)))
    train: Callable[..., object] = patchcli.train

    def briefly(*arguments: object, **options: object) -> object:
        images, _ = options.pop("images", None), options.pop("minutes", None)
        if arguments and getattr(images, "size", None) is None:
            images = ImageOptions(size=(128, 128))
        steps = min(options.pop("steps", 2), 4)  # type: ignore[type-var]
        batch = {} if options.get("resume") else {"batch": 2}
        return train(*arguments, **options, **batch, images=images, steps=steps, minutes=1)

    monkeypatch.setattr(patchcli, "train", briefly)
    monkeypatch.setattr(keops.KeOps, "problem", lambda device, D: "it would compile")
    monkeypatch.setattr(criterion, "JUDGED_EVERY", 2)
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
def test_what_the_documentation_types(line: str, workshop: Path, request: pytest.FixtureRequest) -> None:
    if "--backbone" in line:
        request.getfixturevalue("timm")
    line = line.replace("/mnt/camera", "camera")
    if re.search(r"patchcli (train|extract) [./]", line):
        shutil.rmtree("patchcli.zarr")  # a new store, as for a user who begins with it
    if "--submission" in line:
        shutil.rmtree("patchcli.zarr")
        Path("can.zarr").rename("patchcli.zarr")
    line, file = re.fullmatch(r"(.*?)(?: > (\S+\.jsonl))?", line).groups()  # type: ignore[union-attr]
    written = typed(line.replace("--steps 400", "--steps 3"))
    if file:
        Path(file).write_text(written)


def test_there_is_much_to_type() -> None:
    assert len(TYPED) > 35 and len(set(LINES)) > 45, "the documentation or the help texts are read wrongly"


def test_the_settings(workshop: Path) -> None:
    (settings,) = _fences("toml")
    Path("patchcli.toml").unlink()  # which the workshops share
    Path("patchcli.toml").write_text(settings)
    assert json.loads(typed("patchcli info"))["store"].endswith("grid.zarr")


def test_the_record() -> None:
    (record,) = map(json.loads, _fences("json"))
    assert list(record) == [field.name for field in dataclasses.fields(Record)]


def test_the_readmes_table(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its columns are the first that `score` prints on a terminal of 80 columns; shorter names leave room for more."""
    monkeypatch.setenv("COLUMNS", "80")
    (output,) = re.findall(r"^image +score.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    header, *_ = typed("patchcli score --out maps/ --overlay --format table").splitlines()
    assert header.split()[: len(output.split())] == output.split()


def test_the_readmes_python(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = _fences("python", PAGES[:1])
    shutil.rmtree("grid.zarr")
    exec(code, {})
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"score 0\.\d+ at \(\d+, \d+\), map \(140, 160\) float32", first)
    assert second == "None None None"


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    if not page.exists():
        pytest.skip(f"installed without {page.name}")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        linked = (page.parent / file) if file else page
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", h.casefold()).replace(" ", "-") for h in headings], target


def test_the_readme_links_every_guide() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        folder = page.parent if page.name == "README.md" else page
        assert f"({folder.relative_to(ROOT).as_posix()}" in readme
    assert len(readme.splitlines()) <= 130


# ---- examples/ -----------------------------------------------------------------------------------------------------


def script(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script of examples/ in this process."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.syspath_prepend((ROOT / "examples" / name).parent)  # as Python does for a script
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


RUNS = {
    "python_api.py": (("mvtec/grid", "photo.png"), "photo.png: 0."),
    "make_picture.py": (("mvtec/grid", "patchcli.zarr", "picture.jpg"), "picture.jpg: 160x284"),
    "mvtec_tables.py": (("mvtec", "--steps", 2), "Table S2"),
    "benchmarks/training.py": (("mvtec/grid", "--steps", 1, 2, "--seeds", 0, "--size", 128), "worst"),
    "benchmarks/criterion.py": (
        ("mvtec/grid", "--steps", 4, "--seeds", 0, "--size", 128, "--encoder", "flat"),
        "mean miss",
    ),
    "benchmarks/anomalib_patchcore.py": (
        ("mvtec/grid", "--weights", "efficientnet-lite0.pth", "--size", 128, "--keep", 0.5),
        "anomalib / patchcli",
    ),
    "benchmarks/embedding.py": ((1, 64), "times the best per-patch way"),
    "benchmarks/gpu.py": (("patchcli.zarr", "--small", "--minutes", 0.5), "search 1,000 x 768: faiss"),
    "benchmarks/large.py": (("patchcli.zarr", 1, "--workers", "--shards"), "the same"),
    "benchmarks/maps.py": (("patchcli.zarr",), "within 2 errors"),
    "benchmarks/metrics.py": ((4,), "MB resident"),
    "benchmarks/object_storage.py": (("patchcli.zarr",), "the bank's objects are the same: True"),
    "benchmarks/scale.py": (("patchcli.zarr", "--workers", 1), "1 worker"),
    "benchmarks/processes.py": (("patchcli.zarr", "line3", "--rounds", 1), "one image"),
    "benchmarks/search.py": (("patchcli.zarr",), "faiss"),
    "benchmarks/textures.py": (("textures", "brick", "grain"), "grain: 80 images to train with, 20 good and 25 defective ones"),
    "benchmarks/objects.py": (("objects", "duck"), "duck: 60 images to train with"),
}
NEEDS = {
    "benchmarks/anomalib_patchcore.py": "anomalib",
    "benchmarks/search.py": "faiss",
    "benchmarks/object_storage.py": "moto",
    "benchmarks/scale.py": "distributed",
    "benchmarks/gpu.py": "faiss",
    "benchmarks/large.py": "distributed",
    "benchmarks/textures.py": "skimage",
    "benchmarks/objects.py": "pybullet",
}


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(
    name: str, workshop: Path, workers_that_fork: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    arguments, told = RUNS[name]
    script(name, *arguments, monkeypatch=monkeypatch)
    assert told in capsys.readouterr().out


def test_no_example_is_left_out() -> None:
    scripts = {path.relative_to(ROOT / "examples").as_posix() for path in (ROOT / "examples").rglob("*.*") if path.is_file()}
    pages = {page.relative_to(ROOT / "examples").as_posix() for page in PAGES[1:]}
    others = {"overview.jpg", "jq_pipeline.sh", "mvtec_class.sh"}
    assert {name for name in scripts if "__pycache__" not in name} == {*RUNS, *others, *pages}


# Stands in for `patchcli` in a shell script: asks the process of the test, which has loaded everything.
STAND_IN = """#!{python} -SE
import json, os, socket, sys
with socket.create_connection(("127.0.0.1", {port})) as connection, connection.makefile("rw") as stream:
    store = os.environ.get("PATCHCLI_STORE", "patchcli.zarr")
    print(json.dumps([sys.argv[1:], sys.stdin.read(), store]), file=stream, flush=True)
    status, stdout, stderr = json.loads(stream.readline())
sys.stdout.write(stdout)
sys.stderr.write(stderr)
sys.exit(status)
"""


def bash(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a script in bash, each `patchcli` of it in this process; what it prints."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stand_in = folder / "patchcli"
        stand_in.write_text(STAND_IN.format(python=sys.executable, port=server.getsockname()[1]))
        stand_in.chmod(0o755)
        monkeypatch.setenv("PATH", os.pathsep.join((str(folder), os.environ["PATH"])))
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        server.settimeout(0.05)
        with subprocess.Popen(["bash", *command.split()], text=True, **streams) as script:  # type: ignore[call-overload]
            while script.poll() is None:
                with contextlib.suppress(TimeoutError):
                    connection, _ = server.accept()
                    with connection, connection.makefile("rw") as stream:
                        arguments, stdin, store = json.loads(stream.readline())
                        monkeypatch.setenv("PATCHCLI_STORE", store)
                        result = run(*arguments, stdin=stdin)
                        print(json.dumps([result.exit_code, result.stdout, result.stderr]), file=stream, flush=True)
            stdout, stderr = script.communicate()
    assert script.returncode == 0, stderr
    return str(stdout)


@pytest.mark.parametrize(
    ("command", "told"),
    [("jq_pipeline.sh patchcli.zarr line3 2", "line3/00"), ("mvtec_class.sh mvtec/grid out", "schema,category")],
)
def test_a_shell_example_runs(command: str, told: str, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "jq" in command and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    monkeypatch.setenv("MINUTES", "0.01")
    assert told in bash(f"{ROOT}/examples/{command}", tmp_path, monkeypatch)
