"""patchcli export."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the model, a name that ends in .onnx.")],
    store: options.Store = options.STORE,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE and what belongs to it.")] = False,
    *,
    messages: options.Planned,
) -> None:
    """Write the encoder as ONNX, for programs in C++ or C#.

    A JSON file beside it says what else they need: how pixels become the input, where the bank is, how distances become
    a score. The features are compared with PyTorch's before the files get their names. Needs the extra patchcli[export].

    Example: patchcli export encoder.onnx
    """
    with Terminal(**vars(messages)) as terminal:
        terminal.progress("export", 0, None, "loading PyTorch")
        from patchcli.verbs.export import export

        exported = export(file, store, overwrite, terminal)
        names = [file.with_suffix(".json").name, *filter(None, [exported.input.mean_file])]
        outputs = ", ".join(scale.output for scale in exported.scales)
        terminal.note(f"wrote {file} (outputs: {outputs}), and beside it {' and '.join(names)}")
        off = f"{exported.check.relative:.1e} of their size, {exported.check.largest:.1e} in a single number"
        terminal.note(f"the features of ONNX Runtime and PyTorch differ by at most {off}")
        if exported.bank is None:
            terminal.note("the store has no bank yet; next: patchcli embed, then patchcli export --overwrite")
