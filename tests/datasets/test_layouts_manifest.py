"""Manifests: a CSV or JSON Lines file that lists images."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcli.datasets import layouts
from patchcli.errors import InputError

IMAGES = ("a.png", "b.png", "sub/c.png", "d.png", "e.png", "m1.png", "m2.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in IMAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path.resolve()


def test_csv(folder: Path) -> None:
    text = (
        "\ufeffLabel,path,operator,mask,split,kind\n"
        "good,a.png,anna,,,\n"
        f"0,{folder}/b.png,,,train,none\n"
        "NORMAL, sub/c.png ,,,val,\n"
        "\n"
        "ok,sub/../d.png,,,test,\n"
        '1,e.png,"two\nlines",m1.png,,scratch\n'
    )
    (folder / "parts.csv").write_text(text, encoding="utf-8")
    dataset = layouts.read(folder / "parts.csv")
    assert (dataset.layout, dataset.category, dataset.root) == ("manifest", "parts", folder / "parts.csv")
    assert dataset.problems == []
    assert [(s.id, s.split, s.kind, s.masks) for s in dataset.samples] == [
        ("a.png", "train", "good", ()),
        (f"{folder}/b.png", "train", "good", ()),
        ("sub/c.png", "validation", "good", ()),
        ("sub/../d.png", "test", "good", ()),
        ("e.png", "test", "scratch", (folder / "m1.png",)),
    ]
    assert [s.path.resolve() for s in dataset.samples] == [folder / name for name in IMAGES[:5]]
    assert layouts.read(folder / "parts.csv", "manifest").samples == dataset.samples


def test_json_lines(folder: Path) -> None:
    rows = [
        {"path": "a.png", "label": 0, "more": [1, 2]},
        {"path": "d.png", "label": 1, "mask": ["m1.png", "m2.png"]},
        {"path": "e.png", "label": "ng", "mask": None, "split": "test", "kind": "dent"},
    ]
    (folder / "parts.JSONL").write_text("\n\n".join(map(json.dumps, rows)))
    dataset = layouts.read(folder / "parts.JSONL")
    assert (dataset.layout, dataset.problems) == ("manifest", [])
    assert [(s.id, s.split, s.kind, s.masks) for s in dataset.samples] == [
        ("a.png", "train", "good", ()),
        ("d.png", "test", "bad", (folder / "m1.png", folder / "m2.png")),
        ("e.png", "test", "dent", ()),
    ]


BAD_ROWS = {
    "x.png,good,,,": "path: no such file: ",
    ",good,,,": "path: expected a path, found ''",
    "b.png,fine,,,": "label: expected good or bad, or 0 or 1, found 'fine'",
    "b.png,,,,": "label: expected good or bad, or 0 or 1, found ''",
    "b.png": "label: expected good or bad, or 0 or 1, found None",
    "b.png,good,,dev,": "split: expected train, validation or test, found 'dev'",
    "b.png,bad,,train,": "split: a defective image cannot be in train; expected test",
    "b.png,bad,,val,": "split: a defective image cannot be in validation; expected test",
    "b.png,bad,,,good": "kind: found good, where the label says bad",
    "b.png,bad,x.png,,": "mask: no such file: ",
    "sub/../a.png,good,,,": "path: listed in line 2 already: sub/../a.png",
    "sub,good,,,": "path: expected a file, found a folder: ",
    f"{'x' * 3000},good,,,": "path: a name or the path is too long: ",
    "b.png,good,,,,more": "more fields than columns",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_named_by_its_line_and_left_out(folder: Path, row: str) -> None:
    (folder / "parts.csv").write_text(f"path,label,mask,split,kind\na.png,good,,,\n{row}\ne.png,bad,,,\n")
    dataset = layouts.read(folder / "parts.csv")
    assert [s.id for s in dataset.samples] == ["a.png", "e.png"]
    (problem,) = dataset.problems
    assert problem.startswith(f"{folder}/parts.csv:3: {BAD_ROWS[row]}")
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON ("),
        ("[" * 100_000, "not JSON ("),
        ("[1]", "expected an object, found [1]"),
        ('{"path": 3, "label": 0}', "path: expected a path, found 3"),
        ('{"path": "b\\u0000.png", "label": 0}', "path: no such file"),
        ('{"path": "b.png", "label": [0]}', "label: expected good or bad"),
        ('{"path": "b.png", "label": 1, "mask": {"a": 1}}', "mask: expected a path, found {'a': 1}"),
        ('{"path": "b.png", "label": 1, "mask": [1]}', "mask: expected a path, found 1"),
        ('{"path": "b.png", "label": 1, "split": ["test"]}', "split: expected train"),
    ],
    ids=range(9),
)
def test_a_bad_line_of_json(folder: Path, line: str, says: str) -> None:
    (folder / "p.jsonl").write_text(f'{{"path": "a.png", "label": "good"}}\n{line}\n')
    dataset = layouts.read(folder / "p.jsonl")
    assert len(dataset.samples) == 1
    (problem,) = dataset.problems
    assert problem.startswith(f"{folder}/p.jsonl:2: {says}")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "expected the columns path and label, separated by commas; found an empty file"),
        (b"path;label\na.png;good\n", "expected the columns path and label, separated by commas; found path;label"),
        (b"path,label\n", "no usable row; expected path and label in each"),
        (b"path,label\nx.png,good\ny.png,good\n", r"no usable row; .*; .*p\.csv:2: path: no such file"),
        (b"path,label\ne.png,bad\n", "no images found in a .csv or .jsonl file with rows of label good"),
        (b"path,label\na.png,\xff\n", "expected UTF-8 text"),
        ("path,label\na.png,good\n".encode("utf-16"), "expected UTF-8 text"),
        (b"path,label\n" + b'"' + b"x" * 200_000, r"not a CSV file \(field larger"),
    ],
)
def test_a_manifest_that_cannot_be_used(folder: Path, content: bytes, says: str) -> None:
    (folder / "p.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"p\.csv: {says}"):
        layouts.read(folder / "p.csv")


WORDS = ["a.png", "b.png", "x.png", "good", "bad", "1", "train", "test", "m1.png", "", " "]
FIELD = st.sampled_from(WORDS) | st.text(max_size=9)


@settings(max_examples=30)
@given(rows=st.lists(st.lists(FIELD, min_size=5, max_size=5), max_size=6))
def test_every_row_is_used_or_reported(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_manifest"
    folder.mkdir(exist_ok=True)
    for name in ("a.png", "b.png", "m1.png", "z.png"):
        (folder / name).write_bytes(b"x")
    keys = ("path", "label", "mask", "split", "kind")
    lines = [{"path": "z.png", "label": "good"}, *(dict(zip(keys, row, strict=True)) for row in rows)]
    (folder / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset = layouts.read(folder / "p.jsonl")
    assert len(dataset.samples) + len(dataset.problems) == len(lines)
    assert not any(sample.defective for sample in dataset.samples if sample.split != "test")
