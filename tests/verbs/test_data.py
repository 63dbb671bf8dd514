"""data: what is counted, what is reported, and how masks are united and checked."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from smallworld import SIZE, WORKING, Told, World, save, truncate, write_dataset, write_plain

import patchcli
from patchcli.datasets.layouts import Sample
from patchcli.datasets.masks import Rule
from patchcli.datasets.sample_masks import read_mask
from patchcli.datasets.survey import Kind
from patchcli.detection.evaluation import totals
from patchcli.errors import InputError
from patchcli.store import Store
from patchcli.verbs.extraction import ImageOptions
from patchcli.verbs.outputs import Outputs


def counts(kinds: list[Kind]) -> list[tuple[str, str, int, int, int]]:
    return [(k.split, k.kind, k.images, k.masks, k.unreadable) for k in kinds]


def test_a_clean_data_set(made: World) -> None:
    told = Told()
    kinds = patchcli.data(made.data, observer=told)
    assert counts(kinds) == [("train", "good", 10, 0, 0), ("test", "good", 2, 0, 0), ("test", "hole", 3, 3, 0)]
    assert {(k.schema, k.category, k.layout) for k in kinds} == {("patchcli.data/1", "weave", "mvtec")}
    assert [(k.height, k.width) for k in kinds] == [SIZE] * 3
    assert [(k.smallest_height, k.smallest_width) for k in kinds] == [SIZE, SIZE, WORKING]
    assert (told.problems, told.notes) == ([], [])
    assert told.progressed[-1] == ("data", 15, 15)


def test_what_cannot_be_used_is_counted_and_reported(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "weave", images=3)
    truncate(root / "train/good/001.png")
    save(root / "test/good/000.png", np.zeros((20, 20, 3), np.uint8))
    for number in range(2):
        truncate(root / f"test/hole/00{number}.png")
    truncate(root / "test/hole/002.png")
    truncate(root / "ground_truth/hole/000_mask.png").rename(root / "ground_truth/hole/009_mask.png")
    told = Told()
    kinds = patchcli.data(root, observer=told)
    assert counts(kinds) == [("train", "good", 3, 0, 1), ("test", "good", 2, 0, 1), ("test", "hole", 3, 0, 3)]
    assert (kinds[2].height, kinds[2].smallest_width) == (None, None)
    assert len(told.problems) == 6
    assert told.problems[0] == f"{root}/ground_truth/hole/009_mask.png: mask without an image; expected test/hole/009.*"


def test_duplicates_are_notes(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "weave", images=4)
    shutil.copy(root / "train/good/001.png", root / "test/good/000.png")
    shutil.copy(root / "train/good/002.png", root / "train/good/003.png")
    told = Told()
    patchcli.data(root, observer=told)
    assert told.problems == []
    assert sorted(told.notes) == [
        "test/good/000.png: the same file content as train/good/001.png",
        "train/good/003.png: the same file content as train/good/002.png",
    ]
    told = Told()
    patchcli.extract(root, tmp_path / "s.zarr", ImageOptions(size=WORKING), observer=told)
    (note,) = told.notes
    assert note.startswith("images that are there more than once: 2, such as train/good/")
    assert note.endswith("; see: `data()`")


def test_several_masks_are_united(tmp_path: Path) -> None:
    one, two = np.zeros((2, *SIZE), np.uint8)
    one[:20], two[:, :30] = 3, 200
    paths = tuple(save(tmp_path / f"{number}.png", mask) for number, mask in enumerate((one, two)))
    told = Told()
    sample = Sample("x.png", tmp_path / "x.png", "test", "hole", paths, nonzero=True)
    np.testing.assert_array_equal(read_mask(sample, SIZE, Rule(0), told), (one > 0) | (two > 0))
    assert told.problems == []
    Image.fromarray(two[:9]).save(paths[1])
    assert read_mask(sample, SIZE, Rule(0), told) is None  # half a truth is none
    assert told.problems == [f"{paths[1]}: expected a mask of the image's size, found 160x9, its image has 160x140"]


def write_btad(root: Path) -> Path:
    write_dataset(root, images=2)
    for old, new in {"train/good": "train/ok", "test/good": "test/ok", "test/hole": "test/ko"}.items():
        (root / old).rename(root / new)
    (root / "ground_truth/hole").rename(root / "ground_truth/ko")
    return root


def write_visa(root: Path) -> Path:
    """Masks of label values below and above 128."""
    write_dataset(root, images=2)
    lines = ["object,split,label,image,mask"]
    for old, new in {"train/good": "Normal", "test/good": "Normal", "test/hole": "Anomaly"}.items():
        for number, path in enumerate(sorted((root / old).iterdir())):
            name = f"{root.name}/Data/Images/{new}/{old[:2]}{number}.png"
            (root.parent / name).parent.mkdir(parents=True, exist_ok=True)
            path.rename(root.parent / name)
            mask = name.replace("Images", "Masks") if new == "Anomaly" else ""
            if mask:
                (root.parent / mask).parent.mkdir(parents=True, exist_ok=True)
                values = np.asarray(Image.open(root / f"ground_truth/hole/00{number}_mask.png")) // 255
                values[60:] *= 200
                Image.fromarray(values).save(root.parent / mask)
            lines.append(f"{root.name},{old.split('/')[0]},{'anomaly' if mask else 'normal'},{name},{mask}")
    for name in ("train", "test", "ground_truth"):
        shutil.rmtree(root / name)
    (root.parent / "split_csv").mkdir()
    (root.parent / "split_csv/1cls.csv").write_text("\n".join(lines))
    return root


def write_manifest(root: Path) -> Path:
    """Folders that would be read as MVTec AD, listed so that one image of train/good is for testing."""
    write_dataset(root, images=3)
    lines = ["path,label,mask,split"]
    lines += [f"train/good/00{number}.png,good,,{'test' if number == 2 else ''}" for number in range(3)]
    lines += [f"test/good/00{number}.png,good,,test" for number in range(1)]
    lines += [f"test/hole/00{number}.png,bad,ground_truth/hole/00{number}_mask.png," for number in range(3)]
    (root / "parts.csv").write_text("\n".join(lines))
    return root / "parts.csv"


@pytest.mark.parametrize("write", [write_btad, write_visa, write_manifest], ids=["btad", "visa", "manifest"])
def test_evaluate_and_score_read_the_same_layout_again(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    data, store = write(tmp_path / "candle"), tmp_path / "s.zarr"
    told = Told()
    patchcli.train(data, store, images=ImageOptions(size=WORKING), steps=0, encoder="fixed", observer=told)
    patchcli.embed(store)
    info = patchcli.info(store)
    assert info.root == str(data.resolve())
    assert info.images == 2
    records = list(patchcli.score(store, outputs=Outputs(tmp_path / "maps"), observer=told))
    root = data.parent if data.is_file() else data
    tested = {record.image for record in records}
    assert len(tested) == 5
    assert all((root / name).is_file() for name in tested)
    assert not tested & set(Store.open(store).images.ids)
    (row,) = totals(patchcli.evaluate(store, observer=told))
    assert (row.images, row.defective, row.note) == (5, 3, "")
    assert row.image_auroc == 1
    assert row.pixel_auroc is not None and row.pixel_auroc > 0.9
    assert told.problems == []
    named = [record.id for record in patchcli.score(store, [root / name for name in sorted(tested)], observer=told)]
    assert named == sorted(tested)


def test_a_layout_given_by_name_is_remembered(tmp_path: Path) -> None:
    """Detected, good/ beside late/ would have test images, with labels that the user did not mean."""
    for seed, name in enumerate(("good", "late")):
        write_plain(tmp_path / "photos" / name, 2, seed=seed)
    store = tmp_path / "s.zarr"
    patchcli.train(
        tmp_path / "photos",
        store,
        images=ImageOptions(layout="plain", size=WORKING),
        steps=0,
        encoder="flat",
        D=4,
        observer=Told(),
    )
    patchcli.embed(store)
    for verb in (patchcli.evaluate, patchcli.score):
        with pytest.raises(InputError, match="no test images there"):
            verb(store, observer=Told())
