"""Layouts among strays, links and other words: what is not understood is passed over or named, and nothing is doubled."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinysets import MAKERS, by_id, loco, table, visa_converted, write

from patchcli.datasets import layouts
from patchcli.datasets.layouts import Dataset
from patchcli.errors import InputError


def mvtec(root: Path, good: str = "good", bad: str = "bent", train: str = "train", test: str = "test") -> Path:
    return write(
        root,
        *(f"{train}/{good}/{number}.png" for number in range(3)),
        *(f"{test}/{good}/0.png", f"{test}/{bad}/0.png", f"{test}/{bad}/1.png"),
        *(f"ground_truth/{bad}/0_mask.png", f"ground_truth/{bad}/1_mask.png"),
    )


def without_root(dataset: Dataset) -> list[str]:
    return [problem.removeprefix(f"{dataset.root}/") for problem in dataset.problems]


# ---- strays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stray", ["@eaDir", "__MACOSX", "Thumbs", ".DS_Store"])
@pytest.mark.parametrize("name", [*MAKERS, "folders", "plain"])
def test_a_stray_folder_anywhere_changes_nothing(tmp_path: Path, name: str, stray: str) -> None:
    if name in MAKERS:
        root = MAKERS[name](tmp_path / "candle")
    else:
        names = {"folders": ("good/0.png", "good/1.png", "bad/0.png"), "plain": ("0.png", "monday/1.png")}[name]
        root = write(tmp_path / "candle", *names)
    before = layouts.read(root)
    assert before.layout == name
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        write(folder, f"{stray}/0.png", f"{stray}/000/0.png", f"{stray}/a_label.bmp", f"{stray}/a_GT.png")
    after = layouts.read(root)
    assert (after.layout, after.samples, after.problems) == (name, before.samples, [])


def test_folders_among_the_masks_make_no_loco(tmp_path: Path) -> None:
    root = write(mvtec(tmp_path / "grid"), "ground_truth/bent/cam1/0.png", "ground_truth/bent/0/0.png")
    dataset = layouts.read(root)
    assert dataset.layout == "mvtec"
    truth = dataset.root / "ground_truth" / "bent"
    assert by_id(dataset)["test/bent/0.png"].masks == (truth / "0_mask.png",)
    assert without_root(dataset) == [
        "ground_truth/bent/0/0.png: mask without an image; expected test/bent/0/0.*",
        "ground_truth/bent/cam1/0.png: mask without an image; expected test/bent/cam1/0.*",
    ]


def test_a_single_mask_makes_loco_no_mvtec(tmp_path: Path) -> None:
    root = write(loco(tmp_path / "pushpins"), "ground_truth/logical_anomalies/overview.png")
    assert layouts.read(root).layout == "loco"


def test_masks_of_several_cameras(tmp_path: Path) -> None:
    """A mask is that of the image in the folder of its name, else of the only one of its name; never of the first."""
    root = write(mvtec(tmp_path / "grid"), "test/dent/cam1/7.png", "test/dent/cam2/7.png", "test/dent/cam1/8.png")
    write(root, "ground_truth/dent/cam1/7_mask.png", "ground_truth/dent/8_mask.png", "ground_truth/dent/9_mask.png")
    write(root, "test/dent/cam1/9.png", "test/dent/cam2/9.png")
    dataset = layouts.read(root)
    truth = dataset.root / "ground_truth" / "dent"
    assert {name: s.masks for name, s in by_id(dataset).items() if "dent" in name} == {
        "test/dent/cam1/7.png": (truth / "cam1" / "7_mask.png",), "test/dent/cam2/7.png": (),
        "test/dent/cam1/8.png": (truth / "8_mask.png",), "test/dent/cam1/9.png": (), "test/dent/cam2/9.png": (),
    }  # fmt: skip
    assert without_root(dataset) == ["ground_truth/dent/9_mask.png: 2 images share this mask's name"]


def test_images_that_no_layout_takes_are_named(tmp_path: Path) -> None:
    root = write(mvtec(tmp_path / "grid"), "train/bad/0.png", "train/x.png", "train/y.png", "test/z.png", "test/masks/0.png")
    dataset = layouts.read(root)
    assert len(dataset.samples) == 6
    assert without_root(dataset) == [
        "train/x.png and 1 more there: not used; expected good images in train/good/",
        "train/bad: the images of this folder are not used; expected good images in train/good/",
        "test/z.png: not used; expected images in test/good/ and test/<kind of defect>/",
        "test/masks: the images of this folder are not used; expected images in test/good/ and test/<kind of defect>/",
    ]


# ---- words ----------------------------------------------------------------------------------------------------------


CASES: list[Callable[[str], str]] = [str.lower, str.upper, str.title]
WORD = st.sampled_from(["good", "ok", "normal"])


@settings(max_examples=40)
@given(good=WORD, bad=st.sampled_from(["ng", "bad", "bent"]), cases=st.lists(st.sampled_from(CASES), min_size=4, max_size=4))
def test_words_in_any_case(
    tmp_path_factory: pytest.TempPathFactory, good: str, bad: str, cases: list[Callable[[str], str]]
) -> None:
    names = [case(word) for case, word in zip(cases, (good, bad, "train", "test"), strict=True)]
    dataset = layouts.read(mvtec(tmp_path_factory.mktemp("words") / "grid", *names))
    good, bad, train, test = names
    truth = f"ground_truth/{bad}"
    assert sorted(table(dataset)) == sorted(
        [
            *((f"{train}/{good}/{number}.png", "train", "good", []) for number in range(3)),
            (f"{test}/{good}/0.png", "test", "good", []),
            *((f"{test}/{bad}/{number}.png", "test", bad, [f"{truth}/{number}_mask.png"]) for number in range(2)),
        ]
    )
    assert dataset.problems == []


def test_masks_of_a_kind_in_another_case(tmp_path: Path) -> None:
    root = write(mvtec(tmp_path / "grid", bad="NG"), "test/Hole/0.png", "ground_truth/hole/0.png")
    (masks,) = [s.masks for s in layouts.read(root).samples if s.kind == "Hole"]
    assert [mask.parent.name for mask in masks] == ["hole"]


def test_two_folders_that_mean_good_are_both_taken(tmp_path: Path) -> None:
    root = write(mvtec(tmp_path / "grid"), "train/OK/7.png", "test/Normal/8.png", "validation/ok/9.png")
    dataset = layouts.read(root)
    found = {s.id: (s.split, s.kind) for s in dataset.samples}
    assert dataset.layout == "mvtec"
    assert found["train/OK/7.png"] == ("train", "good")
    assert found["test/Normal/8.png"] == ("test", "good")
    assert found["validation/ok/9.png"] == ("validation", "good")
    (root / "train" / "ok").symlink_to("good")  # the same folder by another name is not the images twice
    assert len(layouts.read(root).split("train")) == 4


@pytest.mark.parametrize("bad", ["raw/ng/0.png", "a/b/Defect/0.png", "a/test/0.png", "x/ground_truth/0.png"])
def test_defects_below_are_never_taken_for_good(tmp_path: Path, bad: str) -> None:
    root = write(tmp_path, "raw/fine/0.png", bad)
    with pytest.raises(InputError, match=r"found .* but no .*good/ beside it \(there is .*\); put the good images into"):
        layouts.read(root)
    assert len(layouts.read(root, "plain").samples) == 2


def test_what_was_found_is_said_where_nothing_fits(tmp_path: Path) -> None:
    root = write(tmp_path / "set", "training/0.txt", "a.md", "test/readme.txt", ".hidden")
    with pytest.raises(InputError, match=r"no images found .*, found test/, training/, a\.md"):
        layouts.read(root)
    with pytest.raises(InputError, match=r"expected train/good \(`layout=mvtec`\), found none but test/, training/, a\.md"):
        layouts.read(root, "mvtec")


# ---- links ----------------------------------------------------------------------------------------------------------


def test_linked_lots_and_kinds_are_followed_by_their_names(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "grid")
    for folder in ("train/good", "test/bent", "ground_truth/bent"):
        (root / folder).rename(tmp_path / folder.replace("/", " "))
        (root / folder).symlink_to(tmp_path / folder.replace("/", " "))
    write(tmp_path / "lot", "9.png")
    (root / "train" / "good" / "lot1").symlink_to(tmp_path / "lot")
    dataset = layouts.read(root)
    assert [sample.id for sample in dataset.split("train")] == [
        "train/good/0.png", "train/good/1.png", "train/good/2.png", "train/good/lot1/9.png",
    ]  # fmt: skip
    truth = dataset.root / "ground_truth" / "bent"
    assert [s.masks for s in dataset.samples if s.defective] == [(truth / "0_mask.png",), (truth / "1_mask.png",)]
    assert dataset.problems == []


BROKEN = ("test/dent", "test/bent/9.png", "train/good/lot", "train/more", "ground_truth/dent", "validation", "test/bent/lot")


@pytest.mark.parametrize("where", BROKEN)
@pytest.mark.parametrize("target", ["nowhere", "itself"])
def test_broken_links_are_named(tmp_path: Path, where: str, target: str) -> None:
    root = mvtec(tmp_path / "grid").resolve()
    (root / where).symlink_to((root / where).name if target == "itself" else target)
    dataset = layouts.read(root)
    assert len(dataset.samples) == 6
    assert dataset.problems == [f"{root}/{where}: {'links to itself' if target == 'itself' else 'broken link to nowhere'}"]


def test_manifest_rows_of_one_file_by_two_names(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "c.png")
    (tmp_path / "b.png").symlink_to("a.png")
    os.mkfifo(tmp_path / "d.png")
    (tmp_path / "p.csv").write_text("path,label\na.png,good\nb.png,good\nc.png,good\nd.png,good\n")
    dataset = layouts.read(tmp_path / "p.csv")
    assert [sample.id for sample in dataset.samples] == ["a.png", "b.png", "c.png"]
    (problem,) = dataset.problems
    assert problem == f"{tmp_path}/p.csv:5: path: expected a file, found a FIFO: {tmp_path}/d.png"


def test_visa_converted_with_other_words(tmp_path: Path) -> None:
    root = visa_converted(tmp_path / "candle")
    (root / "train" / "good").rename(root / "train" / "Normal")
    assert all(sample.nonzero for sample in layouts.read(root, "visa").samples)
    assert len(layouts.read(root, "visa").split("train")) == 1
