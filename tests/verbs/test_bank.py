"""bank: list, remove, add and audit; an edited bank is as one made anew of the same images."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smallworld import SIZE, WORKING, Told, World, dying, leftovers, parts, save, texture, tree, truncate, without

import patchcli
from patchcli.bank import build, pages
from patchcli.detection.detector import Setup
from patchcli.detection.records import Record
from patchcli.errors import IncompleteError, InputError, StoreError
from patchcli.store import Bank, Store, store
from patchcli.store import images as images_part
from patchcli.store.root import Named, Root
from patchcli.training import alignment
from patchcli.verbs.extraction import ImageOptions


def held(path: Path) -> dict[str, dict[tuple[str, int], bytes]]:
    """{scale: {(image, patch): vector}} of all that a bank holds."""
    opened = Store.open(path)
    bank, names = opened.bank(), opened.images.ids
    found: dict[str, dict[tuple[str, int], bytes]] = {}
    for scale in bank.scales:
        pairs = [pair for ids, vectors in pages.stream(bank, scale)() for pair in zip(ids, vectors, strict=True)]
        patches = bank.patches(scale)
        found[scale] = {(names[i // patches], int(i % patches)): vector.tobytes() for i, vector in pairs}
        assert len(found[scale]) == len(pairs) == bank.vectors(scale)
    return found


def anew(like: Path, names: list[str], files: list[Path], path: Path, **thinning: Any) -> Path:
    """A store made from scratch of these images, with the encoder and mean of another."""
    folder = path.with_name("anew")
    folder.mkdir()
    for number, file in enumerate(files):
        shutil.copy(file, folder / f"{number:03}{file.suffix}")
    patchcli.extract(folder, path, ImageOptions(size=WORKING))
    other = Store.open(like)
    with Store.writing(path) as opened:
        pixels = opened.images.read(0, len(files))
        decoded = zip(names, opened.images.sizes, pixels, strict=True)
        with opened._new("images") as part:
            images_part.write(part, decoded, *WORKING, other.images.mean)
            opened._switch(images=Named(part.name, part.seal({})))
        opened.write_encoder(other.encoder.weights(), other.encoder.attributes, {})
    patchcli.embed(path, **thinning)
    return path


def scores(path: Path, data: Path) -> list[Record]:
    return list(patchcli.score(path, [data / "test"]))


def test_the_list(made: World) -> None:
    found = patchcli.bank_list(made.store)
    assert [held.image for held in found] == [f"train/good/{n:03}.png" for n in range(10)]
    assert {(held.width, held.height, held.vectors_big, held.vectors_small) for held in found} == {(160, 140, 25, 625)}


def test_the_list_of_a_thinned_bank(world: World) -> None:
    thinned = patchcli.embed(world.store, keep=0.1)
    found = patchcli.bank_list(world.store)
    assert sum(held.vectors_small or 0 for held in found) == thinned.vectors["small"]
    assert sum(held.vectors_big for held in found) == thinned.vectors["big"]


@pytest.mark.parametrize(
    ("thinning", "aligned"), [({}, False), ({}, True), ({"half": True}, False), ({"keep": 0.2}, True)], ids=str
)
def test_removed_and_added_is_as_made_anew(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thinning: dict[str, Any], aligned: bool
) -> None:
    if aligned:
        monkeypatch.setattr(alignment, "ALIGNED", 0.0)
        patchcli.train(store=world.store, steps=0, seed=1, overwrite=True, encoder="hierarchical")
        assert patchcli.embed(world.store).vectors == {"big": 810, "small": 6250}
    if thinning:
        patchcli.embed(world.store, **thinning)
    rng = np.random.default_rng(3)
    extra = [save(tmp_path / "new" / name, texture(rng, *SIZE)) for name in ("a.png", "b.bmp")]
    files = [world.data / "train" / "good" / f"{n:03}.png" for n in range(10) if n not in (0, 7)]
    before = Store.open(world.store).bank().attributes.radius
    removed = patchcli.bank_remove(world.store, ["train/good/007.png", "train/good/000.png"])
    assert (removed.images, removed.embedded) == (8, 8 if "keep" in thinning else 0)
    added = patchcli.bank_add(world.store, [tmp_path / "new"])
    assert (added.images, added.embedded) == (10, 10 if "keep" in thinning else 2)
    names = [f"train/good/{file.name}" for file in files] + [path.as_posix() for path in extra]
    assert Store.open(world.store).images.ids == names

    fresh = anew(world.store, names, [*files, *extra], tmp_path / "fresh.zarr", **thinning)
    assert held(world.store) == held(fresh)
    for edited, wanted in zip(scores(world.store, world.data), scores(fresh, world.data), strict=True):
        assert (edited.score, edited.nearest_image, edited.nearest_x) == (wanted.score, wanted.nearest_image, wanted.nearest_x)
        if "keep" in thinning:
            assert edited.distance_error == pytest.approx(wanted.distance_error)
        else:  # the rounding of an image that is gone still counts
            assert edited.distance_error == pytest.approx(max(wanted.distance_error, *before.values()))


def test_an_edited_store_goes_on(world: World) -> None:
    patchcli.bank_remove(world.store, ["train/good/003.png"])
    before, images = tree(world.store), parts(world.store)["images"]
    assert patchcli.embed(world.store).embedded == 0
    assert tree(world.store) == before
    assert patchcli.info(world.store).images == 9
    assert patchcli.extract(world.data, world.store).fresh is False  # the data set is the same, and the edit stays
    assert parts(world.store)["images"] == images
    patchcli.train(store=world.store, steps=0, seed=1, overwrite=True, encoder="hierarchical")
    assert patchcli.embed(world.store).images == 9


BEFORE_THE_SWITCH = {
    "the images": (images_part, "write"), "the index": (build, "index"), "the seal": (Bank, "seal"),
    "the switch": (Store, "_switch"), "the root": (Root, "write"), "the rename": (Path, "replace"),
}  # fmt: skip


@pytest.mark.parametrize(("at", "thinning"), [*((at, {}) for at in BEFORE_THE_SWITCH), ("the switch", {"keep": 0.2})], ids=str)
def test_killed_while_it_is_edited(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, thinning: dict[str, float]
) -> None:
    """Images, bank and what is said of them are the old ones, and the same command does it."""
    new = save(tmp_path / "new.png", texture(np.random.default_rng(3), *SIZE))
    if thinning:
        patchcli.embed(world.store, **thinning)  # type: ignore[arg-type]

    def state() -> tuple[Any, ...]:
        opened = Store.open(world.store)
        return parts(world.store), opened.source, opened.images.ids, opened.bank().identity, leftovers(world.store)

    for edit in (
        lambda: patchcli.bank_remove(world.store, ["train/good/003.png"]),
        lambda: patchcli.bank_add(world.store, [new]),
    ):
        before = state()
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(*BEFORE_THE_SWITCH[at], dying)
            edit()
        assert state() == before
        edit()
        *after, left = state()
        assert not any(now == then for now, then in zip(after, before[:-1], strict=True))
        assert left == set()
    names = [f"train/good/{n:03}.png" for n in range(10) if n != 3]
    assert [held.image for held in patchcli.bank_list(world.store)] == [*names, new.as_posix()]
    assert len(list(patchcli.score(world.store))) == 5


def test_killed_after_it_was_edited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it replaced lies about until the next writer comes."""
    write = Root.write

    def switched(self: Root, path: Path) -> Root:
        write(self, path)
        monkeypatch.setattr(Store, "_sweep", lambda self: None)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Root, "write", switched)
        patched.setattr(store, "remove", lambda folder: None)
        patchcli.bank_remove(world.store, ["train/good/003.png"])
    monkeypatch.undo()
    assert len(leftovers(world.store)) == 3  # images, bank, and where the new ones were embedded
    assert len(patchcli.bank_list(world.store)) == 9
    assert len(list(patchcli.score(world.store))) == 5
    with pytest.raises(InputError, match=r"train/good/003\.png: not in the bank"):
        patchcli.bank_remove(world.store, ["train/good/003.png"])
    assert leftovers(world.store) == set()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["train/good/099.png"], r"train/good/099.png: not in the bank; expected an id such as train/good/000.png"),
        ([], "expected ids of images to remove, found none"),
        ([f"train/good/{n:03}.png" for n in range(9)], "expected at least 2 images to stay, found 1 of 10"),
    ],
)
def test_what_cannot_be_removed(made: World, names: list[str], says: str) -> None:
    before = tree(made.store)
    with pytest.raises(InputError, match=says):
        patchcli.bank_remove(made.store, names)
    assert tree(made.store) == before


