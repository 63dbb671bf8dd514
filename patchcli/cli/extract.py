"""patchcli extract."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal

ScaleName = Literal["big", "small"]


def extract(
    data: Annotated[
        Path | None, typer.Argument(metavar="DATA", help="Data set, folder of good images, or manifest (.csv, .jsonl).")
    ] = None,
    store: options.Store = options.STORE,
    overwrite: options.Overwrite = False,
    patches: Annotated[
        Path | None,
        typer.Option("--patches", metavar="DIR", help="Write the patches of chosen images as PNG below this folder."),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image", metavar="ID", help="With --patches: id of an image; may be repeated. [default: the first image]"
        ),
    ] = None,
    scale: Annotated[
        ScaleName, typer.Option("--scale", help="With --patches: size of a patch, big (64 pixels) or small (32 pixels).")
    ] = "big",
    *,
    extraction: options.Extraction,
    messages: options.Planned,
) -> None:
    """Copy the good images of a data set into a store.

    Example: patchcli extract ./mvtec/grid

    Example: patchcli extract --patches patches/ --image train/good/000.png
    """
    with Terminal(**vars(messages)) as terminal:
        from patchcli.errors import InputError
        from patchcli.verbs.cut_patches import cut_patches
        from patchcli.verbs.extract import extract

        if data is None and patches is None:
            raise InputError("nothing", subject="DATA", expected="a data set or a folder of good images (or --patches DIR)")
        if data is not None:
            extracted = extract(data, store, extraction.options(), overwrite=overwrite, observer=terminal)
            what = f"{extracted.images} images of {extracted.height}x{extracted.width} pixels"
            if messages.dry_run and (extracted.fresh or patches is None):
                into = f"{what} into {store}" if extracted.fresh else f"nothing: {store} holds them already"
                terminal.plan(f"{extracted.images} images of {data}", into, extracted.bytes)
            terminal.note(f"{what} {'extracted into' if extracted.fresh else 'already in'} {store}")
            if extracted.held_out:
                terminal.note(f"{extracted.held_out} good images are reserved for patchcli calibrate")
        if patches is not None:
            count = cut_patches(store, patches, image or (), scale, terminal)
            terminal.note(f"{count} patches written below {patches}")
