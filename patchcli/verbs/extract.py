"""Data set → images in a store."""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from patchcli import files
from patchcli.datasets import images, layouts
from patchcli.datasets.images import Canvas, Reader
from patchcli.datasets.layouts import Sample
from patchcli.errors import InputError, StoreError
from patchcli.features.grid import PatchGrid
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.observer import Observer
from patchcli.store import Source, Store, check_replaceable, existing, locked
from patchcli.verbs.data import Remarks, depth
from patchcli.verbs.outputs import below

SIDE = 256  # of the working size
ASPECT = 0.01  # by how much aspect ratios of images that are alike may differ


@dataclass(frozen=True)
class Extracted:
    """What a store holds after `extract`, or will hold after a dry run."""

    images: int
    height: int
    width: int
    fresh: bool  # False where the store already held these images
    held_out: int  # good images that were set aside for calibration
    bits: int  # the depth of the images

    @property
    def bytes(self) -> int:
        """What the images take on disk at most."""
        return self.images * self.height * self.width * 3 * (1 if self.bits == 8 else 2) if self.fresh else 0


def extract(
    data: Path | str,
    store: Path | str = "patchcli.zarr",
    size: tuple[int, int] | str | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
    layout: str | None = None,
    holdout: float | None = None,
    bits: int | None = None,
    large: bool = False,
    check: Callable[[Store | None, Canvas], object] = lambda _present, _canvas: None,
) -> Extracted:
    """Read the training images of `data`, resize them to `size` (height, width) and write a new store.

    `data` is a folder or a manifest; without `layout`, the first that fits is taken. `size` may be a text: "256" or
    "256x320"; "fit:256x320", images within that with their aspect ratio, the rest filled with their reflection; "native",
    the images' own, or "keep:256", that shorter side with their aspect ratio, which both need images that are alike.
    A store that already holds the same images is left as it is, also with `overwrite`. What cannot be decoded is
    reported to the observer and left out; in a dry run that is all. A share `holdout` of the images is set aside: neither
    trained with nor in the bank, `calibrate` uses them. `bits`, 8 to 16, is how many bits of 16-bit files the camera fills;
    without it the files say so, or the highest value of all does. `large` images have more than decoding.LIMIT pixels.
    `check` may refuse, before anything is written, the store that is left as it is, if there is one, and the working size.
    Raises InputError (no usable images), StoreError (another data set there).
    """
    observer = observer or Observer()
    store = Path(store)
    if bits is not None:
        images.check_bits(bits)
    dataset = layouts.read(Path(data), layout)
    for line in dataset.problems:
        observer.problem(line)
    check_replaceable(store, overwrite=True)  # no lock file goes into a folder that is no store
    manifest = dataset.manifest()
    wanted = None if size is None else _canvas(size, dataset.split("train"))
    if holdout is not None and not 0 <= holdout < 1:
        raise InputError(f"--holdout: expected a share from 0 to below 100%, found {100 * holdout:g}%")
    aside = {} if holdout is None else dataset.set_aside(holdout)
    with locked(store, observer, create=True):
        repair = False
        if existing(store):
            try:
                with Store.writing(store, observer) as opened:
                    _check_same(opened, dataset, manifest, wanted, None if holdout is None else aside, bits)
                    repair = overwrite and any(opened.check("images"))
                    check(opened, opened.canvas)
                    if not repair:
                        if not observer.dry:
                            _remember(opened, dataset, large)
                        count, height, width, _ = opened.images.shape
                        return Extracted(count, height, width, False, len(opened.source.holdout), opened.source.reader.bits)
                    wanted, aside, bits = opened.canvas, opened.source.holdout, opened.source.reader.bits
            except StoreError:
                if not overwrite:
                    raise
        canvas = wanted or Canvas(SIDE, SIDE)
        check(None, canvas)
        height, width = canvas.height, canvas.width
        samples = [sample for sample in dataset.split("train") if sample.id not in aside]
        if holdout and (not aside or len(samples) < 2):
            found = f"{len(aside)} of {len(aside) + len(samples)} good images"
            expected = "expected one image held out and two others at least"
            raise InputError(f"--holdout {100 * holdout:g}%: {expected}, found {found}")
        if alike := dataset.duplicates():
            first = f"{alike[0][0].id} and {alike[0][1].id}"
            observer.note(f"images that are there more than once: {len(alike)}, such as {first}; see: patchcli data {data}")

        if bits is None:
            found_depth = depth(samples, large)
            bits = found_depth.bits
            if not found_depth.stated:
                found = f"16-bit files with values up to {found_depth.highest}: taken as {bits} bits"
                observer.note(f"{found}; if the camera has more, give --bits")
        reader, remarks = Reader(bits, large), Remarks(observer)

        def decoded() -> Iterator[tuple[str, tuple[int, int], Any]]:
            for done, sample in enumerate(samples, 1):
                try:
                    pixels = reader.read(sample.path, remarks)
                except InputError as error:
                    observer.problem(str(error))
                else:
                    size = pixels.shape[0], pixels.shape[1]
                    if canvas.distorts(*size):
                        kept = f"--size fit:{height}x{width} keeps the aspect ratio"
                        remarks(sample.path, f"stretched to {height}x{width}; {kept}")
                    yield sample.id, size, canvas.fit(pixels)
                observer.progress("extract", done, len(samples))
            remarks.close()

        source = Source(
            root=str(dataset.root),
            layout=dataset.layout,
            category=dataset.category,
            manifest=manifest,
            holdout=aside,
            keeps_aspect=canvas.keeps_aspect,
            size=(height, width),
            bits=bits,
            large=large,
        )

        def check_count(count: int) -> None:
            if count < 2:
                found = f"{count} of {len(samples)} files could be read"
                raise InputError(f"{dataset.root}: expected at least 2 good images (their mean is subtracted), {found}")

        if observer.dry:
            check_replaceable(store, overwrite)
            check_count(count := sum(1 for _ in decoded()))
            return Extracted(count, height, width, True, len(aside), bits)
        with Store.creating(store, source, overwrite, observer, repair) as new:
            check_count(count := new.write_images(decoded(), height, width))
        return Extracted(count, height, width, True, len(aside), bits)


