"""score: the records of a run, the evidence in them, and that nothing but `out` is written."""

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from smallworld import (
    HOLE,
    SIZE,
    Told,
    World,
    make_store,
    part_folder,
    save,
    texture,
    touched,
    tree,
    truncate,
    without,
    write_plain,
)  # fmt: skip

import patchcli
from patchcli import runtime
from patchcli.bank import pages as paged
from patchcli.detection import detector, stream
from patchcli.detection.detector import Detector, Setup
from patchcli.detection.records import Record
from patchcli.errors import DamagedError, IncompleteError, InputError
from patchcli.store import Store
from patchcli.verbs.outputs import Outputs


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_records_of_the_test_images(made: World) -> None:
    begun = datetime.now(UTC) - timedelta(milliseconds=1)  # times are told in whole ones
    found = list(patchcli.score(made.store))
    assert [record.image for record in found] == [
        *(f"test/good/{i:03}.png" for i in range(2)),
        *(f"test/hole/{i:03}.png" for i in range(3)),
    ]
    sha256 = Store.open(made.store).encoder.attributes.sha256
    training_ids = set(Store.open(made.store).images.ids)
    for record in found:
        height, width = (128, 128) if record.image == "test/hole/002.png" else SIZE
        assert record.schema == "patchcli.score/1"
        assert record.encoder == sha256
        assert record.bank == Store.open(made.store).bank().identity
        assert begun <= datetime.fromisoformat(record.time) <= datetime.now(UTC)
        assert record.score_small is not None
        assert 0 < record.score <= record.score_big * record.score_small * (1 + 1e-6)
        assert 0 <= record.peak_x < width
        assert 0 <= record.peak_y < height
        assert record.nearest_image in training_ids
        assert (record.nearest_width, record.nearest_height) == (40, 35)  # 32 of 128 pixels, of 160 and of 140
        assert 0 <= record.nearest_x <= SIZE[1] - 40
        assert 0 <= record.nearest_y <= SIZE[0] - 35
        assert record.map is record.overlay is None
    worst_good = max(record.score for record in found if "good" in record.image)
    assert worst_good < min(record.score for record in found if "hole" in record.image)
    rows, columns = HOLE
    for record in found[2:]:
        assert columns.start <= record.peak_x < columns.stop
        assert rows.start <= record.peak_y < rows.stop


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch": 0}, "`batch`: expected a number of images, 1 or more, found 0"),
        ({"batch": 1.5}, "`batch`: expected a number of images, 1 or more, found 1.5"),
        ({"part": 3}, r"`part`: expected the number of a part and how many there are, such as \(3, 40\), found 3"),
        ({"part": (1,)}, r"`part`: expected the number of a part and how many there are, such as \(3, 40\), found \(1,\)"),
        ({"part": (4, 3)}, "`part`: expected a number from 1 to the count of parts"),
    ],
)
def test_options_that_cannot_be(made: World, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        next(iter(patchcli.score(made.store, **options)))


def test_nothing_is_drawn_from_the_random_numbers_of_torch(made: World) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    patchcli.Detector.open(made.store)(made.data / "train" / "good" / "000.png")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_batch_does_not_matter(made: World) -> None:
    for one, three in zip(patchcli.score(made.store, batch=1), patchcli.score(made.store, batch=3), strict=True):
        assert one.score == pytest.approx(three.score, rel=1e-4)
        assert (one.image, one.peak_x, one.peak_y) == (three.image, three.peak_x, three.peak_y)


def test_large_images_are_few_at_a_time(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    together: list[int] = []
    embed = Detector.embed_fitted
    monkeypatch.setattr(Detector, "embed_fitted", lambda self, *args: together.append(len(args[0])) or embed(self, *args))
    whole = [record.score for record in patchcli.score(made.store)]
    monkeypatch.setattr(detector, "PIXELS", 2 * 128 * 128 + 1)
    assert [record.score for record in patchcli.score(made.store)] == pytest.approx(whole, rel=1e-4)
    monkeypatch.setattr(detector, "PIXELS", 1)
    assert [record.score for record in patchcli.score(made.store)] == pytest.approx(whole, rel=1e-4)
    assert together == [5, 2, 2, 1, 1, 1, 1, 1, 1]


def test_a_training_image_is_normal(made: World) -> None:
    (record,) = patchcli.score(made.store, [made.data / "train" / "good" / "004.png"])
    assert record.score == pytest.approx(0, abs=1e-6)
    assert record.image == (made.data / "train" / "good" / "004.png").as_posix()


def test_a_record_comes_as_soon_as_its_batch(made: World, tmp_path: Path) -> None:
    """The second path comes only after the first record, as from somebody who waits for the answer."""
    answered, asked = threading.Event(), list[int]()

    def paths() -> Iterator[Path]:
        for number in range(3):
            asked.append(number)
            yield made.data / "test" / "hole" / f"{number:03}.png"
            assert answered.wait(60)

    found = patchcli.score(made.store, paths(), outputs=Outputs(tmp_path / "maps"), batch=1)
    assert asked == []
    first = next(found)
    assert (first.id, asked) == ("test/hole/000.png", [0])
    assert Path(str(first.map)).is_file()
    answered.set()
    assert len(list(found)) == 2


def test_records_come_with_their_maps(made: World, tmp_path: Path) -> None:
    for record in patchcli.score(made.store, outputs=Outputs(tmp_path / "maps"), batch=2):
        assert tifffile.imread(str(record.map)).size


def test_a_reader_that_stops_ends_the_run(made: World) -> None:
    before = threading.active_count()
    found = patchcli.score(made.store, batch=1)
    next(found)
    found.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before


@pytest.mark.parametrize("search", ["pruned", "brute", "keops"])
@pytest.mark.parametrize("memory", [1, 10**9])
def test_search_and_memory_change_nothing(made: World, search: str, memory: int, request: pytest.FixtureRequest) -> None:
    if search == "keops" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler found, which KeOps needs")
    told = Told()
    found = list(patchcli.score(made.store, setup=Setup(search=search, memory=memory), observer=told))
    assert found == list(patchcli.score(made.store))
    assert any("read anew" in note for note in told.notes) == (memory == 1)


def test_input_is_checked_before_the_first_record(made: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for outputs, setup, says in (
        ({"out": tmp_path / "file"}, {}, r"`out` .*file: expected a folder, found a file"),
        ({"out": made.data}, {}, r"`out` .*weave: lies among the data set's images"),
        ({"overlay": True}, {}, r"`overlay`: expected `out` too"),
        ({}, {"search": "annoy"}, r"`search`: expected auto, pruned, brute or keops, found 'annoy'"),
        ({}, {"device": "tpu"}, r"`device`: expected .*auto, cpu.* cuda, found 'tpu'"),
        ({}, {"threads": 0}, r"`threads`: expected 1 or more"),
    ):
        with pytest.raises(InputError, match=says):
            patchcli.score(made.store, outputs=Outputs(**outputs), setup=Setup(**setup))  # type: ignore[arg-type]


def test_unreadable_images_are_left_out(world: World) -> None:
    truncate(world.data / "test" / "hole" / "000.png")
    told = Told()
    found = list(patchcli.score(world.store, observer=told))
    assert [record.image for record in found if "hole" in record.image] == ["test/hole/001.png", "test/hole/002.png"]
    assert len(found) == 4
    (problem,) = told.problems
    assert problem.startswith(f"{world.data}/test/hole/000.png: cannot be decoded")


def test_only_out_is_written(made: World, tmp_path: Path) -> None:
    before = touched(made.store), touched(made.data)
    found = list(patchcli.score(made.store, outputs=Outputs(tmp_path / "maps", overlay=True)))
    assert (touched(made.store), touched(made.data)) == before
    written = {path for path in (tmp_path / "maps").rglob("*") if path.is_file()}
    assert written == {Path(name) for record in found for name in (record.map, record.overlay) if name}


def test_maps_and_peak(made: World, tmp_path: Path) -> None:
    for record in patchcli.score(made.store, outputs=Outputs(tmp_path / "maps")):
        assert record.map == (tmp_path / "maps" / record.image).with_suffix(".tiff").as_posix()
        values = tifffile.imread(record.map)
        with Image.open(made.data / record.image) as image:
            assert values.shape == (image.height, image.width)
        assert values.dtype == np.float32
        y, x = np.unravel_index(values.argmax(), values.shape)
        assert abs(int(x) - record.peak_x) <= 1
        assert abs(int(y) - record.peak_y) <= 1
        if values.shape == (128, 128):  # the working size: nothing is resized
            assert float(values.max()) == record.score
            assert (record.peak_x, record.peak_y) == (x, y)
        else:
            assert float(values.max()) == pytest.approx(record.score, rel=0.01)


def test_a_map_can_be_traced(made: World, tmp_path: Path) -> None:
    record = next(patchcli.score(made.store, outputs=Outputs(tmp_path / "maps")))
    with tifffile.TiffFile(str(record.map)) as tiff:
        assert json.loads(tiff.pages[0].tags["ImageDescription"].value) == {
            "image": record.image, "id": record.id, "score": record.score, "encoder": record.encoder, "bank": record.bank,
            "distance_error": 0.0,
        }  # fmt: skip


def test_overlays_share_one_scale_and_outline_masks(made: World, tmp_path: Path) -> None:
    rows, columns = HOLE
    for record in patchcli.score(made.store, outputs=Outputs(tmp_path / "maps", overlay=True)):
        assert record.overlay == (tmp_path / "maps" / record.image).as_posix()
    for number in range(2):
        with Image.open(tmp_path / "maps" / "test" / "good" / f"{number:03}.png") as image:
            assert image.size == SIZE[::-1]
            drawn = np.asarray(image).astype(int)
        assert not ((drawn == (255, 0, 0)).all(axis=2)).any()
        original = np.asarray(Image.open(made.data / "test" / "good" / f"{number:03}.png")).astype(int)
        assert np.abs(drawn - original).mean() < 30  # next to the holes, hardly any heat
    for number in range(3):
        with Image.open(tmp_path / "maps" / "test" / "hole" / f"{number:03}.png") as image:
            red = (np.asarray(image) == (255, 0, 0)).all(axis=2)
        outline = np.zeros_like(red)
        outline[rows.start - 1 : rows.stop + 1, columns.start - 1 : columns.stop + 1] = True
        outline[HOLE] = False
        np.testing.assert_array_equal(red, outline)


def test_images_that_differ_in_their_suffix_have_maps_of_their_own(made: World, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    given = [save(tmp_path / "in" / name, texture(rng, 70, 90)) for name in ("x.png", "x.jpg", "x.bmp")]
    found = list(patchcli.score(made.store, given, outputs=Outputs(tmp_path / "maps", overlay=True)))
    assert len({record.map for record in found}) == len({record.overlay for record in found}) == 3
    for record in found:
        assert float(tifffile.imread(str(record.map)).max()) == pytest.approx(record.score, rel=0.02)
        assert Path(str(record.overlay)).exists()


def test_images_of_one_name_in_folders_above_have_maps_of_their_own(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    for name in ("a/b/x.png", "a/x.png", "x.png"):
        save(tmp_path / name, texture(rng, 70, 90))
    monkeypatch.chdir(tmp_path / "a" / "b")
    found = list(patchcli.score(made.store, ["x.png", "../x.png", "../../x.png"], outputs=Outputs(tmp_path / "maps")))
    assert len({record.map for record in found}) == 3
    for record in found:
        assert float(tifffile.imread(str(record.map)).max()) == pytest.approx(record.score, rel=0.02)


@pytest.mark.parametrize(("suffixes", "overlay"), [(("png",), True), (("tiff",), False), (("png", "tiff"), False)])
def test_images_are_never_written_over(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffixes: tuple[str, ...], overlay: bool
) -> None:
    rng = np.random.default_rng(1)
    for suffix in suffixes:
        save(tmp_path / "photos" / f"x.{suffix}", texture(rng, 70, 90))
    before = tree(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(InputError):  # refusing is one way, another name is another
        list(patchcli.score(made.store, ["photos"], outputs=Outputs(".", overlay=overlay)))
    after = tree(tmp_path / "photos")
    assert {name: after[name] for name in before} == before


def test_paths_files_and_folders(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    save(tmp_path / "in" / "deep" / "img10.png", texture(rng, 70, 90))
    save(tmp_path / "in" / "deep" / "img2.png", texture(rng, 70, 90))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    told = Told()
    test_image = made.data / "test" / "hole" / "001.png"
    given = ["in", test_image, "empty", "missing.png"]
    found = list(patchcli.score(made.store, given, outputs=Outputs("maps"), observer=told))
    assert [record.image for record in found] == ["in/deep/img2.png", "in/deep/img10.png", test_image.as_posix()]
    assert [record.id for record in found] == ["in/deep/img2.png", "in/deep/img10.png", "test/hole/001.png"]
    assert [record.map for record in found] == [
        "maps/in/deep/img2.tiff", "maps/in/deep/img10.tiff", "maps/test/hole/001.tiff",
    ]  # fmt: skip
    assert told.problems == ["empty: no images found in this folder", "missing.png: no such file"]


def test_a_map_of_an_absolute_path_stays_below_out(made: World, tmp_path: Path) -> None:
    image = save(tmp_path / "in" / "x.png", texture(np.random.default_rng(1), 70, 90))
    (record,) = patchcli.score(made.store, [image], outputs=Outputs(tmp_path / "maps"))
    assert record.map is not None
    assert Path(record.map).is_relative_to(tmp_path / "maps")
    assert Path(record.map).is_file()


def test_nothing_could_be_scored(made: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image could be scored"):
        list(patchcli.score(made.store, [tmp_path / "missing.png"], observer=Told()))
    with pytest.raises(InputError, match=r"no image could be scored"):
        list(patchcli.score(made.store, []))


def test_a_data_set_that_is_gone(world: World) -> None:
    image = world.data / "test" / "hole" / "000.png"
    kept = image.rename(world.data.with_name("kept.png"))
    world.data.rename(world.data.with_name("elsewhere"))
    says = r"weave: the data set .* is gone; where it moved, .*: `extract\(data\)`, with the same `store`"
    for verb in (patchcli.score, patchcli.evaluate):
        with pytest.raises(InputError, match=says):
            verb(world.store)
    (record,) = patchcli.score(world.store, [kept])
    assert record.image == record.id == kept.as_posix()
    told = Told()
    patchcli.extract(world.data.with_name("elsewhere"), world.store, observer=told)
    assert len(list(patchcli.score(world.store, observer=told))) == 4


def test_the_flat_encoder_has_one_scale(made: World, tmp_path: Path) -> None:
    store = make_store(made.data, tmp_path / "flat.zarr", encoder="flat", D=8)
    found = list(patchcli.score(store))
    assert len(found) == 5
    for record in found:
        assert isinstance(record, Record)
        assert record.score_small is None
        assert record.score == record.score_big > 0
        assert record.nearest_width == 80  # K=64


@pytest.mark.parametrize("array", ["vectors", "ids", "coords", "nodes", "low", "high"])
def test_a_lost_chunk_of_the_bank(world: World, array: str) -> None:
    page = part_folder(world.store, "bank") / "big/index/0"
    next(path for path in (page / array / "c").rglob("*") if path.is_file()).unlink()
    says = rf"bank[-0-9a-f]*: missing \(a chunk of big/index/0/{array}\); run: `embed\(overwrite\)`"
    with pytest.raises(DamagedError, match=says):
        list(patchcli.score(world.store))
    patchcli.embed(world.store, overwrite=True)
    assert len(list(patchcli.score(world.store))) == 5


def test_a_lost_page_or_index(world: World) -> None:
    index = part_folder(world.store, "bank") / "small/index"
    shutil.rmtree(index / "0")
    with pytest.raises(DamagedError, match=r"missing \(a chunk of small/index/0/\w+\); run: `embed\(overwrite\)`"):
        list(patchcli.score(world.store))
    shutil.rmtree(index)
    with pytest.raises(DamagedError, match=r"missing \(a chunk of small/index/\w+\); run: `embed\(overwrite\)`"):
        list(patchcli.score(world.store))
    shutil.rmtree(index.parents[1])
    with pytest.raises(DamagedError, match=r"missing \(its metadata\); run: `embed\(overwrite\)`"):
        list(patchcli.score(world.store))


PARTS = ["bank/big/index/0/vectors", "bank/small/index/axes", "encoder/conv2.weight", "images/mean", "images/id", "images/size"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("harm", [truncate, Path.unlink, flip])
def test_a_file_of_the_store_that_is_not_as_it_was(world: World, part: str, harm: Callable[[Path], object]) -> None:
    kind, array = part.split("/", 1)
    repair = {"bank": r"`embed\(overwrite\)`", "encoder": "train again", "images": "extract the images again"}[kind]
    folder = part_folder(world.store, kind)
    harm(next(path for path in sorted((folder / array / "c").rglob("*")) if path.is_file()))
    with pytest.raises(DamagedError, match=rf"{folder}: (damaged|missing) \(.*{array}.*\); .*{repair}"):
        list(patchcli.score(world.store))


# ---- what MVTec AD 2's server takes ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def private(made: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A calibrated world in the layout of MVTec AD 2, with private images of two sizes."""
    folder = tmp_path_factory.mktemp("private")
    world = World(folder / "weave", folder / "weave.zarr")
    shutil.copytree(made.data / "train", world.data / "train")
    shutil.copytree(made.data / "test" / "good", world.data / "test_public" / "good")
    for name in ("test_private/000_regular.png", "test_private_mixed/000_mixed.png"):
        save(world.data / name, texture(np.random.default_rng(len(name)), *SIZE))
    shutil.copy(made.data / "test" / "hole" / "002.png", world.data / "test_private" / "001_regular.png")
    shutil.copytree(made.store, world.store)
    patchcli.extract(world.data, world.store)
    write_plain(folder / "more", 12, seed=7)
    patchcli.calibrate(world.store, [folder / "more"], false_alarms=0.25)
    return world


def test_a_submission(private: World, tmp_path: Path) -> None:
    found = list(patchcli.score(private.store, outputs=Outputs(tmp_path / "s", submission="mvtec-ad-2")))
    names = ["test_private/000_regular", "test_private/001_regular", "test_private_mixed/000_mixed"]
    assert [record.image for record in found] == [f"{name}.png" for name in names]
    assert [path for path in tree(tmp_path / "s") if path.endswith((".tiff", ".png"))] == [
        *(f"anomaly_images/weave/{name}.tiff" for name in names),
        *(f"anomaly_images_thresholded/weave/{name}.png" for name in names),
    ]
    threshold = Store.open(private.store).calibration.thresholds.pixel_threshold
    paths = [private.data / record.image for record in found]
    for record, whole in zip(found, patchcli.score(private.store, paths, outputs=Outputs(tmp_path / "maps")), strict=True):
        values, exact = tifffile.imread(str(record.map)), tifffile.imread(str(whole.map))
        assert values.dtype == np.float16 and values.shape == exact.shape
        np.testing.assert_allclose(values, exact / threshold, rtol=1e-3, atol=1e-4)
        above = np.asarray(Image.open(str(record.map).replace("anomaly_images", "anomaly_images_thresholded")[:-4] + "png"))
        np.testing.assert_array_equal(above, np.where(exact > threshold, 255, 0))
    assert (above == 255).any() or any(record.regions for record in found)


def test_submissions_that_are_refused(private: World, made: World, tmp_path: Path) -> None:
    out = tmp_path / "s"
    for store, options, error, says in (
        (private.store, {"submission": "mvtec"}, InputError, "`submission`: expected mvtec-ad-2, found 'mvtec'"),
        (private.store, {"out": None}, InputError, "`submission`: expected `out` too"),
        (private.store, {"paths": [private.data]}, InputError, "leave `(paths|overlay)` out"),
        (private.store, {"overlay": True}, InputError, "leave `(paths|overlay)` out"),
        (made.store, {}, InputError, "no private test images there; expected those of MVTec AD 2: test_private and"),
    ):
        with pytest.raises(error, match=says):
            paths = options.pop("paths", None)
            patchcli.score(store, paths, outputs=Outputs(**{"out": out, "submission": "mvtec-ad-2", **options}))
    uncalibrated = without(Path(shutil.copytree(private.store, tmp_path / "u.zarr")), "calibration")
    with pytest.raises(IncompleteError, match="run: `calibrate\\(\\)`"):
        patchcli.score(uncalibrated, outputs=Outputs(out, submission="mvtec-ad-2"))
    assert not out.exists()


def test_images_of_the_bank_say_nothing(world: World, tmp_path: Path) -> None:
    good = world.data / "train" / "good"
    copied = Path(shutil.copy(good / "004.png", tmp_path / "copy.png"))
    other = save(tmp_path / "other.bmp", np.asarray(Image.open(good / "005.png")))
    told = Told()
    paths = [world.data / "test" / "good" / "000.png", good / "003.png", copied, other]
    scores = [record.score for record in patchcli.score(world.store, paths, observer=told)]
    assert scores[0] > 0
    assert scores[1:] == [0, 0, 0]
    (note,) = [note for note in told.notes if "bank" in note]
    assert note.startswith(f"3 of these images are in the bank (first: {(good / '003.png').as_posix()}): they score 0")
    told = Told()
    list(patchcli.score(world.store, observer=told))
    assert told.notes == ["no verdicts: not calibrated; run: `calibrate()`"]
    patchcli.embed(world.store, keep=0.5)
    told = Told()
    list(patchcli.score(world.store, [good], observer=told))  # a thinned bank: by their names
    assert told.notes[-1].startswith("10 of these images are in the bank")


def test_memory_is_said_beforehand(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    details: list[str] = []
    monkeypatch.setattr(Told, "detail", lambda _, line: details.append(line))
    rng = np.random.default_rng(0)
    small = save(tmp_path / "a.png", texture(rng, 100, 100))
    large = save(tmp_path / "b.png", texture(rng, 600, 1000))
    missing = tmp_path / "missing.png"
    bank = paged.total_memory(Store.open(made.store).bank())
    working = 128 * 128 * stream.FEATURES

    def said(whole: int, size: str) -> str:
        return f"images of up to {size} pixels need about {runtime.megabytes(whole)} of memory in all"

    list(
        patchcli.score(
            made.store, [small, missing, small, large, small], outputs=Outputs(tmp_path / "maps"), batch=2, observer=told
        )
    )
    whole = stream.PROGRAM + bank
    assert details[1:] == [  # the first is about the bank
        said(whole + working + 8 * 10_000, "100x100"),
        said(whole + 2 * working + 8 * 600_000, "1000x600"),
    ]
    monkeypatch.setattr(runtime, "free_memory", lambda: 1_000_000)
    list(
        patchcli.score(
            made.store, [large], outputs=Outputs(tmp_path / "maps", overlay=True), setup=Setup(memory=100), observer=told
        )
    )
    own = working + 19 * 600_000
    needs = said(stream.PROGRAM + 100 + own, "1000x600")
    assert f"{needs}, {runtime.megabytes(own)} of it for themselves; 1.0 MB are free; score smaller images" in told.notes
