"""find: links are followed once, strays are passed over, and what is no file or leads nowhere is named."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcli import files
from patchcli.datasets import images


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def problems_of(root: Path) -> tuple[list[str], list[str]]:
    """What is found below a folder, and the problems, by names below it."""
    lines: list[str] = []
    names = [path.relative_to(root).as_posix() for path in images.find(root, problem=lines.append)]
    return names, [line.removeprefix(f"{root}/") for line in lines]


def test_find_follows_links_once_and_keeps_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/real/b.png", "out/lot/c.png", "out/d.png")
    root = tmp_path / "in"
    (root / "alias").symlink_to(root / "real")  # already there by its own name
    (root / "lot").symlink_to(tmp_path / "out" / "lot")
    (root / "lot again").symlink_to(root / "lot")
    (root / "e.png").symlink_to(tmp_path / "out" / "d.png")
    (root / "f.png").symlink_to(tmp_path / "out" / "d.png")  # two names of one image are two images
    assert problems_of(root) == (["a.png", "e.png", "f.png", "lot/c.png", "real/b.png"], [])
    (tmp_path / "way in").symlink_to(root)
    assert problems_of(tmp_path / "way in")[0] == problems_of(root)[0]


def test_find_is_not_led_in_circles_or_upward(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/sub/b.png", "above.png")
    root = tmp_path / "in"
    (root / "up").symlink_to("..")
    (root / "sub" / "round").symlink_to(root)
    (root / "self").symlink_to("self")
    (root / "gone.png").symlink_to("nowhere.png")
    (root / "lot").symlink_to("no lot")
    names, lines = problems_of(root)
    assert names == ["a.png", "sub/b.png"]
    assert sorted(lines) == [
        "gone.png: broken link to nowhere.png",
        "lot: broken link to no lot",
        "self: links to itself",
        "sub/round: links to a folder that it lies in, and is not followed",
        "up: links to a folder that it lies in, and is not followed",
    ]


def test_find_names_what_is_no_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    os.mkfifo(tmp_path / "control")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    assert problems_of(tmp_path) == (
        ["a.png"],
        ["b.png: expected a file, found a FIFO", "zero.png: expected a file, found a device"],
    )


@pytest.mark.parametrize("stray", ["@eaDir", "__MACOSX", "Thumbs", "#recycle", ".DS_Store", "$RECYCLE.BIN"])
def test_find_passes_over_stray_folders(tmp_path: Path, stray: str) -> None:
    touch(tmp_path, "a.png", f"{stray}/a.png", f"sub/{stray}/a.png/SYNOPHOTO_THUMB_M.jpg")
    assert problems_of(tmp_path) == (["a.png"], [])
    assert problems_of(tmp_path / stray)[0] == ["a.png"]  # named on purpose


PARTS = st.lists(st.sampled_from(["a", "b", "@eaDir", ".h"]), max_size=3)


def reached(root: Path) -> set[Path]:
    """The images that any path below a folder leads to, by any links but those to a folder that they lie in."""
    unread, folders, found = [root], set[Path](), set[Path]()
    while unread:
        folder = unread.pop().resolve()
        if folder in folders:
            continue
        folders.add(folder)
        for path in folder.iterdir():
            holds = path.is_symlink() and any(inside.is_relative_to(os.path.realpath(path)) for inside in (root, folder))
            if not images.passed_over(path.name) and not holds:
                (unread.append if files.is_folder(path) else found.add)(path)
    return {path for path in found if path.suffix == ".png"}


@settings(max_examples=100)
@given(names=st.lists(PARTS, max_size=6), links=st.lists(st.tuples(PARTS, PARTS), max_size=4))
def test_find_in_any_tree_of_links(
    tmp_path_factory: pytest.TempPathFactory, names: list[list[str]], links: list[tuple[list[str], list[str]]]
) -> None:
    root = tmp_path_factory.mktemp("tree").resolve()
    for number, parts in enumerate(names):
        touch(root, "/".join([*parts, f"{number}.png"]))
    for number, (where, target) in enumerate(links):
        with contextlib.suppress(OSError):
            root.joinpath(*where).mkdir(parents=True, exist_ok=True)
            root.joinpath(*where, f"link{number}").symlink_to(root.joinpath(*target))
    lines: list[str] = []
    found = list(images.find(root, problem=lines.append))
    assert sorted(path.resolve() for path in found) == sorted(reached(root))
    for path in found:  # a name without links, where there is one that nothing passes over
        inside = path.resolve().relative_to(root)
        assert path == root / inside or any(map(images.passed_over, inside.parts))
    assert all("broken link" in line or "links to" in line for line in lines)
