"""CUDA's libraries and headers for KeOps, from pip's packages.

KeOps looks for them where a system keeps them (`ctypes.util.find_library`, CUDA_PATH), which is not where pip's torch brings
them, and then turns to the CPU without an error. Here they are gathered in one folder of links, and offered to KeOps while it
is imported. pip's torch brings the libraries and some of the headers; the others are packages of their own. NVRTC opens a
second library by its name alone, which is therefore loaded before.
"""

import contextlib
import ctypes
import ctypes.util
import hashlib
import os
import re
import shutil
import site
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

LIBRARIES = {"nvrtc": "nvidia-cuda-nvrtc", "cudart": "nvidia-cuda-runtime"}  # and the packages that bring them
HEADERS = {
    "cuda.h": "nvidia-cuda-runtime", "nvrtc.h": "nvidia-cuda-nvrtc", "crt/host_defines.h": "nvidia-cuda-crt",
    "nv/target": "nvidia-cuda-cccl",
}  # fmt: skip
OLD = {"nvidia-cuda-crt": "nvidia-cuda-nvcc"}  # packages that have another name for CUDA 12
FOLDERS = ("cuda_nvrtc", "cuda_runtime", "cuda_cccl", "cuda_nvcc")  # of those packages; for CUDA 13 and later, one folder


@dataclass(frozen=True)
class Toolkit:
    """What KeOps needs of CUDA."""

    libraries: dict[str, Path]  # nvrtc and cudart
    includes: tuple[Path, ...]  # folders of headers


def problem(cuda: str | None) -> str:
    """What KeOps would lack on a GPU, in one line with the packages to install, or ""; `cuda` is what torch is built for."""
    if cuda is None:
        return "KeOps needs a torch that is built for CUDA"
    found = Toolkit({}, ()) if of_system() else of_packages(cuda, sites())
    return found if isinstance(found, str) else ""


@contextlib.contextmanager
def ready(cuda: str | None, gpus: str = "") -> Iterator[None]:
    """Within, KeOps is imported: for GPUs, if there is a toolkit for torch's version of CUDA that it would not find itself.

    What it compiles is kept apart for each toolkit and each kind of `gpus`: KeOps names it after the formula alone.
    """
    toolkit = None if cuda is None or of_system() else of_packages(cuda, sites())
    if not isinstance(toolkit, Toolkit):
        yield
        return
    with offered(gathered(toolkit, driver()), gpus):
        yield
        headers: Any = import_module("keopscore.utils.gpu_utils")
        headers.custom_cuda_include_fp16_path()  # it keeps them: later, KeOps would not find them


def sites() -> list[Path]:
    """The folders that packages are installed in."""
    return [Path(folder) for folder in dict.fromkeys([*sys.path, *site.getsitepackages()]) if folder]


def of_system() -> bool:
    """Whether KeOps finds everything by itself: libraries that the linker knows, headers below CUDA_PATH or a usual place."""
    roots = [os.environ.get(name) for name in ("CUDA_PATH", "CUDA_HOME", "CONDA_PREFIX")]
    includes = [Path(root) / "include" for root in (*roots, "/usr/local/cuda", "/opt/cuda") if root]
    headers = any(all((folder / name).is_file() for name in HEADERS) for folder in includes)
    return headers and all(ctypes.util.find_library(name) for name in LIBRARIES)


def of_packages(cuda: str, sites: Sequence[Path]) -> Toolkit | str:
    """The toolkit among pip's packages, for a torch built for this CUDA ("13.0"); or a line that says what is missing."""
    major = cuda.partition(".")[0]
    folders = [folder / "nvidia" / name for folder in sites for name in (f"cu{major}", *FOLDERS)]
    libraries, includes, missing = {}, [], {}
    for name, package in LIBRARIES.items():
        places = [folder / "lib" / f"lib{name}.so.{major}" for folder in folders]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            missing[package] = f"lib{name}"
        else:
            libraries[name] = found
    for name, package in HEADERS.items():
        found = next((folder / "include" for folder in folders if (folder / "include" / name).is_file()), None)
        if found is None:
            missing.setdefault(package, name)
        else:
            includes.append(found)
    if not missing:
        return Toolkit(libraries, tuple(dict.fromkeys(includes)))
    old = int(major) < 13
    packages = [f"{OLD.get(name, name)}-cu{major}" if old else name for name in missing]
    install = " ".join(f"'{name}=={cuda}.*'" for name in packages)
    return f"KeOps needs {' and '.join(missing.values())} of CUDA {cuda}: pip install {install}"


def cache() -> Path:
    """The user's folder of what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "patchcli"


def gathered(toolkit: Toolkit, driver: Path | None) -> Path:
    """One folder of links to the toolkit and to the driver's library, as a compiler wants them: lib/, include/.

    It is made once for each toolkit, so that what KeOps compiles against one is not taken for another.
    """
    real = [str(path.resolve()) for path in (*toolkit.libraries.values(), *toolkit.includes, *([driver] if driver else []))]
    folder = cache() / f"cuda-{hashlib.sha256(chr(0).join(real).encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    try:
        cache().mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".cuda-", dir=cache()))
    except OSError:  # it cannot be kept
        beside = folder = Path(tempfile.mkdtemp(prefix="patchcli-cuda-"))
    for name, library in toolkit.libraries.items():
        for own in library.parent.glob(f"lib{name}*.so.*"):
            _link(beside / "lib" / own.name, own)
        _link(beside / "lib" / f"lib{name}.so", library)
    if driver is not None:
        _link(beside / "lib" / "libcuda.so", driver)
    for headers in toolkit.includes:
        for own in headers.iterdir():
            _link(beside / "include" / own.name, own)
    if beside != folder:
        try:
            beside.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(beside)
    return folder


def _link(path: Path, target: Path) -> None:
    """A link, unless there is one of this name."""
    path.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.symlink_to(target)


def driver() -> Path | None:
    """The driver's library, which is loaded for this; None where there is none."""
    if (name := ctypes.util.find_library("cuda")) is None:
        return None
    with contextlib.suppress(OSError):
        ctypes.CDLL(name)
        mapped = re.findall(r"\s(/\S*libcuda\.so\S*)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
        return Path(mapped[0]) if mapped else None
    return None


@contextlib.contextmanager
def offered(folder: Path, gpus: str = "") -> Iterator[None]:
    """Within, KeOps finds the gathered toolkit, and keeps what it compiles beside it.

    What it imports within goes on finding it. Environment variables that are set already stay as they are, but for the
    linker's, which gets another folder to look in.
    """
    find, names = ctypes.util.find_library, {path.name: str(path) for path in (folder / "lib").iterdir()}
    for name, path in names.items():
        if name.startswith("libnvrtc-builtins.so"):
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    linked = os.pathsep.join(filter(None, (str(folder / "lib"), os.environ.get("LIBRARY_PATH"))))
    compiled = folder / f"keops-{hashlib.sha256(gpus.encode()).hexdigest()[:8]}"
    given = {"CUDA_PATH": str(folder), "KEOPS_CACHE_FOLDER": str(compiled), **os.environ, "LIBRARY_PATH": linked}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    ctypes.util.find_library = lambda name: names.get(f"lib{name}.so") or find(name)
    try:
        yield
    finally:
        ctypes.util.find_library = find
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
