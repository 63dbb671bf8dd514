"""Data sets listed in a table: a manifest of one's own, and VisA with its split."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from patchcli import files
from patchcli.datasets.images import printable
from patchcli.datasets.layouts.dataset import BAD, GOOD, Dataset, Layout, Sample, below
from patchcli.datasets.layouts.mvtec import MVTEC, is_mvtec, tree
from patchcli.errors import InputError

SUFFIXES = (".csv", ".jsonl")  # of manifests
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


class _RowError(Exception):
    """Why a row is left out."""


def _csv(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line number and fields of each row; column names without regard to case."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        names = [name.strip().casefold() for name in reader.fieldnames or ()]
        missing = [name for name in columns if name not in names]
        if missing:
            header = ", ".join(names) or "an empty file"
            raise InputError(f"{path}: expected the columns {' and '.join(columns)}, separated by commas; found {header}")
        reader.fieldnames = names
        for row in reader:
            yield reader.line_num, row


def _jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | _RowError]]:
    """Line number and object of each line that is not blank."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, _RowError(f"not JSON ({error})")
                continue
            yield number, row if isinstance(row, dict) else _RowError(f"expected an object, found {line.strip()[:40]}")


def _file(bases: tuple[Path, ...], name: Any, column: str) -> Path:
    """A row's file, below the first of the folders that has it."""
    if not isinstance(name, str) or not name.strip():
        raise _RowError(f"{column}: expected a path, found {name!r}")
    paths = [base / name.strip() for base in bases]
    for path in paths:
        if files.trouble(path) is None:
            return path
    raise _RowError(f"{column}: {files.trouble(paths[0])}: {files.shown(paths[0])}")


def _sample(row: Mapping[str, Any], bases: tuple[Path, ...]) -> Sample:
    """One row as a sample; paths are relative to `bases`. Raises _RowError with the reason where it cannot be used."""
    if None in row:
        raise _RowError("more fields than columns")
    path = _file(bases, row.get("path"), "path")
    word = str(row.get("label", "")).strip().casefold()
    if word not in GOOD | BAD | {"0", "1"}:
        raise _RowError(f"label: expected good or bad, or 0 or 1, found {row.get('label')!r}")
    good = word in GOOD or word == "0"
    text = str(row.get("split") or ("train" if good else "test")).strip().casefold()
    if text not in SPLITS:
        raise _RowError(f"split: expected train, validation or test, found {row['split']!r}")
    if not good and SPLITS[text] != "test":
        raise _RowError(f"split: a defective image cannot be in {SPLITS[text]}; expected test")
    kind = "good" if good else str(row.get("kind") or "bad").strip()
    if not good and kind.casefold() == "good":
        raise _RowError("kind: found good, where the label says bad")
    given = row.get("mask") or []
    masks = tuple(_file(bases, name, "mask") for name in (given if isinstance(given, list) else [given]))
    return Sample(printable(Path(row["path"].strip())), path, SPLITS[text], kind, masks)


def _samples(
    rows: Iterator[tuple[int, Mapping[str, Any] | _RowError]], table: Path, bases: tuple[Path, ...]
) -> tuple[list[Sample], list[str]]:
    """Samples of the usable rows, and a line for each other."""
    lines: dict[Path, int] = {}
    samples, problems = [], []
    try:
        for line, row in rows:
            try:
                if isinstance(row, _RowError):
                    raise row
                sample = _sample(row, bases)
                place = files.place(sample.path)
                if place in lines:
                    raise _RowError(f"path: listed in line {lines[place]} already: {sample.id}")
            except _RowError as error:
                problems.append(f"{table}:{line}: {error}")
                continue
            lines[place] = line
            samples.append(sample)
    except UnicodeDecodeError as error:
        raise InputError(f"{table}: expected UTF-8 text ({error})") from None
    except csv.Error as error:
        raise InputError(f"{table}: not a CSV file ({error})") from None
    return samples, problems


def _suffix(path: Path) -> str:
    """The suffix of a manifest's name; of a link that has no such suffix, that of the file it leads to."""
    own = path.suffix.lower()
    return own if own in SUFFIXES else files.real(path).suffix.lower()


def _manifest(path: Path) -> Dataset:
    """A CSV or JSON Lines file: path, label, and where wanted mask, split and kind; paths relative to its folder.

    Of a manifest that is a link: relative to the link's folder, or to that of the file it leads to.
    Without a split, good images train and defective ones test. In JSON Lines, mask may be a list.
    """
    rows = _csv(path, ("path", "label")) if _suffix(path) == ".csv" else _jsonl(path)
    samples, problems = _samples(rows, path, tuple(dict.fromkeys((path.parent, files.real(path).parent))))
    if not samples:
        raise InputError(f"{path}: no usable row; expected path and label in each" + "".join(f"; {p}" for p in problems[:1]))
    return Dataset(path, "manifest", path.stem, samples, problems)


def _visa(root: Path) -> Dataset:
    """VisA's class folder as published, with the split of split_csv/1cls.csv beside it; or converted to train/good."""
    if is_mvtec(root):
        return tree(root, "visa", nonzero=True)
    table = root.parent / "split_csv" / "1cls.csv"
    if why := files.trouble(table):
        raise InputError(f"{root}: expected VisA's split in {table}, found {why}; put it there")
    rows = (
        (line, {**row, "path": row["image"]})
        for line, row in _csv(table, ("object", "split", "label", "image", "mask"))
        if row["object"] == root.name
    )
    samples, problems = _samples(rows, table, (root.parent,))
    if not samples and not problems:
        raise InputError(f"{table}: expected rows of the object {root.name}, the folder's name; found none")
    below = [replace(sample, id=sample.id.removeprefix(f"{root.name}/"), nonzero=True) for sample in samples]
    return Dataset(root, "visa", root.name, below, problems)


MANIFEST = Layout(
    "a .csv or .jsonl file with rows of label good",
    lambda root: root.is_file() and _suffix(root) in SUFFIXES,
    _manifest,
    (),
)
VISA = Layout(
    "Data/Images/Normal",
    lambda root: bool(below(root, "data/images/normal")) or is_mvtec(root),
    _visa,
    ("data", *MVTEC.folders),
)
