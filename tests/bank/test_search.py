"""Every search against float64 distances to every vector."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from patchcli import runtime
from patchcli.bank import search as neighbours
from patchcli.bank.search import METHODS, brute, keops, kernels, pruned, trees
from patchcli.bank.search.lanes import LANES
from patchcli.bank.search.streaming import Streaming
from patchcli.bank.search.trees import Axes, Index, Page, Pages, page_bytes
from patchcli.bank.thinning import Cover, select
from patchcli.errors import InputError

CPU = torch.device("cpu")
D = 8  # the one length for KeOps, which compiles anew for each
COMPILERS = ("c++", "g++", "clang++")

Data = tuple[np.ndarray, np.ndarray]


def random(rng: np.random.Generator, Q: int, M: int) -> Data:
    return rng.normal(size=(Q, D)), rng.normal(size=(M, D))


def clustered(rng: np.random.Generator, Q: int, M: int) -> Data:
    centres = rng.uniform(-1, 1, (5, D))
    return tuple(centres[rng.integers(0, 5, n)] + rng.normal(0, 1e-3, (n, D)) for n in (Q, M))


def duplicated(rng: np.random.Generator, Q: int, M: int) -> Data:
    vectors = rng.normal(size=(max(1, M // 7), D))
    return vectors[rng.integers(0, len(vectors), Q)] + 0.01, vectors[rng.integers(0, len(vectors), M)]


def constant(rng: np.random.Generator, Q: int, M: int) -> Data:
    return np.full((Q, D), 0.25), np.full((M, D), 0.3)


def present(rng: np.random.Generator, Q: int, M: int) -> Data:
    """Each query is one of the vectors."""
    vectors = rng.normal(size=(M, D))
    return vectors[rng.integers(0, M, Q)], vectors


def far(rng: np.random.Generator, Q: int, M: int) -> Data:
    """All norms are a thousand times the distances."""
    return 1000 + rng.normal(size=(Q, D)), 1000 + rng.normal(size=(M, D))


def far_queries(rng: np.random.Generator, Q: int, M: int) -> Data:
    return 1000 + rng.normal(size=(Q, D)), rng.normal(size=(M, D))


def tiny(rng: np.random.Generator, Q: int, M: int) -> Data:
    """Distances of 1e-6, where the expanded square is all rounding."""
    centre = rng.uniform(-1, 1, D)
    return tuple(centre + rng.normal(0, 1e-6, (n, D)) for n in (Q, M))


def small(rng: np.random.Generator, Q: int, M: int) -> Data:
    """Norms and distances of 1e-15, whose squares are still float32 numbers."""
    return rng.normal(0, 1e-15, (Q, D)), rng.normal(0, 1e-15, (M, D))


def outliers(rng: np.random.Generator, Q: int, M: int) -> Data:
    """Vectors on a line but for a few, queries far off it: a ball around a cluster excludes nothing."""
    line = np.outer(rng.uniform(-1, 1, M), np.ones(D))
    line[: M // 20] += rng.normal(0, 3, (M // 20, D))
    return np.outer(rng.uniform(-1, 1, Q), np.ones(D)) + 5 * rng.normal(size=(1, D)), line


def lattice(rng: np.random.Generator, Q: int, M: int) -> Data:
    """Many vectors at exactly the same distance."""
    return rng.integers(0, 3, (Q, D)), rng.integers(0, 3, (M, D))


KINDS = [random, clustered, duplicated, constant, present, far, far_queries, tiny, small, outliers, lattice]


def squared_distances(queries: torch.Tensor, bank: torch.Tensor) -> np.ndarray:
    """(Q, M) float64, from direct differences."""
    return ((queries.double().numpy()[:, None] - bank.double().numpy()[None]) ** 2).sum(axis=2)


def search(method: str, queries: torch.Tensor, bank: torch.Tensor, cuts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The bank streams by in blocks that begin at 0 and at each cut."""
    starts = [0, *sorted({cut for cut in cuts if 0 < cut < len(bank)})]
    cells = [torch.arange(start, stop) for start, stop in zip(starts, [*starts[1:], len(bank)], strict=True)]
    if method == "pruned":
        distance, index = pruned.search(queries, paged(bank, cells)[0])
    else:
        streaming = neighbours.method(method)
        assert issubclass(streaming, Streaming)
        distance, index = streaming.nearest(queries, ((ids, bank[ids]) for ids in cells))
    assert (distance.dtype, index.dtype) == (torch.float32, torch.int64)
    assert distance.shape == index.shape == (len(queries),)
    return distance.numpy(), index.numpy()


