"""patchcli extract."""

from pathlib import Path
from typing import Annotated

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal


def extract(
    data: Annotated[
        Path | None, typer.Argument(help="A data set, a folder of good images, or a manifest (.csv, .jsonl).")
    ] = None,
    store: options.Store = options.STORE,
    layout: options.Layout = None,
    size: options.Size = None,
    holdout: options.Holdout = None,
    bits: options.Bits = None,
    large: options.Large = False,
    overwrite: options.Overwrite = False,
    patches: Annotated[
        Path | None, typer.Option("--patches", help="Write the patches of chosen images as PNG below this folder.")
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", help="With --patches: id of an image, may be repeated. [default: first]")
    ] = None,
    scale: Annotated[str, typer.Option("--scale", help="With --patches: big (K=64) or small (K=32).")] = "big",
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Read the good images of a data set into a store.

    Example: patchcli extract ./mvtec/grid

    Example: patchcli extract --patches patches/ --image train/good/000.png
    """
    with Terminal(quiet, verbose, dry_run) as terminal:
        from patchcli.errors import InputError
        from patchcli.verbs.extract import cut_patches, extract

        aside = None if holdout is None else options.share("--holdout", holdout)
        if data is None and patches is None:
            raise InputError("DATA: expected a data set or a folder of good images (or --patches DIR)")
        if data is not None:
            found = extract(data, store, size, overwrite, terminal, layout, aside, bits, large)
            what = f"{found.images} images of {found.height}x{found.width} pixels"
            if dry_run and (found.fresh or patches is None):
                into = f"{what} into {store}" if found.fresh else f"nothing: {store} holds them already"
                terminal.plan(f"{found.images} images of {data}", into, found.bytes)
            terminal.note(f"{what} {'extracted' if found.fresh else 'there already'} in {store}")
            if found.held_out:
                terminal.note(f"{found.held_out} good images are held out, for patchcli calibrate")
        if patches is not None:
            count = cut_patches(store, patches, image or (), scale, terminal)
            terminal.note(f"{count} patches written below {patches}")
