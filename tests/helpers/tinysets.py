"""Tiny data sets: a file or a few of each form, which hold a byte only, as reading a layout decodes no image."""

from pathlib import Path

import numpy as np
from PIL import Image

from patchcli.datasets.layouts import Dataset, Sample


def write(root: Path, *names: str, content: bytes = b"x") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def by_id(dataset: Dataset) -> dict[str, Sample]:
    return {sample.id: sample for sample in dataset.samples}


def write_mask(path: Path, value: int) -> None:
    """A grey mask, 8 pixels of it at `value`."""
    pixels = np.zeros((6, 9), np.uint8)
    pixels[2:4, 3:7] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def mvtec2(root: Path) -> Path:
    return write(
        root,
        *("train/good/000_regular.png", "train/good/001_regular.png", "validation/good/000_regular.png"),
        *("test_public/good/000_regular.png", "test_public/bad/000_regular.png", "test_public/bad/000_shift_1.png"),
        *("test_public/ground_truth/bad/000_regular_mask.png", "test_public/ground_truth/bad/000_shift_1_mask.png"),
        *("test_private/000_regular.png", "test_private_mixed/000_mixed.png"),
    )


def loco(root: Path) -> Path:
    return write(
        root,
        *("train/good/000.png", "validation/good/000.png", "test/good/000.png", "defects_config.json"),
        *("test/logical_anomalies/000.png", "test/logical_anomalies/001.png", "test/structural_anomalies/000.png"),
        *("ground_truth/logical_anomalies/000/000.png", "ground_truth/logical_anomalies/000/001.png"),
        *("ground_truth/logical_anomalies/001/000.png", "ground_truth/structural_anomalies/000/000.png"),
    )


SPLIT = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0001.JPG,
candle,train,normal,candle/Data/Images/Normal/0003.JPG,
candle,test,normal,candle/Data/Images/Normal/0002.JPG,
pcb1,train,normal,pcb1/Data/Images/Normal/0001.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
"""


def visa(root: Path) -> Path:
    (root.parent / "split_csv").mkdir(parents=True)
    (root.parent / "split_csv" / "1cls.csv").write_text(SPLIT)
    assert root.name == "candle"
    return write(
        root,
        *(f"Data/Images/Normal/000{number}.JPG" for number in (1, 2, 3)),
        *("Data/Images/Anomaly/000.JPG", "Data/Masks/Anomaly/000.png"),
    )


def visa_converted(root: Path) -> Path:
    return write(root, "train/good/0001.JPG", "test/good/0002.JPG", "test/bad/000.JPG", "ground_truth/bad/000.png")


def btad(root: Path) -> Path:
    return write(
        root,
        *("train/ok/0000.bmp", "train/ok/0001.png", "test/ok/0000.bmp", "test/ko/0000.bmp", "test/ko/0001.png"),
        *("ground_truth/ko/0000.png", "ground_truth/ko/0001.bmp"),
    )


def ksdd(root: Path) -> Path:
    for item in range(1, 21):
        for part in range(2):
            write(root, f"kos{item:02}/Part{part}.jpg")
            write_mask(root / f"kos{item:02}/Part{part}_label.bmp", 1 if part == item % 2 else 0)
    return root


def ksdd2(root: Path) -> Path:
    for name, value in {"train/10000": 0, "train/10001": 255, "test/20000": 0, "test/20001": 255}.items():
        write(root, f"{name}.png")
        write_mask(root / f"{name}_GT.png", value)
    return root


MAKERS = {
    "mvtec2": mvtec2, "loco": loco, "visa": visa, "btad": btad, "ksdd": ksdd, "ksdd2": ksdd2, "mvtec": visa_converted,
}  # fmt: skip


def table(dataset: Dataset) -> list[tuple[str, str, str, list[str]]]:
    """Id, split, kind and masks (below the root) of each sample."""
    return [(s.id, s.split, s.kind, [mask.relative_to(dataset.root).as_posix() for mask in s.masks]) for s in dataset.samples]
