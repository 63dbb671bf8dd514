"""Places that are named to be written to are tried before the work."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchcli import files, regions
from patchcli.errors import InputError
from patchcli.regions import Region

PLACES = ["here", "a/b/c"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("suffixes", [(), (".html",)])
def test_a_place_that_can_be_written(tmp_path: Path, place: str, suffixes: tuple[str, ...]) -> None:
    path = tmp_path / f"{place}{''.join(suffixes)}"
    assert files.target("--out", path, *suffixes) == path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/x", "/proc/a/b", "file/x", "file/a/b", "nowhere/x", "n" * 256, "a/" + "n" * 256])
@pytest.mark.parametrize("suffixes", [(), (".html",)])
def test_a_place_that_cannot(tmp_path: Path, place: str, suffixes: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"^--out /"):
        files.target("--out", tmp_path / f"{place}{''.join(suffixes)}", *suffixes)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "nowhere"}


def test_an_existing_folder_of_a_file_system_that_takes_nothing() -> None:
    with pytest.raises(InputError, match="--out /proc: cannot be written"):
        files.target("--out", "/proc")


@given(st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.none()))
def test_a_cell_is_no_formula(value: object) -> None:
    cell = files.spreadsheet(value)
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        assert cell == f"'{value}"
    else:
        assert cell == value


def test_regions_of_an_image_named_like_a_formula(tmp_path: Path) -> None:
    regions.write(tmp_path / "r.csv", [("=a.png", (9, 9), [Region(1, 1, 2, 2, 4, None, 0.5, 1, 1, 0.25)])])
    (row,) = csv.DictReader((tmp_path / "r.csv").open(newline=""))
    assert (row["image"], row["peak"]) == ("'=a.png", "0.5")
