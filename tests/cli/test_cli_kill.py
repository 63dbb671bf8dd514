"""What is killed, interrupted or out of space goes on with the same command, to the same bytes."""

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from commands import done, finished, process, records, refused
from smallworld import WORKING, World, tree, write_plain

import patchcli
from patchcli import store as store_module
from patchcli.store import Bank, Store

SLOW_BLOCKS = """
import time
from patchcli import store
store.BANK_CHUNK_BYTES = 1
write = store.Bank.write_block
def slow(self, block, features):
    write(self, block, features)
    time.sleep(0.2)
store.Bank.write_block = slow
"""

SIGINT_AT_STEP_2 = """
import os, signal
from patchcli.training import Trainer
step = Trainer.step
def signalled(self, batch):
    if len(self.history) == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return step(self, batch)
Trainer.step = signalled
"""


SIGINT_WHILE_IT_EMBEDS_AHEAD = """
import os, signal, time
from patchcli import scoring
from patchcli.pipeline import score
score.BATCH = 2
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
compare = scoring.Scorer.compare
def signalled(self, embedded):
    found = compare(self, embedded)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
    return found
scoring.Scorer.compare = signalled
"""


def _bank(store: Path) -> dict[str, str]:
    """All files of the bank; a file that zarr had not yet renamed when it was killed is not one of them."""
    return {name: digest for name, digest in tree(store / "bank").items() if not name.endswith(".partial")}


def _done_blocks(store: Path) -> int:
    folder = store / "bank" / "done" / "c"
    return len([path for path in folder.iterdir() if path.name.isdigit()]) if folder.exists() else 0


@pytest.fixture
def uninterrupted(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The bank's files of a run that nothing disturbed, one image a block."""
    whole = Path(shutil.copytree(untrained, tmp_path / "whole.zarr"))
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "BANK_CHUNK_BYTES", 1)
        patchcli.embed(whole, threads=1, device="cpu")
    return _bank(whole)


def test_embed_killed_in_the_middle(bankless: Path, uninterrupted: dict[str, str]) -> None:
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
    assert Store.open(bankless).attributes_of("bank")["status"] == "incomplete"  # type: ignore[index]
    refused("score", "--store", bankless, says=(f"half-written ({blocks} of 10 blocks)", "patchcli embed"))
    result = done("embed", *options)
    assert f"going on: {blocks} of 10 blocks are done" in result.stderr
    assert f"({10 - blocks} embedded now)" in result.stderr
    assert _bank(bankless) == uninterrupted
    assert len(records(done("score", "--store", bankless))) == 5


def test_a_block_killed_before_its_flag(
    bankless: Path, uninterrupted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features of the fourth block are there in part, their flag is not."""
    write = Bank.write_block

    def torn(self: Bank, block: int, features: Any) -> None:
        if block < 3:
            return write(self, block, features)
        self._group["big/features"][block : block + 1] = features["big"] * 2
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "BANK_CHUNK_BYTES", 1)
        patched.setattr(Bank, "write_block", torn)
        with pytest.raises(KeyboardInterrupt):
            patchcli.embed(bankless, threads=1, device="cpu")
    result = done("embed", "--store", bankless, "--threads", 1, "--device", "cpu")
    assert "(7 embedded now)" in result.stderr
    assert _bank(bankless) == uninterrupted


def test_embed_on_a_full_disk(
    bankless: Path, uninterrupted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Bank.write_block

    def full(self: Bank, block: int, features: Any) -> None:
        if block == 1:
            raise OSError(28, "No space left on device", "bank/small/features/c/1")
        write(self, block, features)

    options = ("--store", bankless, "--threads", 1, "--device", "cpu")
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "BANK_CHUNK_BYTES", 1)
        patched.setattr(Bank, "write_block", full)
        says = ("No space left on device (bank/small/features/c/1)", "fix this; finished work is kept, run again to resume")
        assert len(refused("embed", "--quiet", *options, says=says).splitlines()) == 1
    assert "(9 embedded now)" in done("embed", *options).stderr
    assert _bank(bankless) == uninterrupted


def test_the_bank_does_not_fit(bankless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10))  # type: ignore[attr-defined]
    refused("embed", "--store", bankless, says=("the bank needs", "MB are free", "make room", "--store"))


def test_train_interrupted(tmp_path: Path) -> None:
    write_plain(tmp_path / "good", 3, WORKING)
    patchcli.extract("good", "good.zarr", size=WORKING)
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
    assert patchcli.info("usable.zarr")["encoder_steps"] == 2

    done("train", "--resume", "--steps", 4, "--store", "good.zarr", "--threads", 1, "--device", "cpu")
    done("train", "--steps", 4, "--store", "whole.zarr", *recipe)
    resumed, whole = patchcli.info("good.zarr"), patchcli.info("whole.zarr")
    assert (resumed["encoder_steps"], whole["encoder_steps"]) == (4, 4)
    assert resumed["encoder_sha256"] == whole["encoder_sha256"] != patchcli.info("usable.zarr")["encoder_sha256"]
    files = [tree(Path(store) / "encoder") for store in ("good.zarr", "whole.zarr")]
    assert files[0].pop("zarr.json") != files[1].pop("zarr.json")  # the time it took
    assert files[0] == files[1]  # with the optimiser's state


def test_score_interrupted(made: World, tmp_path: Path) -> None:
    arguments = ("score", "--store", made.store, "--quiet", "--out", tmp_path / "maps")
    status, stdout, stderr = finished(*arguments, driver=SIGINT_WHILE_IT_EMBEDS_AHEAD)
    assert (status, stdout) == (130, "")
    assert stderr == "patchcli: interrupted\n"
