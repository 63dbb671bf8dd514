"""patchcli eval."""

from patchcli.cli import options
from patchcli.cli.terminal import Terminal

COLUMNS = {
    "category": "class", "map": "map", "image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC",
    "images": "images", "defective": "defective", "note": "note",
}  # fmt: skip


def evaluate(
    store: options.Store = options.STORE,
    form: options.Format = None,
    search: options.Search = "auto",
    memory: options.Memory = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compare scores and maps of the test images with their labels and masks.

    A store gives image and pixel AUROC of each map; a folder of stores, one a class, the product's and their average.

    Example: patchcli eval --format jsonl | jq .image_auroc

    Example: patchcli eval --store stores/
    """
    with Terminal(quiet, verbose) as terminal:
        terminal.check_format(form)
        from patchcli.pipeline.evaluate import evaluate

        rows = evaluate(
            store, device=device, search=search, memory=options.memory(memory), threads=threads, observer=terminal
        )
        columns = dict(COLUMNS)
        if not any(row.note for row in rows):
            del columns["note"]
        terminal.write(rows, form, columns)
