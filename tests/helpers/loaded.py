"""Importing this loads all that commands load, compiled loops too, so that processes forked from this one need not."""

import os
import tempfile
from functools import partial
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = "1"  # no pool of threads, which a fork would not have

import torch

import patchcli.verbs.import_weights
import patchcli.verbs.watch  # noqa: F401
from patchcli.datasets import weave
from patchcli.training import criterion
from patchcli.verbs.demo import demo

torch.set_num_threads(1)
criterion.MANY_COPIES = 2  # as in conftest.py
small_cloth = partial(weave.write_dataset, train=4, good=2, each=1)
with tempfile.TemporaryDirectory() as _folder, patch.multiple(weave, write_dataset=small_cloth, SIDE=128):
    demo(f"{_folder}/demo", steps=0)
