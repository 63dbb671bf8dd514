"""Values from patchcli.toml and pyproject.toml: where they are looked for, what comes before them, what is refused."""

import shutil
from pathlib import Path

import pytest
from commands import done, records, refused
from smallworld import World, write_plain


def test_flags_over_environment_over_file(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flag", "environment"):
        shutil.copytree(made.store, tmp_path / f"{name}.zarr")
    Path("patchcli.toml").write_text(f'store = "{made.store.as_posix()}"\n[info]\nformat = "csv"\n')
    assert done("info").stdout.startswith("schema,store")
    assert records(done("info", "--format", "jsonl"))[0]["store"] == str(made.store)
    monkeypatch.setenv("PATCHCLI_STORE", str(tmp_path / "environment.zarr"))
    assert records(done("info", "--format", "jsonl"))[0]["store"].endswith("environment.zarr")
    told = records(done("info", "--format", "jsonl", "--store", tmp_path / "flag.zarr"))
    assert told[0]["store"].endswith("flag.zarr")


def test_the_nearest_file_upwards(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pyproject.toml").write_text(f'[tool.patchcli]\nstore = "{made.store.as_posix()}"\nquiet = true\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\nstore = 1\n")
    (below / "pyproject.toml").write_text("not TOML, and not ours")
    monkeypatch.chdir(below)
    (found,) = records(done("info"))
    assert found["store"] == str(made.store)
    (below / "patchcli.toml").write_text('store = "none.zarr"')
    refused("info", says=("none.zarr",))


def test_paths_are_relative_to_the_file(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made.store, tmp_path / "project" / "own.zarr")
    below = tmp_path / "project" / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "project" / "patchcli.toml").write_text('store = "own.zarr"\n[score]\nout = "maps"\n')
    monkeypatch.chdir(below)
    (found,) = records(done("info"))
    assert Path(found["store"]) == tmp_path / "project" / "own.zarr"
    done("score", made.data / "test" / "good")
    assert len(list((tmp_path / "project" / "maps").rglob("*.tiff"))) == 2
    shutil.move(tmp_path / "project" / "own.zarr", below / "flag.zarr")
    (found,) = records(done("info", "--store", "flag.zarr"))  # a flag's is the shell's
    assert found["store"] == "flag.zarr"


@pytest.mark.parametrize("source", ['"good"', '["good"]', '"loo"'])
def test_so_are_those_of_good_images(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    write_plain(tmp_path / "project" / "good", 12, seed=4)
    (tmp_path / "project" / "below").mkdir()
    (tmp_path / "project" / "patchcli.toml").write_text(f"[calibrate]\nfrom = {source}\n")
    monkeypatch.chdir(tmp_path / "project" / "below")
    result = done("calibrate", "--false-alarms", "30%", "--dry-run", "--store", made.store)
    assert ("read 12 good images (named images)" in result.stderr) == ("good" in source)


def test_a_broken_file_refuses_no_help() -> None:
    Path("patchcli.toml").write_text("steps = ")
    assert "--overlay" in done("score", "--help").stdout
    assert "Learn:" in done("--help").stdout
    refused("score", says=("not valid TOML",))


def test_a_table_within_a_table(made: World) -> None:
    Path("patchcli.toml").write_text(f'[bank.list]\nstore = "{made.store.as_posix()}"\nformat = "csv"')
    assert done("bank", "list").stdout.startswith("schema,image,id,width,height")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps = ", "patchcli.toml: not valid TOML"),
        ("stepps = 3", "patchcli.toml: stepps: no such option; did you mean steps?"),
        ("[trian]\nsteps = 3", "patchcli.toml: trian: no such command; did you mean train?"),
        ("[train]\nfalse-alarms = 3", "patchcli.toml: train.false-alarms: no such option"),
        ("[train]\nstep = 3", "patchcli.toml: train.step: no such option; did you mean steps?"),
        ('[train]\nsteps = "many"', "patchcli.toml: steps: expected a whole number, found 'many'"),
        ('[train]\nencoder = "deep"', "patchcli.toml: encoder: expected hybrid, hierarchical, flat or fixed, found 'deep'"),
        ('memory = "lots"', "patchcli.toml: memory: expected a size such as 300M or 2G, found 'lots'"),
        ("train = 3", "patchcli.toml: train: expected a table of that command's options, found 3"),
        ("[bank.add]\nmemories = 1", "patchcli.toml: bank.add.memories: no such option; did you mean memory?"),
    ],
)
def test_refused(text: str, says: str) -> None:
    Path("patchcli.toml").write_text(text)
    refused("info", says=(says,))


def test_names_that_end_in_nul(world: World) -> None:
    good = world.data / "test" / "good"
    odd = good / "new\nline.png"
    (good / "000.png").rename(odd)
    listed = f"{odd}\0{good / '001.png'}\0"
    found = records(done("score", "-0", "-", "--store", world.store, stdin=listed))
    assert [record["image"] for record in found] == [str(odd), str(good / "001.png")]
    assert [record["id"] for record in found] == ["test/good/new\nline.png", "test/good/001.png"]
    assert len(records(done("score", "-0", "-", "--store", world.store, stdin=listed.rstrip("\0")))) == 2
    done("bank", "remove", "--null", "-", "--store", world.store, stdin="train/good/000.png\0train/good/001.png\0")
    assert len(records(done("bank", "list", "--store", world.store))) == 8


def test_a_tilde_is_the_home_folder(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(made.store, tmp_path / "home" / "own.zarr")
    Path("patchcli.toml").write_text('store = "~/own.zarr"')
    (found,) = records(done("info"))
    assert Path(found["store"]) == tmp_path / "home" / "own.zarr"
    Path("patchcli.toml").write_text('store = "~nobody-of-this-name/own.zarr"')
    refused("info", says=("patchcli.toml: store: ", "home directory"))
