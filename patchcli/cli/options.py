"""Every option that more than one verb has, declared once."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from patchcli.errors import InputError

Store = Annotated[
    Path, typer.Option("--store", envvar="PATCHCLI_STORE", help="The store: one Zarr group with everything learned.")
]
STORE = Path("patchcli.zarr")
Layout = Annotated[
    str | None,
    typer.Option(
        "--layout",
        help="How DATA is laid out: manifest, mvtec2, loco, btad, mvtec, visa, ksdd2, ksdd, folders or plain. "
        "[default: the first that fits]",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="N|HxW|fit:HxW|keep:N|native",
        help="Working size in pixels, height x width: images are stretched to it; fit:HxW keeps their aspect ratio and "
        "mirrors what is left over; keep:N has shorter sides of N, native the images' own size. [default: 256]",
    ),
]
Holdout = Annotated[
    str | None,
    typer.Option(
        "--holdout", metavar="SHARE", help="Keep good images, such as 20%, out of training and bank: for patchcli calibrate."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what the store holds already.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads. [default: all cores]")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything drawn at random. [default: 0]")]
Search = Annotated[str, typer.Option("--search", help="All exact: auto (keops on a GPU, else pruned), pruned, keops or brute.")]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="Memory for the bank, such as 300M or 2G. [default: half of what is free]"),
]
Roi = Annotated[
    Path | None,
    typer.Option(
        "--roi",
        help="Look only where this mask image is not 0; it has the size or the aspect ratio of the images. Thresholds "
        "calibrated with one hold with the same one, those without hold with any.",
    ),
]
Bits = Annotated[
    int | None,
    typer.Option(
        "--bits",
        metavar="8-16",
        help="How many bits of its 16-bit files the camera fills. [default: what the files say, else what their values need]",
    ),
]
Large = Annotated[bool, typer.Option("--large", help="Read images of more than 178 megapixels too.")]
MaskThreshold = Annotated[
    int | None,
    typer.Option(
        "--mask-threshold",
        metavar="VALUE",
        help="Values of masks (and --roi) above it count. [default: 0 where they hold labels; else half, such as 128 of 255]",
    ),
]
MinArea = Annotated[
    int, typer.Option("--min-area", metavar="PIXELS", help="Leave smaller regions out; the verdict is of the score alone.")
]
MmPerPixel = Annotated[
    float | None, typer.Option("--mm-per-pixel", metavar="MM", help="Side of an image's pixel: areas in mm² too.")
]
Format = Annotated[str | None, typer.Option("--format", help="table, jsonl or csv. [default: table on a terminal, else jsonl]")]
Null = Annotated[bool, typer.Option("--null", "-0", help="With -: names end in NUL, as find -print0 writes them.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Check all input, say what would be read and written, and write nothing.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more; a traceback with errors.")]


def listed(null: bool) -> Iterator[str]:
    """Names on standard input as they come: one a line, or ended by NUL; they need not be UTF-8."""
    if not null:
        for line in sys.stdin.buffer:
            if name := os.fsdecode(line.rstrip(b"\r\n")):
                yield name
        return
    rest = b""
    while chunk := sys.stdin.buffer.read1(1 << 16):  # type: ignore[union-attr]
        *names, rest = (rest + chunk).split(b"\0")
        yield from map(os.fsdecode, filter(None, names))
    if rest:
        yield os.fsdecode(rest)


def share(name: str, text: str) -> float:
    """A share of "10%" or "0.1"; `name` is the option's."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise InputError(f"{name}: expected a share such as 10% or 0.1, found {text!r}") from None


def memory(text: str | None) -> int | None:
    """Bytes of "300M", "2G" or "1.5GB"."""
    if text is None:
        return None
    number = text.upper().removesuffix("B").rstrip("KMGT")
    unit = text.upper().removesuffix("B")[len(number) :]
    try:
        size = int(float(number) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[unit])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise InputError(f"--memory: expected a size such as 300M or 2G, found {text!r}")
    return size
