"""Bad input: status 2, a line or two on standard error that name the thing and what to do, and nothing lost."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from commands import check_refusal, done, finished, records, refused, run, timeless
from PIL import Image
from smallworld import World, part_folder, save, texture, tree, truncate, write_dataset, write_plain

import patchcli
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.store import Blocks, Store
from patchcli.store import bank as bank_module

# ---- data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["extract", "train"])
def test_data_that_is_none(tmp_path: Path, command: str) -> None:
    refused(command, tmp_path / "nowhere", says=("nowhere: no such folder", "expected a data set"))
    (tmp_path / "notes.txt").write_text("x")
    refused(command, tmp_path / "notes.txt", says=("notes.txt: expected a folder of images, found a file",))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    refused(command, tmp_path / "empty", says=("empty: no images found", "expected png, jpg, bmp, tif, webp or gif"))
    write_plain(tmp_path / "weave" / "test" / "hole", 2)
    refused(command, tmp_path / "weave", says=("found test/ but no train/good/", "put the good images into train/good/"))
    write_plain(tmp_path / "mvtec" / "grid" / "train" / "good", 1)
    write_plain(tmp_path / "mvtec" / "wood" / "train" / "good", 1)
    refused(command, tmp_path / "mvtec", says=("expected one data set, found 2", tmp_path / "mvtec" / "grid"))
    assert not (tmp_path / "patchcli.zarr").exists()


def test_no_data_named() -> None:
    refused("extract", says=("DATA: expected a data set or a folder of good images",))


def test_bad_images_among_good_ones(world: World, tmp_path: Path) -> None:
    good = world.data / "train" / "good"
    truncate(good / "004.png")
    (good / "011.jpg").write_text("no image")
    save(good / "012.png", np.zeros((20, 20, 3), np.uint8))
    result = run("extract", world.data, "--store", "s.zarr", "--size", 128)
    assert result.exit_code == 2
    assert result.stdout == ""
    first, second, third, *rest = result.stderr.splitlines()
    assert first.startswith(f"patchcli: left out: {good}/004.png: cannot be decoded")
    assert second.startswith(f"patchcli: left out: {good}/011.jpg: cannot be decoded")
    assert third == f"patchcli: left out: {good}/012.png: 20×20 pixels are smaller than a patch (32×32)"
    assert rest == [
        "patchcli: 9 images of 128x128 pixels extracted into s.zarr",
        "patchcli: done, but 3 problems reported above",
    ]
    done("train", "--store", "s.zarr", "--steps", 0, "--dim", 8)
    done("embed", "--store", "s.zarr")
    assert len(records(done("score", "--store", "s.zarr"))) == 5


def test_images_smaller_than_a_patch(tmp_path: Path) -> None:
    write_plain(tmp_path / "good", 2, (20, 300))
    result = run("extract", "good")
    assert result.exit_code == 2
    *each, last = result.stderr.splitlines()
    assert each == [
        f"patchcli: left out: {tmp_path}/good/00{i}.png: 300×20 pixels are smaller than a patch (32×32)" for i in (0, 1)
    ]
    assert last.startswith("patchcli: error: ")
    assert "found 0 that can be read, of 2 files" in last
    assert [child.name for child in tmp_path.iterdir()] == ["good"]


def test_two_images_are_enough_and_one_is_not(tmp_path: Path) -> None:
    write_plain(tmp_path / "two", 2)
    trained = done("train", "two", "--size", 128, "--steps", 0, "--dim", 8)
    assert "patchcli: 2 training images are few; expect many false alarms" in trained.stderr.splitlines()
    done("embed")
    image = save(tmp_path / "x.png", texture(np.random.default_rng(3), 90, 120))
    (record,) = records(done("score", image))
    assert record["score"] > 0
    write_plain(tmp_path / "one", 1)
    done("extract", "one", "--store", "one.zarr")
    says = ("one.zarr: expected at least 2 good images", "found 1", "patchcli import --backbone")
    refused("train", "--store", "one.zarr", "--quiet", says=says)
    torch.save(dict(HierarchicalEncoder(8).state_dict()), "weights.pkl")
    refused("import", "weights.pkl", "--store", "one.zarr", says=says)


@pytest.mark.parametrize("command", ["extract", "train"])
@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("48", ("--size: expected at least 64x64", "found 48x48")),
        ("256x48", ("--size: expected at least 64x64", "found 256x48")),
        ("abc", ("--size: expected 256, 256x320", "'abc'")),
        ("128x", ("--size: expected 256", "'128x'")),
        ("1x2x3", ("--size: expected 256", "'1x2x3'")),
        ("-128", ("--size: expected 256", "'-128'")),
        ("12²", ("--size: expected 256", "'12²'")),
    ],
)
def test_sizes(kept: World, tmp_path: Path, command: str, size: str, says: tuple[str, ...]) -> None:
    refused(command, kept.data, "--size", size, says=says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [b"caf\xe9.png", "1²3.png".encode()])
def test_uncommon_file_names(world: World, tmp_path: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(world.data / "train" / "good") + b"/" + name))
    try:
        save(path, texture(np.random.default_rng(3), 90, 120))
    except OSError:
        pytest.skip("this file system takes no such name")
    result = run("extract", world.data, "--store", "s.zarr", "--size", 128)  # takes it or leaves it out
    assert result.exit_code in (0, 2)
    assert Store.open("s.zarr").images.shape[0] == 11 - (result.exit_code == 2)
    result = run("score", path, world.data / "test" / "hole" / "000.png", "--store", world.store)
    assert result.exit_code in (0, 2)
    assert len(result.stdout.splitlines()) == 2 - (result.exit_code == 2)


# ---- the store ------------------------------------------------------------------------------------------------------


NEED_A_STORE = (
    ["train", "--steps", "0", "--overwrite"], ["embed"], ["score"], ["eval"], ["info"], ["extract", "--patches", "p"],
    ["calibrate"], ["verify"], ["bank", "list"], ["bank", "audit"], ["bank", "remove", "x"], ["bank", "add", "x"],
)  # fmt: skip


def test_no_store(tmp_path: Path) -> None:
    for command in NEED_A_STORE:
        says = ("patchcli.zarr: no store found", "patchcli train DATA", "--store")
        refused(*command, says=says)
        refused(*command, "--store", "x/y.zarr", says=("x/y.zarr: no store found",))
    assert not (tmp_path / "patchcli.zarr").exists()
    assert not (tmp_path / "x").exists()


def test_a_store_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file.zarr").write_text("x")
    zarr.open_group("cells.zarr", mode="w", zarr_format=3).create_array("cells", data=np.arange(3))
    before = tree(tmp_path / "cells.zarr")
    for command in NEED_A_STORE:
        refused(*command, "--store", "file.zarr", says=("file.zarr", "--store"))
        refused(*command, "--store", "cells.zarr", says=("cells.zarr: expected a patchcli store", "--store"))
    assert (tmp_path / "file.zarr").read_text() == "x"
    assert tree(tmp_path / "cells.zarr") == before


@pytest.mark.parametrize("kind", ["folder", "file", "group"])
def test_overwrite_replaces_nothing_but_stores(kept: World, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "precious"
    if kind == "folder":
        save(target / "photo.png", np.zeros((9, 9, 3), np.uint8))
    elif kind == "file":
        target.write_text("x")
    else:
        zarr.open_group("precious", mode="w", zarr_format=3).create_array("cells", data=np.arange(3))
    before = tree(tmp_path)
    refused("extract", kept.data, "--store", "precious", "--overwrite", says=("precious: ", "--store"))
    assert tree(tmp_path) == before


def test_another_format_version(bankless: Path, kept: World) -> None:
    metadata = json.loads((bankless / "zarr.json").read_text())
    metadata["attributes"]["patchcli"]["format_version"] = 2
    (bankless / "zarr.json").write_text(json.dumps(metadata))
    before = tree(bankless)
    for command in NEED_A_STORE:
        says = ("bankless.zarr: expected a patchcli store of format 1, found 2", "--store")
        refused(*command, "--store", bankless, says=says)
    refused("extract", kept.data, "--store", bankless, says=("format 1, found 2",))
    assert tree(bankless) == before
    done("extract", kept.data, "--store", bankless, "--overwrite", "--size", 128)
    assert Store.open(bankless).images.ids[0] == "train/good/000.png"


def test_steps_out_of_order(kept: World, bankless: Path) -> None:
    done("extract", kept.data, "--store", "s.zarr", "--size", 128)
    for command in ("embed", "score", "eval"):
        refused(command, "--store", "s.zarr", says=("s.zarr: holds no encoder yet", "run: patchcli train"))
    refused("train", "--resume", "--store", "s.zarr", says=("s.zarr: holds no encoder yet",))
    for command in ("score", "eval"):
        refused(command, "--store", bankless, says=("bankless.zarr: holds no bank yet", "run: patchcli embed"))


def test_a_real_process_says_no_more_than_that(untrained: Path) -> None:
    status, stdout, stderr = finished("score", "--store", untrained)
    check_refusal(status, stdout, stderr, ("holds no bank yet", "run: patchcli embed"))


def test_verbose_shows_where(untrained: Path) -> None:
    result = run("score", "--store", untrained, "--verbose")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("patchcli: error: ")


def test_a_half_written_bank(bankless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Blocks.write_block

    def interrupted(self: Blocks, block: int, features: object) -> None:
        if block == 3:
            raise KeyboardInterrupt
        write(self, block, features)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(bank_module, "CHUNK_BYTES", 1)
        patched.setattr(Blocks, "write_block", interrupted)
        result = run("embed", "--store", bankless, "--quiet")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "patchcli: interrupted; finished work is kept, run again to resume\n"
    for command in ("score", "eval"):
        says = ("bankless.zarr: the bank is half-written (3 of 10 blocks)", "run: patchcli embed")
        refused(command, "--store", bankless, says=says)
    result = done("embed", "--store", bankless)
    assert result.stderr.splitlines() == [
        "patchcli: resuming: 3 of 10 blocks are done",
        "patchcli: 6,500 vectors will need 0.8 MB of disk in the meantime, and 1.2 MB of memory to be searched",
        "patchcli: the bank holds 250 big, 6,250 small vectors of 10 images (7 embedded now)",
        "patchcli: next: patchcli calibrate (for verdicts), or patchcli score",
    ]
    assert len(records(done("score", "--store", bankless))) == 5


def test_a_bank_of_another_encoder(world: World) -> None:
    done("train", "--store", world.store, "--steps", 0, "--dim", 8, "--seed", 1, "--overwrite")
    for command in ("score", "eval"):
        says = ("the bank belongs to encoder", "run: patchcli embed")
        refused(command, "--store", world.store, says=says)
    assert "(10 embedded now)" in done("embed", "--store", world.store).stderr
    done("score", "--store", world.store)


def test_another_data_set_in_the_store(kept: World, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", images=2, seed=5)
    says = (kept.data, other, "--store", "--overwrite")
    refused("extract", other, "--store", kept.store, says=says)
    refused("train", other, "--store", kept.store, "--steps", 0, says=says)
    refused("extract", kept.data, "--size", "128x160", "--store", kept.store, says=("128x128", "128x160", *says[2:]))


def test_damaged_weights(bankless: Path) -> None:
    zarr.open_group(str(part_folder(bankless, "encoder")), mode="r+")["conv1.bias"][0] = 0.5  # type: ignore[index]
    before = tree(bankless)
    for command in (["embed"], ["train", "--resume", "--steps", "1"]):
        says = (part_folder(bankless, "encoder"), "weights differ from their sha256", "--overwrite")
        refused(*command, "--store", bankless, says=says)
    assert tree(bankless) == before


def test_a_damaged_checkpoint(bankless: Path) -> None:
    encoder = zarr.open_group(str(part_folder(bankless, "encoder")), mode="r+")
    encoder["training/loss.encoder.conv1.bias"][0] = 0.5  # type: ignore[index]
    says = ("the checkpoint's weights differ from their sha256", "--overwrite")
    refused("train", "--resume", "--steps", "1", "--store", bankless, says=says)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("zarr.json", ("weave.zarr: damaged", "make the store again, or restore a copy")),
        ("images", ("images", "extract the images again with --overwrite")),
        ("encoder", ("encoder", "train again with --overwrite")),
        ("bank", ("bank", "run: patchcli embed --overwrite")),
    ],
)
def test_metadata_that_is_empty(world: World, file: str, says: tuple[str, ...]) -> None:
    path = world.store / file if file == "zarr.json" else part_folder(world.store, file) / "zarr.json"
    path.write_bytes(b"")
    for command in NEED_A_STORE:
        if file == "zarr.json" or (file != "bank" and command[0] == "score") or command[0] in ("eval", "info"):
            refused(*command, "--store", world.store, says=says)
    refused("info", "--check", "--store", world.store, says=says)


def test_a_damaged_store_is_made_again(world: World) -> None:
    """With the command that the message names."""

    def damage(kind: str) -> None:
        chunk = next(path for path in part_folder(world.store, kind).rglob("c/*") if path.is_file())
        truncate(chunk)

    store = ("--store", world.store)
    done("calibrate", *store, "--false-alarms", "30%")
    expected = timeless(records(done("score", *store)))
    for kind, repairs in {
        "images": [("extract", world.data, "--overwrite")],
        "bank": [("embed", "--overwrite")],
        "calibration": [("calibrate", "--false-alarms", "30%")],
        "encoder": [("train", "--overwrite", "--steps", 0, "--dim", 16, "--encoder", "hierarchical")],
    }.items():
        damage(kind)
        refused("info", "--check", *store, says=(part_folder(world.store, kind), "damaged"))
        for command in repairs:
            done(*command, *store)
        done("info", "--check", *store)
        assert timeless(records(done("score", *store))) == expected
    (world.store / "zarr.json").write_text("{")
    refused("score", *store, says=("make the store again",))
    done("train", world.data, *store, "--overwrite", "--size", 128, "--steps", 0, "--dim", 16)
    done("embed", *store)
    assert len(records(done("score", *store))) == 5


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["score", "--format", "xml"], ("--format: expected table, jsonl or csv", "'xml'")),
        (["eval", "--format", "xml"], ("--format: expected table, jsonl or csv", "'xml'")),
        (["info", "--format", "xml"], ("--format: expected table, jsonl or csv", "'xml'")),
        (["score", "--search", "annoy"], ("--search: expected auto, pruned, brute or keops", "'annoy'")),
        (["eval", "--search", "annoy"], ("--search: expected auto, pruned, brute or keops", "'annoy'")),
        (["embed", "--device", "cuda"], ("--device cuda: no CUDA device found", "--device cpu")),
        (["score", "--device", "cuda"], ("--device cuda: no CUDA device found", "--device cpu")),
        (["eval", "--device", "gpu"], ("--device: expected auto, cpu or cuda", "'gpu'")),
        (["train", "--device", "cuda", "--overwrite"], ("--device cuda: no CUDA device found", "--device cpu")),
        (["embed", "--threads", "0"], ("--threads: expected 1 or more, found 0",)),
        (["score", "--threads", "0"], ("--threads: expected 1 or more, found 0",)),
        (["eval", "--threads", "-1"], ("--threads: expected 1 or more, found -1",)),
        (["train", "--threads", "0", "--overwrite"], ("--threads: expected 1 or more, found 0",)),
        (["train", "--steps", "-1", "--overwrite"], ("--steps: expected 0 or more, found -1",)),
        (["train", "--steps", "1", "--epochs", "1", "--overwrite"], ("--steps and --epochs: give one",)),
        (["train", "--dim", "0", "--overwrite"], ("--dim: expected 1 or more, found 0",)),
        (["train", "--lambda", "nan", "--overwrite"], ("--lambda: expected a number of 0 or more, found nan",)),
        (["train", "--encoder", "deep", "--overwrite"], ("--encoder: expected hybrid, hierarchical, flat or fixed", "'deep'")),
        (["train", "--resume", "--lr", "0.1"], ("--resume: the checkpoint has --lr 0.001, found 0.1", "--overwrite")),
        (["train", "--steps", "1"], ("holds an encoder already", "--resume", "--overwrite")),
        (["score", "--overlay"], ("--overlay: expected --out too",)),
        (["extract", "--patches", "p", "--image", "x.png"], ("--image x.png: not in the store", "train/good/000.png")),
        (["extract", "--patches", "p", "--scale", "huge"], ("--scale: expected big or small", "'huge'")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options(kept: World, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: tuple[str, ...]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(*arguments, "--store", kept.store, says=says)
    assert not Path("p").exists()


# ---- score ----------------------------------------------------------------------------------------------------------


def test_out_that_cannot_be(kept: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused("score", "--store", kept.store, "--out", "file", says=("--out file: expected a folder, found a file",))
    refused("score", "--quiet", "--store", kept.store, "--out", "file/maps", says=("file",))
    says = (f"--out {kept.data}: lies among the data set's images", "expected another folder")
    refused("score", "--store", kept.store, "--out", kept.data, says=says)
    image = kept.data / "test" / "hole" / "000.png"
    refused("score", image, "--store", kept.store, "--out", kept.data, says=says)
    (tmp_path / "link").symlink_to(kept.data)
    refused("score", "--store", kept.store, "--out", "link", says=("--out link: lies among the data set's images",))
    assert (tmp_path / "file").read_text() == "x"


def test_a_truncated_image_among_scored_paths(made: World, tmp_path: Path) -> None:
    cut = truncate(Path(shutil.copy(made.data / "test" / "good" / "000.png", tmp_path / "cut.png")))
    hole = made.data / "test" / "hole" / "001.png"
    result = run("score", "cut.png", hole, "missing.png", "--store", made.store, "--quiet")
    assert result.exit_code == 2
    assert [record["id"] for record in records(result)] == ["test/hole/001.png"]
    first, second, last = result.stderr.splitlines()
    assert first.startswith(f"patchcli: left out: {cut.name}: cannot be decoded")
    assert second == "patchcli: left out: missing.png: no such file"
    assert last == "patchcli: done, but 2 problems reported above"


def test_nothing_that_could_be_scored(made: World) -> None:
    result = run("score", "missing.png", "--store", made.store, "--quiet")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "patchcli: left out: missing.png: no such file",
        "patchcli: error: no image could be scored; expected png, jpg, bmp, tif, webp or gif files",
    ]


# ---- eval -----------------------------------------------------------------------------------------------------------


def test_masks_that_cannot_be_used(world: World) -> None:
    masks = world.data / "ground_truth" / "hole"
    shutil.copy(masks / "000_mask.png", masks / "999_mask.png")
    Image.new("L", (30, 20), 255).save(masks / "000_mask.png")
    Image.new("L", (160, 140), 0).save(masks / "001_mask.png")
    result = run("eval", "--store", world.store, "--quiet")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"patchcli: left out: {masks}/999_mask.png: mask without an image; expected test/hole/999.*",
        f"patchcli: left out: {masks}/000_mask.png: expected a mask of the image's size, found 30x20, its image has 160x140",
        f"patchcli: left out: {masks}/001_mask.png: mask of a defective image is empty; its pixels are left out",
        "patchcli: done, but 3 problems reported above",
    ]
    rows = records(result)
    assert [row["map"] for row in rows] == ["K=64", "K=32", "product", "product"]
    for row in rows:
        assert (row["images"], row["image_auroc"]) == (5, 1)
        assert row["pixel_auroc"] is not None
        assert row["note"] == "2 of 3 defective images have no usable mask, left out of pixel AUROC"


def test_a_truncated_test_image(world: World) -> None:
    cut = truncate(world.data / "test" / "hole" / "000.png")
    result = run("eval", "--store", world.store, "--quiet")
    assert result.exit_code == 2
    first, last = result.stderr.splitlines()
    assert first.startswith(f"patchcli: left out: {cut}: cannot be decoded")
    assert last == "patchcli: done, but 1 problem reported above"
    assert [row["images"] for row in records(result)] == [4, 4, 4, 4]


# ---- the disk -------------------------------------------------------------------------------------------------------


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["extract", "DATA", "--store", "s.zarr", "--size", "128"], "patchcli.store.Store.write_images"),
        (["score", "--quiet", "--store", "STORE", "--out", "maps"], "tifffile.imwrite"),
        (["eval", "--quiet", "--store", "STORE", "--metrics", "m.json"], "patchcli.detection.pixel_metrics.Pixels.add"),
        (["train", "--store", "STORE", "--overwrite", "--steps", "0"], "patchcli.store.Store.write_encoder"),
        (["embed", "--quiet", "--store", "STORE", "--overwrite"], "patchcli.store.Blocks.write_block"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_full_disk(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], where: str) -> None:
    names: dict[str, Callable[[], object]] = {"DATA": lambda: world.data, "STORE": lambda: world.store}
    given = [str(names[argument]()) if argument in names else argument for argument in arguments]
    with monkeypatch.context() as patched:
        patched.setattr(where, _full)
        refused(*given, says=("No space left on device", "fix this"))
    assert not (tmp_path / "s.zarr").exists()
    done(*given)
    assert patchcli.info(world.store).images == 10
