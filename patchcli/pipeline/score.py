"""Images and bank → anomaly maps and one record an image."""

import datetime
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

from patchcli import files, images, layouts, neighbours, regions, report, runtime
from patchcli.calibration import Calibration, Thresholds
from patchcli.errors import DamagedError, IncompleteError, InputError, StoreError
from patchcli.layouts import Sample
from patchcli.neighbours import paged
from patchcli.observer import Observer
from patchcli.pipeline.data import read_mask
from patchcli.regions import Found, Region, Roi
from patchcli.scoring import Embedded, Scored, Scorer
from patchcli.store import Store

SCHEMA = "patchcli.score/1"
BATCH = 8  # images that are searched for together,
PIXELS = 8_000_000  # if they have no more than so many at the working size: features take 16 times the memory of a picture
MVTEC2 = "mvtec-ad-2"
Decode = Callable[[Path], NDArray[np.uint8]]  # an image file → pixels (H, W, 3); raises InputError
NOTHING = "no image could be scored; expected png, jpg, bmp, tif or webp files"


@dataclass(frozen=True)
class Record:
    """What is said of one scored image; coordinates are original pixels, x to the right and y down."""

    schema: str
    image: str  # id in the data set, or the path as given
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
    paths: Iterable[Path | str] | None = None,
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
    each: Callable[[Sample, Record], None] | None = None,
    endless: bool = False,
    decode: Decode = images.decode,
    observer: Observer | None = None,
) -> Iterator[Record]:
    """Score images (Algorithm 2): the given files and folders, or the test images of the store's data set.

    Yields a record an image as soon as its batch is scored; what cannot be read is reported to the observer and left
    out. With `out`, maps are written below it in the data set's layout. Input is checked before the first record.
    `calibrated` refuses a store without a calibration that holds for its bank; else there are no verdicts.

    `roi` is a mask image, of the images' size or aspect ratio: what is 0 there does not count, and maps are 0. Regions of
    fewer than `min_area` pixels are left out, whatever the verdict, which is of the score alone; areas in mm² need
    `mm_per_pixel`. `regions_out`, a .csv or .json (COCO) file, gets the regions of all images when the last is scored.
    These three need a calibration too, and so does `submission`, "mvtec-ad-2": then it is the private test images that are
    scored, and `out` gets what that benchmark's server takes (float16 maps, in multiples of the pixel threshold, and
    pictures of what is above it). `each` is called with sample and record before a record is yielded. `endless` paths may
    name nothing, and what is scored is not remembered. `decode` reads an image file.
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
    interest = None if roi is None else Roi.read(roi)
    opened = Store.open(store)
    known = by_path(all_samples(opened))
    if paths is None:
        tests = [sample for sample in known.values() if sample.split in (layouts.PRIVATE if submission else ("test",))]
        if not tests:
            root, wanted = opened.dataset["root"], "name images or folders to score, or - for a list on stdin"
            if submission:
                wanted = f"expected those of MVTec AD 2: {' and '.join(layouts.PRIVATE)}"
            raise InputError(f"{root}: no {'private ' * bool(submission)}test images there; {wanted}")
        samples: Iterator[Sample] = iter(tests)
        total: int | None = len(tests)
    else:
        samples, total = named(paths, known, observer), None
    if folder is not None and _among_images(folder.resolve(), opened):
        raise InputError(f"--out {folder}: lies among the data set's images; expected another folder, such as maps/")
    if table is not None and _among_images(table.resolve(), opened):
        raise InputError(f"--regions {table}: lies among the data set's images; expected another place")
    scorer = make_scorer(opened, target, search, memory, observer, interest)
    needed = calibrated or table is not None or min_area > 1 or mm_per_pixel is not None or submission is not None
    calibration = calibration_of(opened, interest, "no verdicts", observer, needed)
    scale = None if calibration is None else colour_scale(calibration.thresholds, ())
    if overlay and endless and scale is None:
        raise InputError("--overlay: there is no scale for the colours yet; run: patchcli calibrate")
    sha256, category = opened.encoder_attributes["sha256"], opened.dataset["category"]
    identity = scorer.bank.identity

    error = max(scorer.bound.values())
    provenance: dict[str, str | float] = {"encoder": sha256, "bank": identity, "distance_error": error}
    if calibration is not None:
        provenance["pixel_threshold"] = calibration.thresholds.pixel_threshold
    if interest is not None:
        provenance["roi"] = interest.sha256

    if observer.dry:
        usable, taken = list(readable(samples, interest, observer)), set[Path]()
        if not usable and not endless:
            raise InputError(NOTHING)
        if folder is not None:
            for sample, _ in usable:
                _place(folder, sample, taken)
        pictures = " and overlays" * overlay + " and what is above the threshold" * bool(submission)
        outputs = [f"{len(taken)} maps{pictures} below {folder}"] * (folder is not None)
        outputs += [str(table)] * (table is not None)
        disk = sum(4 * height * width for _, (height, width) in usable) if folder is not None else 0
        observer.plan(f"{len(usable)} images", " and ".join(outputs) or "no file", disk)

    def write(sample: Sample, map_path: Path, values: NDArray[np.float32], picture: Path | None) -> None:
        if submission and folder is not None and calibration is not None:
            above = folder / "anomaly_images_thresholded" / category / PurePosixPath(sample.id).with_suffix(".png")
            _submit(map_path, above, values, calibration.thresholds.pixel_threshold)
            return
        write_map(map_path, values, {"image": sample.id, **provenance})
        if picture is not None and scale is not None:
            _draw(sample, values, picture, scale, observer, decode)

    def finished(sample: Sample, record: Record, written: Future[None] | None) -> Record:
        if written is not None:
            written.result()
        if each is not None:
            each(sample, record)
        return record

    def run() -> Iterator[Record]:
        drawn: list[tuple[Sample, Path, Path, float]] = []
        found: list[Found] = []
        taken: set[Path] = set()
        done = 0
        if folder is not None:
            files.sweep(folder, "**/.*.part")
        with ThreadPoolExecutor(1) as writer:
            waiting: deque[tuple[Sample, Record, Future[None] | None]] = deque()
            for sample, result in scored(scorer, samples, batch, observer, decode):
                map_path = picture = written = areas = None
                if calibration is not None or folder is not None:
                    values = original_size(result)
                if calibration is not None:
                    areas = regions.find(values, calibration.thresholds.pixel_threshold, min_area, mm_per_pixel)
                    if table is not None:
                        found.append((sample.id, result.size, areas))
                if folder is not None:
                    map_path = _place(folder / "anomaly_images" / category if submission else folder, sample, taken)
                    picture = map_path.with_suffix(".png") if overlay else None
                    written = writer.submit(write, sample, map_path, values, picture)
                    if picture is not None and scale is None:
                        drawn.append((sample, map_path, picture, float(np.median(result.inside()))))
                    if endless:
                        taken.clear()
                record = _record(sample, result, areas, calibration, map_path, picture, error, sha256, identity)
                waiting.append((sample, record, written))
                while len(waiting) >= batch:  # a record is out when its map is there
                    yield finished(*waiting.popleft())
                done += 1
                observer.progress("score", done, total, sample.id)
            while waiting:
                yield finished(*waiting.popleft())
        if not done and not endless:
            raise InputError(NOTHING)
        if table is not None:
            regions.write(table, found)
        if drawn:
            run_scale = colour_scale(None, ((typical, float(tifffile.imread(path).max())) for _, path, _, typical in drawn))
            for count, (sample, path, picture, _) in enumerate(drawn, 1):
                _draw(sample, tifffile.imread(path), picture, run_scale, observer, decode)
                observer.progress("overlay", count, len(drawn))

    return run()


def calibration_of(
    store: Store, roi: Roi | None, without: str, observer: Observer, needed: bool = False
) -> Calibration | None:
    """The store's calibration; where it is of another bank or region of interest, None, or an error if it is needed.

    A note says what there is not `without` it.
    """
    try:
        found = Calibration.read(store)
        found.check_roi(roi.sha256 if roi else None)
    except StoreError as error:
        if needed or isinstance(error, DamagedError):
            raise
        if not isinstance(error, IncompleteError):
            observer.note(f"{without}: {error}")
        return None
    return found


def make_scorer(
    store: Store, device: torch.device, search: str, memory: int | None, observer: Observer, roi: Roi | None = None
) -> Scorer:
    """A scorer with the search that is asked for, or the exact way that is there; says what memory the bank takes."""
    budget = runtime.memory(memory)
    method, why = neighbours.choose(search, device, store.encoder_attributes["D"])
    if why:
        observer.note(why)
    scorer = Scorer(store, device, method, budget, roi)
    needed = paged.total_memory(scorer.bank)
    if needed <= budget:
        observer.detail(f"the bank takes {runtime.megabytes(needed)} of memory")
    else:
        found = f"the bank would take {runtime.megabytes(needed)} of memory, {runtime.megabytes(budget)} may be used"
        observer.note(f"{found}: parts of it are read anew for every batch, with the same maps")
    return scorer


def _decoded(
    samples: Iterable[Sample], roi: Roi | None, decode: Decode = images.decode
) -> Iterator[tuple[Sample, NDArray[np.uint8] | InputError]]:
    for sample in samples:
        try:
            pixels = decode(sample.path)
            if roi is not None:
                roi.check(sample.path, *pixels.shape[:2])
            yield sample, pixels
        except InputError as error:
            yield sample, error


def readable(
    samples: Iterable[Sample], roi: Roi | None, observer: Observer
) -> Iterator[tuple[Sample, tuple[int, int]]]:
    """The samples that `scored` would score, with (height, width); what cannot be read is reported and left out."""
    for sample, pixels in _decoded(samples, roi):
        if isinstance(pixels, InputError):
            observer.problem(str(pixels))
        else:
            yield sample, (pixels.shape[0], pixels.shape[1])


def scored(
    scorer: Scorer, samples: Iterable[Sample], batch: int, observer: Observer, decode: Decode = images.decode
) -> Iterator[tuple[Sample, Scored]]:
    """Decode and score samples, `batch` at a time; what cannot be read is reported and left out.

    The next images are decoded and embedded while these are searched for; one at a time, each is answered at once.
    """
    batch = max(1, min(batch, PIXELS // (scorer.canvas.height * scorer.canvas.width)))

    def embedded() -> Iterator[tuple[list[Sample], Embedded | InputError]]:
        group: list[tuple[Sample, NDArray[np.uint8]]] = []
        for sample, pixels in _decoded(samples, scorer.roi, decode):
            if isinstance(pixels, InputError):
                yield [], pixels
                continue
            group.append((sample, pixels))
            if len(group) == batch:
                yield [sample for sample, _ in group], scorer.embed([pixels for _, pixels in group])
                group = []
        if group:
            yield [sample for sample, _ in group], scorer.embed([pixels for _, pixels in group])

    for group, found in embedded() if batch == 1 else runtime.ahead(embedded()):
        if isinstance(found, InputError):
            observer.problem(str(found))
        else:
            yield from zip(group, scorer.compare(found), strict=True)


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


def all_samples(store: Store) -> list[Sample]:
    """The data set's images; none where it is gone."""
    try:
        return layouts.read(Path(store.dataset["root"]), store.dataset["layout"]).samples
    except InputError:
        return []


