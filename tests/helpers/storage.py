"""An S3 server on the loopback address, and a proxy before it whose connections break."""

import contextlib
import hashlib
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

from patchcli.store import Store


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
