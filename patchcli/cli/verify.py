"""patchcli verify."""

from patchcli.cli import options
from patchcli.cli.terminal import Terminal

COLUMNS = {
    "check": "check", "status": "status", "ms": "ms", "nearest": "nearest", "features": "features", "distance": "distance",
    "score": "score", "images": "images", "patches": "patches",
}  # fmt: skip


def verify(
    store: options.Store = options.STORE,
    form: options.Format = None,
    threads: options.Threads = None,
    *,
    messages: options.Messages,
) -> None:
    """Check that this machine scores as it should.

    Embeds and scores a few good images of the store on every device and by every search, each without itself in the
    bank, and compares them with the CPU and brute force: milliseconds per image, the share of patches with the same
    nearest patch, and the largest differences of features, distances and scores. The bank and the calibration are
    compared as well. If something disagrees, a line says what to do, and the exit status is 2.

    Example: patchcli verify

    Example: patchcli verify --format jsonl | jq -r 'select(.reason).reason'
    """
    with Terminal(**vars(messages)) as terminal:
        terminal.check_output()
        from patchcli.verbs.verify import verify

        terminal.write(verify(store, threads=threads, observer=terminal), form, COLUMNS)