def test_what_cannot_be_added(world: World, tmp_path: Path) -> None:
    good = save(tmp_path / "new" / "a.png", texture(np.random.default_rng(0), *SIZE))
    bad = truncate(save(tmp_path / "new" / "b.png", texture(np.random.default_rng(0), *SIZE)))
    told = Told()
    there = world.data / "train" / "good" / "001.png"
    with pytest.raises(InputError, match="no image to add"):
        patchcli.bank_add(world.store, [there, bad, tmp_path / "missing.png"], observer=told)
    assert len(told.problems) == 3
    assert "an image of this id (train/good/001.png) is in the bank" in told.problems[0]
    assert patchcli.bank_add(world.store, [bad, good, good], observer=told).images == 11


def test_what_is_known_to_be_no_good_image_is_not_added(world: World, tmp_path: Path) -> None:
    test = world.data / "test"
    copies = [Path(shutil.copy(test / kind / "001.png", tmp_path / f"{kind}.png")) for kind in ("hole", "good")]
    good = save(tmp_path / "new.png", texture(np.random.default_rng(3), *SIZE))
    before, told = tree(world.store), Told()
    with pytest.raises(InputError, match="no image to add"):
        patchcli.bank_add(world.store, [test, *copies], observer=told)
    assert tree(world.store) == before
    assert len(told.problems) == 7
    hole = test / "hole" / "001.png"
    assert f"{hole}: is a test image of the data set (hole), not a good one to learn from; `force` adds it" in told.problems
    assert any(line.startswith(f"{copies[0]}: is a copy of test/hole/001.png, a test image") for line in told.problems)
    assert any(line.startswith(f"{copies[1]}: is a copy of test/good/001.png, a test image") for line in told.problems)
    told = Told()
    assert patchcli.bank_add(world.store, [good, copies[0]], observer=told).images == 11
    assert len(told.problems) == 1
    told = Told()
    assert patchcli.bank_add(world.store, [*copies, hole], force=True, observer=told).images == 14
    assert not told.problems
    assert told.notes[0].startswith(f"2 of the images are labelled as defective (first: {copies[0].as_posix()});")


