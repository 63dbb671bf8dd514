"""The demo, on fewer images than the real one."""

import functools

import pytest

import patchcli
from patchcli.datasets import weave
from patchcli.errors import InputError


def test_demo_runs_everything_twice_over(tmp_path, monkeypatch):
    monkeypatch.setattr(weave, "write_dataset", functools.partial(weave.write_dataset, train=4, good=2, each=1))
    folder = tmp_path / "demo"
    first = patchcli.demo(folder, steps=2)
    assert [row.map for row in first.rows] == ["fixed"]  # four images are too few to prove what training adds
    page = first.page.read_text(encoding="utf-8")
    assert page.count("<article ") == 6 and "https:" not in page and "needs no training" in page
    assert len(list((folder / "maps").rglob("*.tiff"))) == len(list((folder / "maps").rglob("*.png"))) == 6
    assert patchcli.demo(folder, steps=2).rows == first.rows


def test_demo_leaves_a_folder_of_something_else_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        patchcli.demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
