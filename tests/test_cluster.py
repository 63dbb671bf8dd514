"""Tasks on the workers of a cluster: the same as in this process, whatever happens to a worker."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import done, process, records, refused, timeless
from hypothesis import given, settings
from hypothesis import strategies as st
from smallworld import SIZE, Told, World, leftovers, parts, save, texture, tree, truncate
from storage import Proxy, reaching, remote_parts, uploaded
from tasks import Squares, Workers

import patchcli
from patchcli import Cluster, Setup, cluster, runtime
from patchcli.bank.search import pruned, trees
from patchcli.datasets.roi import Roi
from patchcli.detection import shards
from patchcli.errors import InputError
from patchcli.store import Store, bank
from patchcli.verbs import measuring
from patchcli.verbs.outputs import Outputs

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install '.[cluster]'")
pytestmark = pytest.mark.usefixtures("workers_that_fork")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a cluster of two workers."""
    with cluster.local(2, 1) as running:
        yield running.scheduler_address


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two images."""
    monkeypatch.setattr(bank, "CHUNK_BYTES", 2 * 25 * 25 * 16 * 4)


@pytest.fixture
def small_shards(small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is a shard."""
    monkeypatch.setattr(trees, "shard_size", lambda D, budget: 1)


def answers(scheduler: str, task: Squares, numbers: list[int], told: Told | None = None) -> list[int]:
    with Cluster(scheduler=scheduler).started(None, told or Told()) as run:
        return list(run(task, numbers))


def bank_of(store: Path) -> dict[str, bytes]:
    """The files of a bank."""
    name = Store.open(store).root.parts["bank"].name
    return {str(path.relative_to(store / name)): path.read_bytes() for path in (store / name).rglob("*") if path.is_file()}


def test_answers_come_in_order_with_what_the_observer_was_told(scheduler: str, tmp_path: Path) -> None:
    told = Told()
    assert answers(scheduler, Squares(tmp_path), list(range(40)), told) == [number**2 for number in range(40)]
    assert told.problems == [f"{number} is odd" for number in range(1, 40, 2)]
    assert "opened" not in told.notes


def test_as_many_workers_as_are_wanted() -> None:
    with Cluster(workers=3).started(2, Told()) as run:
        found = set(run(Workers(), range(60)))
    assert len({pid for pid, _ in found}) == 3 and {threads for _, threads in found} == {"2"}


def test_what_a_dead_worker_had_begun_is_done_by_another(scheduler: str, tmp_path: Path) -> None:
    assert answers(scheduler, Squares(tmp_path, deadly=1), list(range(8))) == [number**2 for number in range(8)]
    assert [path.name for path in tmp_path.iterdir()] == ["0"]  # a worker died


def test_workers_write_to_a_bucket(scheduler: str, proxy: Proxy, bucket: str, world: World, small_blocks: None) -> None:
    """Each has its own credentials, from its environment."""
    store = uploaded(world.store, f"{bucket}/cluster.zarr")
    environment = reaching(proxy)
    with distributed.Client(scheduler) as client:
        client.run(lambda: os.environ.update(environment))
    patchcli.embed(store, overwrite=True, cluster=Cluster(scheduler=scheduler))
    assert remote_parts(store)["bank"] == {name: digest for name, digest in parts(world.store)["bank"].items() if digest}