def by_path(samples: Iterable[Sample]) -> dict[Path, Sample]:
    """A data set's images by path, but for its good training images."""
    return {sample.path.resolve(): sample for sample in samples if sample.split != "train"}


def _among_images(folder: Path, store: Store) -> bool:
    """Whether maps below `folder` would be taken for images of the data set."""
    root = Path(store.dataset["root"])
    taken = layouts.LAYOUTS[store.dataset["layout"]].folders
    return folder == root or any(folder.is_relative_to(root / name) for name in taken)


def named(paths: Iterable[Path | str], known: dict[Path, Sample], observer: Observer) -> Iterator[Sample]:
    """Samples of files and folders; images of the data set keep their id and masks."""
    for given in map(Path, paths):
        if given.is_dir():
            found = list(images.find(given))
            if not found:
                observer.problem(f"{given}: no images found in this folder")
        else:
            found = [given]
        for path in found:
            yield known.get(path.resolve(), Sample(images.printable(path), path, "query", ""))


def _place(folder: Path, sample: Sample, taken: set[Path]) -> Path:
    """Where a sample's map goes: its id below `folder`; the suffix stays where two images differ in it alone."""
    name = PurePosixPath(*(part for part in PurePosixPath(sample.id).parts if part not in ("/", "..", ".")))
    path = folder / name.with_suffix(".tiff")
    if path in taken:
        path = folder / name.with_name(f"{name.name}.tiff")
    for number in count(2):
        if path not in taken:
            break
        path = folder / name.with_name(f"{name.name}.{number}.tiff")
    taken.add(path)
    if path.parent.resolve() == sample.path.parent.resolve():
        raise InputError(f"--out {folder}: the map would lie beside the image {sample.path}; name another folder")
    return path


def _record(
    sample: Sample, result: Scored, areas: list[Region] | None, calibration: Calibration | None, map_path: Path | None,
    picture: Path | None, error: float, sha256: str, bank: str,
) -> Record:  # fmt: skip
    evidence, score = result.evidence, result.score()
    return Record(
        SCHEMA,
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


def _draw(
    sample: Sample, values: NDArray[np.float32], picture: Path, scale: report.ColourScale, observer: Observer,
    decode: Decode,
) -> None:  # fmt: skip
    """Write the overlay of a map at the image's original size."""
    mask = read_mask(sample, values.shape, observer)
    images.write_png(picture, report.overlay(decode(sample.path), values, mask, scale))
