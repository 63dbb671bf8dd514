"""Images and bank → anomaly maps and one record an image."""

import contextlib
import datetime
import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

from patchcli import files, runtime
from patchcli.bank import pages as paged
from patchcli.bank import search as neighbours
from patchcli.datasets import images, layouts
from patchcli.datasets.images import Canvas, Pixels, Read, Reader
from patchcli.datasets.layouts import Sample
from patchcli.datasets.roi import Roi
from patchcli.detection import regions
from patchcli.detection.calibration import Calibration
from patchcli.detection.detector import Embedded, Scored, Scorer
from patchcli.detection.regions import Found, Region
from patchcli.errors import DamagedError, IncompleteError, InputError, StoreError
from patchcli.observer import Observer
from patchcli.reporting import pictures as report
from patchcli.store import Store, Thresholds
from patchcli.verbs.data import Remarks, mask_rule, read_mask
from patchcli.verbs.outputs import Places, below, check_apart, unwritable
from patchcli.verbs.sources import Paths, all_samples, by_path, dataset, named

SCHEMA = "patchcli.score/1"
BATCH = 8  # images that are searched for together,
PIXELS = 8_000_000  # if they have no more than so many at the working size: features take 16 times the memory of a picture
# What it takes of memory beside the bank, in bytes, as measured (peak RSS with images of 1, 10 and 30 megapixels).
PROGRAM = 500_000_000
FEATURES = 48  # a pixel of the working size, of each image that is searched for at once
DECODED, MAP, OVERLAY = 4, 4, 11  # a pixel of the largest image; with maps, and with overlays, at its size
MVTEC2 = "mvtec-ad-2"
NOTHING = "no image could be scored; expected png, jpg, bmp, tif or webp files"


@dataclass(frozen=True)
class Record:
    """What is said of one scored image; coordinates are original pixels, x to the right and y down."""

    schema: str
    image: str  # the path as given, where one was given, so that it can be opened; else the id
    id: str  # of an image of the data set: its path below the root; of another, the path as given
    score: float  # maximum of the product map; higher is more anomalous
    score_big: float  # maximum of the K=64 map
    score_small: float | None  # maximum of the K=32 map; None for the flat encoder
    verdict: str | None  # pass, review or reject; None, as the next three, without a calibration that holds
    threshold: float | None  # a higher score is rejected
    p_value: float | None  # how unusual the score is among good images'
    regions: list[Region] | None  # connected areas of the map above the pixel threshold, the highest peak first
    peak_x: int
    peak_y: int
    nearest_image: str  # training image with the normal patch that is nearest to the patch at the peak
    nearest_x: int  # that patch's top left corner and size
    nearest_y: int
    nearest_width: int
    nearest_height: int
    patch_x: int  # the patch at the peak that it is nearest to: the one, of those there, that is farthest from normal
    patch_y: int
    patch_width: int
    patch_height: int
    map: str | None  # float32 TIFF at the image's original size
    overlay: str | None  # PNG, on the calibration's scale; else on the run's, written when all images are scored
    distance_error: float  # by how much a patch's distance may be off at most: 0 unless the bank is thinned or float16
    encoder: str  # sha256 of the weights, as in the store
    bank: str  # sha256 of what the bank was made from: encoder, images and thinning
    time: str = field(compare=False)  # when the image was scored, ISO 8601 with the offset from UTC


