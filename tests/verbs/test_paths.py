"""Paths, names, links and what is no file: as they are given, as they are recorded, and where maps lie."""

import csv
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from smallworld import SIZE, WORKING, Told, World, make_store, save, texture, tree, write_dataset, write_plain

import patchcli
from patchcli.datasets import images, layouts
from patchcli.datasets.layouts import Sample
from patchcli.datasets.masks import Rule
from patchcli.detection.detector import Setup
from patchcli.detection.evaluation import totals
from patchcli.errors import InputError
from patchcli.store import Store
from patchcli.verbs.extraction import ImageOptions
from patchcli.verbs.outputs import Outputs, Places, below, description
from patchcli.verbs.sources import each, expanded

LONG = "x" * 251 + ".png"  # 255 bytes: there is no room for .tiff


class Named(os.PathLike[str]):
    """A path that is neither a str nor a Path."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __fspath__(self) -> str:
        return self._path


KINDS: list[Callable[[Path], object]] = [str, Path, os.fsencode, Named]


def photo(path: Path, seed: int = 90) -> Path:
    return save(path, texture(np.random.default_rng(seed), *SIZE))


# ---- one path or many -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.png", "b c\n.png", "ü", "."])
def test_a_text_is_one_path(kind: Callable[[Path], object], name: str) -> None:
    path = Path("/x") / name
    assert list(each(kind(path), pytest.fail)) == list(each([kind(path)], pytest.fail)) == [path]  # type: ignore[arg-type, list-item]


def test_an_empty_text_is_not_the_working_directory() -> None:
    told = Told()
    assert list(expanded(["", b""], told.problem)) == []
    assert ["found an empty text" in problem for problem in told.problems] == [True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_one_path_adds_one_image_and_is_removed_by_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Path], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    new = photo(Path("new") / "good.png")
    photo(tmp_path / "s" / "a" / "n" / "never.png")
    assert patchcli.bank_add(world.store, kind(new)).images == 11  # type: ignore[arg-type]
    assert Store.open(world.store).images.ids[-1] == "new/good.png"
    assert patchcli.bank_remove(world.store, kind(new)).images == 10  # type: ignore[arg-type]


def test_what_is_in_the_data_set_has_one_id_however_it_is_given(world: World, tmp_path: Path) -> None:
    good = world.data / "train" / "good"
    (tmp_path / "link").symlink_to(good)
    for number, path in enumerate((good / "000.png", tmp_path / "link" / "001.png", Path(os.path.relpath(good / "002.png")))):
        assert patchcli.bank_remove(world.store, path).images == 9
        assert f"train/good/00{number}.png" not in Store.open(world.store).images.ids
        assert patchcli.bank_add(world.store, path).images == 10
        assert Store.open(world.store).images.ids[-1] == f"train/good/00{number}.png"


def test_a_linked_lot_is_known_by_its_names(tmp_path: Path) -> None:
    lot = write_plain(tmp_path / "elsewhere", 4)
    data = write_dataset(tmp_path / "weave", images=2)
    (data / "train" / "good" / "lot1").symlink_to(lot)
    store = make_store(data, tmp_path / "s.zarr", encoder="flat", D=4)
    assert Store.open(store).images.ids[-1] == "train/good/lot1/003.png"
    assert patchcli.bank_remove(store, data / "train" / "good" / "lot1" / "003.png").images == 5
    with pytest.raises(InputError, match=r"`out` .*elsewhere: lies among the data set's images"):
        patchcli.score(store, outputs=Outputs(lot))


def test_one_path_is_scored_calibrated_and_reported(made: World, world: World, tmp_path: Path) -> None:
    image = made.data / "test" / "hole" / "001.png"
    (record,) = patchcli.score(made.store, str(image))
    assert (record.image, record.id) == (image.as_posix(), "test/hole/001.png")
    page = patchcli.write_report(made.store, os.fsencode(image), out=tmp_path / "r.html", observer=Told())
    assert image.as_posix() in page.read_text(encoding="utf-8")
    write_plain(tmp_path / "more", 12, seed=7)
    assert patchcli.calibrate(world.store, str(tmp_path / "more"), false_alarms=0.25).images == 12
    with pytest.raises(
        InputError, match="`source`: expected holdout, validation, loo or paths, found 'none', which is no file"
    ):
        patchcli.calibrate(world.store, "none")
    patchcli.score(world.store, image, outputs=Outputs(regions_out=tmp_path / "r.csv"))
    found = list(patchcli.score(world.store, image, outputs=Outputs(regions_out=tmp_path / "r.csv")))
    with (tmp_path / "r.csv").open(newline="") as file:
        assert {(row["image"], row["id"]) for row in csv.DictReader(file)} == {(found[0].image, found[0].id)}


# ---- where maps lie -------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["..", ".", "", "a", "b", "x.png", "x.jpg", "x"]), min_size=1, max_size=6), st.booleans())
def test_no_map_lies_outside(parts: list[str], absolute: bool) -> None:
    place = below(Path("/maps"), "/" * absolute + "/".join(parts))
    assert ".." not in place.parts and place.is_relative_to("/maps")


NAMES = st.lists(st.sampled_from(["x", "y", "..", "x.png", "x.jpg", "y.png.jpg"]), min_size=1, max_size=4).map("/".join)


@settings(max_examples=100)
@given(st.lists(NAMES.map(lambda name: f"{name}/z.png") | NAMES.map(lambda name: f"{name}/z.jpg"), unique=True, max_size=8))
def test_every_image_has_a_map_of_its_own(ids: list[str]) -> None:
    places = Places(Path("/nowhere/maps"), ())
    found = [places.of(Sample(name, Path("/photos") / name, "test", "")) for name in ids]
    assert len(set(found)) == len(ids) == len(places)


def write_manifest(folder: Path, style: str) -> Path:
    """A data set whose manifest names its images by absolute paths, or by steps upward; beside the photographs."""
    data = write_dataset(folder / "weave", masks=True)
    lists = folder / "lists"
    lists.mkdir()
    rows = []
    for sample in layouts.read(data).samples:
        path = str(sample.path) if style == "absolute" else f"../weave/{sample.id}"
        rows.append({"path": path, "label": int(sample.defective), "mask": [str(mask) for mask in sample.masks]})
        rows[-1]["split"] = sample.split
    (lists / "parts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return lists / "parts.jsonl"


@pytest.mark.parametrize("style", ["absolute", "upward"])
def test_maps_of_manifests_are_read_where_they_were_written(tmp_path: Path, style: str) -> None:
    manifest = write_manifest(tmp_path, style)
    store = make_store(manifest, tmp_path / "s.zarr", encoder="flat", D=4)
    before = tree(tmp_path / "weave")
    fresh = totals(patchcli.evaluate(store))[-1]
    found = list(patchcli.score(store, outputs=Outputs(tmp_path / "maps")))
    assert all(Path(str(record.map)).is_relative_to(tmp_path / "maps") for record in found)
    assert tree(tmp_path / "weave") == before
    (read,) = totals(patchcli.evaluate(store, maps=tmp_path / "maps"))
    assert (read.pixel_auroc, read.aupro_30, read.images) == (fresh.pixel_auroc, fresh.aupro_30, fresh.images)
    (tmp_path / "none").mkdir()
    told = Told()
    with pytest.raises(InputError, match="no map of a test image could be used from"):
        patchcli.evaluate(store, maps=tmp_path / "none", observer=told)
    assert len(told.problems) == 5


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_an_image_is_no_map(made: World, tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    place = tmp_path / "maps" / "test" / "good" / "000.png"
    place.parent.mkdir(parents=True)
    link(made.data / "test" / "good" / "000.png", place)
    with pytest.raises(InputError, match=r"`maps` .*maps: .*000\.png is an image of the data set, not a map"):
        patchcli.evaluate(made.store, maps=tmp_path / "maps")


def test_a_map_of_another_image_is_not_taken(world: World, tmp_path: Path) -> None:
    """x.tiff is of x.png when that alone was scored; x.jpg then has none."""
    hole = world.data / "test" / "hole"
    (hole / "000.png").rename(hole / "001.jpg")
    (world.data / "ground_truth" / "hole" / "000_mask.png").unlink()
    list(patchcli.score(world.store, hole / "001.png", outputs=Outputs(tmp_path / "maps")))
    told = Told()
    row = patchcli.evaluate(world.store, maps=tmp_path / "maps", observer=told)[0]
    assert row.images == 1
    assert any(problem.startswith("test/hole/001.jpg: no map") for problem in told.problems)
    assert description(tmp_path / "maps" / "test" / "hole" / "001.tiff")["id"] == "test/hole/001.png"


def test_a_map_is_not_written_through_a_link_out_of_its_folder(made: World, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "maps" / "test").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"`out` .*maps: the map of test/good/000.png would lie outside of it, in .*elsewhere"):
        list(patchcli.score(made.store, outputs=Outputs(tmp_path / "maps")))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_patches_of_an_absolute_id_stay_below_their_folder(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, "absolute")
    patchcli.extract(manifest, tmp_path / "s.zarr", ImageOptions(size=WORKING))
    before = tree(tmp_path / "weave")
    from patchcli.verbs.cut_patches import cut_patches

    cut_patches(tmp_path / "s.zarr", tmp_path / "patches")
    assert tree(tmp_path / "weave") == before
    assert any(path.suffix == ".png" for path in (tmp_path / "patches").rglob("*"))


# ---- links ----------------------------------------------------------------------------------------------------------


def test_test_images_that_are_one_file_keep_their_records(world: World) -> None:
    good = world.data / "test" / "good"
    for name in ("a.png", "b.png", "c.png"):
        (good / name).symlink_to(good / "000.png")
    ids = [f"test/good/{name}.png" for name in ("000", "001", "a", "b", "c")]
    assert [record.id for record in patchcli.score(world.store) if "good" in record.id] == ids
    found = list(patchcli.score(world.store, [world.data / name for name in reversed(ids)]))
    assert [record.id for record in found] == ids[::-1]
    assert [record.image for record in found] == [str(world.data / name) for name in reversed(ids)]


@pytest.mark.parametrize("given_as", ["link of a plain name", "plain link of a name"])
def test_a_manifest_that_is_a_link(tmp_path: Path, given_as: str) -> None:
    """The images lie beside the link, as in a cache whose files have hashes for names, or beside what it leads to."""
    photos = write_plain(tmp_path / "photos", 3)
    text = "path,label\n" + "".join(f"{path.name},good\n" for path in sorted(photos.iterdir()))
    if given_as == "link of a plain name":
        (tmp_path / "3fa9").write_text(text)
        manifest = photos / "parts.csv"
        manifest.symlink_to(tmp_path / "3fa9")
    else:
        (photos / "parts.csv").write_text(text)
        manifest = tmp_path / "parts"
        manifest.symlink_to(photos / "parts.csv")
    dataset = layouts.read(manifest)
    assert (dataset.layout, dataset.problems) == ("manifest", [])
    assert [sample.id for sample in dataset.samples] == ["000.png", "001.png", "002.png"]
    assert patchcli.extract(manifest, tmp_path / "s.zarr", ImageOptions(size=WORKING)).images == 3
    assert not patchcli.extract(manifest, tmp_path / "s.zarr", ImageOptions(size=WORKING)).fresh


def special(path: Path, kind: str) -> Path:
    """Something at `path` that cannot be read as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))  # a socket's path is short
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        path.symlink_to("gone.png")
    return path