def test_the_errors_of_tasks_are_those_of_this_process(scheduler: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`threads`: expected 1 or more, found -1"):
        answers(scheduler, Squares(tmp_path), [1, -1, 2])


def test_workers_have_the_same_version(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "version", lambda name: "99")
    with pytest.raises(InputError, match=r"`scheduler`: the worker tcp://\S+ has patchcli \S+; install 99, as here"):
        answers(scheduler, Squares(tmp_path), [1])


def test_banks_and_records_are_the_same(world: World, scheduler: str, small_shards: None, tmp_path: Path) -> None:
    """Byte for byte, but for the time of a record."""
    workers = Cluster(scheduler=scheduler)
    one = [
        patchcli.embed(world.store, overwrite=True),
        bank_of(world.store),
        patchcli.calibrate(world.store, "loo", false_alarms=0.3),
    ]
    one += [patchcli.audit(world.store), list(patchcli.score(world.store, outputs=Outputs(tmp_path / "maps", overlay=True)))]
    two = [patchcli.embed(world.store, overwrite=True, cluster=workers), bank_of(world.store)]
    two += [
        patchcli.calibrate(world.store, "loo", false_alarms=0.3, cluster=workers),
        patchcli.audit(world.store, cluster=workers),
    ]
    setup, outputs = Setup(threads=1), Outputs(tmp_path / "maps", overlay=True)
    before = tree(tmp_path / "maps")
    two += [list(patchcli.score(world.store, outputs=outputs, cluster=workers, setup=setup))]
    assert two == one
    assert len(Store.open(world.store).bank().place("small").pages) > 1
    assert tree(tmp_path / "maps") == before


@pytest.mark.parametrize("options", [{"keep": 0.1, "half": True}, {"tolerance": 0.2}, {"half": True}], ids=str)
def test_thinned_banks_are_the_same(world: World, scheduler: str, small_shards: None, options: dict[str, Any]) -> None:
    """Of workers and this process, from blocks and from a bank that is whole; nothing is left beside them."""
    made = []
    for workers in (None, Cluster(scheduler=scheduler)):
        patchcli.embed(world.store, overwrite=True)
        for overwrite in (False, True):  # the second time it is embedded anew
            summary = patchcli.embed(world.store, **options, cluster=workers, overwrite=overwrite)
            made.append((replace(summary, embedded=0), bank_of(world.store)))
            assert leftovers(world.store) == set() and summary.embedded == 10 * overwrite
    assert made[:2] == made[2:]
    assert made[0][0] == made[1][0]  # the same vectors, in an index of another name


def test_workers_that_share_the_bank_find_the_same(
    world: World, scheduler: str, small_shards: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patchcli.embed(world.store, overwrite=True)
    assert min(len(Store.open(world.store).bank().place(scale).pages) for scale in ("small", "big")) > 2
    one = [list(patchcli.score(world.store, outputs=Outputs(tmp_path / "maps"))), patchcli.audit(world.store)]
    before, told = tree(tmp_path / "maps"), Told()
    searched = []
    nearest = shards.Shared.__call__
    monkeypatch.setattr(shards.Shared, "__call__", lambda *arguments: searched.append(1) or nearest(*arguments))
    workers = Cluster(scheduler=scheduler, spread="shards")
    two = [list(patchcli.score(world.store, outputs=Outputs(tmp_path / "maps"), cluster=workers, observer=told))]
    two += [patchcli.audit(world.store, cluster=workers)]
    assert (two, tree(tmp_path / "maps")) == (one, before)
    assert searched and any("the workers share the bank" in note for note in told.notes)


@pytest.mark.parametrize(
    ("workplace", "wanted", "each"),
    [
        (Cluster(workers=2), None, 250),  # equal shares of what this machine has
        (Cluster(workers=2), 300, 300),
        (Cluster(scheduler="tcp://elsewhere:1"), None, None),
        (Cluster(scheduler="tcp://elsewhere:1"), 300, 300),
    ],
    ids=str,
)
def test_workers_share_a_bank_that_does_not_fit_into_the_memory_of_each(
    workplace: Cluster, wanted: int | None, each: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "free_memory", lambda: 1000)
    assert workplace.memory(wanted) == each
    fits = each or 500
    assert [workplace.shards(bank, wanted) for bank in (fits, fits + 1)] == [False, True]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 60), st.booleans(), st.integers(0, 2**31))
