"""Every search against float64 distances to every vector."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcli import neighbours
from patchcli.errors import InputError
from patchcli.neighbours import METHODS

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


KINDS = [random, clustered, duplicated, constant, present, far, far_queries, tiny, small]


def squared_distances(queries: torch.Tensor, bank: torch.Tensor) -> np.ndarray:
    """(Q, M) float64, from direct differences."""
    return ((queries.double().numpy()[:, None] - bank.double().numpy()[None]) ** 2).sum(axis=2)


def search(method: str, queries: torch.Tensor, bank: torch.Tensor, cuts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The bank streams by in blocks that begin at 0 and at each cut."""
    starts = [0, *sorted({cut for cut in cuts if 0 < cut < len(bank)})]
    blocks = ((start, bank[start:stop]) for start, stop in zip(starts, [*starts[1:], len(bank)], strict=True))
    distance, index = METHODS[method](queries, blocks)
    assert (distance.dtype, index.dtype) == (torch.float32, torch.int64)
    assert distance.shape == index.shape == (len(queries),)
    return distance.numpy(), index.numpy()


def tensors(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    queries, bank = (torch.from_numpy(values.astype(np.float32)) for values in data)
    return queries, bank


def assert_exact(method: str, data: Data, cuts: list[int]) -> None:
    queries, bank = tensors(data)
    squared = squared_distances(queries, bank)
    distance, index = search(method, queries, bank, cuts)
    np.testing.assert_array_equal(index, squared.argmin(axis=1))  # numpy's is the first of equals, too
    np.testing.assert_allclose(distance, np.sqrt(squared.min(axis=1)), rtol=1e-6)


# ---- brute ----------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.sampled_from(KINDS), st.integers(1, 40), st.integers(1, 300), st.lists(st.integers(1, 299), max_size=4),
    st.integers(0, 2**31),
)  # fmt: skip
def test_brute_is_exact(kind: object, Q: int, M: int, cuts: list[int], seed: int) -> None:
    assert_exact("brute", kind(np.random.default_rng(seed), Q, M), cuts)


@settings(max_examples=100)
@given(st.integers(1, 30), st.integers(1, 100), st.integers(1, 4), st.integers(0, 2**31))
def test_brute_gives_ties_to_the_first(Q: int, M: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, levels, (Q, 3)), rng.integers(0, levels, (M, 3))  # many at exactly the same distance
    assert_exact("brute", data, [M // 3, M // 2])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_brute_over_many_tiles(kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours.brute, "TILE_QUERIES", 7)
    monkeypatch.setattr(neighbours.brute, "TILE_VECTORS", 11)
    monkeypatch.setattr(neighbours.brute, "CANDIDATES", 5)
    assert_exact("brute", kind(np.random.default_rng(0), 30, 100), [40])


def test_brute_at_the_papers_length() -> None:
    rng = np.random.default_rng(0)
    manifold = rng.normal(size=(4, 64))
    data = tuple(np.tanh(rng.normal(0, 0.2, (n, 4)) @ manifold) for n in (50, 5000))
    assert_exact("brute", data, [2100])


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


def test_keops_writes_nothing_to_standard_output(compiler: None, capfd: pytest.CaptureFixture[str]) -> None:
    queries, bank = tensors(random(np.random.default_rng(0), 3, 4))
    search("keops", queries, bank, [])
    assert capfd.readouterr().out == ""


# ---- choice ---------------------------------------------------------------------------------------------------------


def test_choose_by_device() -> None:
    assert neighbours.choose("brute", CPU) == ("brute", "")
    assert neighbours.choose("auto", CPU) == ("brute", "")
    assert neighbours.choose("brute", torch.device("cuda")) == ("brute", "")


def test_choose_takes_keops_where_it_can_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++" if name == "g++" else None)
    assert neighbours.choose("keops", CPU) == ("keops", "")
    assert neighbours.choose("auto", torch.device("cuda")) == ("keops", "")


def test_without_a_compiler_keops_becomes_brute_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    method, why = neighbours.choose("keops", CPU)
    assert method == "brute"
    assert "needs a C++ compiler and found none" in why


@pytest.mark.parametrize(("name", "device"), [("keops", "cpu"), ("auto", "cuda")])
def test_without_keops_it_is_brute_and_says_so(monkeypatch: pytest.MonkeyPatch, name: str, device: str) -> None:
    monkeypatch.setattr(neighbours, "find_spec", lambda name: None)
    method, why = neighbours.choose(name, torch.device(device))
    assert method == "brute"
    assert "KeOps is not installed" in why


def test_an_unknown_search_is_refused() -> None:
    with pytest.raises(InputError, match="--search: expected auto, brute or keops, found 'hnsw'"):
        neighbours.choose("hnsw", CPU)
