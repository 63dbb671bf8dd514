"""calibrate: where the good images come from, what is stored, and when it holds no longer."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from smallworld import (
    SIZE,
    WORKING,
    Told,
    World,
    dying,
    leftovers,
    make_store,
    part_folder,
    parts,
    save,
    texture,
    tree,
    truncate,
    write_plain,
)  # fmt: skip

import patchcli
from patchcli.datasets import images
from patchcli.errors import DamagedError, IncompleteError, InputError, StoreError
from patchcli.reporting import pictures as report
from patchcli.store import Store
from patchcli.store.parts import Part
from patchcli.store.root import Root
from patchcli.verbs.extraction import ImageOptions
from patchcli.verbs.outputs import Outputs

N = 12  # images of the validation split


@pytest.fixture
def split(world: World) -> World:
    """A world with a validation split."""
    write_plain(world.data / "validation" / "good", N, SIZE, seed=7)
    return world


def test_the_validation_split(split: World) -> None:
    before = parts(split.store)
    found = patchcli.calibrate(split.store, false_alarms=0.25, review=0.4)
    after = parts(split.store)
    assert after.pop("calibration")
    assert after == before
    folder = split.data / "validation" / "good"
    records = list(patchcli.score(split.store, [folder], outputs=Outputs(split.data.with_name("maps"))))
    scores = sorted(record.score for record in records)
    assert (found.source, found.images, found.false_alarms, found.confidence) == ("validation split", N, 0.25, 0.95)
    assert found.threshold == pytest.approx(scores[-1], rel=1e-6)  # 0.75**12 < 0.05 < 0.75**12 + 12 * 0.25 * 0.75**11
    assert found.review_threshold == pytest.approx(scores[-2], rel=1e-6)
    peaks = [float(tifffile.imread(str(record.map)).max()) for record in records]
    assert found.pixel_threshold == pytest.approx(max(peaks), rel=1e-6)
    assert found.promise.startswith(f"at most 25% of good images score above {found.threshold:.4g}, with 95% confidence")
    assert found.promise.endswith("from n = 12 (validation split)")
    stored = Store.open(split.store).calibration
    assert stored.thresholds == found
    assert sorted(stored.scores) == pytest.approx(scores, rel=1e-6)
    (smallest,) = (record for record in records if record.score == scores[0])
    assert (smallest.verdict, smallest.threshold, smallest.p_value) == ("pass", found.threshold, 1)


def test_verdicts_of_test_images(split: World) -> None:
    before = [record.score for record in patchcli.score(split.store)]
    found = patchcli.calibrate(split.store, false_alarms=0.25)
    records = list(patchcli.score(split.store))
    assert [record.score for record in records] == before
    for record in records:
        assert record.verdict == ("reject" if record.score > found.threshold else "pass")
        assert ("hole" in record.image) == (record.verdict == "reject")
        assert "hole" not in record.image or record.p_value == 1 / (N + 1)


def test_no_test_image_has_a_say(split: World) -> None:
    found = patchcli.calibrate(split.store, false_alarms=0.25)
    shutil.rmtree(split.data / "test" / "hole")
    for path in (split.data / "test" / "good").iterdir():
        path.write_bytes(b"")
    assert patchcli.calibrate(split.store, false_alarms=0.25) == found


def test_without_a_rate_the_best_one_is_promised(split: World) -> None:
    told = Told()
    found = patchcli.calibrate(split.store, observer=told)
    assert told.notes == ["12 good images can promise a false-alarm rate of 22.1%; 1% takes 299"]
    assert (found.false_alarms, found.images) == (0.221, 12)
    assert found.promise.startswith("at most 22.1% of good images")
    assert found == patchcli.calibrate(split.store, false_alarms=0.221)
    with pytest.raises(InputError, match=r"`review`: expected a rate above that of `false_alarms` \(22.1%\), found 20%"):
        patchcli.calibrate(split.store, review=0.2)
    write_plain(split.data / "validation" / "good", 15, SIZE, seed=7)
    truncate(split.data / "validation" / "good" / "003.png")
    told = Told()
    assert patchcli.calibrate(split.store, observer=told, review=0.5).false_alarms == 0.2  # of 14, after that one is left out
    assert told.notes == ["14 good images can promise a false-alarm rate of 20%; 1% takes 299"]
    with pytest.raises(InputError, match="`confidence`: expected a share between 0 and 100%, found 100%"):
        patchcli.calibrate(split.store, confidence=1)


def test_leave_one_out(world: World) -> None:
    found = patchcli.calibrate(world.store, false_alarms=0.3)
    scores = [record.score for record in patchcli.audit(world.store)]
    assert found.threshold == scores[0]
    assert (found.images, found.source) == (10, "leave-one-out over the bank's own images")
    assert found.promise.startswith("about at most 30%")
    assert patchcli.calibrate(world.store, "loo", false_alarms=0.3) == found
    with pytest.raises(InputError, match=r"no validation split there; expected `source=loo`, or good images: `source=PATHS`"):
        patchcli.calibrate(world.store, "validation", false_alarms=0.3)


def test_named_images(split: World) -> None:
    folder = split.data / "validation" / "good"
    found = patchcli.calibrate(split.store, [folder, folder / "003.png"], false_alarms=0.25)  # one of them twice
    assert (found.images, found.source) == (N, "named images")
    assert found.threshold == patchcli.calibrate(split.store, false_alarms=0.25).threshold
    before = tree(split.store)
    for given, says in (
        (split.data / "test" / "good", "000.png: is a test image of the data set, which no threshold may see"),
        (split.data / "train" / "good", "000.png: is in the bank; expected good images that are not"),
    ):
        with pytest.raises(InputError, match=says):
            patchcli.calibrate(split.store, [folder, given], false_alarms=0.25)
    assert tree(split.store) == before


def test_images_of_the_split_that_came_into_the_bank(split: World) -> None:
    patchcli.bank_add(split.store, [split.data / "validation" / "good" / "000.png"])
    told = Told()
    assert patchcli.calibrate(split.store, false_alarms=0.25, observer=told).images == N - 1
    assert told.notes[0] == f"1 of {N} images of the validation split are in the bank or tests, and not used"


def test_unreadable_images_do_not_count(split: World) -> None:
    truncate(split.data / "validation" / "good" / "000.png")
    told = Told()
    assert patchcli.calibrate(split.store, false_alarms=0.25, observer=told).images == N - 1
    assert len(told.problems) == 1
    truncate(split.data / "validation" / "good" / "001.png")
    before = tree(split.store)
    with pytest.raises(InputError, match=r"needs 11 good images, found 10; with these: `false_alarms=25.89%`"):
        patchcli.calibrate(split.store, false_alarms=0.25, observer=Told())
    assert tree(split.store) == before


def test_a_thinned_bank_is_calibrated_with_other_images_alone(split: World) -> None:
    patchcli.embed(split.store, keep=0.5)
    with pytest.raises(StoreError, match=r"leaving an image out needs the whole bank"):
        patchcli.calibrate(split.store, "loo", false_alarms=0.3)
    assert patchcli.calibrate(split.store, false_alarms=0.25).images == N


@pytest.mark.parametrize("change", ["encoder", "images", "thinning"])
def test_a_calibration_of_another_bank(split: World, change: str) -> None:
    patchcli.calibrate(split.store, false_alarms=0.25)
    if change == "encoder":
        patchcli.train(store=split.store, steps=0, seed=1, overwrite=True, encoder="hierarchical")
        patchcli.embed(split.store)
    elif change == "images":
        patchcli.bank_remove(split.store, ["train/good/003.png"])
    else:
        patchcli.embed(split.store, keep=0.5)
    told = Told()
    record = next(patchcli.score(split.store, observer=told))
    assert (record.verdict, record.threshold, record.p_value) == (None, None, None)
    (said,) = (note for note in told.notes if "no verdicts" in note)
    assert said.endswith("the calibration belongs to another bank; run: `calibrate()`")
    with pytest.raises(StoreError, match="belongs to another bank"):
        patchcli.score(split.store, calibrated=True)
    assert patchcli.info(split.store).calibration == "of another bank"
    assert patchcli.info(split.store).next == "calibrate()"
    patchcli.calibrate(split.store, false_alarms=0.25)
    records = list(patchcli.score(split.store, calibrated=True))
    assert [record.verdict for record in records if "hole" in record.image] == ["reject"] * 3
    assert all(record.verdict == ("reject" if record.score > record.threshold else "pass") for record in records)


def test_no_calibration(made: World) -> None:
    told = Told()
    assert next(patchcli.score(made.store, observer=told)).verdict is None
    assert told.notes == ["no verdicts: not calibrated; run: `calibrate()`"]
    with pytest.raises(IncompleteError, match=r"holds no calibration yet; run: `calibrate\(\)`"):
        patchcli.score(made.store, calibrated=True)


def test_a_damaged_calibration(split: World) -> None:
    patchcli.calibrate(split.store, false_alarms=0.25)
    shutil.rmtree(part_folder(split.store, "calibration") / "scores" / "c")
    for calibrated in (True, False):  # never as if there were none
        with pytest.raises(DamagedError, match=r"missing \(a chunk of scores\); run: `calibrate\(\)`"):
            patchcli.score(split.store, calibrated=calibrated)
    patchcli.calibrate(split.store, false_alarms=0.25)
    with Store.writing(split.store) as opened:
        opened.write_calibration(["a.png"], {"scores": np.ones(1)}, opened.calibration.thresholds)
    with pytest.raises(
        DamagedError, match=r"calibration-\w+: damaged \(scores do not fit the thresholds\); run: `calibrate\(\)`"
    ):
        patchcli.score(split.store)
    patchcli.calibrate(split.store, false_alarms=0.25)
    assert next(patchcli.score(split.store, calibrated=True)).verdict == "pass"


@pytest.mark.parametrize("at", [(Part, "seal"), (Store, "_switch"), (Root, "write"), (Path, "replace")], ids=str)
def test_killed_while_it_is_replaced(split: World, monkeypatch: pytest.MonkeyPatch, at: tuple[type, str]) -> None:
    """The old one stays until the new one is there."""
    found = patchcli.calibrate(split.store, false_alarms=0.25)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(*at, dying)
        patchcli.calibrate(split.store, false_alarms=0.5)
    assert Store.open(split.store).calibration.thresholds == found
    assert leftovers(split.store) == set()
    other = patchcli.calibrate(split.store, false_alarms=0.5)
    assert Store.open(split.store).calibration.thresholds == other != found


def test_one_colour_scale_for_all_runs(split: World, tmp_path: Path) -> None:
    found = patchcli.calibrate(split.store, false_alarms=0.25)
    assert found.colour_high == 2 * found.pixel_threshold > found.colour_low > 0
    image = split.data / "test" / "hole" / "000.png"
    together = list(patchcli.score(split.store, outputs=Outputs(tmp_path / "all", overlay=True)))
    (alone,) = patchcli.score(split.store, [image], outputs=Outputs(tmp_path / "one", overlay=True))
    pictures = [np.asarray(Image.open(str(record.overlay))) for record in (together[2], alone)]
    assert together[2].id == alone.id
    np.testing.assert_array_equal(*pictures)
    good = together[0]
    scale = report.ColourScale(found.colour_low, found.colour_high)
    with Image.open(split.data / good.image) as opened:
        expected = report.overlay(np.asarray(opened), tifffile.imread(str(good.map)), None, scale)
    np.testing.assert_array_equal(np.asarray(Image.open(str(good.overlay))), expected)


def test_the_review_rate_is_the_higher_one(made: World) -> None:
    with pytest.raises(InputError, match=r"`review`: expected a rate above that of `false_alarms` .30%., found 30%"):
        patchcli.calibrate(made.store, false_alarms=0.3, review=0.3)


@pytest.fixture
def held(made: World, tmp_path: Path) -> World:
    """Eleven good images, two of them the same; four or five are held out."""
    data = Path(shutil.copytree(made.data, tmp_path / "weave"))
    shutil.copy(data / "train" / "good" / "000.png", data / "train" / "good" / "copy.png")
    return World(data, make_store(data, tmp_path / "held.zarr", holdout=0.4, encoder="flat", D=4))


def test_held_out_images_are_in_neither_training_nor_bank(held: World, tmp_path: Path) -> None:
    opened = Store.open(held.store)
    aside, ids = opened.source.holdout, set(opened.images.ids)
    assert len(aside) in (4, 5)
    assert not aside.keys() & ids
    assert aside.keys() | ids == {f"train/good/{path.name}" for path in (held.data / "train" / "good").iterdir()}
    assert ("train/good/000.png" in aside) == ("train/good/copy.png" in aside)
    learned = np.stack([images.resize(images.Reader().read(held.data / name), *WORKING) for name in opened.images.ids])
    np.testing.assert_allclose(opened.images.mean, learned.mean(axis=0), rtol=1e-5)
    assert patchcli.info(held.store).held_out == len(aside)

    found = patchcli.calibrate(held.store, false_alarms=0.7)
    paths = [held.data / name for name in sorted(aside)]
    different = list({path.read_bytes(): path for path in paths}.values())  # an image and its copy count once
    scores = [record.score for record in patchcli.score(held.store, different)]
    assert sorted(Store.open(held.store).calibration.scores) == pytest.approx(sorted(scores), rel=1e-6)
    assert (found.images, found.source) == (len(different), "good images held out of training and bank")
    assert found.promise.startswith("at most 70%")

    copied = shutil.copy(paths[0], tmp_path / "elsewhere.png")
    before, told = tree(held.store), Told()
    with pytest.raises(InputError, match="no image to add"):
        patchcli.bank_add(held.store, [*paths, copied], observer=told)
    assert len(told.problems) == len(paths) + 1
    assert all("is reserved for calibration" in line for line in told.problems)
    assert tree(held.store) == before

    save(paths[0], texture(np.random.default_rng(9), *SIZE))
    if len(paths) == 5:
        told = Told()
        left = len({path.read_bytes() for path in paths[1:]})
        assert patchcli.calibrate(held.store, false_alarms=0.7, observer=told).images == left
        assert "1 of 5 held-out images are gone or changed, and not used" in told.notes


def test_a_store_keeps_what_it_holds_out(held: World) -> None:
    before = tree(held.store)
    for share in (None, 0.4):
        again = patchcli.extract(held.data, held.store, ImageOptions(holdout=share))
        assert (again.fresh, again.held_out) == (False, len(Store.open(held.store).source.holdout))
    for share, says in (
        (0.2, "`holdout`"),
        (0.0, "`holdout`"),
        (1.5, "found 150%"),
        (0.999, "4 other images reserved than these"),
    ):
        with pytest.raises((InputError, StoreError), match=says):
            patchcli.extract(held.data, held.store, ImageOptions(holdout=share))
    with pytest.raises(InputError, match="`holdout`: expected `data` too"):
        patchcli.train(images=ImageOptions(holdout=0.2), store=held.store)
    assert tree(held.store) == before


@pytest.mark.parametrize("source", ["loo", "named", "moved"])
def test_a_copy_counts_for_nothing(tmp_path: Path, source: str) -> None:
    """Of images that are left out in turn, named ones, and those of a data set that has moved; other files may hold it."""
    folder, more = tmp_path / "good", tmp_path / "more"
    write_plain(folder, 8, SIZE, seed=3)
    write_plain(more, 6, SIZE, seed=4)
    copies = folder if source == "loo" else more
    for name in ("000", "001"):
        with Image.open(copies / f"{name}.png") as picture:
            picture.save(copies / f"{name}.bmp")
    store = make_store(folder, tmp_path / "s.zarr", encoder="flat", D=4)
    told = Told()
    given: Any = "loo" if source == "loo" else more
    if source == "moved":
        given = [folder.rename(tmp_path / "elsewhere"), more]
    found = patchcli.calibrate(store, given, false_alarms=0.6, observer=told)
    assert found.images == 6
    copied = {"loo": "4 of 10", "named": "2 of 8", "moved": "10 of 16"}[source]
    assert f"{copied} good images are copies of others, or in the bank; they say nothing new and do not count" in told.notes
    assert any("the data set is gone" in note for note in told.notes) == (source == "moved")
    assert Store.open(store).calibration.scores.min() > 0


def test_copies_of_test_and_bank_images_are_refused(split: World, tmp_path: Path) -> None:
    for name, says in (("test/good/001.png", "a test image"), ("train/good/003.png", "in the bank")):
        copied = shutil.copy(split.data / name, tmp_path / "copy.png")
        with pytest.raises(InputError, match=rf"copy\.png: is a copy of {name}, {says}"):
            patchcli.calibrate(split.store, [split.data / "validation", copied], false_alarms=0.25)