def score(
    store: Path | str = "patchcli.zarr",
    paths: Paths | None = None,
    *,
    out: Path | str | None = None,
    overlay: bool = False,
    batch: int = BATCH,
    device: str = "auto",
    search: str = "auto",
    memory: int | None = None,
    threads: int | None = None,
    calibrated: bool = False,
    roi: Path | str | None = None,
    min_area: int = 1,
    mm_per_pixel: float | None = None,
    regions_out: Path | str | None = None,
    submission: str | None = None,
    mask_threshold: int | None = None,
    large: bool = False,
    each: Callable[[Sample, Record], None] | None = None,
    endless: bool = False,
    read: Read | None = None,
    observer: Observer | None = None,
) -> Iterator[Record]:
    """Score images (Algorithm 2): the given files and folders, one or many, or the test images of the store's data set.

    Yields a record an image as soon as its batch is scored; what cannot be read is reported to the observer and left
    out. With `out`, maps are written below it in the data set's layout. Input is checked before the first record.
    `calibrated` refuses a store without a calibration that holds for its bank; else there are no verdicts.

    `roi` is a mask image, of the images' size or aspect ratio: what is 0 there does not count, and maps are 0. Regions of
    fewer than `min_area` pixels are left out, whatever the verdict, which is of the score alone; areas in mm² need
    `mm_per_pixel`. `regions_out`, a .csv or .json (COCO) file, gets the regions of all images when the last is scored.
    These three need a calibration too, and so does `submission`, "mvtec-ad-2": then it is the private test images that are
    scored, and `out` gets what that benchmark's server takes (float16 maps, in multiples of the pixel threshold, and
    pictures of what is above it). `each` is called with sample and record before a record is yielded. `endless` paths may
    name nothing, and what is scored is not remembered. `read` gives an image file's pixels, as images.Reader does. Values of
    masks above `mask_threshold` are defects; without it, see masks.Rule. `large` images have more than decoding.LIMIT pixels.
    """
    observer = observer or Observer()
    runtime.set_threads(threads)
    target = runtime.device(device)
    folder = None if out is None else files.target("--out", out)
    if folder is None and (overlay or submission):
        raise InputError(f"{'--overlay' if overlay else '--submission'}: expected --out DIR too, where the files go")
    if submission not in (None, MVTEC2):
        raise InputError(f"--submission: expected {MVTEC2}, found {submission!r}")
    if submission and (overlay or paths is not None):
        raise InputError("--submission: scores the private test images, and draws nothing; leave PATHS and --overlay out")
    if min_area < 1:
        raise InputError(f"--min-area: expected 1 pixel or more, found {min_area}")
    if mm_per_pixel is not None and not (mm_per_pixel > 0 and 0 < mm_per_pixel * mm_per_pixel < math.inf):
        raise InputError(f"--mm-per-pixel: expected the size of a pixel in mm, above 0, found {mm_per_pixel:g}")
    table = None if regions_out is None else files.target("--regions", regions_out, *regions.SUFFIXES)
    interest = None if roi is None else Roi.read(roi, mask_threshold, large)
    opened = Store.open(store)
    if paths is None:
        data = dataset(opened)
        for line in data.problems:
            observer.problem(line)
        every = data.samples
        tests = [sample for sample in every if sample.split in (layouts.PRIVATE if submission else ("test",))]
        if not tests:
            root, wanted = opened.source.root, "name images or folders to score, or - for a list on stdin"
            if submission:
                wanted = f"expected those of MVTec AD 2: {' and '.join(layouts.PRIVATE)}"
            raise InputError(f"{root}: no {'private ' * bool(submission)}test images there; {wanted}")
        samples: Iterator[Sample] = iter(tests)
        total: int | None = len(tests)
    else:
        every = all_samples(opened)
        samples, total = named(paths, by_path(every), observer), None
    if folder is not None:
        check_apart("--out", folder, "another folder, such as maps/", opened, every)
    if table is not None:
        check_apart("--regions", table, "another place", opened, every)
    base = folder / "anomaly_images" / opened.source.category if submission and folder is not None else folder
    places = None if base is None else Places(base, every, endless)
    scorer = make_scorer(opened, target, search, memory, observer, interest, large)
    read_image = read or scorer.reader.read
    rule = mask_rule(every if overlay else (), mask_threshold, large)
    needed = calibrated or table is not None or min_area > 1 or mm_per_pixel is not None or submission is not None
    calibration = calibration_of(opened, interest, "no verdicts", observer, needed)
    scale = None if calibration is None else colour_scale(calibration.thresholds, ())
    if overlay and endless and scale is None:
        raise InputError("--overlay: there is no scale for the colours yet; run: patchcli calibrate")
    sha256, category = opened.encoder.attributes.sha256, opened.source.category
    identity = scorer.bank.identity

    error = max(scorer.bound.values())
    provenance: dict[str, str | float] = {"encoder": sha256, "bank": identity, "distance_error": error}
    if calibration is not None:
        provenance["pixel_threshold"] = calibration.thresholds.pixel_threshold
    if interest is not None:
        provenance["roi"] = interest.sha256

    if observer.dry:
        usable = list(readable(samples, interest, scorer.reader, observer))
        if not usable and not endless:
            raise InputError(NOTHING)
        if places is not None:
            for sample, _ in usable:
                places.of(sample)
        pictures = " and overlays" * overlay + " and what is above the threshold" * bool(submission)
        outputs = [f"{len(usable)} maps{pictures} below {folder}"] * (folder is not None)
        outputs += [str(table)] * (table is not None)
        disk = sum(4 * height * width for _, (height, width) in usable) if folder is not None else 0
        observer.plan(f"{len(usable)} images", " and ".join(outputs) or "no file", disk)
    if calibration is None and not opened.holds("calibration"):
        observer.note("no verdicts: not calibrated; run: patchcli calibrate")

    def write(sample: Sample, map_path: Path, values: NDArray[np.float32], picture: Path | None) -> None:
        if submission and folder is not None and calibration is not None:
            above = below(folder / "anomaly_images_thresholded" / category, sample.id).with_suffix(".png")
            _submit(map_path, above, values, calibration.thresholds.pixel_threshold)
            return
        write_map(map_path, values, {"image": sample.image, "id": sample.id, **provenance})
        if picture is not None and scale is not None:
            draw(sample, values, picture, scale)

    def draw(sample: Sample, values: NDArray[np.float32], picture: Path, colours: report.ColourScale) -> None:
        mask = read_mask(sample, values.shape, rule, observer)
        images.write_png(picture, report.overlay(read_image(sample.path, None), values, mask, colours))

    def finished(sample: Sample, record: Record, written: Future[None] | None) -> Record:
        if written is not None:
            written.result()
        if each is not None:
            each(sample, record)
        return record

    def run() -> Iterator[Record]:
        drawn: list[tuple[Sample, Path, Path, float]] = []
        found: list[Found] = []
        banked = _Banked(opened, scorer, read_image)
        done = 0
        if folder is not None:
            files.sweep(folder, "**/.*.part")
        with ThreadPoolExecutor(1) as writer:
            waiting: deque[tuple[Sample, Record, Future[None] | None]] = deque()
            announced = _announced(scorer, samples, batch, MAP * (folder is not None) + OVERLAY * overlay, observer)
            pending: deque[int] = deque()  # pixels of the maps that wait
            for sample, result in scored(scorer, announced, batch, observer, read_image):
                map_path = None if places is None else places.of(sample)
                if map_path is not None and (why := unwritable(map_path)):
                    observer.problem(f"{files.shown(Path(sample.image))}: there can be no file for its map ({why})")
                    continue
                picture = written = areas = None
                if calibration is not None or folder is not None:
                    values = original_size(result)
                if calibration is not None:
                    areas = regions.find(values, calibration.thresholds.pixel_threshold, min_area, mm_per_pixel)
                    if table is not None:
                        found.append((sample.image, sample.id, result.size, areas))
                if map_path is not None:
                    picture = map_path.with_suffix(".png") if overlay else None
                    written = writer.submit(write, sample, map_path, values, picture)
                    if picture is not None and scale is None:
                        drawn.append((sample, map_path, picture, float(np.median(result.inside()))))
                record = _record(sample, result, areas, calibration, map_path, picture, error, sha256, identity)
                waiting.append((sample, record, written))
                pending.append(result.size[0] * result.size[1])
                while len(waiting) >= batch or (written and sum(pending) > PIXELS):
                    pending.popleft()
                    yield finished(*waiting.popleft())  # a record is out when its map is there
                done += 1
                banked.look(sample, record.score)
                observer.progress("score", done, total, sample.image)
            while waiting:
                yield finished(*waiting.popleft())
        if not done and not endless:
            raise InputError(NOTHING)
        banked.tell(observer)
        if table is not None:
            regions.write(table, found)
        if drawn:
            run_scale = colour_scale(None, ((typical, float(tifffile.imread(path).max())) for _, path, _, typical in drawn))
            for count, (sample, path, picture, _) in enumerate(drawn, 1):
                draw(sample, tifffile.imread(path), picture, run_scale)
                observer.progress("overlay", count, len(drawn))

    return run()