def paged(bank: torch.Tensor, cells: list[torch.Tensor], shard: int = 1 << 40) -> tuple[Pages, dict[int, Page]]:
    """A bank as pages, streamed in as the ids of each cell, so many vectors a shard; and the pages by number."""

    def stream() -> Iterator[trees.Vectors]:
        return ((ids.numpy(), bank[ids].numpy()) for ids in cells)

    axes = trees.axes_of(stream(), len(bank))
    shards = [list(trees.cut(*vectors, axes)) for vectors in trees.shards(stream(), shard)]
    written = dict(enumerate(page for pages in shards for page in pages))
    assert [len(pages) for pages in shards] == [2 ** trees.depth(sum(len(page.ids) for page in pages)) for pages in shards]
    low, high = (np.array([getattr(page, side)[0] for page in written.values()]) for side in ("low", "high"))
    index = Index(axes, low, high, max(page.radius for page in written.values()))
    return Pages(index, written.__getitem__, 1 << 40), written


def tensors(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    queries, bank = (torch.from_numpy(values.astype(np.float32)) for values in data)
    return queries, bank


def assert_exact(method: str, data: Data, cuts: list[int]) -> None:
    queries, bank = tensors(data)
    squared = squared_distances(queries, bank)
    distance, index = search(method, queries, bank, cuts)
    np.testing.assert_array_equal(index, squared.argmin(axis=1))  # numpy's is the first of equals, too
    np.testing.assert_allclose(distance, np.sqrt(squared.min(axis=1)), rtol=1e-6)


# ---- brute and pruned ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["brute", "pruned"])
@settings(max_examples=150)
@given(
    st.sampled_from(KINDS), st.integers(1, 40), st.integers(1, 300), st.lists(st.integers(1, 299), max_size=4),
    st.integers(0, 2**31),
)  # fmt: skip
def test_exact(method: str, kind: object, Q: int, M: int, cuts: list[int], seed: int) -> None:
    assert_exact(method, kind(np.random.default_rng(seed), Q, M), cuts)


@pytest.mark.parametrize("method", ["brute", "pruned"])
@settings(max_examples=100)
@given(st.integers(1, 30), st.integers(1, 100), st.integers(1, 4), st.integers(0, 2**31))
def test_ties_go_to_the_first(method: str, Q: int, M: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, levels, (Q, 3)), rng.integers(0, levels, (M, 3))  # many at exactly the same distance
    assert_exact(method, data, [M // 3, M // 2])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_brute_over_many_tiles(kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brute, "TILE_QUERIES", 7)
    monkeypatch.setattr(brute, "TILE_VECTORS", 11)
    monkeypatch.setattr(brute, "CANDIDATES", 5)
    assert_exact("brute", kind(np.random.default_rng(0), 30, 100), [40])


def on_a_manifold(rng: np.random.Generator, *counts: int) -> Data:
    """Vectors as long as the paper's, near a manifold of four dimensions, as trained features are."""
    manifold = rng.normal(size=(4, 64))
    return tuple(np.tanh(rng.normal(0, 0.2, (n, 4)) @ manifold + rng.normal(0, 0.01, (n, 64))) for n in counts)


@pytest.mark.parametrize("method", ["brute", "pruned"])
def test_at_the_papers_length(method: str) -> None:
    assert_exact(method, on_a_manifold(np.random.default_rng(0), 50, 5000), [2100])


# ---- pruned ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees of several levels and several pages from a few hundred vectors."""
    monkeypatch.setattr(trees, "PAGE", 70)
    monkeypatch.setattr(trees, "LEAF", 4)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_pruned_over_many_pages_and_threads(kind: object, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruned, "_threads", lambda: threads)
    assert_exact("pruned", kind(np.random.default_rng(1), 60, 400), [100, 101, 333])


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("D", [2, 17, 64, 130])
@pytest.mark.parametrize("Q", [1, 16, 37])
def test_pruned_at_any_length(D: int, Q: int) -> None:
    rng = np.random.default_rng(D)
    assert_exact("pruned", (3 * rng.normal(size=(Q, D)), rng.normal(size=(300, D))), [100])


@pytest.mark.usefixtures("small_pages")
def test_an_index_of_an_earlier_version_is_searched() -> None:
    """Its axes are no more than the boxes need."""
    queries, bank = tensors(random(np.random.default_rng(5), 30, 300))
    queries, bank = queries.repeat(1, 5), torch.cat([bank, bank.roll(1, 0), bank.roll(2, 0), bank**2, bank**3], 1)
    whole, written = paged(bank, [torch.arange(300)])
    axes = Axes(whole.index.axes.centre, whole.index.axes.axes[:, : kernels.COORDS - 1])
    stored = {p: Page.stored(axes, **{name: getattr(page, name) for name in Page.STORED}) for p, page in written.items()}
    assert {page.blocks.shape[0] for page in stored.values()} == {1}
    pages = Pages(replace(whole.index, axes=axes).checked(5 * D), stored.__getitem__, 0)
    for found, wanted in zip(pruned.search(queries, pages), pruned.search(queries, whole), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.usefixtures("small_pages")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KINDS), st.integers(1, 400), st.integers(1, 500), st.integers(0, 2**31))
def test_every_vector_is_in_one_page_whatever_the_shards(kind: object, M: int, shard: int, seed: int) -> None:
    _, bank = tensors(kind(np.random.default_rng(seed), 1, M))
    _, written = paged(bank, list(torch.arange(M).split(50)), shard)
    ids = np.concatenate([page.ids for page in written.values()])
    np.testing.assert_array_equal(np.sort(ids), np.arange(M))
    for page in written.values():
        np.testing.assert_array_equal(page.vectors, bank[page.ids].numpy())
        assert len(page.ids) <= trees.PAGE


@settings(max_examples=80)
@given(st.sampled_from(KINDS), st.integers(1, 200), st.integers(0, 2**31))
def test_coordinates_are_never_farther_than_vectors(kind: object, M: int, seed: int) -> None:
    """The bound that pruning rests on, with its margin for rounding."""
    queries, bank = tensors(kind(np.random.default_rng(seed), 10, M))
    axes = Axes.fit(bank.numpy())
    points, coords = axes.coords(queries.numpy()), axes.coords(bank.numpy())
    radius = np.sqrt(np.square(coords, dtype=np.float64).sum(1)).max()
    lower = np.sqrt(((points[:, None] - coords[None]).astype(np.float64) ** 2).sum(2))
    assert (lower <= np.sqrt(squared_distances(queries, bank)) + trees.slack_of(points, radius)[:, None]).all()


@pytest.mark.usefixtures("small_pages")
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KINDS), st.integers(1, 200), st.sampled_from([1.0, 1e-3, 1e3]), st.integers(0, 2**31))
def test_whole_numbers_never_pass_over_a_vector(kind: object, M: int, stretched: float, seed: int) -> None:
    """After each group, the sum of a vector in a block is within the limit of its own distance."""
    queries, bank = tensors(tuple(np.tile(values, 5) for values in kind(np.random.default_rng(seed), 10, M)))
    queries *= stretched
    pages, _ = paged(bank, [torch.arange(M)])
    axes, squared = pages.index.axes, squared_distances(queries, bank)
    turned, points = axes.turned(queries.numpy()), axes.coords(queries.numpy())
    slack = trees.slack_of(points, pages.index.radius)
    for page in pages:
        groups, count, _ = page.blocks.shape
        norms = page.blocks[:, :, :LANES].reshape(groups, -1).cumsum(0)  # (groups, rows)
        whole = page.blocks[:, :, LANES:].copy().view(np.int16).reshape(groups, count, LANES // 2, LANES, 2)
        whole = whole.transpose(1, 3, 0, 2, 4).reshape(count * LANES, groups, LANES).astype(np.int64)
        ints, squares, limits = np.zeros(groups * LANES, np.int16), np.zeros(groups), np.zeros(groups, np.int32)
        for query in range(len(queries)):
            kernels._whole(turned[query], page.scale, ints, squares)
            sums = norms + (whole * ints.reshape(groups, LANES)).sum(2).cumsum(1).T
            assert np.abs(sums[:, : len(page.ids)]).max() < kernels.MOST
            for row, number in enumerate(page.ids):
                kernels._limits(squared[query, number], slack[query], page.scale, squares, limits)
                assert (sums[:, row] <= limits).all()
            assert (sums[0, len(page.ids) :] > kernels.MOST).all()  # no vector there


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [random, duplicated, constant, lattice], ids=lambda kind: kind.__name__)
def test_ids_passed_over(method: str, kind: object, request: pytest.FixtureRequest) -> None:
    if method == "keops":
        request.getfixturevalue("compiler")
    queries, bank = tensors(kind(np.random.default_rng(2), 20, 300))
    pages, _ = paged(bank, list(torch.arange(300).split(100)))
    distance, index = neighbours.method(method)(pages, CPU, 1 << 30)(queries, (40, 130))
    squared = squared_distances(queries, bank)
    squared[:, 40:130] = np.inf
    np.testing.assert_array_equal(index.numpy(), squared.argmin(axis=1))
    np.testing.assert_allclose(distance.numpy(), np.sqrt(squared.min(axis=1)), rtol=1e-6)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("method", METHODS)
