"""patchcli embed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from patchcli.cli import options
from patchcli.cli.terminal import Terminal
from patchcli.errors import InputError


@dataclass(frozen=True)
class Kept:
    """What the bank keeps."""

    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", metavar="DISTANCE", help="Thin the bank so far that no distance grows by more than this."),
    ] = None
    keep: Annotated[
        float | None,
        typer.Option(
            "--keep",
            metavar="SHARE",
            parser=options.share,
            help="Thin the bank to this share of its vectors, such as 10% or 0.1.",
        ),
    ] = None
    half: Annotated[bool, typer.Option("--half", help="Store vectors as float16, at half the size on disk.")] = False


def embed(
    store: options.Store = options.STORE,
    *,
    kept: Kept,
    precision: Annotated[
        options.PrecisionName,
        typer.Option(
            "--precision",
            help="Number format of the encoder, for the bank and for all images scored against it. auto is that of the present "
            "bank, else that of training where this CPU has it.",
        ),
    ] = "auto",
    overwrite: options.Overwrite = False,
    force: Annotated[
        bool, typer.Option("--force", help="Embed even if the training failed or stopped too early to be useful.")
    ] = False,
    part: options.Part = None,
    budget: options.Budget,
    workers: options.Workers,
    messages: options.Planned,
) -> None:
    """Embed every patch of the good images into the bank.

    If interrupted, run the same command again to resume. After thinning, the largest possible error of a distance is
    printed here and stored in records and maps.

    Example: patchcli embed --store grid.zarr

    Example: patchcli embed --tolerance 0.02

    Example: patchcli embed --part 3/40
    """
    with Terminal(**vars(messages), again="finished work is kept, run again to resume") as terminal:
        if part is not None:
            of_whole = {**vars(kept), **vars(workers), "memory": budget.memory, "overwrite": overwrite}
            _embed_part(store, part, of_whole, precision, budget, force, terminal)
            return
        from patchcli.verbs.embed import embed

        embedded = embed(
            store,
            precision=precision,
            overwrite=overwrite,
            force=force,
            cluster=workers.cluster(),
            observer=terminal,
            **vars(kept),
            **vars(budget),
        )
        vectors = ", ".join(f"{count:,} {scale}" for scale, count in embedded.vectors.items())
        terminal.note(f"the bank holds {vectors} vectors of {embedded.images} images ({embedded.embedded} embedded now)")
        if any(embedded.radius.values()):
            bounds = ", ".join(f"{radius:.3g} ({scale})" for scale, radius in embedded.radius.items())
            terminal.note(f"a distance is off by at most {bounds}")
        images = " --from GOOD_IMAGES" if kept.tolerance is not None or kept.keep is not None else ""
        terminal.note(f"next: patchcli calibrate{images} (for verdicts), or patchcli score")


def _embed_part(
    store: Path, part: str, of_whole: dict[str, Any], precision: str, budget: options.Budget, force: bool, terminal: Terminal
) -> None:
    """Embed one part; `of_whole` are options that it cannot have."""
    if given := [name for name, value in of_whole.items() if value]:
        raise InputError(
            f"leave `{given[0]}` out: parts embed what is missing, and `embed()` finishes the bank", parameter="part"
        )
    from patchcli.verbs.embed import embed_part

    numbers, device, threads = options.part(part), budget.device, budget.threads
    count = embed_part(store, numbers, precision=precision, device=device, threads=threads, force=force, observer=terminal)
    terminal.note(f"embedded {count} images of part {part}; when all parts are done: patchcli embed")