class _Banked:
    """Which of the images that are scored are in the bank: by id, and of those that score 0 by their pixels."""

    def __init__(self, store: Store, scorer: Scorer, read: Read) -> None:
        self._store, self._canvas, self._read = store, scorer.canvas, read
        self._root, self._ids = Path(store.source.root), set(scorer.ids)
        self._names: list[str] = []
        self._zero: dict[bytes, list[str]] = {}  # pixels' digest → images

    def look(self, sample: Sample, score: float) -> None:
        """Take note of an image that was scored."""
        full = files.real(sample.path)
        inside = images.printable(full.relative_to(self._root)) if full.is_relative_to(self._root) else sample.id
        if {sample.id, inside} & self._ids:
            self._names.append(sample.image)
        elif score == 0:
            with contextlib.suppress(InputError):  # gone by now
                pixels = self._canvas.fit(self._read(sample.path, None))
                self._zero.setdefault(_digest(pixels), []).append(sample.image)

    def tell(self, observer: Observer) -> None:
        """Say how many there were."""
        for number in range(self._store.images.shape[0]) if self._zero else ():
            self._names += self._zero.pop(_digest(self._store.images.read(number, number + 1)[0]), [])
        if self._names:
            found = f"{len(self._names)} of these images are in the bank (first: {self._names[0]})"
            observer.note(f"{found}: they score 0, or nearly, which says nothing; see: patchcli bank audit")


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(pixels.tobytes()).digest()


