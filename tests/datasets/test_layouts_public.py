"""The public data sets, each as a tiny one of its form; which layout is detected, splits, kinds, labels, masks."""

from pathlib import Path

import pytest
from tinysets import MAKERS, btad, ksdd, ksdd2, loco, mvtec2, table, visa, visa_converted, write

from patchcli.datasets import layouts
from patchcli.errors import InputError


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_detected_named_and_refused_by_its_parent(tmp_path: Path, name: str) -> None:
    root = MAKERS[name](tmp_path / "many" / "candle")
    dataset = layouts.read(root)
    assert (dataset.layout, dataset.category, dataset.problems) == (name, "candle", [])
    assert dataset.samples == layouts.read(root, name).samples
    assert all(sample.path.is_file() and sample.path == dataset.root / sample.id for sample in dataset.samples)
    with pytest.raises(InputError, match=r"expected one data set, found 1 .*name one: .*candle"):
        layouts.read(root.parent)


@pytest.mark.parametrize("name", MAKERS)
def test_no_other_layout_fits(tmp_path: Path, name: str) -> None:
    """But for the wider ones that come later: so the order decides nothing else."""
    root = MAKERS[name](tmp_path / "candle")
    wider = {narrow: {"mvtec", "visa"} for narrow in ("mvtec2", "loco", "btad")} | {"mvtec": {"visa"}}
    assert {other for other, layout in layouts.LAYOUTS.items() if layout.fits(root)} == {name, *wider.get(name, ()), "plain"}


def test_mvtec_ad_2(tmp_path: Path) -> None:
    dataset = layouts.read(mvtec2(tmp_path / "can"))
    assert table(dataset) == [
        ("train/good/000_regular.png", "train", "good", []),
        ("train/good/001_regular.png", "train", "good", []),
        ("validation/good/000_regular.png", "validation", "good", []),
        ("test_public/bad/000_regular.png", "test", "bad", ["test_public/ground_truth/bad/000_regular_mask.png"]),
        ("test_public/bad/000_shift_1.png", "test", "bad", ["test_public/ground_truth/bad/000_shift_1_mask.png"]),
        ("test_public/good/000_regular.png", "test", "good", []),
        ("test_private/000_regular.png", "test_private", "unlabelled", []),
        ("test_private_mixed/000_mixed.png", "test_private_mixed", "unlabelled", []),
    ]


def test_mvtec_loco(tmp_path: Path) -> None:
    dataset = layouts.read(loco(tmp_path / "pushpins"))
    truth, other = "ground_truth/logical_anomalies", "ground_truth/structural_anomalies"
    assert table(dataset) == [
        ("train/good/000.png", "train", "good", []),
        ("validation/good/000.png", "validation", "good", []),
        ("test/good/000.png", "test", "good", []),
        ("test/logical_anomalies/000.png", "test", "logical_anomalies", [f"{truth}/000/000.png", f"{truth}/000/001.png"]),
        ("test/logical_anomalies/001.png", "test", "logical_anomalies", [f"{truth}/001/000.png"]),
        ("test/structural_anomalies/000.png", "test", "structural_anomalies", [f"{other}/000/000.png"]),
    ]
    assert all(sample.nonzero for sample in dataset.samples)
    write(dataset.root, f"{truth}/009/000.png", f"{truth}/009/001.png")
    assert [problem.split(": ")[1] for problem in layouts.read(dataset.root).problems] == [
        "mask without an image; expected test/logical_anomalies/009.*"
    ] * 2


def test_visa(tmp_path: Path) -> None:
    dataset = layouts.read(visa(tmp_path / "candle"))
    assert table(dataset) == [
        ("Data/Images/Normal/0001.JPG", "train", "good", []),
        ("Data/Images/Normal/0003.JPG", "train", "good", []),
        ("Data/Images/Normal/0002.JPG", "test", "good", []),
        ("Data/Images/Anomaly/000.JPG", "test", "bad", ["Data/Masks/Anomaly/000.png"]),
    ]
    assert all(sample.nonzero for sample in dataset.samples)


