"""Files that are whole or not there."""

import os
import re
import socket
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchcli.errors import InputError


def target(option: str, path: Path | str, *suffixes: str) -> Path:
    """The file, or without suffixes the folder, that an option names to be written; raises InputError where it cannot be."""
    path = Path(path)
    if path.suffix not in suffixes if suffixes else path.exists() and not path.is_dir():
        what = f"the name of a {' or '.join(suffixes)} file" if suffixes else "a folder, found a file"
        raise InputError(f"{option} {path}: expected {what}")
    if suffixes and path.is_dir():
        raise InputError(f"{option} {path}: expected the name of a file, found a folder")
    above = next((folder for folder in path.parents if folder.exists()), path.parent)
    if above.exists() and not above.is_dir():
        raise InputError(f"{option} {path}: expected a folder above it, found the file {above}")
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, renamed to it when the block ends well; the folders above are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{_here()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.part")
    try:
        yield beside
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sweep(folder: Path, pattern: str = ".*.part") -> None:
    """Remove what killed processes of this machine have left in a folder of files that were not whole yet."""
    import psutil

    for path in folder.glob(pattern) if folder.is_dir() else ():
        made = re.fullmatch(rf"\.{_here()}-(\d+)-[0-9a-f]{{12}}\.part", path.name)
        if made and not psutil.pid_exists(int(made[1])):
            path.unlink(missing_ok=True)


def _here() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; of a name that is not, the bytes as \\udcXX."""
    sweep(path.parent)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
