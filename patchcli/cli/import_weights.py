"""patchcli import."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def import_weights(
    weights: Annotated[
        Path | None,
        typer.Argument(
            metavar="WEIGHTS",
            help="A file that the authors of Patch SVDD publish (hazelnut.pkl), or with --backbone a state dict of that model "
            "(safetensors or PyTorch). Without a file, timm downloads the backbone's weights.",
        ),
    ] = None,
    store: options.Store = options.STORE,
    overwrite: options.Overwrite = False,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", metavar="NAME", help="Model of timm, such as wide_resnet50_2 or vit_small_patch14_dinov2."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="N,N",
            help="With --backbone: the stages or blocks to take, counted from 0 as timm does. [default: the stages of stride 8 "
            "and 16; of a transformer the last block]",
        ),
    ] = None,
    *,
    messages: options.Planned,
) -> None:
    """Use published or pretrained weights as the encoder.

    Example: patchcli extract ./mvtec/hazelnut && patchcli import hazelnut.pkl

    Example: patchcli import efficientnet-lite0.pth --backbone tf_efficientnet_lite0 --layers 2,3 --overwrite
    """
    with Terminal(**vars(messages)) as terminal:
        from patchcli.verbs.import_weights import import_weights

        chosen = None if layers is None else options.numbers("layers", layers)
        sha256 = import_weights(weights, store, overwrite, terminal, backbone=backbone, layers=chosen)
        terminal.note(f"encoder {sha256[:12]} is in {store}; next: patchcli embed")