def calibration_of(store: Store, roi: Roi | None, without: str, observer: Observer, needed: bool = False) -> Calibration | None:
    """The store's calibration; where it is of another bank or region of interest, None, or an error if it is needed.

    A note says what there is not `without` it.
    """
    try:
        stored = store.calibration
        found = Calibration(stored.thresholds, stored.scores)
        found.check_roi(roi.sha256 if roi else None)
    except StoreError as error:
        if needed or isinstance(error, DamagedError):
            raise
        if not isinstance(error, IncompleteError):
            observer.note(f"{without}: {error}")
        return None
    return found


def make_scorer(
    store: Store,
    device: torch.device,
    search: str,
    memory: int | None,
    observer: Observer,
    roi: Roi | None = None,
    large: bool = False,
) -> Scorer:
    """A scorer with the search that is asked for, or the exact way that is there; says what memory the bank takes."""
    budget = runtime.memory(memory)
    attributes = store.encoder.attributes
    if trouble := attributes.trouble:  # embed was made to take it
        observer.note(f"the encoder may be of no use: {trouble}")
    method, why = neighbours.choose(search, device, attributes.D)
    if why:
        observer.note(why)
    scorer = Scorer(store, device, method, budget, roi, large)
    needed = paged.total_memory(scorer.bank)
    if needed <= budget:
        observer.detail(f"the bank takes {runtime.megabytes(needed)} of memory")
    else:
        found = f"the bank would take {runtime.megabytes(needed)} of memory, {runtime.megabytes(budget)} may be used"
        observer.note(f"{found}: parts of it are read anew for every batch, with the same maps")
    return scorer


@dataclass(frozen=True)
class _Decoded:
    """An image at the working size of a canvas, so that of large ones only one is in memory at a time."""

    sample: Sample
    size: tuple[int, int]  # original (height, width)
    pixels: Pixels
    remarks: list[tuple[Path, str]]


def _decoded(
    samples: Iterable[Sample], roi: Roi | None, read: Read, canvas: Canvas | None = None
) -> Iterator[_Decoded | InputError]:
    for sample in samples:
        remarks: list[tuple[Path, str]] = []
        try:
            pixels = read(sample.path, lambda *one, into=remarks: into.append(one))
            size = pixels.shape[0], pixels.shape[1]
            if roi is not None:
                roi.check(sample.path, *size)
            yield _Decoded(sample, size, canvas.fit(pixels) if canvas else pixels[:0], remarks)
        except InputError as error:
            yield error


def readable(
    samples: Iterable[Sample], roi: Roi | None, reader: Reader, observer: Observer
) -> Iterator[tuple[Sample, tuple[int, int]]]:
    """The samples that `scored` would score, with (height, width); what cannot be read is reported and left out."""
    for one in _decoded(samples, roi, reader.read):
        if isinstance(one, InputError):
            observer.problem(str(one))
        else:
            yield one.sample, one.size