def test_float16_pages_are_searched_as_stored(method: str, request: pytest.FixtureRequest) -> None:
    if method == "keops":
        request.getfixturevalue("compiler")
    queries, bank = tensors(random(np.random.default_rng(3), 30, 300))
    bank = bank.half().float()
    pages, written = paged(bank, [torch.arange(300)])
    halves = {p: {**vars(page), "vectors": page.vectors.astype(np.float16)} for p, page in written.items()}
    stored = {p: Page.stored(pages.index.axes, **{name: values[name] for name in Page.STORED}) for p, values in halves.items()}
    reread = Pages(pages.index, stored.__getitem__, 0)
    distance, index = neighbours.method(method)(reread, CPU, 1 << 30)(queries)
    squared = squared_distances(queries, bank)
    np.testing.assert_array_equal(index.numpy(), squared.argmin(axis=1))
    np.testing.assert_allclose(distance.numpy(), np.sqrt(squared.min(axis=1)), rtol=1e-6)


@pytest.mark.usefixtures("small_pages")
def test_pages_hold_no_more_than_their_budget() -> None:
    queries, bank = tensors(random(np.random.default_rng(0), 20, 2000))
    whole, written = paged(bank, [torch.arange(2000)])
    total = sum(page.nbytes for page in written.values())
    expected = pruned.search(queries, whole)
    loaded: list[int] = []

    def load(number: int) -> Page:
        loaded.append(number)
        return written[number]

    for budget in (0, total // 3, 2 * total):
        loaded.clear()
        pages = Pages(whole.index, load, budget, total)
        for _ in range(2):
            for found, wanted in zip(pruned.search(queries, pages), expected, strict=True):
                assert torch.equal(found, wanted)
        held = sum(page.nbytes for page in pages._cached.values())
        assert held <= max(0, budget - 4 * page_bytes(trees.PAGE, D)) or budget > total
        assert (len(set(loaded)) == len(loaded)) == (budget > total)


def test_few_vectors_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """On features such as trained ones, the compiled search compares with a small part of the bank."""
    queries, bank = tensors(on_a_manifold(np.random.default_rng(0), 30, 20000))
    (page,) = paged(bank, [torch.arange(20000)])[1].values()
    axes = Axes.fit(bank.numpy())
    points, reach = axes.coords(queries.numpy()), squared_distances(queries, bank).min(axis=1)
    leaves = np.flatnonzero(page.nodes[:, 2] != kernels.INNER)
    boxes = np.empty((len(points), len(leaves)), np.float32)
    kernels.to_boxes(page.low[leaves], page.high[leaves], points, boxes)
    sizes = page.nodes[leaves, 1] - page.nodes[leaves, 0]
    assert ((boxes <= reach[:, None]) @ sizes).mean() < 0.1 * len(bank)


def test_without_a_folder_for_compiled_code_it_compiles_each_time() -> None:
    code = (
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from patchcli.bank.search import kernels\n"
        "print(kernels._reach(4.0, 1.0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(9, rel=1e-5)


# ---- cover ----------------------------------------------------------------------------------------------------------


def cover_radius(bank: torch.Tensor, kept: np.ndarray) -> float:
    return float(np.sqrt(squared_distances(bank, bank[kept]).min(axis=1).max()))


def selected(pages: Pages, tolerance: float | None = None, keep: int | None = None) -> tuple[np.ndarray, float]:
    """The ids that are kept, and the cover radius."""
    covers = [Cover(page, pages.slack) for page in pages]
    rows, radius = select(lambda goal: [cover.until(goal) for cover in covers], tolerance, keep)
    return np.concatenate([page.ids[kept] for page, kept in zip(pages, rows, strict=True)]), radius


@pytest.mark.usefixtures("small_pages")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KINDS), st.integers(1, 300), st.floats(0.01, 3), st.integers(0, 2**31))
def test_tolerance_is_kept(kind: object, M: int, tolerance: float, seed: int) -> None:
    queries, bank = tensors(kind(np.random.default_rng(seed), 20, M))
    pages, _ = paged(bank, [torch.arange(M)])
    kept, radius = selected(pages, tolerance=tolerance)
    assert len(set(kept.tolist())) == len(kept)
    assert cover_radius(bank, kept) <= radius * (1 + 1e-12) <= tolerance * (1 + 1e-12)
    whole = np.sqrt(squared_distances(queries, bank).min(axis=1))
    thinned = np.sqrt(squared_distances(queries, bank[kept]).min(axis=1))
    assert (thinned >= whole).all()
    assert (thinned <= whole + radius).all()


