"""Fixtures: generated images, stores of them, random encoders, and real data where there is some."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors, here and in the commands that tests start: threads only wait

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from smallworld import kept, made, threads_as_before, world  # noqa: F401
from storage import bucket, proxy  # noqa: F401

from patchcli.features import pretrained
from patchcli.features.encoder import Encoder
from patchcli.features.registry import build
from patchcli.store import Store
from patchcli.training import criterion
from patchcli.verbs.extract import extract
from patchcli.verbs.extraction import ImageOptions

settings.register_profile("patchcli", deadline=None, derandomize=True, database=None)
settings.load_profile("patchcli")

# The files that take longest, in this order: begun first, none of them is left alone on one of two processes at the end.
LONGEST = (
    "test_cli_documentation.py", "test_cli_terminals.py", "test_export.py", "test_loop.py", "test_checkpoint.py",
    "test_bank.py", "test_pairs.py", "test_flips.py", "test_kills.py", "test_exporting.py", "test_losses.py",
    "test_watch_kills.py",
)  # fmt: skip

TEST_DATA = "PATCHCLI_TEST_DATA"
TEST_GPU = "PATCHCLI_TEST_GPU"
if TEST_GPU not in os.environ:  # what is expected of searches, messages and digits is a CPU's, on a machine with a GPU too
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; see LONGEST."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors here are small; more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def few_damaged_copies() -> Iterator[None]:
    """Fitting fixed features to a few small images is quick; that more copies choose better is no matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(criterion, "MANY_COPIES", 2)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Tests need not survive a power cut; those of the order of writes put their own in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_state_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What watchers and trials remember goes to folders of this run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def workers_that_fork() -> Iterator[None]:
    """Dask's workers are forked from a process that has loaded everything: a new one takes seconds to do so."""
    if find_spec("distributed") is None:
        yield
        return
    import dask.config
    from distributed.utils import get_mp_context

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}), pytest.MonkeyPatch.context() as patch:
        get_mp_context().set_forkserver_preload(["distributed.nanny", "distributed.worker", "loaded"])
        patch.setenv("PYTHONPATH", os.pathsep.join((str(Path(__file__).parent / "helpers"), os.environ.get("PYTHONPATH", ""))))
        forkserver.ensure_running()
        patch.undo()
        yield


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real images, published weights and what those give: a folder named by the environment."""
    if TEST_DATA not in os.environ:
        pytest.skip(f"{TEST_DATA} is not set: it names the folder of published weights and real images")
    folder = Path(os.environ[TEST_DATA])
    for name in ("hazelnut_published_encoder.pkl", "hazelnut_subset", "hazelnut_reference.json"):
        assert (folder / name).exists(), f"{TEST_DATA}={folder} lacks {name}"
    return folder


@pytest.fixture(scope="session")
def texture() -> Callable[..., np.ndarray]:
    """texture(rng, height, width) draws stripes placed at random, with noise: (H, W, 3) uint8."""

    def draw(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        y, x = np.mgrid[:height, :width]
        phase = rng.uniform(0, 2 * np.pi, (2, 3))
        waves = np.sin(x[..., None] / 3 + phase[0]) + np.sin((y + x / 4)[..., None] / 5 + phase[1])
        return (128 + 40 * waves + rng.normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8)

    return draw


@pytest.fixture(scope="session")
def make_images(texture: Callable[..., np.ndarray]) -> Callable[..., list[Path]]:
    """make_images(folder, n, (height, width), seed) writes n textured PNGs and gives their paths."""

    def make(folder: Path, n: int, size: tuple[int, int], seed: int = 0) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        paths = [folder / f"{number:03}.png" for number in range(n)]
        for path in paths:
            Image.fromarray(texture(rng, *size)).save(path)
        return paths

    return make


@pytest.fixture(scope="session")
def random_encoder() -> Callable[..., Encoder]:
    """random_encoder(architecture, D, seed): random weights and, unlike a fresh encoder's, random biases."""

    def make(architecture: str, D: int = 8, seed: int = 0) -> Encoder:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoder = build(architecture, D).eval()
            for name, values in encoder.named_parameters():
                if name.endswith("bias"):
                    torch.nn.init.normal_(values, 0, 0.1)
        return encoder

    return make


@pytest.fixture(scope="session")
def timm() -> Any:
    """The library of backbones, an extra."""
    if find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install '.[pretrained]'")
    return pretrained.timm()


@pytest.fixture
def small_path(tmp_path: Path, make_images: Callable[..., list[Path]]) -> Path:
    """Three training images of 128×128, the least that training takes; no encoder yet."""
    make_images(tmp_path / "good", 3, (128, 128))
    extract(tmp_path / "good", tmp_path / "small.zarr", ImageOptions(size=(128, 128)))
    return tmp_path / "small.zarr"


@pytest.fixture
def small_store(small_path: Path) -> Iterator[Store]:
    """The same, open to be written."""
    with Store.writing(small_path) as store:
        yield store
