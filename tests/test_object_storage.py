"""Stores in a bucket of a real S3 server: what a folder gives, whatever breaks, whoever else writes."""

import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import done, records, refused, run, timeless
from fsspec.registry import _registry
from smallworld import WORKING, Told, parts, tree, write_dataset
from storage import SECRET, Proxy, remote_parts, system, uploaded

import patchcli
from patchcli import Detector
from patchcli.errors import DamagedError, StoreError
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.observer import Observer
from patchcli.store import EncoderAttributes, Source, Store, bank, claims, located, locks, objects
from patchcli.store.objects import Objects
from patchcli.verbs.extraction import ImageOptions

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install '.[s3]'")

SOURCE = Source("/somewhere", "plain", "weave", "0" * 64)
WEIGHTS = {"scale": np.ones(3, np.float32)}
IMPORTED = EncoderAttributes("hierarchical", 6, "imported")
OPTIONS = ("--threads", 1, "--quiet")


@pytest.fixture
def url(bucket: str, request: pytest.FixtureRequest) -> str:
    """A store of three images."""
    place = f"{bucket}/{request.node.name}.zarr"
    make(place)
    return place


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "weave", images=4)


@pytest.fixture(scope="module")
def ready(data: Path, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """A store that has an encoder and no bank, made in a folder and copied: read only. And the bank that the folder gets."""
    local = tmp_path_factory.mktemp("ready") / "weave.zarr"
    patchcli.train(data, local, images=ImageOptions(size=WORKING), observer=Told(), encoder="fixed")
    url = uploaded(local, f"{bucket}/ready.zarr")
    patchcli.embed(local)
    return url, objects_of(parts(local))["bank"]


def objects_of(kinds: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The same without folders."""
    return {kind: {name: digest for name, digest in tree.items() if digest} for kind, tree in kinds.items()}


def make(place: str, value: int = 7, overwrite: bool = False) -> None:
    pixels = ((f"{n}.png", (70, 80), np.full((70, 80, 3), value, np.uint8)) for n in range(3))
    with Store.creating(place, SOURCE, overwrite) as new:
        new.write_images(pixels, 70, 80)


def copied(url: str, name: str) -> str:
    """The same store under another key."""
    place = f"{url.rpartition('/')[0]}/{name}"
    system().copy(url, place, recursive=True)
    return place


# ---- the same as in a folder -------------------------------------------------------------------------------------------


def test_every_step_gives_what_it_gives_in_a_folder(data: Path, bucket: str, tmp_path: Path) -> None:
    local, remote = tmp_path / "weave.zarr", f"{bucket}/weave.zarr"
    given: list[Any] = []
    for store in (local, remote):
        at = ("--store", store, *OPTIONS)
        told = [done("train", data, "--encoder", "fixed", "--size", WORKING[0], *at), done("embed", *at)]
        told += [done("calibrate", "--from", "loo", "--false-alarms", "60%", *at), done("info", "--check", *at[:2])]
        whole = parts(local) if store is local else remote_parts(remote)
        told += [done("score", *at), done("eval", *at, "--format", "jsonl")]
        told += [done("bank", "add", data / "test/good/000.png", "--force", *at)]
        assert not any(word in each.stderr + each.stdout for each in told for word in (SECRET, "Traceback"))
        edited = parts(local) if store is local else remote_parts(remote)
        assert whole.keys() == edited.keys() == {"images", "encoder", "bank", "calibration"}
        given.append(
            (
                objects_of(whole),
                objects_of(edited),
                timeless(records(told[4])),
                records(told[5]),
                Detector.open(store).bank_sha256,
            )
        )
    assert given[0] == given[1]
    small = [name for name in system().find(remote.removeprefix("s3://")) if name.endswith(".json")]
    assert small and not any(SECRET.encode() in system().cat_file(name) for name in small)


def test_training_resumes_and_weights_are_imported(data: Path, bucket: str, tmp_path: Path) -> None:
    weights, local = tmp_path / "weights.pkl", tmp_path / "weave.zarr"
    torch.save(HierarchicalEncoder(4).state_dict(), weights)
    recipe: Any = {"encoder": "flat", "D": 4, "batch": 1, "precision": "float32"}
    patchcli.train(data, local, images=ImageOptions(size=WORKING), steps=0, observer=Told(), **recipe)
    remote = uploaded(local, f"{bucket}/trained.zarr")
    assert patchcli.train(store=remote, steps=1, resume=True, observer=Told()).steps == 1
    assert Store.open(remote).encoder.attributes.steps == 1
    assert patchcli.import_weights(weights, remote, overwrite=True) == Store.open(remote).encoder.attributes.sha256


def test_parts_are_embedded_at_once(ready: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank, "CHUNK_BYTES", 1)
    store = copied(ready[0], "parts.zarr")
    both = [threading.Thread(target=patchcli.embed_part, args=(store, (part, 2))) for part in (1, 2)]
    assert patchcli.embed_part(store, (5, 5), observer=Told()) == 0  # begins the blocks
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert patchcli.embed(store).embedded == 0
    assert not [name for name in Objects(store).children() if name.startswith("blocks")]
    assert remote_parts(store)["bank"] == ready[1]


# ---- what breaks -------------------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_in_a_block(
    ready: tuple[str, dict[str, str]], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(Told):
        def progress(self, task: str, done: float, total: float | None, detail: str = "") -> None:
            if (task, done) == ("embed", 2):
                proxy.left = 20_000

    monkeypatch.setattr(bank, "CHUNK_BYTES", 1)
    monkeypatch.setattr(claims, "STALE", 0.5)
    store = copied(ready[0], "broken.zarr")
    with pytest.raises(StoreError, match=r"the connection failed \(\w+\); when the server answers, run this again"):
        patchcli.embed(store, observer=Breaking())
    proxy.left = float("inf")
    with pytest.raises(StoreError, match=r"the bank is half-written \(2 of 4 blocks\); run: `embed\(\)`"):
        Store.open(store).bank()
    assert patchcli.embed(store).embedded == 2
    assert remote_parts(store)["bank"] == ready[1]


def test_a_connection_that_breaks_while_a_part_is_read(url: str, proxy: Proxy) -> None:
    """This is no damage, and nothing advises to make the store anew."""
    weights = np.random.default_rng(0).random(10_000, np.float32)
    with Store.writing(url) as store:
        store.write_encoder({"weights": weights}, IMPORTED, {})
    encoder = Store.open(url).encoder
    proxy.left = 20_000
    with pytest.raises(StoreError, match="the connection failed") as caught:
        encoder.weights()
    assert not isinstance(caught.value, DamagedError)
    with pytest.raises(StoreError, match="the connection failed"):
        Store.open(url)
    proxy.left = float("inf")
    np.testing.assert_array_equal(encoder.weights()["weights"], weights)


@pytest.mark.parametrize("answered", [True, False])
def test_the_answer_to_a_switch_is_lost(url: str, monkeypatch: pytest.MonkeyPatch, answered: bool) -> None:
    """The libraries write again, and find what they wrote; or they give up, and the part that the root may name stays."""
    call = Objects._call

    def lossy(self: Objects, method: str, **arguments: Any) -> dict[str, Any]:
        answer = call(self, method, **arguments)
        if method == "put_object" and arguments["Key"].endswith(".zarr/zarr.json"):
            if not answered:
                raise ConnectionError
            return call(self, method, **arguments)
        return answer

    monkeypatch.setattr(Objects, "_call", lossy)
    if answered:
        with Store.writing(url) as store:
            store.write_encoder(WEIGHTS, IMPORTED, {})
    else:
        with pytest.raises(StoreError, match="the connection failed"), Store.writing(url) as store:
            store.write_encoder(WEIGHTS, IMPORTED, {})
    assert Store.open(url).encoder.weights().keys() == WEIGHTS.keys()


# ---- several processes -------------------------------------------------------------------------------------------------


@pytest.fixture
def another(url: str) -> Iterator[threading.Event]:
    """A writer in another thread, until the event is set."""
    ready, over = threading.Event(), threading.Event()

    def write() -> None:
        with Store.writing(url):
            ready.set()
            over.wait(30)

    writer = threading.Thread(target=write)
    writer.start()
    assert ready.wait(30)
    yield over
    over.set()
    writer.join()


def test_a_second_writer_gives_up_with_one_line(url: str, another: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.5)
    told = Told()
    says = r"\.zarr: process \d+ on .* writes to it; run this again when that has ended"
    with pytest.raises(StoreError, match=says), Store.writing(url, told):
        pytest.fail("must not come here")
    assert ["waiting for process" in note for note in told.notes] == [True]
    assert Store.open(url).images.read(0, 1).max() == 7  # readers do not wait
    refused("embed", "--store", url, *OPTIONS, says=("writes to it; run this again",))


def test_a_second_writer_waits(url: str, another: threading.Event) -> None:
    class EndsIt(Observer):
        def note(self, line: str) -> None:
            another.set()

    with Store.writing(url, EndsIt()) as store:
        store.update_source(replace(store.source, category="grid"))
    assert Store.open(url).source.category == "grid"
    assert ".lock" not in Objects(url).children()


def test_a_lock_that_nobody_renews_is_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a killed process; if it only slept, it cannot switch any more."""
    sleeper = claims.Claim(url, ".lock", "process 1 on elsewhere")
    monkeypatch.setattr(claims, "RENEW", 60)
    assert sleeper.acquire()
    monkeypatch.setattr(claims, "STALE", -1)
    with Store.writing(url) as store:
        with pytest.raises(StoreError, match="another process has taken its lock meanwhile; run this again"):
            sleeper.check()
        store.write_encoder(WEIGHTS, IMPORTED, {})
    sleeper.release()


def test_the_lock_file_of_a_copied_folder_is_free(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0)
    Objects(url).put(".lock", b"")
    with Store.writing(url) as store:
        store.write_encoder(WEIGHTS, IMPORTED, {})


def test_a_lock_is_renewed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RENEW", 0.05)
    renewed, put = threading.Event(), Objects.put

    def noted(self: Objects, key: str, content: bytes, **condition: str) -> str | None:
        tag = put(self, key, content, **condition)
        if key == ".lock" and "IfMatch" in condition:
            renewed.set()
        return tag

    monkeypatch.setattr(Objects, "put", noted)
    with Store.writing(url) as store:
        assert renewed.wait(10)
        store.write_encoder(WEIGHTS, IMPORTED, {})
    assert ".lock" not in Objects(url).children()


@pytest.mark.parametrize("late", [False, True])
def test_of_two_writers_without_locks_one_wins(url: str, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """Also when both have looked at the root before either writes it."""
    monkeypatch.setenv("PATCHCLI_NO_LOCK", "1")
    put = Objects.put

    def second(store: Store) -> None:
        monkeypatch.setattr(Objects, "put", put)
        with Store.writing(url) as other:
            other.update_source(replace(store.source, category="grid"))

    with Store.writing(url) as one:

        def overtaken(self: Objects, key: str, content: bytes, **condition: str) -> str | None:
            if key == "zarr.json":
                second(one)
            return put(self, key, content, **condition)

        if late:
            monkeypatch.setattr(Objects, "put", overtaken)
        else:
            second(one)
        with pytest.raises(StoreError, match="another process has written to it meanwhile; run this again"):
            one.write_encoder(WEIGHTS, IMPORTED, {})
    assert Store.open(url).source.category == "grid"
    assert not Store.open(url).holds("encoder")


def test_a_server_without_conditional_writes_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Objects._call

    def careless(self: Objects, method: str, **arguments: Any) -> dict[str, Any]:
        return call(self, method, **{name: value for name, value in arguments.items() if not name.startswith("If")})

    monkeypatch.setattr(Objects, "_call", careless)
    with pytest.raises(StoreError, match=r"ignores conditions.*set PATCHCLI_NO_LOCK=1"), Store.writing(url):
        pytest.fail("must not come here")
    assert ".lock" not in Objects(url).children()


def test_a_reader_keeps_its_version_for_a_day(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Store.open(url)
    reader.images.sizes  # noqa: B018
    make(url, value=9, overwrite=True)
    with Store.writing(url):
        pass
    assert reader.images.read(0, 3).max() == 7
    assert Store.open(url).images.read(0, 3).max() == 9
    system().pipe_file(f"{url}/bank-0123abcd/small/c/0", b"what a killed process left")
    with Store.writing(url):
        pass
    assert len(Objects(url).children(objects.REPLACED)) == 2
    monkeypatch.setattr(objects, "KEEP", -1)
    with Store.writing(url):
        pass
    assert sorted(name.partition("-")[0] for name in Objects(url).children()) == ["images", "zarr.json"]
    with pytest.raises(DamagedError, match="another process has changed it meanwhile; run this again"):
        reader.images.read(0, 3)


# ---- what is refused ---------------------------------------------------------------------------------------------------


def test_what_is_no_store_is_not_replaced(bucket: str, data: Path) -> None:
    system().pipe_file("weaves/precious/accounts.txt", b"not ours")
    for overwrite in ([], ["--overwrite"]):
        refused("extract", data, "--store", f"{bucket}/precious", *overwrite, says=("s3://weaves/precious: ",))
    assert system().find("weaves/precious") == ["weaves/precious/accounts.txt"]
    refused("embed", "--store", f"{bucket}/none.zarr", says=("s3://weaves/none.zarr: no store found",))


def test_a_bucket_that_is_not_there(bucket: str, data: Path) -> None:
    for command in (("extract", data), ("train", data), ("embed",), ("score",), ("eval",), ("info",)):
        refused(*command, "--store", "s3://no-such-bucket/x.zarr", says=("s3://no-such-bucket/x.zarr: no such bucket",))


def test_a_bucket_without_permission(
    url: str, data: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    boto3 = pytest.importorskip("boto3")
    server = f"http://127.0.0.1:{proxy.port}"
    iam = boto3.client("iam", endpoint_url=server)
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]

    def check_permissions(after: float) -> None:
        body, kind = str(after).encode(), {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset-auth", body, kind)).close()

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    s3fs.S3FileSystem.clear_instance_cache()
    request.addfinalizer(s3fs.S3FileSystem.clear_instance_cache)
    check_permissions(0)
    try:
        for command in (("extract", data), ("embed",), ("score",)):
            said = refused(*command, "--store", url, says=(f"{url}: no permission (AccessDenied); check the credentials",))
            assert key["AccessKeyId"] not in said and key["SecretAccessKey"] not in said
    finally:
        check_permissions(float("inf"))


def test_no_server_no_credentials_no_library(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:9")
        s3fs.S3FileSystem.clear_instance_cache()
        assert SECRET not in refused("score", "--store", url, says=(url, "the connection failed"))
        patch.setenv("AWS_ENDPOINT_URL", "nonsense")
        s3fs.S3FileSystem.clear_instance_cache()
        refused("score", "--store", url, says=("AWS_ENDPOINT_URL",))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "nowhere")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.delenv("AWS_ENDPOINT_URL")
        s3fs.S3FileSystem.clear_instance_cache()
        refused("score", "--store", url, says=("no usable credentials (NoCredentialsError); set AWS_ACCESS_KEY_ID",))
        patch.setitem(sys.modules, "s3fs", None)
        patch.delitem(_registry, "s3")  # of what fsspec has imported
        s3fs.S3FileSystem.clear_instance_cache()
        refused("score", "--store", url, says=("needs s3fs; run: pip install 'patchcli[s3]'",))
    s3fs.S3FileSystem.clear_instance_cache()


def test_urls_that_cannot_be(kept_here: Path, url: str, data: Path) -> None:
    said = refused("info", "--store", f"s3://me:{SECRET}@weaves/x.zarr", says=("s3://***@weaves/x.zarr: credentials",))
    assert SECRET not in said
    refused("extract", data, "--store", f"file://{kept_here}/x.zarr", says=("expected a folder or s3://",))
    refused("score", "--store", url, "--out", "s3://weaves/maps", says=("--out s3:/weaves/maps: expected a path, found a URL",))
    refused("demo", "s3://weaves/demo", says=("expected a path, found a URL",))
    with pytest.raises(StoreError, match="no store found"):
        Store.open("s3://weaves/no.zarr/")
    with pytest.raises(ValueError, match=r"expected a path, found a URL; write s3://bucket/key\.zarr, as a text"):
        located(Path("s3://weaves/x.zarr"))
    assert run("info", "--store", f"{url}/", "--format", "jsonl").exit_code == 0
    assert not tree(kept_here)


@pytest.fixture
def kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which stays empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
