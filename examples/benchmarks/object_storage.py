"""The pipeline with a store in a bucket, against one in a folder:

    python examples/benchmarks/object_storage.py STORE [--latency 20]

STORE has an encoder, a bank, and a data set with test images. It is copied to a folder and to a bucket of moto's server, which
runs on this machine; both copies are embedded anew and scored. The bytes are those that pass the server's port, both ways. Each
answer of the server is held back by the latency, in milliseconds. One thread. Banks and records are compared.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import patchcli
from patchcli import Setup
from patchcli.bank import search
from patchcli.store import Store

SERVER = """
import logging, time
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(1e6)
"""

PAUSE = 0.004  # seconds without a byte, after which another answer begins


class Counter:
    """Passes connections on to a port, counts their bytes, and holds each answer back for some seconds."""

    def __init__(self, port: int, latency: float) -> None:
        self._to, self._latency, self.sent, self.received = port, latency, 0, 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            here, _ = self._listening.accept()
            there = socket.create_connection(("127.0.0.1", self._to))
            threading.Thread(target=self._pass, args=(here, there, "sent"), daemon=True).start()
            threading.Thread(target=self._pass, args=(there, here, "received"), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, count: str) -> None:
        last = 0.0
        try:
            while data := one.recv(1 << 16):
                if count == "received" and time.perf_counter() - last > PAUSE:
                    time.sleep(self._latency)
                last = time.perf_counter()
                setattr(self, count, getattr(self, count) + len(data))
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def arrays(store: Path | str) -> dict[str, bytes]:
    """The objects of the bank but for metadata, whatever its folder is called."""
    import fsspec

    system, root = fsspec.url_to_fs(str(store), **({"use_listings_cache": False} if isinstance(store, str) else {}))
    folder = f"{root}/{Store.open(store).root.parts['bank'].name}/"
    return {name.removeprefix(folder): system.cat_file(name) for name in system.find(folder) if not name.endswith("zarr.json")}


def run(store: Path | str, counter: Counter | None) -> tuple[list[Any], Any]:
    """Seconds and megabytes of each step, and what the steps made."""
    made: list[Any] = []
    rows: list[Any] = []
    steps: dict[str, Callable[[], Any]] = {
        "embed": lambda: patchcli.embed(store, overwrite=True, threads=1).vectors,
        "score": lambda: [asdict(each) | {"time": None} for each in patchcli.score(store, setup=Setup(threads=1))],
    }
    for name, step in steps.items():
        before, begun = (counter.sent, counter.received) if counter else (0, 0), time.perf_counter()
        made.append(step())
        passed = (counter.sent - before[0], counter.received - before[1]) if counter else (0, 0)
        rows.append((name, time.perf_counter() - begun, *(each / 1e6 for each in passed)))
    return rows, [*made, arrays(store)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--latency", type=float, default=0)
    options = parser.parse_args()
    if find_spec("moto") is None or find_spec("s3fs") is None:
        sys.exit("object_storage.py needs an S3 server and client: pip install 'patchcli[s3]' 'moto[s3]' flask-cors")
    with (
        tempfile.TemporaryDirectory() as name,
        subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            counter = Counter(int(server.stdout.readline()), options.latency / 1000)
            os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
            os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{counter.port}"
            compare(options.store, Path(name) / "store.zarr", "s3://bucket/store.zarr", counter)
        finally:
            server.kill()


def compare(store: Path, local: Path, remote: str, counter: Counter) -> None:
    import shutil

    import s3fs

    shutil.copytree(store, local)
    system = s3fs.S3FileSystem()
    system.call_s3("create_bucket", Bucket="bucket")
    system.put(str(store), remote, recursive=True)
    search.method("pruned")  # whose import compiles
    of_folder, in_folder = run(local, None)
    of_bucket, in_bucket = run(remote, counter)
    print(f"{'':14}{'folder, s':>10}{'bucket, s':>10}{'written, MB':>13}{'read, MB':>10}  same")
    same = [one == other for one, other in zip(in_folder, in_bucket, strict=True)]
    for (name, alone, *_), (_, seconds, sent, received), equal in zip(of_folder, of_bucket, same, strict=False):
        print(f"{name:14}{alone:10.1f}{seconds:10.1f}{sent:13.1f}{received:10.1f}  {equal}")
    images = len(in_bucket[1])
    print(f"{of_bucket[1][3] / images:.2f} MB read per scored image, of {images}; the bank's objects are the same: {same[-1]}")


if __name__ == "__main__":
    main()