def test_visa_without_its_split(tmp_path: Path) -> None:
    root = visa(tmp_path / "candle")
    (tmp_path / "split_csv" / "1cls.csv").rename(tmp_path / "split_csv" / "2cls.csv")
    with pytest.raises(InputError, match=r"candle: expected VisA's split in .*split_csv/1cls\.csv, found no such file"):
        layouts.read(root)
    (tmp_path / "split_csv" / "2cls.csv").rename(tmp_path / "split_csv" / "1cls.csv")
    with pytest.raises(InputError, match="expected rows of the object candles, the folder's name; found none"):
        layouts.read(root.rename(tmp_path / "candles"))


def test_visa_with_a_file_missing(tmp_path: Path) -> None:
    root = visa(tmp_path / "candle")
    (root / "Data/Images/Normal/0003.JPG").unlink()
    (problem,) = layouts.read(root).problems
    assert problem.startswith(f"{tmp_path.resolve()}/split_csv/1cls.csv:3: path: no such file: ")


def test_visa_converted(tmp_path: Path) -> None:
    root = visa_converted(tmp_path / "candle")
    expected = [
        ("train/good/0001.JPG", "train", "good", []),
        ("test/bad/000.JPG", "test", "bad", ["ground_truth/bad/000.png"]),
        ("test/good/0002.JPG", "test", "good", []),
    ]
    assert table(layouts.read(root)) == table(layouts.read(root, "visa")) == expected
    assert all(sample.nonzero for sample in layouts.read(root, "visa").samples)


def test_btad(tmp_path: Path) -> None:
    assert table(layouts.read(btad(tmp_path / "01"))) == [
        ("train/ok/0000.bmp", "train", "good", []),
        ("train/ok/0001.png", "train", "good", []),
        ("test/ko/0000.bmp", "test", "ko", ["ground_truth/ko/0000.png"]),
        ("test/ko/0001.png", "test", "ko", ["ground_truth/ko/0001.bmp"]),
        ("test/ok/0000.bmp", "test", "good", []),
    ]


def test_kolektor_sdd(tmp_path: Path) -> None:
    """Defective images test, the good ones of an item are on one side, and about one item in five tests."""
    dataset = layouts.read(ksdd(tmp_path / "KolektorSDD"))
    assert len(dataset.samples) == 40
    sides: dict[str, set[str]] = {}
    for sample in dataset.samples:
        item, part = sample.id.split("/")
        assert sample.defective == (part == f"Part{int(item[3:]) % 2}.jpg")
        assert sample.masks == (dataset.root / sample.id.replace(".jpg", "_label.bmp"),)
        if sample.defective:
            assert (sample.kind, sample.split) == ("defect", "test")
        else:
            sides.setdefault(item, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in sides.values())
    assert 1 <= sum(splits == {"test"} for splits in sides.values()) <= 8


def test_kolektor_sdd_2(tmp_path: Path) -> None:
    assert table(layouts.read(ksdd2(tmp_path / "KolektorSDD2"))) == [
        ("train/10000.png", "train", "good", ["train/10000_GT.png"]),
        ("train/10001.png", "unused", "defect", ["train/10001_GT.png"]),
        ("test/20000.png", "test", "good", ["test/20000_GT.png"]),
        ("test/20001.png", "test", "defect", ["test/20001_GT.png"]),
    ]


def test_kolektor_images_that_cannot_be_told_good_from_bad(tmp_path: Path) -> None:
    root = write(ksdd2(tmp_path), "train/10002.png", "train/10003.png", "train/10003_GT.png", "train/10004_GT.png").resolve()
    dataset = layouts.read(root)
    assert len(dataset.samples) == 4
    first, second, third = dataset.problems
    assert first == f"{root}/train/10002.png: expected its mask 10002_GT.png beside it, found none"
    assert second.startswith(f"{root}/train/10003_GT.png: mask cannot be decoded")
    assert third == f"{root}/train/10004_GT.png: mask without an image; expected 10004.*"
