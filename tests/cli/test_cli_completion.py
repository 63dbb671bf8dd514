"""Completion as a user gets it: installed by the shell's own run of patchcli, then asked for with the Tab key."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import patchcli

SHELLS = {"bash": ["bash", "-i"], "zsh": ["zsh", "-i"], "fish": ["fish", "-i"]}
COLOURS = re.compile(r"\x1b(\[[0-9;?=>]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_=>])")


def typed(command: list[str], environment: dict[str, str], keys: str, wanted: str) -> str:
    """What an interactive shell shows when `keys` are typed, until `wanted` is there, or a minute is over."""
    child, terminal = pty.fork()
    if not child:
        os.execvpe(command[0], command, environment)
    shown, ready, end = "", False, time.monotonic() + 60
    while time.monotonic() < end and wanted not in shown:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:
                break
            if b"\x1b[c" in data or b"\x1b[0c" in data:  # fish asks what terminal this is
                os.write(terminal, b"\x1b[?62;c")
            if ready and b"\a" in data:  # zsh only loads what was installed at the first Tab, and completes at the second
                os.write(terminal, b"\t")
            shown = COLOURS.sub("", shown + data.decode(errors="replace")).replace("\r", "").replace("\a", "")
        if not ready and "READY" in shown:
            ready = True
            os.write(terminal, keys.encode())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(terminal)
    return shown


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ("patchcli tra\t", "patchcli train"),
        ("patchcli score --over\t", "--overlay"),
        ("patchcli train --layout mani\t", "--layout manifest"),
    ],
)
@pytest.mark.parametrize("shell", SHELLS)
def test_the_tab_key(shell: str, keys: str, wanted: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its completion is not tried")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {"HOME": str(tmp_path), "PATH": path, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    environment["PYTHONPATH"] = str(Path(patchcli.__file__).parents[1])
    command = [shell, "-c", "patchcli --install-completion; true"]  # no exec: the shell is found among the parents
    install = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "installed" in install.stdout, install
    start = {
        ".bashrc": "PS1='READY$ '\n",
        ".zshrc": "PROMPT='READY$ '\n",
        ".config/fish/config.fish": "function fish_prompt; echo 'READY$ '; end\nset -g fish_greeting\n",
    }
    name = next(name for name in start if shell in name)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    with (tmp_path / name).open("a") as file:
        file.write(start[name])
    shown = typed(SHELLS[shell], environment, keys, wanted)
    assert wanted in shown, shown
