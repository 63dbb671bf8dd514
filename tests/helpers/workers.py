"""What tests run in processes of their own; a spawned one imports this file by its name."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchcli.runtime import Process
from patchcli.store import Store
from patchcli.training import alignment, loop
from patchcli.training.loop import Bounds
from patchcli.training.recipe import Recipe


def hold(path: str, ready: Any, over: Any) -> None:
    """Write to a store until told to end."""
    with Store.writing(path):
        ready.set()
        over.wait(60)


def train_together(rank: int, meeting: str, store: str, recipe: Recipe, results: Path, separates: bool) -> None:
    """One of two processes: three steps, then what it has."""
    torch.set_num_threads(1)
    if separates:
        alignment.ALIGNED = 1.1
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    with contextlib.nullcontext(Store.open(store)) if rank else Store.writing(store) as opened:
        training = loop.prepare(opened, recipe, torch.device("cpu"), Process(rank, 2))
        trained = loop.run(training, Bounds(3), lambda _: None, lambda: 0)
    assert training.trainer.separates == separates
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    np.savez(results / f"{rank}.npz", history=np.array(training.trainer.history), sha256=trained.sha256)
