"""Folder layouts. Reading one decodes no image, so the files here hold a byte only."""

from pathlib import Path

import pytest
from tinysets import by_id, write

from patchcli.datasets import layouts
from patchcli.errors import InputError

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
    dataset = layouts.read(mvtec)
    (problem,) = dataset.problems
    assert problem.endswith("ground_truth/bent/000_mask.png: 2 images share this mask's name")
    assert by_id(dataset)["test/bent/000.png"].masks == by_id(dataset)["test/bent/000.jpg"].masks == ()


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


# ---- folders of one's own ------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return write(
        tmp_path / "line3",
        *(f"good/{number:03}.png" for number in range(40)),
        *("scratch/000.png", "scratch/001.jpg", "dent/000.png", "dent/007.png", "notes/readme.txt"),
        *("masks/scratch/000.png", "masks/001_mask.png", "masks/dent/000_mask.bmp"),
    )


def test_good_and_bad_folders(folders: Path) -> None:
    dataset = layouts.read(folders)
    assert (dataset.layout, dataset.category, dataset.problems) == ("folders", "line3", [])
    truth = folders.resolve() / "masks"
    assert [(s.id, s.split, s.kind, s.masks) for s in dataset.samples if s.defective] == [
        ("dent/000.png", "test", "dent", (truth / "dent/000_mask.bmp",)),
        ("dent/007.png", "test", "dent", ()),
        ("scratch/000.png", "test", "scratch", (truth / "scratch/000.png",)),
        ("scratch/001.jpg", "test", "scratch", (truth / "001_mask.png",)),
    ]
    good = {split: {s.id for s in dataset.split(split) if not s.defective} for split in ("train", "test")}
    assert good["train"] | good["test"] == {f"good/{number:03}.png" for number in range(40)}
    assert not good["train"] & good["test"]
    assert 2 <= len(good["test"]) <= 14  # one in five


def test_no_image_changes_sides_when_others_come(folders: Path) -> None:
    before = {s.id: s.split for s in layouts.read(folders).samples}
    write(folders, "good/000a.png", "good/more/000.png", "good/0.png")
    assert before.items() <= {s.id: s.split for s in layouts.read(folders).samples}.items()


@pytest.mark.parametrize("good", ["good", "OK", "Normal"])
def test_words_for_good(tmp_path: Path, good: str) -> None:
    dataset = layouts.read(write(tmp_path, *(f"{good}/{number}.png" for number in range(9)), "ng/0.png"))
    assert dataset.layout == "folders"
    assert {(s.kind, s.defective) for s in dataset.samples} == {("good", False), ("ng", True)}


def test_masks_that_fit_no_image_or_several(folders: Path) -> None:
    write(folders, "masks/000.png", "masks/dent/009.png", "scratch/003.png", "dent/003.png", "masks/003.png", "loose.png")
    problems = layouts.read(folders).problems
    assert [problem.removeprefix(f"{folders.resolve()}/").split(";")[0] for problem in problems] == [
        "masks/000.png: mask without an image",
        "masks/003.png: 2 images share this mask's name",
        "masks/dent/009.png: mask without an image",
        "loose.png: not used",
    ]
    assert by_id(layouts.read(folders))["dent/003.png"].masks == ()


def test_good_alone_is_plain(tmp_path: Path) -> None:
    """Also with folders beside it that hold no image, such as a store."""
    dataset = layouts.read(write(tmp_path, "good/0.png", "patchcli.zarr/images/c/0/0", "bad/readme.txt"))
    assert (dataset.layout, [s.split for s in dataset.samples]) == ("plain", ["train"])


@pytest.mark.parametrize("name", ["bad", "NG", "masks"])
def test_defects_without_good_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, f"{name}/000.png", "monday/000.png")
    with pytest.raises(InputError, match=f"found {name}/ but no "):
        layouts.read(tmp_path)


def test_a_folder_of_such_folders_is_refused(folders: Path) -> None:
    with pytest.raises(InputError, match=r"expected one data set, found 1 .*name one: .*line3"):
        layouts.read(folders.parent)


# ---- the layout by name --------------------------------------------------------------------------------------------


def test_an_unknown_layout_is_refused(mvtec: Path) -> None:
    with pytest.raises(InputError, match=r"`layout`: expected one of manifest, .*plain, found 'coco'"):
        layouts.read(mvtec, "coco")


@pytest.mark.parametrize("name", [name for name in layouts.LAYOUTS if name not in ("mvtec", "visa", "plain")])
def test_a_layout_that_does_not_fit_is_refused(mvtec: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"grid: expected .* \(`layout={name}`\), found none"):
        layouts.read(mvtec, name)


@pytest.mark.parametrize("name", [name for name in layouts.LAYOUTS if name != "manifest"])
def test_no_folder_layout_reads_a_manifest(tmp_path: Path, name: str) -> None:
    (tmp_path / "parts.csv").write_text("path,label\n")
    with pytest.raises(InputError, match=rf"parts\.csv: expected .*\(`layout={name}`\)"):
        layouts.read(tmp_path / "parts.csv", name)


def test_plain_by_name_takes_everything_as_good(folders: Path) -> None:
    dataset = layouts.read(folders, "plain")
    assert (dataset.layout, len(dataset.split("train"))) == ("plain", 47)


# ---- duplicates ----------------------------------------------------------------------------------------------------


def test_duplicates_are_found_by_content(mvtec: Path) -> None:
    for number, sample in enumerate(layouts.read(mvtec).samples):
        sample.path.write_bytes(b"%02d" % number)
    assert layouts.read(mvtec).duplicates() == []
    for name in ("train/good/2.png", "test/bent/000.png", "test/good/000.png"):
        write(mvtec, name, content=b"ab")
    write(mvtec, "test/bent/001.png", "test/cut/000.JPG", content=b"cd")  # among test images alone
    write(mvtec, "train/good/000.png", "train/good/010.PNG", content=b"longer")
    groups = [[sample.id for sample in group] for group in layouts.read(mvtec).duplicates()]
    assert groups == [
        ["train/good/000.png", "train/good/010.PNG"],
        ["train/good/2.png", "test/bent/000.png", "test/good/000.png"],
    ]
