"""Every option that more than one verb has, declared once; options that belong together are one frozen dataclass."""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from patchcli.bank.search import METHODS
from patchcli.datasets import LAYOUTS
from patchcli.errors import InputError

if TYPE_CHECKING:
    from patchcli.cluster import Cluster
    from patchcli.detection.detector import Setup
    from patchcli.detection.regions import RegionOptions
    from patchcli.verbs.extraction import ImageOptions

    LayoutName = str
    SearchName = str
else:
    LayoutName = Literal[(*LAYOUTS,)]
    SearchName = Literal["auto", *METHODS]

# Closed choices, here because what has them in the library takes long to import; a test compares them.
DeviceName = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["auto", "float32", "bfloat16"]
FormatName = Literal["table", "jsonl", "csv"]
SpreadName = Literal["auto", "images", "shards"]

IMAGES, COMPUTATION, MESSAGES = "Images", "Computation", "Messages"  # headings in a help text


def bundled(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb as Typer takes it: a parameter whose type is a dataclass becomes an option for each of its fields."""
    parameters: list[inspect.Parameter] = []
    bundles: dict[str, type[Any]] = {}
    for parameter in inspect.signature(verb).parameters.values():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        bundles[parameter.name] = parameter.annotation  # type: ignore[assignment]
        for field in fields(parameter.annotation):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(field.name, kind, default=default, annotation=field.type))

    @wraps(verb)
    def run(**values: Any) -> None:
        whole = {name: bundle(**{f.name: values.pop(f.name) for f in fields(bundle)}) for name, bundle in bundles.items()}
        verb(**values, **whole)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


# ---- values that are more than a word -------------------------------------------------------------------------------


def share(text: object) -> float:
    """A share: 0.1 of "10%" or "0.1"."""
    number = str(text)
    try:
        return float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        raise InputError(repr(text), expected="a share such as 10% or 0.1") from None


def place(text: object) -> Path:
    """A path; a URL stays a text, which every verb takes as well."""
    return cast(Path, text) if "://" in str(text) else Path(str(text))


def number_of_bytes(text: object) -> int:
    """Bytes of "300M", "2G" or "1.5GB"."""
    whole = str(text).upper().removesuffix("B")
    number = whole.rstrip("KMGT")
    try:
        count = int(float(number) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[whole[len(number) :]])
    except (KeyError, ValueError, OverflowError):
        count = 0
    if count < 1:
        raise InputError(repr(text), expected="a size such as 300M or 2G")
    return count


def numbers(name: str, text: str) -> list[int]:
    """The whole numbers of "2,3", the value of the argument `name`."""
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise InputError(repr(text), parameter=name, expected="numbers such as 2,3")
    return [int(part) for part in text.split(",")]


def listed(null: bool) -> Iterator[str]:
    """Names on standard input as they come: one a line, or each ended by NUL; they need not be UTF-8."""
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


# ---- single options -------------------------------------------------------------------------------------------------

Store = Annotated[
    Path,
    typer.Option(
        "--store",
        metavar="STORE",
        envvar="PATCHCLI_STORE",
        parser=place,
        help="Zarr group that holds everything learned: a folder, or s3://bucket/key.zarr.",
    ),
]
STORE = Path("patchcli.zarr")
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what the store already contains.")]
Format = Annotated[
    FormatName | None, typer.Option("--format", help="Output format. [default: table on a terminal, jsonl in a pipe]")
]
Null = Annotated[bool, typer.Option("--null", "-0", help="With -: names end in NUL, as find -print0 writes them.")]
SEED = typer.Option("--seed", metavar="N", rich_help_panel=COMPUTATION, help="Seed of the random numbers.")
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        rich_help_panel=COMPUTATION,
        help="CPU threads of each step; reading, embedding, searching and writing overlap. To run several jobs on one "
        "machine, share out its cores. [default: all cores]",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write anomaly maps (float32 TIFF) below this folder.")]


# ---- options that belong together -----------------------------------------------------------------------------------

Layout = Annotated[
    LayoutName | None,
    typer.Option(
        "--layout",
        metavar="NAME",
        rich_help_panel=IMAGES,
        help=f"Layout of DATA: {', '.join([*LAYOUTS][:-1])} or {[*LAYOUTS][-1]}. [default: the first that fits]",
    ),
]
Bits = Annotated[
    int | None,
    typer.Option(
        "--bits",
        metavar="8-16",
        rich_help_panel=IMAGES,
        help="Bits that the camera uses in 16-bit files. [default: as the files declare, else as their values need]",
    ),
]
Large = Annotated[bool, typer.Option("--large", rich_help_panel=IMAGES, help="Also read images of more than 178 megapixels.")]
MaskThreshold = Annotated[
    int | None,
    typer.Option(
        "--mask-threshold",
        metavar="VALUE",
        rich_help_panel=IMAGES,
        help="Mask values above this count as marked, in --roi too. [default: 0 for masks of labels, else half of their range]",
    ),
]


@dataclass(frozen=True)
class Extraction:
    """How the good images of a data set are read."""

    layout: Layout = None
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="SIZE",
            rich_help_panel=IMAGES,
            help="Working size in pixels: N or HxW stretches the images, fit:HxW keeps their aspect ratio and mirrors the "
            "margin, keep:N scales the shorter side to N, native keeps their own size. [default: the images' aspect ratio, "
            "and a shorter side of 256, or theirs if that is smaller, down to 128; with --objective paper: 256]",
        ),
    ] = None
    holdout: Annotated[
        float | None,
        typer.Option(
            "--holdout",
            metavar="SHARE",
            parser=share,
            rich_help_panel=IMAGES,
            help="Reserve this share of the good images (such as 20%) for patchcli calibrate.",
        ),
    ] = None
    bits: Bits = None
    large: Large = False

    def options(self) -> "ImageOptions":
        """The same for the library."""
        from patchcli.verbs.extraction import ImageOptions

        return ImageOptions(**vars(self))


@dataclass(frozen=True)
class Images:
    """What counts in an image."""

    roi: Annotated[
        Path | None,
        typer.Option(
            "--roi",
            metavar="MASK",
            rich_help_panel=IMAGES,
            help="Score only where this mask image is non-zero. It needs the size or aspect ratio of the images. Thresholds "
            "calibrated with a mask hold only with that mask; thresholds calibrated without one hold with any.",
        ),
    ] = None
    mask_threshold: MaskThreshold = None
    large: Large = False


@dataclass(frozen=True)
class Regions(Images):
    """What counts as a region."""

    min_area: Annotated[
        int,
        typer.Option(
            "--min-area",
            metavar="PIXELS",
            rich_help_panel=IMAGES,
            help="Leave out smaller regions. The verdict depends on the score alone.",
        ),
    ] = 1
    mm_per_pixel: Annotated[
        float | None,
        typer.Option("--mm-per-pixel", metavar="MM", rich_help_panel=IMAGES, help="Side of a pixel in mm; adds areas in mm²."),
    ] = None

    def options(self) -> "RegionOptions":
        """The same for the library."""
        from patchcli.detection.regions import RegionOptions

        return RegionOptions(self.min_area, self.mm_per_pixel)


@dataclass(frozen=True)
class Device:
    """Where to compute."""

    device: Annotated[
        DeviceName, typer.Option("--device", rich_help_panel=COMPUTATION, help="auto takes the GPU if there is one.")
    ] = "auto"
    threads: Threads = None


@dataclass(frozen=True)
class Budget(Device):
    """Where to compute, with how much memory."""

    memory: Annotated[
        int | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            parser=number_of_bytes,
            rich_help_panel=COMPUTATION,
            help="Memory for the bank, such as 300M or 2G. [default: half of the free memory]",
        ),
    ] = None


@dataclass(frozen=True)
class Search(Budget):
    """How to find the nearest patches of the bank."""

    search: Annotated[
        SearchName,
        typer.Option(
            "--search",
            rich_help_panel=COMPUTATION,
            help="Nearest-neighbour search; all are exact. auto takes keops on a GPU and pruned on a CPU, or brute where these "
            "cannot work well.",
        ),
    ] = "auto"
    precision: Annotated[
        PrecisionName,
        typer.Option(
            "--precision",
            rich_help_panel=COMPUTATION,
            help="Number format of the encoder. auto is that of the bank; a different one is refused.",
        ),
    ] = "auto"


def setup(search: Search, images: Images | None = None) -> "Setup":
    """How to open the detector."""
    from patchcli.datasets.roi import Roi
    from patchcli.detection.detector import Setup

    images = images or Images()
    roi = None if images.roi is None else Roi.read(images.roi, images.mask_threshold, images.large)
    return Setup(roi=roi, large=images.large, **vars(search))


@dataclass(frozen=True)
class Workers:
    """Who works."""

    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            rich_help_panel=COMPUTATION,
            help="Work in this many processes, each with --threads or an equal share of the cores. [default: in this one]",
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="ADDRESS",
            rich_help_panel=COMPUTATION,
            help="Work on a Dask cluster: the address of its scheduler (tcp://host:8786), or the file that it wrote.",
        ),
    ] = None

    def cluster(self) -> "Cluster | None":
        """The same for the library."""
        from patchcli.cluster import Cluster

        return Cluster(**vars(self)) if vars(self) != vars(type(self)()) else None


@dataclass(frozen=True)
class Searchers(Workers):
    """Who works, and how what is searched for is spread over them."""

    spread: Annotated[
        SpreadName,
        typer.Option(
            "--spread",
            rich_help_panel=COMPUTATION,
            help="images: each worker has the whole bank and takes some of the images; shards: each has a share of the bank "
            "and sees every image; auto: shards if the workers' banks do not fit in memory.",
        ),
    ] = "auto"


PART = re.compile(r"(\d+)/(\d+)")
Part = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="N/COUNT",
        rich_help_panel=COMPUTATION,
        help="Do one part of the work only, such as 3/40: an array job.",
    ),
]


def part(text: str) -> tuple[int, int]:
    """The numbers of "3/40"."""
    if (found := PART.fullmatch(text)) is None:
        raise InputError(repr(text), parameter="part", expected="a part such as 3/40")
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class Messages:
    """How much a verb says."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=MESSAGES, help="Print no progress and no notes.")] = (
        False
    )
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", rich_help_panel=MESSAGES, help="Print details, and tracebacks of errors.")
    ] = False


@dataclass(frozen=True)
class Planned(Messages):
    """How much a verb says, and whether it only says what it would do."""

    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            "-n",
            rich_help_panel=MESSAGES,
            help="Check all input and print what would be read and written; write nothing.",
        ),
    ] = False