def _canvas(size: tuple[int, int] | str, samples: Sequence[Sample]) -> Canvas:
    """What `size` asks for, as `extract` says."""
    if isinstance(size, str) and (size == "native" or re.fullmatch(r"keep:\d+", size)):
        size = _own_size(samples, size)
    fits = isinstance(size, str) and size.startswith("fit:")
    if isinstance(size, str):
        sides = size.removeprefix("fit:").lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() for side in sides):
            expected = "256, 256x320 (height x width), fit:256x320, keep:256 or native"
            raise InputError(f"--size: expected {expected}, found {size!r}")
        size = int(sides[0]), int(sides[-1])
    smallest = max(scale.K for scale in HierarchicalEncoder.scales.values())
    if min(size) < smallest:
        raise InputError(f"--size: expected at least {smallest}x{smallest}, the larger patch; found {size[0]}x{size[1]}")
    return Canvas(*size, keeps_aspect=fits)


def _own_size(samples: Sequence[Sample], wanted: str) -> tuple[int, int]:
    """(height, width) for "native" or "keep:N", from the heads of the images; those that cannot be read do not count."""
    sizes: Counter[tuple[int, int]] = Counter()
    for sample in samples:
        with contextlib.suppress(InputError):
            sizes[images.size(sample.path)] += 1
    (height, width), most = sizes.most_common(1)[0] if sizes else ((SIDE, SIDE), 0)
    ratios = [own_width * height / (own_height * width) for own_height, own_width in sizes]
    if len(sizes) > 1 if wanted == "native" else max(ratios, default=1) - min(ratios, default=1) > ASPECT:
        alike = "size" if wanted == "native" else "aspect ratio"
        found = f"{most} of {sum(sizes.values())} have {height}x{width} (height x width)"
        raise InputError(f"--size {wanted}: expected good images of one {alike}, found {found}; give --size fit:HEIGHTxWIDTH")
    if wanted == "native":
        return height, width
    scale = int(wanted.removeprefix("keep:")) / min(height, width)
    return round(height * scale), round(width * scale)


def _check_same(
    store: Store,
    dataset: layouts.Dataset,
    manifest: str,
    wanted: Canvas | None,
    aside: dict[str, str] | None,
    bits: int | None,
) -> None:
    """Refuse a store that holds other images than these."""
    held = store.canvas
    advice = "name another with --store, or replace it with --overwrite"
    if store.source.manifest != manifest:
        found = f"the store holds images of {store.source.root}, not (or no longer) those of {dataset.root}"
        raise StoreError(f"{store.path}: {found}; {advice}")
    if aside not in (None, store.source.holdout):
        found = f"the store holds {len(store.source.holdout)} other images out than these {len(aside or ())} (--holdout)"
        raise StoreError(f"{store.path}: {found}; {advice}")
    if bits not in (None, store.source.reader.bits):
        found = f"the store's images have {store.source.reader.bits} bits, not {bits}"
        raise StoreError(f"{store.path}: {found}; {advice}")
    if wanted not in (None, held):
        found = f"the store's images are {_said(held)}, not {_said(wanted)}"
        raise StoreError(f"{store.path}: {found}; {advice}")


def _said(canvas: Canvas) -> str:
    how = "fitted into" if canvas.keeps_aspect else "height x width"
    return f"{canvas.height}x{canvas.width} ({how})"


def _remember(store: Store, dataset: layouts.Dataset, large: bool) -> None:
    """The same images at another place or in another layout: follow them, so that `score` finds the test images."""
    large = store.source.reader.lifted(large).large
    now = replace(store.source, root=str(dataset.root), layout=dataset.layout, large=large)
    if now != store.source:
        store.update_source(now)


def cut_patches(
    store: Path | str, folder: Path, names: Sequence[str] = (), scale: str = "big", observer: Observer | None = None
) -> int:
    """Write the patches of chosen training images (default: the first) as PNG below `folder`; how many."""
    opened = Store.open(store)
    ids = opened.images.ids
    scales = HierarchicalEncoder.scales
    if scale not in scales:
        raise InputError(f"--scale: expected {' or '.join(scales)}, found {scale!r}")
    unknown = [name for name in names if name not in ids]
    if unknown:
        raise InputError(f"--image {unknown[0]}: not in the store; expected an id such as {ids[0]}")
    files.target("--patches", folder)
    _, height, width, _ = opened.images.shape
    grid = PatchGrid(height, width, scales[scale].K, scales[scale].S)
    names = names or ids[:1]
    (observer or Observer()).plan(f"{len(names)} images of {store}", f"{len(names) * grid.patches} patches below {folder}")
    for name in names:
        number = ids.index(name)
        pixels = images.shown(opened.images.read(number, number + 1)[0])
        target = below(folder, name).with_suffix("")
        target.mkdir(parents=True, exist_ok=True)
        for y in grid.ys:
            for x in grid.xs:
                images.write_png(target / f"{scale}_y{y:04d}_x{x:04d}.png", pixels[y : y + grid.K, x : x + grid.K])
    return len(names) * grid.patches