def _at_once(scorer: Scorer, batch: int) -> int:
    """How many images are searched for together."""
    return max(1, min(batch, PIXELS // (scorer.canvas.height * scorer.canvas.width)))


def _announced(scorer: Scorer, samples: Iterable[Sample], batch: int, written: int, observer: Observer) -> Iterator[Sample]:
    """The same samples; says beforehand what memory they need, of which `written` bytes a pixel of the largest."""
    samples, said, batch = iter(samples), 0, _at_once(scorer, batch)
    while group := list(islice(samples, batch)):
        sizes = []
        for sample in group:
            with contextlib.suppress(InputError):
                sizes.append(images.size(sample.path))
        if sizes:
            height, width = max(sizes, key=lambda size: size[0] * size[1])
            own = FEATURES * len(sizes) * scorer.canvas.height * scorer.canvas.width + (DECODED + written) * height * width
            if own > 1.25 * said:
                said = own
                whole = PROGRAM + min(scorer.memory, paged.total_memory(scorer.bank)) + own
                found = f"images of up to {width}x{height} pixels need about {runtime.megabytes(whole)} of memory in all"
                if own > (free := runtime.free_memory()):
                    observer.note(f"{found}, {runtime.megabytes(own)} of it for themselves; {runtime.megabytes(free)} are free")
                else:
                    observer.detail(found)
        yield from group


def scored(
    scorer: Scorer, samples: Iterable[Sample], batch: int, observer: Observer, read: Read | None = None
) -> Iterator[tuple[Sample, Scored]]:
    """Decode and score samples, `batch` at a time; what cannot be read is reported and left out.

    The next images are decoded and embedded while these are searched for; one at a time, each is answered at once.
    """
    batch = _at_once(scorer, batch)
    remarks, aspects = Remarks(observer), [width / height for height, width in scorer.sizes]

    def together(group: list[_Decoded]) -> tuple[list[_Decoded], Embedded]:
        return group, scorer.embed_stored(np.stack([one.pixels for one in group]), [one.size for one in group])

    def embedded() -> Iterator[tuple[list[_Decoded], Embedded | InputError]]:
        group: list[_Decoded] = []
        for one in _decoded(samples, scorer.roi, read or scorer.reader.read, scorer.canvas):
            if isinstance(one, InputError):
                yield [], one
                continue
            group.append(one)
            if len(group) == batch:
                yield together(group)
                group = []
        if group:
            yield together(group)

    for group, found in embedded() if batch == 1 else runtime.ahead(embedded()):
        if isinstance(found, InputError):
            observer.problem(str(found))
            continue
        for one, result in zip(group, scorer.compare(found), strict=True):
            for remark in one.remarks:
                remarks(*remark)
            aspect = one.size[1] / one.size[0]
            nearest = min(max(aspect, min(aspects)), max(aspects))
            if not scorer.canvas.keeps_aspect and images.unlike(aspect, nearest):
                advice = "extract with --size fit:HxW to keep it"
                remarks(one.sample.path, f"stretched, and no good image has its aspect ratio; {advice}")
            yield one.sample, result
    remarks.close()


def original_size(result: Scored, name: str = "multi") -> NDArray[np.float32]:
    """A map brought to the image's original size; 0 outside of the region of interest."""
    values = images.resize_map(result.maps[name], *result.size)
    return values if result.roi is None else np.where(result.roi.at(*result.size), values, np.float32(0))


def write_map(path: Path, values: NDArray[np.float32], provenance: dict[str, str | float]) -> None:
    """Write a map (H, W) as float32 TIFF, beside and renamed; the provenance is its description."""
    with files.replacing(path) as beside:
        tifffile.imwrite(beside, values, description=json.dumps(provenance), metadata=None)


def _submit(map_path: Path, above: Path, values: NDArray[np.float32], threshold: float) -> None:
    """Write a map and what of it is above the threshold as MVTec AD 2's server takes them (its public code, 2025)."""
    with files.replacing(map_path) as beside:
        tifffile.imwrite(beside, np.minimum(values / max(threshold, 1e-30), np.finfo(np.float16).max).astype(np.float16))
    images.write_png(above, np.where(values > threshold, 255, 0).astype(np.uint8))


def _record(
    sample: Sample,
    result: Scored,
    areas: list[Region] | None,
    calibration: Calibration | None,
    map_path: Path | None,
    picture: Path | None,
    error: float,
    sha256: str,
    bank: str,
) -> Record:
    evidence, score = result.evidence, result.score()
    return Record(
        SCHEMA,
        sample.image,
        sample.id,
        score,
        result.score("big"),
        result.score("small") if "small" in result.maps else None,
        calibration.verdict(score) if calibration else None,
        calibration.thresholds.threshold if calibration else None,
        calibration.p_value(score) if calibration else None,
        areas,
        *evidence.peak,
        evidence.normal_image,
        *evidence.normal_box,
        *evidence.box,
        map_path.as_posix() if map_path else None,
        picture.as_posix() if picture else None,
        error,
        sha256,
        bank,
        datetime.datetime.now().astimezone().isoformat(timespec="milliseconds"),
    )


def colour_scale(thresholds: Thresholds | None, extents: Iterable[tuple[float, float]]) -> report.ColourScale:
    """The calibration's scale, or from the typical value to the highest of a run's maps, whose (median, maximum) these are."""
    if thresholds is not None:
        return report.ColourScale(thresholds.colour_low, thresholds.colour_high)
    typical, highest = zip(*extents, strict=True)
    return report.ColourScale(float(np.median(typical)), max(highest))
