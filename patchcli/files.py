"""Files that are whole or not there, and what a path leads to."""

import errno
import os
import re
import socket
import stat
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patchcli.errors import InputError

_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip
_UNREACHABLE = {errno.ELOOP: "links to itself", errno.ENAMETOOLONG: "a name or the path is too long"}
SHOWN = 400  # characters of a path in a message


def trouble(path: Path) -> str | None:
    """Why a path leads to no regular file, None where it does. Nothing is opened: a FIFO would wait, a device may act."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return f"broken link to {path.readlink()}" if path.is_symlink() else "no such file"
    except ValueError:
        return "no such file"  # a zero byte
    except OSError as error:
        return _UNREACHABLE.get(error.errno or 0, f"cannot be read ({error.strerror})")
    return None if stat.S_ISREG(mode) else f"expected a file, found {_KINDS.get(stat.S_IFMT(mode), 'something else')}"


def check_regular(path: Path) -> None:
    """Raise InputError where a path leads to no regular file."""
    if why := trouble(path):
        raise InputError(why, subject=shown(path))


def shown(path: Path) -> str:
    """A path in a message; of a very long one, the beginning."""
    name = str(path)
    return name if len(name) <= SHOWN else f"{name[:SHOWN]}…"


def is_folder(path: Path) -> bool:
    """Whether a path leads to a folder; False also where it leads nowhere, in circles, or is too long."""
    try:
        return path.is_dir()
    except OSError:
        return False


def real(path: Path) -> Path:
    """The absolute path without links; of one that leads nowhere or in circles, as far as it goes."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:
        return path


def place(path: Path) -> Path:
    """The absolute path with its folders resolved and its last name as given: a link is told apart from its target."""
    return real(path) if path.name in ("", "..") else real(path.parent) / path.name


def check_local(parameter: str, path: Path | str, advice: str = "write to a folder, and copy it") -> None:
    """Raise InputError for a URL where files are expected. Path makes s3:/bucket of s3://bucket, the name of a folder here."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):
        raise InputError("a URL", parameter=parameter, subject=path, expected="a path", advice=advice)


def target(parameter: str, path: Path | str, *suffixes: str) -> Path:
    """The file, or without suffixes the folder, that an argument names to be written; raises InputError where it cannot be.

    A file without a name is made in the nearest folder that exists, and vanishes: permissions say nothing of a file system
    that is read-only.
    """
    check_local(parameter, path)
    path = Path(path)
    try:
        if wrong := _unsuitable(path, suffixes):
            raise InputError(wrong, parameter=parameter, subject=path)
    except OSError as error:
        cannot = f"cannot be written ({error.strerror})"
        raise InputError(cannot, parameter=parameter, subject=path, advice="name another place") from None
    return path


def _unsuitable(path: Path, suffixes: tuple[str, ...]) -> str | None:
    """Why `target` refuses a path, or an OSError of the file system."""
    if path.suffix not in suffixes if suffixes else path.exists() and not path.is_dir():
        return f"expected the name of a {' or '.join(suffixes)} file" if suffixes else "expected a folder, found a file"
    if suffixes and path.is_dir():
        return "expected the name of a file, found a folder"
    folders = path.parents if suffixes else (path, *path.parents)
    above = next((folder for folder in folders if folder.exists()), path.parent)
    if above.exists() and not above.is_dir():
        return f"expected a folder above it, found the file {above}"
    for part in path.relative_to(above).parts:
        if (above / part).is_symlink() and not (suffixes and part == path.name):
            return f"expected a folder, found a link to nowhere: {above / part}"
        (above / f".{part}.part").exists()  # too long a name is an error
    with tempfile.TemporaryFile(dir=above):
        pass
    return None


def spreadsheet(value: Any) -> Any:
    """A value for a cell of CSV: an apostrophe before text that a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


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
