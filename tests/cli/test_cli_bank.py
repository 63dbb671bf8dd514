"""bank, and embed's ways to a smaller one, as commands."""

import csv
import io

import pytest
from commands import done, records, refused, run
from smallworld import World


def test_list(made: World) -> None:
    found = records(done("bank", "list", "--store", made.store))
    assert [record["image"] for record in found] == [f"train/good/{n:03}.png" for n in range(10)]
    assert found[0] == {
        "schema": "patchcli.bank/1", "image": "train/good/000.png", "id": "train/good/000.png", "width": 160, "height": 140,
        "vectors_big": 25, "vectors_small": 625, "vectors_fixed": None, "vectors_pretrained": None,
    }  # fmt: skip
    table = done("bank", "list", "--store", made.store, "--format", "table").stdout.splitlines()
    assert table[0].split() == ["image", "width", "height", "big", "small", "fixed", "pretrained"]
    assert len(table) == 11
    assert len(list(csv.DictReader(io.StringIO(done("bank", "list", "--store", made.store, "--format", "csv").stdout)))) == 10


def test_audit(made: World) -> None:
    found = records(done("bank", "audit", "--store", made.store))
    assert len(found) == 10
    assert found[0]["schema"] == "patchcli.audit/1"
    assert found[0]["score"] == max(record["score"] for record in found)
    table = done("bank", "audit", "--store", made.store, "--format", "table").stdout
    assert table.splitlines()[0].startswith("image")
    assert "deviation" in table


def test_remove_and_add(world: World) -> None:
    names = "train/good/002.png\ntrain/good/004.png\n"
    assert "the bank holds 8 images" in done("bank", "remove", "-", "--store", world.store, stdin=names).stderr
    left = [record["image"] for record in records(done("bank", "list", "--store", world.store))]
    assert len(left) == 8
    assert not {"train/good/002.png", "train/good/004.png"} & set(left)
    given = world.data / "train" / "good"
    result = done("bank", "add", given / "002.png", given / "004.png", "--store", world.store)
    assert "the bank holds 10 images (2 embedded now)" in result.stderr
    assert len(records(done("score", "--store", world.store))) == 5
    assert (given / "002.png").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("remove", "nothing.png"), ("nothing.png: not in the bank", "train/good/000.png")),
        (("add", "nothing.png"), ()),
        (("audit", "--memory", "lots"), ("--memory: expected a size such as 300M or 2G, found 'lots'",)),
        (("audit", "--search", "faiss"), ("--search: expected auto, pruned, brute or keops",)),
        (("list", "--format", "xml"), ("--format",)),
    ],
)
def test_refusals(kept: World, arguments: tuple[str, ...], says: tuple[str, ...]) -> None:
    if arguments[0] == "add":  # the file is named, and then that there is nothing to add
        result = run("bank", *arguments, "--store", kept.store)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "nothing.png: no such file" in result.stderr
        return
    refused("bank", *arguments, "--store", kept.store, says=says)


def test_embed_thinned(world: World) -> None:
    result = done("embed", "--keep", "10%", "--store", world.store)
    assert "the bank holds 25 big, 625 small vectors of 10 images (0 embedded now)" in result.stderr
    bound = result.stderr.split("a distance is off by at most ")[1].split()[0]
    (first, *_) = records(done("score", "--store", world.store, "--memory", "1M"))
    assert first["distance_error"] >= float(bound) * 0.99
    refused("bank", "audit", "--store", world.store, says=("needs the whole bank", "patchcli embed --overwrite"))
    assert "250 big, 6,250 small" in done("embed", "--overwrite", "--half", "--store", world.store).stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--keep", "some"), "--keep: expected a share such as 10% or 0.1, found 'some'"),
        (("--keep", "120%"), "--keep: expected a share such as 10% or 0.1, found 1.2"),
        (("--tolerance", "-1"), "--tolerance: expected a distance above 0, found -1.0"),
        (("--keep", "5%", "--tolerance", "1"), "--tolerance and --keep: give one of the two"),
        (("--memory", "0"), "--memory: expected a size such as 300M or 2G, found '0'"),
    ],
)
def test_embed_refuses(kept: World, arguments: tuple[str, ...], says: str) -> None:
    refused("embed", *arguments, "--store", kept.store, says=(says,))


def test_memory_is_said_beforehand(made: World) -> None:
    line, _ = done("score", "--store", made.store, "--memory", "500K").stderr.splitlines()
    assert line.startswith("patchcli: the bank would take 1.2 MB of memory, 0.5 MB may be used: parts of it are read anew")
    assert "memory" not in done("score", "--store", made.store).stderr
    assert "patchcli: the bank takes 1.2 MB of memory\n" in done("score", "--store", made.store, "--verbose").stderr


def test_test_images_are_added_by_force_alone(world: World) -> None:
    image = world.data / "test" / "hole" / "001.png"
    result = run("bank", "add", image, "--store", world.store)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"patchcli: left out: {image}: is a test image of the data set (hole)" in result.stderr
    result = done("bank", "add", image, "--store", world.store, "--force")
    assert "1 of the images are labelled as defective (first: test/hole/001.png)" in result.stderr
    assert "the bank holds 11 images (1 embedded now)" in result.stderr