@pytest.mark.usefixtures("small_pages")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KINDS), st.integers(10, 300), st.floats(0.01, 1), st.integers(0, 2**31))
def test_keep_keeps_so_many(kind: object, M: int, share: float, seed: int) -> None:
    _, bank = tensors(kind(np.random.default_rng(seed), 1, M))
    pages, _ = paged(bank, [torch.arange(M)])
    kept, radius = selected(pages, keep=max(1, round(share * M)))
    wanted = max(round(share * M), len(pages), 1)
    assert len(kept) == wanted or (len(kept) < wanted and radius == 0)  # no more where what is left are duplicates
    assert cover_radius(bank, kept) <= radius * (1 + 1e-12)  # less where a vector of another page comes nearer


def test_cover_is_the_greedy_one() -> None:
    """On one page, Gonzalez' farthest-first traversal, step by step."""
    _, bank = tensors(random(np.random.default_rng(4), 1, 500))
    pages, _ = paged(bank, [torch.arange(500)])
    picks, radius = selected(pages, keep=60)
    between = squared_distances(bank, bank)
    nearest = between[:, picks[0]].copy()
    for pick in picks[1:]:
        assert nearest[pick] == nearest.max()
        nearest = np.minimum(nearest, between[:, pick])
    assert len(picks) == 60
    assert radius == pytest.approx(np.sqrt(nearest.max()))