def test_the_nearest_of_all_shards_counts(count: int, vectors: int, skips: bool, seed: int) -> None:
    """Whole numbers, so that many vectors are equally near; the shards are searched in this process."""
    rng = np.random.default_rng(seed)
    bank_, queries = rng.integers(0, 3, (vectors, 4)).astype(np.float32), rng.integers(0, 3, (7, 4)).astype(np.float32)
    axes = trees.axes_of([(np.arange(vectors), bank_)], vectors)
    pages = [
        page for part in np.array_split(np.arange(vectors), min(vectors, 6)) for page in trees.cut(part, bank_[part], axes)
    ]
    low, high = (np.array([getattr(page, side)[0] for page in pages]) for side in ("low", "high"))
    whole = trees.Pages(trees.Index(axes, low, high, max(page.radius for page in pages)), pages.__getitem__, 0)
    skip = (0, vectors // 2) if skips else (0, 0)

    def run(task: object, asked: Any, pinned: list[str]) -> Any:
        assert pinned == names[: len(pages)]
        for _, shard, of, vectors, left_out in asked:
            yield pruned.nearest(torch.from_numpy(vectors), whole.share(shard, of), left_out)

    names = [f"worker {number}" for number in range(count)]
    search: Any = shards.Shared(run, names, None, "small", len(pages))  # type: ignore[arg-type]
    distances, ids = search(torch.from_numpy(queries), skip)
    kept = bank_[skip[1] :].astype(np.float64)
    squared = ((queries[:, None] - kept) ** 2).sum(axis=2)
    np.testing.assert_array_equal(ids.numpy(), squared.argmin(axis=1) + skip[1])
    np.testing.assert_array_equal(distances.numpy(), np.sqrt(squared.min(axis=1)).astype(np.float32))


def test_good_images_and_unreadable_ones(world: World, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By relative paths: workers were started elsewhere."""
    monkeypatch.chdir(world.data)
    (tmp_path / "broken.png").write_bytes(b"no image")
    for number in range(10):  # more than a task has
        save(tmp_path / "wide" / f"{number}.png", np.full((32, 96, 3), 9 * number, np.uint8))
    paths = ["test/good", "nowhere.png", str(tmp_path / "broken.png"), "test/hole", str(tmp_path / "wide")]
    setup = Setup(threads=1)
    told, here = Told(), Told()
    found = list(patchcli.score(world.store, paths, cluster=Cluster(scheduler=scheduler), setup=setup, observer=told))
    assert found == list(patchcli.score(world.store, paths, setup=setup, observer=here)) and len(found) > 2
    assert (told.problems, told.notes) == (here.problems, here.notes) and len(told.problems) == 2
    assert any(note.startswith("9 other images: stretched") for note in told.notes)
    goods = {"source": "test/good", "false_alarms": 0.5}
    with pytest.raises(InputError, match="test image"):
        patchcli.calibrate(world.store, **goods, cluster=Cluster(scheduler=scheduler))


def test_figures_are_the_same(world: World, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a store and of maps on disk, with a region of interest and with images, masks and maps that cannot be used."""
    monkeypatch.setattr(measuring, "BATCH", 2)
    mask = np.full(SIZE, 255, np.uint8)
    mask[:, :30] = 0
    roi = Roi.read(save(tmp_path / "roi.png", mask))
    save(world.data / "test" / "hole" / "002.png", texture(np.random.default_rng(0), *SIZE))  # not of its mask's size
    list(patchcli.score(world.store, outputs=Outputs(tmp_path / "maps")))
    (tmp_path / "maps" / "test" / "good" / "001.tiff").unlink()
    truncate(world.data / "test" / "good" / "000.png")
    for maps in (None, tmp_path / "maps"):
        found = []
        for workers in (None, Cluster(scheduler=scheduler)):
            told = Told()
            setup = Setup(threads=1, roi=roi)
            rows = patchcli.evaluate(world.store, maps=maps, cluster=workers, setup=setup, observer=told)
            found.append((rows, told.problems, told.notes, told.progressed))
        assert found[0] == found[1] and len(found[0][1]) >= 2 and found[0][0][0].pixel_ap is not None


def test_workers_print_what_this_process_prints(made: World, scheduler: str) -> None:
    command = ["eval", "--store", made.store, "--format", "csv", "--threads", 1]
    assert done(*command, "--scheduler", scheduler).stdout == done(*command).stdout


def test_pages_are_the_same(made: World, scheduler: str, tmp_path: Path) -> None:
    """But for the time when they were written; nothing is left beside them."""
    one = patchcli.write_report(made.store, out=tmp_path / "one" / "r.html", setup=Setup(threads=1), observer=Told())
    two = tmp_path / "two" / "r.html"
    done("report", "--store", made.store, "--out", two, "--scheduler", scheduler, "--threads", 1)
    pages = [re.sub(r"page written</th><td>[^<]*", "", page.read_text(encoding="utf-8")) for page in (one, two)]
    assert pages[0] == pages[1] and "pixel AUROC" in pages[0]
    assert {path.name for folder in (tmp_path, two.parent) for path in folder.iterdir()} == {"one", "two", "r.html"}


def test_a_report_starts_its_workers_once(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, local = [], cluster.local
    monkeypatch.setattr(cluster, "local", lambda *counts: started.append(counts) or local(*counts))
    out, workers = tmp_path / "r.html", Cluster(workers=1)
    patchcli.write_report(made.store, out=out, cluster=workers, setup=Setup(threads=1), observer=Told())
    assert started == [(1, 1)] and "pixel AUROC" in out.read_text(encoding="utf-8")


def test_a_killed_client_resumes(world: World, small_blocks: None) -> None:
    expected = patchcli.embed(world.store, overwrite=True), bank_of(world.store)
    begun(world.store)
    started = process("embed", "--store", world.store, "--workers", 1, driver=KILLED)
    started.communicate()
    assert started.returncode == -signal.SIGKILL
    told = Told()
    again = patchcli.embed(world.store, observer=told)
    assert any(note.startswith("resuming") for note in told.notes)
    assert (replace(again, embedded=10), bank_of(world.store)) == expected


KILLED = """
import os
from patchcli.store import bank
from patchcli.verbs import embedding
bank.CHUNK_BYTES = 1
embedding.embed_blocks = lambda blocks, numbers, embedded, observer: (next(embedded), os.kill(os.getpid(), 9))
"""


# ---- parts --------------------------------------------------------------------------------------------------------------


def test_parts_in_any_order_make_the_same_bank(world: World, small_blocks: None) -> None:
    expected = patchcli.embed(world.store, overwrite=True), bank_of(world.store)
    for part in ((3, 3), (1, 3), (3, 3), (2, 3)):
        patchcli.embed_part(begun(world.store), part)
    summary = patchcli.embed(world.store)
    assert (replace(summary, embedded=10), bank_of(world.store)) == expected and summary.embedded == 0


def begun(store: Path) -> Path:
    """A store without a bank, but with the blocks that it has."""
    with Store.writing(store) as opened:
        if opened.holds("bank"):
            opened._switch(bank=None)
    return store


def test_two_processes_embed_one_part(world: World, small_blocks: None) -> None:
    expected = patchcli.embed(world.store, overwrite=True), bank_of(world.store)
    begun(world.store)
    both = [process("embed", "--store", world.store, "--part", "1/1", "--threads", 1) for _ in range(2)]
    assert [one.communicate()[0] for one in both] == ["", ""] and [one.returncode for one in both] == [0, 0]
    summary = patchcli.embed(world.store)
    assert (replace(summary, embedded=10), bank_of(world.store)) == expected and summary.embedded == 0


def test_parts_of_a_score_are_the_whole(world: World, tmp_path: Path) -> None:
    """Maps too, of images that differ in their suffix alone."""
    same = [world.data / "test/good/000.png", tmp_path / "a.png", tmp_path / "a.bmp"]
    for path in same[1:]:
        path.write_bytes(same[0].read_bytes())
    whole = records(done("score", *same, "--store", world.store, "--out", tmp_path / "maps"))
    parts: list[Any] = []
    for part in ("1/3", "2/3", "3/3", "1/3"):
        parts += records(done("score", *same, "--store", world.store, "--out", tmp_path / "maps", "--part", part))
    assert timeless(parts) == timeless(whole + whole[:1]) and len({record["map"] for record in whole}) == 3
    none = done("score", same[0], "--store", world.store, "--part", "1/2")  # of one image, the first half has none
    assert none.stdout == ""


# ---- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workers", 0], ["--workers: expected 1 or more, found 0"]),
        (["--workers", 2, "--scheduler", "tcp://here:1"], ["--workers and --scheduler: give one of the two"]),
        (["--part", "0/3"], ["--part: expected a number from 1", "found 0/3"]),
        (["--part", "4/3"], ["--part: expected a number from 1", "found 4/3"]),
        (["--part", "half"], ["--part: expected a part such as 3/40, found 'half'"]),
    ],
)
@pytest.mark.parametrize("verb", ["embed", "score"])
def test_bad_input(made: World, verb: str, arguments: list[Any], says: list[str]) -> None:
    before = tree(made.store)
    overwrite = ["--overwrite"] if verb == "embed" and "--part" not in arguments else []
    refused(verb, "--store", made.store, *overwrite, *arguments, says=tuple(says))
    assert tree(made.store).keys() == before.keys()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workers", 1, "--spread", "rows"], "--spread: expected auto, images or shards, found 'rows'"),
        (["--spread", "shards"], "--spread: needs workers; give --workers or --scheduler too"),
    ],
)
def test_how_a_search_cannot_be_spread(made: World, arguments: list[Any], says: str) -> None:
    refused("score", "--store", made.store, *arguments, says=(says,))


