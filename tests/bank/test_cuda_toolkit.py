"""CUDA's libraries and headers for KeOps, found in a fake tree of packages: there, partly there, and of the system."""

import ctypes.util
import os
from pathlib import Path

import pytest

from patchcli.bank.search import cuda_toolkit as toolkit

NEW = {  # package → its files, below site-packages/nvidia
    "nvidia-cuda-nvrtc": ("cu13/lib/libnvrtc.so.13", "cu13/lib/libnvrtc-builtins.so.13.0", "cu13/include/nvrtc.h"),
    "nvidia-cuda-runtime": ("cu13/lib/libcudart.so.13", "cu13/include/cuda.h"),
    "nvidia-cuda-crt": ("cu13/include/crt/host_defines.h",),
    "nvidia-cuda-cccl": ("cu13/include/nv/target",),
}
OLD = {
    "nvidia-cuda-nvrtc-cu12": ("cuda_nvrtc/lib/libnvrtc.so.12", "cuda_nvrtc/include/nvrtc.h"),
    "nvidia-cuda-runtime-cu12": ("cuda_runtime/lib/libcudart.so.12", "cuda_runtime/include/cuda.h"),
    "nvidia-cuda-nvcc-cu12": ("cuda_nvcc/include/crt/host_defines.h",),
    "nvidia-cuda-cccl-cu12": ("cuda_cccl/include/nv/target",),
}
LAYOUTS = pytest.mark.parametrize(("cuda", "packages"), [("13.0", NEW), ("12.8", OLD)])


@pytest.fixture(autouse=True)
def _nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No toolkit of the machine, and a cache of this test's own."""
    for name in ("CUDA_PATH", "CUDA_HOME", "CONDA_PREFIX", "LIBRARY_PATH", "KEOPS_CACHE_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(toolkit, "sites", lambda: [tmp_path / "empty", tmp_path / "site"])
    monkeypatch.setattr(toolkit.ctypes, "CDLL", lambda path, mode=0: None)


def install(tmp_path: Path, packages: dict[str, tuple[str, ...]], *left_out: str) -> Path:
    for package, names in packages.items():
        for name in names if package not in left_out else ():
            path = tmp_path / "site" / "nvidia" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    return tmp_path / "site"


@LAYOUTS
def test_the_packages_of_torch_and_the_headers(tmp_path: Path, cuda: str, packages: dict[str, tuple[str, ...]]) -> None:
    site, major = install(tmp_path, packages), cuda.partition(".")[0]
    found = toolkit.of_packages(cuda, [tmp_path / "empty", site])
    assert isinstance(found, toolkit.Toolkit)
    assert {name: path.name for name, path in found.libraries.items()} == {
        "nvrtc": f"libnvrtc.so.{major}",
        "cudart": f"libcudart.so.{major}",
    }
    for header in toolkit.HEADERS:
        assert any((folder / header).is_file() for folder in found.includes)
    assert toolkit.problem(cuda) == ""


@LAYOUTS
def test_what_is_missing_is_named_with_its_package(tmp_path: Path, cuda: str, packages: dict[str, tuple[str, ...]]) -> None:
    for package in packages:
        site = install(tmp_path / package, packages, package)
        found = toolkit.of_packages(cuda, [site])
        assert isinstance(found, str)
        assert found.startswith("KeOps needs ") and found.endswith(f"of CUDA {cuda}: pip install '{package}=={cuda}.*'")
    bare = install(tmp_path / "bare", packages, *list(packages)[2:])  # what torch brings
    needs = f"KeOps needs crt/host_defines.h and nv/target of CUDA {cuda}: pip install "
    assert toolkit.of_packages(cuda, [bare]) == needs + " ".join(f"'{package}=={cuda}.*'" for package in list(packages)[2:])


def test_a_torch_without_cuda_and_one_of_another_version(tmp_path: Path) -> None:
    install(tmp_path, NEW)
    assert "built for CUDA" in toolkit.problem(None)
    assert "libnvrtc and libcudart" in toolkit.problem("12.8")


def test_a_toolkit_of_the_system_is_left_to_keops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for header in toolkit.HEADERS:
        path = tmp_path / "usr" / "include" / header
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "usr"))
    assert not toolkit.of_system()
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so.1")
    assert toolkit.of_system()
    assert toolkit.problem("13.0") == ""
    with toolkit.ready("13.0"):
        assert os.environ["CUDA_PATH"] == str(tmp_path / "usr")
    (tmp_path / "usr" / "include" / "nv" / "target").unlink()
    assert not toolkit.of_system()


@LAYOUTS
def test_keops_is_offered_all_in_one_folder_and_nothing_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: str, packages: dict[str, tuple[str, ...]]
) -> None:
    loaded = list[str]()
    monkeypatch.setattr(toolkit.ctypes, "CDLL", lambda path, mode=0: loaded.append(Path(path).name))
    monkeypatch.setenv("LIBRARY_PATH", "/before")
    (tmp_path / "libcuda.so.1").touch()
    found = toolkit.of_packages(cuda, [install(tmp_path, packages)])
    assert isinstance(found, toolkit.Toolkit)
    folder = toolkit.gathered(found, tmp_path / "libcuda.so.1")
    assert toolkit.gathered(found, tmp_path / "libcuda.so.1") == folder
    assert not list(folder.parent.glob(".*"))
    before = dict(os.environ), ctypes.util.find_library
    with toolkit.offered(folder):
        for name in ("nvrtc", "cudart", "cuda"):
            path = Path(str(ctypes.util.find_library(name)))
            assert path == folder / "lib" / f"lib{name}.so"
            assert path.resolve().is_file()
        assert ctypes.util.find_library("m") is None
        for header in toolkit.HEADERS:
            assert (Path(os.environ["CUDA_PATH"]) / "include" / header).is_file()
        assert os.environ["LIBRARY_PATH"] == f"{folder / 'lib'}{os.pathsep}/before"
        assert Path(os.environ["KEOPS_CACHE_FOLDER"]).parent == folder
    assert (dict(os.environ), ctypes.util.find_library) == before
    assert loaded == (["libnvrtc-builtins.so.13.0"] if cuda == "13.0" else [])


def test_where_nothing_can_be_kept_a_folder_for_this_process_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = toolkit.of_packages("13.0", [install(tmp_path, NEW)])
    assert isinstance(found, toolkit.Toolkit)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert (toolkit.gathered(found, None) / "lib" / "libnvrtc.so").is_file()
