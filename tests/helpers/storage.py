"""An S3 server on the loopback address, and a proxy before it whose connections break."""

import contextlib
import hashlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patchcli.store import Store

SECRET = "notForAnyLogOrStore"


@contextlib.contextmanager
def serving() -> Iterator[int]:
    """The port of moto's server."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


class Proxy:
    """Passes bytes on to a port, until `left` of them have passed: then every connection breaks, and new ones do too."""

    def __init__(self, port: int) -> None:
        self._to, self.left, self.passed = port, float("inf"), 0
        self._open = list[socket.socket]()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listening.accept()
            except OSError:
                return
            if self.left <= 0:
                here.close()
                continue
            there = socket.create_connection(("127.0.0.1", self._to))
            self._open += [here, there]
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(4096):
                self.left -= len(data)
                if self.left <= 0:
                    break
                self.passed += len(data)
                other.sendall(data)
        for end in (one, other) if self.left > 0 else self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Listen no more."""
        self._listening.close()


def system() -> Any:
    """The file system of the tests' credentials."""
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False)


def remote_parts(url: str) -> dict[str, dict[str, str]]:
    """As smallworld.parts, of a store in a bucket."""
    found = {}
    for kind, named in Store.open(url).root.parts.items():
        whole = f"{url.removeprefix('s3://')}/{named.name}/"
        contents = {name.removeprefix(whole): system().cat_file(name) for name in system().find(whole)}
        found[kind] = {
            name: hashlib.sha256(content).hexdigest() for name, content in contents.items() if not name.endswith("zarr.json")
        }
    return found


def uploaded(store: Path, url: str) -> str:
    """A store, copied to a URL."""
    system().put(str(store), url, recursive=True)
    return url


# ---- fixtures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """What all connections to a server go through."""
    pytest.importorskip("moto", reason="moto is not installed: pip install '.[test]'")
    with serving() as port:
        proxy = Proxy(port)
        yield proxy
        proxy.close()


@pytest.fixture(scope="module")
def bucket(proxy: Proxy) -> Iterator[str]:
    """The URL of a bucket."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install '.[s3]'")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in reaching(proxy).items():
            patch.setenv(name, value)
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        system().call_s3("create_bucket", Bucket="weaves")
        yield "s3://weaves"
    s3fs.S3FileSystem.clear_instance_cache()


def reaching(proxy: Proxy) -> dict[str, str]:
    """How a process reaches the server."""
    own = {"ACCESS_KEY_ID": "tests", "SECRET_ACCESS_KEY": SECRET, "DEFAULT_REGION": "us-east-1", "MAX_ATTEMPTS": "1"}
    return {f"AWS_{name}": value for name, value in own.items()} | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
