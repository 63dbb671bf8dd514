"""The short form of watch_kills.py."""

from pathlib import Path

from watch_kills import kill_watchers, make_store, write_plain


def test_a_killed_watcher_loses_and_doubles_no_record(tmp_path: Path) -> None:
    store = make_store(write_plain(tmp_path / "good", 10), tmp_path / "good.zarr", D=16)
    assert kill_watchers(tmp_path / "line", store, kills=3)["records"] >= 3