def test_one_search_alone_finds_in_shards(made: World) -> None:
    with pytest.raises(InputError, match=r"`search`: expected pruned, which alone searches a shared bank, found brute"):
        list(patchcli.score(made.store, setup=Setup(search="brute"), cluster=Cluster(workers=1, spread="shards")))


@pytest.mark.parametrize("scheduler", ["tcp://127.0.0.1:9", "nowhere.json", "gibberish://here"])
def test_no_scheduler(made: World, monkeypatch: pytest.MonkeyPatch, scheduler: str) -> None:
    monkeypatch.setattr(cluster, "ANSWER", 0.5)
    says = f"--scheduler {scheduler}: no scheduler answers", "expected the address of a Dask scheduler, such as tcp://host:8786"
    refused("bank", "audit", "--store", made.store, "--scheduler", scheduler, says=says)


def test_what_is_for_a_whole_run(made: World, tmp_path: Path) -> None:
    store = ["--store", made.store, "--part", "1/2"]
    refused(
        "embed",
        *store,
        "--keep",
        "10%",
        says=("--part: leave --keep out: parts embed what is missing, and patchcli embed finishes",),
    )
    refused("embed", *store, "--workers", 2, says=("--part: leave --workers out",))
    refused("score", *store, "--regions", tmp_path / "r.csv", says=("--regions: has one file for all images",))
    refused("score", *store, "--out", tmp_path / "maps", "--overlay", says=("--overlay: there is no scale",))


def test_without_dask(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    refused(
        "score", "--store", made.store, "--workers", 2, says=("--workers: needs Dask; run: pip install 'patchcli[cluster]'",)
    )


def test_a_store_that_changed_is_found_out(made: World) -> None:
    with pytest.raises(patchcli.StoreError, match="another process has changed it meanwhile; run this again"):
        Store.open(made.store, "another revision")


def test_nothing_of_dask_is_imported_before_it_is_needed() -> None:
    code = "import sys, patchcli.verbs.score, patchcli.verbs.embed; sys.exit('distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
