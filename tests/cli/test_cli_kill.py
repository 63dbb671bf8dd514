"""What is killed, interrupted or out of space goes on with the same command, to the same bytes."""

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from commands import done, finished, process, records, refused
from smallworld import WORKING, World, leftovers, parts, write_plain

import patchcli
from patchcli.store import Blocks, Store
from patchcli.store import bank as bank_module
from patchcli.verbs.extraction import ImageOptions

SLOW_BLOCKS = """
import time
from patchcli.store import bank
bank.CHUNK_BYTES = 1
write = bank.Blocks.write_block
def slow(self, block, features):
    write(self, block, features)
    time.sleep(0.2)
bank.Blocks.write_block = slow
"""

SIGINT_AT_STEP_2 = """
import os, signal
from patchcli.training.trainer import Trainer
update = Trainer.update
def signalled(self, total, losses):
    if len(self.history) == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return update(self, total, losses)
Trainer.update = signalled
"""


SIGINT_WHILE_IT_EMBEDS_AHEAD = """
import os, signal, time
from patchcli.detection import detector
detector.BATCH = 2
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
compare = detector.Detector.compare
def signalled(self, features):
    found = compare(self, features)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
    return found
detector.Detector.compare = signalled
"""


def _done_blocks(store: Path) -> int:
    blocks = Store.open(store).blocks()
    return 0 if blocks is None else int(blocks.done.sum())


@pytest.fixture
def uninterrupted(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """The files of a store that was embedded while nothing disturbed it, one image a block."""
    whole = Path(shutil.copytree(untrained, tmp_path / "whole.zarr"))
    with monkeypatch.context() as patched:
        patched.setattr(bank_module, "CHUNK_BYTES", 1)
        patchcli.embed(whole, threads=1, device="cpu")
    return parts(whole)


def test_embed_killed_in_the_middle(bankless: Path, uninterrupted: dict[str, dict[str, str]]) -> None:
    options = ("--store", bankless, "--threads", 1, "--device", "cpu")
    with process("embed", *options, driver=SLOW_BLOCKS) as started:
        deadline = time.monotonic() + 120
        while _done_blocks(bankless) < 2:
            assert started.poll() is None, started.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        started.send_signal(signal.SIGKILL)
        started.communicate(timeout=60)
    assert started.returncode == -signal.SIGKILL
    blocks = _done_blocks(bankless)
    assert 2 <= blocks < 10
    assert Store.open(bankless).root.parts.keys() == {"images", "encoder", "blocks"}
    refused("score", "--store", bankless, says=(f"half-written ({blocks} of 10 blocks)", "patchcli embed"))
    result = done("embed", *options)
    assert f"resuming: {blocks} of 10 blocks are done" in result.stderr
    assert f"({10 - blocks} embedded now)" in result.stderr
    assert (parts(bankless), leftovers(bankless)) == (uninterrupted, set())
    assert not list(bankless.rglob("*.partial"))  # what zarr had not yet renamed
    assert len(records(done("score", "--store", bankless))) == 5


def test_a_block_killed_before_its_flag(
    bankless: Path, uninterrupted: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features of the fourth block are there in part, their flag is not."""
    write = Blocks.write_block

    def torn(self: Blocks, block: int, features: Any) -> None:
        if block < 3:
            return write(self, block, features)
        self._part.array("big/features")[block : block + 1] = features["big"] * 2
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(bank_module, "CHUNK_BYTES", 1)
        patched.setattr(Blocks, "write_block", torn)
        with pytest.raises(KeyboardInterrupt):
            patchcli.embed(bankless, threads=1, device="cpu")
    result = done("embed", "--store", bankless, "--threads", 1, "--device", "cpu")
    assert "(7 embedded now)" in result.stderr
    assert parts(bankless) == uninterrupted


def test_embed_on_a_full_disk(
    bankless: Path, uninterrupted: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Blocks.write_block

    def full(self: Blocks, block: int, features: Any) -> None:
        if block == 1:
            raise OSError(28, "No space left on device", "blocks/small/features/c/1")
        write(self, block, features)

    options = ("--store", bankless, "--threads", 1, "--device", "cpu")
    with monkeypatch.context() as patched:
        patched.setattr(bank_module, "CHUNK_BYTES", 1)
        patched.setattr(Blocks, "write_block", full)
        says = ("No space left on device (blocks/small/features/c/1)", "fix this; finished work is kept, run again to resume")
        assert len(refused("embed", "--quiet", *options, says=says).splitlines()) == 1
    assert "(9 embedded now)" in done("embed", *options).stderr
    assert parts(bankless) == uninterrupted


def test_the_bank_does_not_fit(bankless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10))  # type: ignore[attr-defined]
    refused("embed", "--store", bankless, says=("the bank needs", "MB are free", "make room", "--store"))


def test_train_interrupted(tmp_path: Path) -> None:
    write_plain(tmp_path / "good", 3, WORKING)
    patchcli.extract("good", "good.zarr", ImageOptions(size=WORKING))
    shutil.copytree("good.zarr", "whole.zarr")
    recipe = ("--encoder", "flat", "--dim", 4, "--batch", 2, "--threads", 1, "--device", "cpu")
    status, stdout, stderr = finished("train", "--store", "good.zarr", "--steps", 4, *recipe, driver=SIGINT_AT_STEP_2)
    assert (status, stdout) == (130, "")
    first, second = stderr.splitlines()
    assert first.startswith("patchcli: 2 steps in ")
    assert second.startswith("patchcli: interrupted; the encoder is usable")
    assert second.endswith("patchcli train --resume --store good.zarr")

    shutil.copytree("good.zarr", "usable.zarr")
    assert "of 3 images (3 embedded now)" in done("embed", "--store", "usable.zarr").stderr
    assert patchcli.info("usable.zarr").encoder_steps == 2

    done("train", "--resume", "--steps", 4, "--store", "good.zarr", "--threads", 1, "--device", "cpu")
    done("train", "--steps", 4, "--store", "whole.zarr", *recipe)
    resumed, whole = patchcli.info("good.zarr"), patchcli.info("whole.zarr")
    assert (resumed.encoder_steps, whole.encoder_steps) == (4, 4)
    assert resumed.encoder_sha256 == whole.encoder_sha256 != patchcli.info("usable.zarr").encoder_sha256
    assert parts(Path("good.zarr")) == parts(Path("whole.zarr"))  # with the optimiser's state


def test_score_interrupted(made: World, tmp_path: Path) -> None:
    arguments = ("score", "--store", made.store, "--quiet", "--out", tmp_path / "maps")
    status, stdout, stderr = finished(*arguments, driver=SIGINT_WHILE_IT_EMBEDS_AHEAD)
    assert (status, stdout) == (130, "")
    assert stderr == "patchcli: interrupted\n"