# ---- keops ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def compiler() -> None:
    pytest.importorskip("pykeops", reason="KeOps is not installed")
    if not any(map(shutil.which, COMPILERS)):
        pytest.skip(f"no C++ compiler found ({', '.join(COMPILERS)}), which KeOps needs")


@pytest.mark.parametrize("cuts", [[], [17, 80]])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_keops_is_exact(compiler: None, kind: object, cuts: list[int]) -> None:
    assert_exact("keops", kind(np.random.default_rng(0), 30, 200), cuts)


def test_keops_gives_ties_to_the_first(compiler: None) -> None:
    rng = np.random.default_rng(0)
    assert_exact("keops", (rng.integers(0, 2, (30, D)), rng.integers(0, 2, (300, D))), [100, 110])


@pytest.mark.parametrize("most", [50, 99, 200])
def test_keops_takes_a_large_block_in_pieces(compiler: None, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """It refuses more than 16 million vectors at once."""
    taken = []
    whole = keops._nearest_of
    monkeypatch.setattr(keops, "MOST", most)
    monkeypatch.setattr(keops, "_nearest_of", lambda block, queries: taken.append(len(block[0])) or whole(block, queries))
    assert_exact("keops", random(np.random.default_rng(0), 30, 200), [])
    assert taken == {50: [50] * 4, 99: [99, 99], 200: [200]}[most]  # two are too few for it: brute force takes them


def test_keops_writes_nothing_to_standard_output(compiler: None, capfd: pytest.CaptureFixture[str]) -> None:
    queries, bank = tensors(random(np.random.default_rng(0), 3, 4))
    search("keops", queries, bank, [])
    assert capfd.readouterr().out == ""


# ---- choice ---------------------------------------------------------------------------------------------------------

CUDA = torch.device("cuda")


def test_choose_by_device() -> None:
    assert neighbours.choose("brute", CPU, D) == ("brute", "")
    assert neighbours.choose("auto", CPU, D) == ("pruned", "")
    assert neighbours.choose("pruned", CUDA, D) == ("pruned", "")


def test_choose_takes_keops_where_it_works(compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert neighbours.choose("keops", CPU, D) == ("keops", "")
    monkeypatch.setattr(keops.KeOps, "problem", lambda device, D: "" if device == CUDA else "no")
    assert neighbours.choose("auto", CUDA, D) == ("keops", "")


INSTEAD = [("keops", CPU, "pruned"), ("auto", CUDA, "brute"), ("keops", CUDA, "brute")]


@pytest.mark.parametrize(("name", "device", "instead"), INSTEAD)
def test_without_a_compiler_keops_becomes_another_and_says_so(
    monkeypatch: pytest.MonkeyPatch, name: str, device: torch.device, instead: str
) -> None:
    monkeypatch.setattr(keops, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    method, why = neighbours.choose(name, device, D)
    assert method == instead
    assert "needs a C++ compiler and found none" in why


@pytest.mark.parametrize(("name", "device", "instead"), INSTEAD)
def test_without_keops_it_is_another_and_says_so(
    monkeypatch: pytest.MonkeyPatch, name: str, device: torch.device, instead: str
) -> None:
    monkeypatch.setattr(keops, "find_spec", lambda name: None)
    method, why = neighbours.choose(name, device, D)
    assert method == instead
    assert "KeOps is not installed" in why


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("raise RuntimeError('nvrtc: not found')", "RuntimeError: nvrtc: not found"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it ends the process with SIGSEGV"),
        ("raise SystemExit(3)", "exit status 3"),
        ("raise SystemExit('a.cpp:1:2: fatal error: omp.h: No such file\\nterminated.')", "omp.h: No such file"),
        ("raise SystemExit('/usr/bin/ld: cannot find -lcudart\\ncollect2: error: ld returned 1')", "cannot find -lcudart"),
    ],
)
def test_where_keops_fails_it_is_another_and_says_so(
    compiler: None, monkeypatch: pytest.MonkeyPatch, trouble: str, said: str
) -> None:
    monkeypatch.setattr(keops, "_TRIAL", trouble)
    monkeypatch.setattr(keops.cuda_toolkit, "problem", lambda cuda: "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    why = f"KeOps does not work here ({said}); searching with"
    assert neighbours.choose("keops", CPU, D) == ("pruned", f"{why} pruned, which is exact too")
    assert neighbours.choose("auto", CUDA, D) == ("brute", f"{why} brute, which is exact too")


def test_a_trial_is_remembered(compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that went well for good, a failure for a day; of another environment, nothing is known."""
    said, trials = [""], list[int]()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(keops, "trial", lambda device, D: trials.append(D) or said[0])
    assert [keops.remembered(CPU, 8), keops.remembered(CPU, 8), keops.remembered(CPU, 16)] == ["", "", ""]
    assert trials == [8, 16]
    (first, _) = notes = sorted((tmp_path / "patchcli" / "keops").iterdir())
    assert [note.read_text() for note in notes] == ["", ""]
    monkeypatch.setattr(keops, "version", lambda name: "99")  # another KeOps
    said[0] = "it ends the process with SIGSEGV"
    assert keops.remembered(CPU, 8) == keops.remembered(CPU, 8) == said[0]
    assert trials == [8, 16, 8]
    (failure,) = [note for note in (tmp_path / "patchcli" / "keops").iterdir() if note.read_text()]
    os.utime(failure, (0, 0))
    said[0] = ""
    assert keops.remembered(CPU, 8) == ""
    assert trials == [8, 16, 8, 8]
    failure.write_bytes(b"\xff\xfe")  # a damaged one
    assert keops.remembered(CPU, 8) == ""
    monkeypatch.setenv("XDG_CACHE_HOME", str(first / "no folder"))  # and where nothing can be kept
    assert [keops.remembered(CPU, 8), keops.remembered(CPU, 8), len(trials)] == ["", "", 7]


def test_the_trial_tells_wrong_neighbours(compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "from patchcli.bank.search import keops\nkeops.nearest = lambda queries, blocks: (None, blocks[0][0] * 0)\n"
    monkeypatch.setattr(keops, "_TRIAL", wrong + keops._TRIAL)
    assert keops.trial(CPU, D) == "it finds other neighbours"


def test_an_unknown_search_is_refused() -> None:
    with pytest.raises(InputError, match="`search`: expected auto, pruned, brute or keops, found 'hnsw'"):
        neighbours.choose("hnsw", CPU, D)


def test_auto_prunes_only_where_there_is_something_to_skip() -> None:
    rng = np.random.default_rng(0)
    long, short = (torch.from_numpy(rng.normal(size=(500, D)).astype(np.float32)) for D in (384, 64))
    curved = torch.from_numpy(np.tanh(rng.normal(size=(500, 8)) @ rng.normal(size=(8, 384)) / 5).astype(np.float32))
    for bank, chosen in ((long, "brute"), (short, "pruned"), (curved, "pruned"), (torch.ones(5, 64), "pruned")):
        pages, _ = paged(bank, [torch.arange(len(bank))])
        assert neighbours.suited("pruned", pages) == chosen
        assert neighbours.suited("keops", pages) == "keops"


def test_numpys_threads_do_not_spin_beside_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it runs, matrix products take one thread; afterwards as many as the user has set, also where two overlap."""
    rng, seen, project = np.random.default_rng(0), [], Axes.coords

    def blas() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    queries, bank = (torch.from_numpy(part.astype(np.float32)) for part in random(rng, 5, 300))
    pages, _ = paged(bank, [torch.arange(300)])

    def coords(self: Axes, vectors: np.ndarray) -> np.ndarray:
        seen.append(blas())
        if len(seen) == 1:
            pruned.search(queries, pages)
            seen.append(blas())
        return project(self, vectors)

    monkeypatch.setattr(Axes, "coords", coords)
    runtime.one_blas_thread.cache_clear()  # tests before this one may have loaded another BLAS since
    with threadpool_limits(3, "blas"):
        pruned.search(queries, pages)
        assert blas() == {3}
    assert seen == [{1}] * 3


def test_a_setting_lasts_until_the_last_thread_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    inside, out = threading.Event(), threading.Event()

    def other() -> None:
        with runtime.full_float32():
            inside.set()
            out.wait(60)

    thread = threading.Thread(target=other)
    with runtime.full_float32():
        thread.start()
        inside.wait(60)
    assert not torch.backends.cudnn.allow_tf32  # the other one is still within
    out.set()
    thread.join()
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.benchmark


def test_pages_may_be_read_while_those_in_memory_are_looked_at() -> None:
    bank = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32))
    pages, _ = paged(bank, [torch.arange(start, start + 50) for start in range(0, 200, 50)], 50)
    assert pages[0] is pages[0]
    for _ in pages.held:
        assert all(len(page.ids) == 50 for page in pages)
    assert sorted(pages.held) == [0, 1, 2, 3]