def test_a_data_set_that_is_gone_tells_nothing(world: World, tmp_path: Path) -> None:
    image = Path(shutil.copy(world.data / "test" / "hole" / "001.png", tmp_path / "x.png"))
    shutil.rmtree(world.data)
    told = Told()
    assert patchcli.bank_add(world.store, [image], observer=told).images == 11
    assert told.notes[0].startswith(f"{world.data}: the data set is gone, so nothing tells whether its test images are among")


def test_an_edit_needs_a_bank(bankless_world: Path) -> None:
    with pytest.raises(IncompleteError, match="no bank yet"):
        patchcli.bank_remove(bankless_world, ["train/good/001.png"])


@pytest.fixture
def bankless_world(world: World) -> Path:
    return without(world.store, "bank")


# ---- audit ----------------------------------------------------------------------------------------------------------


def test_one_version_is_read_to_its_end(world: World) -> None:
    """Where pages are read late: records of the bank that was opened, whatever is written meanwhile."""
    expected = list(patchcli.score(world.store, setup=Setup(memory=1000), batch=1))
    running = patchcli.score(world.store, setup=Setup(memory=1000), batch=1)
    found = [next(running)]
    patchcli.bank_remove(world.store, ["train/good/003.png"])
    patchcli.train(store=world.store, steps=0, seed=1, overwrite=True, encoder="hierarchical")
    patchcli.embed(world.store)
    found += running
    assert found == expected
    again = list(patchcli.score(world.store, setup=Setup(memory=1000), batch=1))
    assert {record.bank for record in again}.isdisjoint({record.bank for record in found})
    assert not any(first == second for first, second in zip(found, again, strict=True))
    del running
    patchcli.embed(world.store)
    assert leftovers(world.store) == set()


def test_the_audit_is_the_score_against_all_others(world: World) -> None:
    audited = {record.image: record for record in patchcli.audit(world.store)}
    assert audited.keys() == {f"train/good/{n:03}.png" for n in range(10)}
    for number in (0, 4, 9):
        name = f"train/good/{number:03}.png"
        without = Path(shutil.copytree(world.store, world.store.with_name(f"{number}.zarr")))
        patchcli.bank_remove(without, [name])
        (record,) = patchcli.score(without, [world.data / name])
        found = audited[name]
        assert found.score == pytest.approx(record.score, rel=1e-6)
        for field in ("peak_x", "peak_y", "nearest_image", "nearest_x", "nearest_y", "nearest_width", "nearest_height"):
            assert getattr(found, field) == getattr(record, field)
        assert found.nearest_image != name


@pytest.mark.parametrize("search", ["pruned", "brute"])
def test_the_audit_finds_the_bad_one_among_the_good(world: World, search: str) -> None:
    pixels = texture(np.random.default_rng(5), *SIZE)
    pixels[60:80, 70:95] = 200
    bad = save(world.data.with_name("bad.png"), pixels)
    patchcli.bank_add(world.store, [bad])
    first, *others = patchcli.audit(world.store, setup=Setup(search=search))
    assert first.image == bad.as_posix()
    assert first.deviation > 5
    assert max(record.deviation for record in others) < first.deviation / 2
    assert 70 - 20 <= first.peak_x < 95 + 20 and 60 - 20 <= first.peak_y < 80 + 20
    assert [record.score for record in others] == sorted((record.score for record in others), reverse=True)


def test_a_thinned_bank_is_not_audited(world: World) -> None:
    patchcli.embed(world.store, keep=0.5)
    with pytest.raises(StoreError, match=r"needs the whole bank.*`embed\(overwrite\)`"):
        patchcli.audit(world.store)
