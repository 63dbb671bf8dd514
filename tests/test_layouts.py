"""Folder layouts. Reading one decodes no image, so the files here hold a byte only."""

from pathlib import Path

import pytest

from patchcli import layouts
from patchcli.errors import InputError
from patchcli.layouts import Dataset, Sample


def write(root: Path, *names: str, content: bytes = b"x") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def by_id(dataset: Dataset) -> dict[str, Sample]:
    return {sample.id: sample for sample in dataset.samples}


# ---- MVTec AD -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    return write(
        tmp_path / "grid",
        *("train/good/000.png", "train/good/010.PNG", "train/good/2.png", "validation/good/000.png"),
        *("test/good/000.png", "test/bent/000.png", "test/bent/001.png", "test/cut/000.JPG"),
        *("ground_truth/bent/000_mask.png", "ground_truth/bent/001.png", "ground_truth/cut/000_mask.png"),
    )


def test_mvtec_splits_kinds_and_labels(mvtec: Path) -> None:
    dataset = layouts.read(mvtec)
    assert (dataset.layout, dataset.category, dataset.root) == ("mvtec", "grid", mvtec.resolve())
    assert [(s.id, s.split, s.kind, s.defective) for s in dataset.samples] == [
        ("train/good/000.png", "train", "good", False),
        ("train/good/2.png", "train", "good", False),
        ("train/good/010.PNG", "train", "good", False),
        ("validation/good/000.png", "validation", "good", False),
        ("test/bent/000.png", "test", "bent", True),
        ("test/bent/001.png", "test", "bent", True),
        ("test/cut/000.JPG", "test", "cut", True),
        ("test/good/000.png", "test", "good", False),
    ]
    assert all(sample.path == dataset.root / sample.id for sample in dataset.samples)
    assert [sample.id for sample in dataset.split("validation")] == ["validation/good/000.png"]
    assert dataset.problems == []


def test_masks_are_found_under_both_names(mvtec: Path) -> None:
    masks = {name: sample.masks for name, sample in by_id(layouts.read(mvtec)).items() if sample.masks}
    truth = mvtec.resolve() / "ground_truth"
    assert masks == {
        "test/bent/000.png": (truth / "bent/000_mask.png",),
        "test/bent/001.png": (truth / "bent/001.png",),
        "test/cut/000.JPG": (truth / "cut/000_mask.png",),
    }


def test_only_test_images_have_masks(mvtec: Path) -> None:
    write(mvtec, "ground_truth/good/000_mask.png")  # all-black masks of good images; train/good has a 000, too
    masked = {sample.id for sample in layouts.read(mvtec).samples if sample.masks and sample.kind == "good"}
    assert masked == {"test/good/000.png"}


def test_a_mask_without_an_image_is_a_problem(mvtec: Path) -> None:
    write(mvtec, "ground_truth/bent/007_mask.png", "ground_truth/hole/000_mask.png")
    problems = layouts.read(mvtec).problems
    assert len(problems) == 2
    assert any("ground_truth/bent/007_mask.png: mask without an image" in problem for problem in problems)
    assert any("ground_truth/hole/000_mask.png: mask without an image" in problem for problem in problems)


def test_images_that_share_a_mask_name_are_a_problem(mvtec: Path) -> None:
    write(mvtec, "test/bent/000.jpg")
    (problem,) = layouts.read(mvtec).problems
    assert "test/bent/000.*: 2 images share one mask name" in problem


def test_test_and_ground_truth_may_be_missing(tmp_path: Path) -> None:
    dataset = layouts.read(write(tmp_path, "train/good/000.png"))
    assert (dataset.layout, len(dataset.samples), dataset.problems) == ("mvtec", 1, [])


# ---- plain --------------------------------------------------------------------------------------------------------


def test_a_plain_folder_is_all_training_images(tmp_path: Path) -> None:
    dataset = layouts.read(write(tmp_path / "line3", "b.png", "monday/a.tif", "monday/.hidden.png", "notes.txt"))
    assert (dataset.layout, dataset.category) == ("plain", "line3")
    assert [(s.id, s.split, s.defective) for s in dataset.samples] == [
        ("b.png", "train", False),
        ("monday/a.tif", "train", False),
    ]


# ---- refusals -----------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        layouts.read(tmp_path / "nowhere")


def test_a_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    with pytest.raises(InputError, match=r"a\.png: expected a folder of images, found a file"):
        layouts.read(tmp_path / "a.png")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images found in it or its subfolders"):
        layouts.read(tmp_path)


def test_an_empty_train_good_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "test/good/000.png", "train/good/readme.txt")
    with pytest.raises(InputError, match="no images found in train/good"):
        layouts.read(tmp_path)


def test_a_folder_of_classes_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "carpet/train/good/0.png", "grid/train/good/0.png", "readme.txt")
    with pytest.raises(InputError, match=r"expected one data set, found 2 \(carpet, …\); name one: .*carpet"):
        layouts.read(tmp_path)


@pytest.mark.parametrize("name", ["test", "ground_truth"])
def test_defects_without_train_good_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, f"{name}/bent/000.png", "images/000.png")
    with pytest.raises(InputError, match=f"found {name}/ but no train/good/"):
        layouts.read(tmp_path)


# ---- manifest -----------------------------------------------------------------------------------------------------


def test_the_manifest_follows_the_training_images_only(mvtec: Path) -> None:
    before = layouts.read(mvtec).manifest()
    write(mvtec, "test/bent/000.png", "test/new/000.png", "validation/good/000.png", content=b"y")
    assert layouts.read(mvtec).manifest() == before
    write(mvtec, "train/good/2.png", content=b"y")
    assert layouts.read(mvtec).manifest() != before


def test_the_manifest_follows_names_and_number(mvtec: Path) -> None:
    before = layouts.read(mvtec).manifest()
    (mvtec / "train/good/2.png").rename(mvtec / "train/good/3.png")
    renamed = layouts.read(mvtec).manifest()
    (mvtec / "train/good/3.png").unlink()
    assert len({before, renamed, layouts.read(mvtec).manifest()}) == 3


def test_the_manifest_does_not_depend_on_the_place(mvtec: Path) -> None:
    before = layouts.read(mvtec).manifest()
    assert layouts.read(mvtec.rename(mvtec.with_name("moved"))).manifest() == before