SPECIAL = {
    "FIFO": "expected a file, found a FIFO", "socket": "expected a file, found a socket",
    "device": "expected a file, found a device", "loop": "links to itself", "broken": "broken link to gone.png",
}  # fmt: skip


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_one_line_wherever_a_file_is_read(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    good = made.data / "test" / "good" / "000.png"
    bad = special(tmp_path / "in" / "bad.png", kind)
    told = Told()
    for paths in ([bad, good], iter([bad, good]), [bad.parent, good]):
        (record,) = patchcli.score(made.store, paths, observer=told)
        assert record.image == str(good)
    says = f"{bad}: {SPECIAL[kind]}"
    assert [problem for problem in told.problems if "no images found" not in problem] == [says] * 3
    for refused in (
        lambda: images.size(bad),
        lambda: Rule(0).read(bad),
        lambda: images.read_map(bad),
        lambda: list(patchcli.score(made.store, good, setup=Setup(roi=bad))),
        lambda: patchcli.import_weights(bad, made.store, overwrite=True),
        lambda: layouts.read(special(tmp_path / f"{kind}.csv", kind)),
    ):
        with pytest.raises(InputError, match=SPECIAL[kind]):
            refused()
    special(tmp_path / "maps" / "test" / "good" / "000.tiff", kind)
    with pytest.raises(InputError, match="no map of a test image could be used"):
        patchcli.evaluate(made.store, maps=tmp_path / "maps", observer=told)
    assert any(f"maps/test/good/000.tiff: {SPECIAL[kind]}" in problem for problem in told.problems)


# ---- names ----------------------------------------------------------------------------------------------------------


ODD = ("a b.png", "new\nline.png", "=1+1.png", os.fsdecode(b"caf\xe9.png"), "größe 漢.png", "'\".png")


@pytest.mark.parametrize("name", ODD, ids=["space", "newline", "formula", "latin-1", "unicode", "quotes"])
def test_names_with_anything_in_them(world: World, tmp_path: Path, name: str) -> None:
    try:
        path = photo(tmp_path / "in" / name)
    except OSError:
        pytest.skip("this file system takes no such name")
    (record,) = patchcli.score(world.store, [str(path)], outputs=Outputs(tmp_path / "maps", overlay=True))
    assert record.image == record.id == images.printable(path)
    assert tifffile.imread(str(record.map)).shape == SIZE
    assert Path(str(record.overlay)).is_file()
    assert patchcli.bank_add(world.store, path).images == 11
    assert patchcli.bank_list(world.store)[-1].image == record.image
    assert patchcli.bank_remove(world.store, os.fsencode(path)).images == 10
    assert patchcli.bank_add(world.store, path).images == 11
    assert patchcli.bank_remove(world.store, record.image).images == 10


def test_names_and_paths_that_are_too_long(made: World, tmp_path: Path) -> None:
    good = [made.data / "test" / "good" / f"00{number}.png" for number in range(2)]
    long = photo(tmp_path / "in" / LONG)
    endless = "/".join(["x" * 99] * 50) + ".png"
    told = Told()
    given = [good[0], long, endless, "y" * 300 + ".png", good[1]]
    found = list(patchcli.score(made.store, given, outputs=Outputs(tmp_path / "maps"), batch=1, observer=told))
    assert [record.image for record in found] == list(map(str, good))
    first, second, third = sorted(told.problems, key=len)
    assert first.endswith(".png: a name or the path is too long")
    assert "its map cannot be written (File name too long)" in (second + third)
    assert max(map(len, told.problems)) < 600
    assert [record.image for record in patchcli.score(made.store, long)] == [str(long)]  # no map, no trouble


def test_a_file_where_a_map_needs_a_folder(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "a.tiff/b.png", "c.png"):
        photo(Path("in") / name)
    told = Told()
    given = ["in/a.png", "in/a.tiff/b.png", "in/c.png"]
    found = list(patchcli.score(made.store, given, outputs=Outputs("maps"), batch=1, observer=told))
    assert [record.image for record in found] == ["in/a.png", "in/c.png"]
    (problem,) = told.problems
    assert problem.startswith("in/a.tiff/b.png: its map cannot be written")


@pytest.mark.parametrize(("suffix", "overlay"), [(".tiff", False), (".tiff", True), (".png", True)])
def test_files_of_a_user_are_not_replaced(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, overlay: bool
) -> None:
    """Where a map or an overlay would lie; what `score` wrote itself is."""
    image, theirs = photo(tmp_path / "in" / "a.png"), photo(tmp_path / "out" / f"a{suffix}")
    before = theirs.read_bytes()
    monkeypatch.chdir(tmp_path / "in")

    def score(name: str) -> list[patchcli.Record]:
        outputs = Outputs(tmp_path / name, overlay=overlay)
        return list(patchcli.score(made.store, image.name, outputs=outputs, observer=Told()))

    with pytest.raises(InputError, match=rf"out/a\{suffix} would be replaced, and is no map that was written here"):
        score("out")
    assert theirs.read_bytes() == before
    assert [record.image for record in score("maps") + score("maps")] == ["a.png"] * 2


def test_a_copy_of_the_data_set_is_not_the_data_set(world: World, tmp_path: Path) -> None:
    copy = shutil.copytree(world.data / "test", tmp_path / "copy")
    (record, *_) = patchcli.score(world.store, copy)
    assert record.image == record.id == (copy / "good" / "000.png").as_posix()
    with Image.open(record.image) as opened:
        assert opened.size == SIZE[::-1]
