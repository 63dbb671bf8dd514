"""One run of `extract`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from patchcli.datasets import images
from patchcli.datasets.depth import depth
from patchcli.datasets.images import Canvas, Pixels, Reader
from patchcli.datasets.layouts import Dataset, Sample
from patchcli.datasets.sizes import canvas_of, usual
from patchcli.errors import InputError, StoreError
from patchcli.features.registry import largest_patch
from patchcli.observer import Observer
from patchcli.store import Source, Store, check_replaceable, existing, locked

Check = Callable[[Store | None, Canvas], object]


@dataclass(frozen=True)
class Extracted:
    """What a store holds after `extract`, or will hold after a dry run."""

    images: int
    height: int
    width: int
    fresh: bool  # False where the store already held these images
    held_out: int  # good images that were reserved for calibration
    bits: int  # the depth of the images

    @property
    def bytes(self) -> int:
        """What the images take on disk at most."""
        return self.images * self.height * self.width * 3 * (1 if self.bits == 8 else 2) if self.fresh else 0


@dataclass(frozen=True)
class ImageOptions:
    """How images become those of a store.

    Without `layout`, the first that fits is taken. `size` is the working size (height, width), by default one of the images'
    median aspect ratio whose shorter side is 256, or theirs if that is smaller, down to 128; or a text: "256" or
    "256x320"; "fit:256x320", images within that with their aspect ratio, the rest filled with their reflection; "native",
    the images' own, or "keep:256", that shorter side with their aspect ratio, which both need images that are alike. A
    share `holdout` of the images is reserved: neither trained with nor in the bank, `calibrate` uses them. `bits`, 8 to 16,
    is how many bits of 16-bit files the camera fills; without it the files say so, or the highest value of all does.
    `large` images have more than decoding.LIMIT pixels.
    """

    layout: str | None = None
    size: tuple[int, int] | str | None = None
    holdout: float | None = None
    bits: int | None = None
    large: bool = False

    def __post_init__(self) -> None:
        if self.bits is not None:
            images.check_bits(self.bits)
        if self.holdout is not None and not 0 <= self.holdout < 1:
            raise InputError(f"{100 * self.holdout:g}%", parameter="holdout", expected="a share from 0 to below 100%")


class Extraction:
    """Reads a data set's images into a store."""

    def __init__(
        self,
        dataset: Dataset,
        options: ImageOptions,
        store: Path | str,
        overwrite: bool,
        observer: Observer,
        check: Check,
        least: int,
    ) -> None:
        self._dataset, self._options, self._store = dataset, options, store
        self._overwrite, self._observer, self._check, self._least = overwrite, observer, check, least
        self._manifest = dataset.manifest()
        self._wanted = None if options.size is None else canvas_of(options.size, dataset.split("train"), largest_patch())
        self._reserved = {} if options.holdout is None else dataset.set_aside(options.holdout)
        self._bits, self._repair = options.bits, False

    def run(self) -> Extracted:
        """Write the store, unless it holds these images."""
        with locked(self._store, self._observer, create=True):
            if (present := self._present()) is not None:
                return present
            canvas = self._wanted or usual(self._dataset.split("train"))
            self._check(None, canvas)
            samples = [sample for sample in self._dataset.split("train") if sample.id not in self._reserved]
            self._check_reserved(samples)
            self._note_copies()
            reader = Reader(self._bits or self._depth(samples), self._options.large)
            source = Source(
                root=str(self._dataset.root),
                layout=self._dataset.layout,
                category=self._dataset.category,
                manifest=self._manifest,
                holdout=self._reserved,
                keeps_aspect=canvas.keeps_aspect,
                size=(canvas.height, canvas.width),
                bits=reader.bits,
                large=reader.large,
            )
            decoded = self._decoded(samples, reader, canvas)
            if self._observer.dry:
                check_replaceable(self._store, self._overwrite)
                count = sum(1 for _ in decoded)
                self._check_count(count, len(samples))
            else:
                with Store.creating(self._store, source, self._overwrite, self._observer, self._repair) as new:
                    count = new.write_images(decoded, canvas.height, canvas.width)
                    self._check_count(count, len(samples))
            if self._wanted is None:
                size = f"{canvas.height}x{canvas.width} (height x width)"
                self._observer.note(f"working size {size}, as the images suggest; or give `size`")
            return Extracted(count, canvas.height, canvas.width, True, len(self._reserved), reader.bits)

    def _present(self) -> Extracted | None:
        """What the store that is there holds, where it can stay."""
        if not existing(self._store):
            return None
        try:
            with Store.writing(self._store, self._observer) as opened:
                self._check_same(opened)
                self._repair = self._overwrite and any(opened.check("images"))
                self._check(opened, opened.canvas)
                if self._repair:
                    self._wanted, self._reserved = opened.canvas, opened.source.holdout
                    self._bits = opened.source.bits
                    return None
                if not self._observer.dry:
                    self._follow(opened)
                count, height, width, _ = opened.images.shape
                return Extracted(count, height, width, False, len(opened.source.holdout), opened.source.bits)
        except StoreError:
            if not self._overwrite:
                raise
        return None

    def _check_same(self, store: Store) -> None:
        """Refuse a store that holds other images than these."""
        reserved = None if self._options.holdout is None else self._reserved
        present, other = store.source, None
        if present.manifest != self._manifest:
            other = f"the store holds images of {present.root}, not (or no longer) those of {self._dataset.root}"
        elif reserved not in (None, present.holdout):
            other = f"the store has {len(present.holdout)} other images reserved than these {len(reserved or ())} (`holdout`)"
        elif self._bits not in (None, present.bits):
            other = f"the store's images have {present.bits} bits, not {self._bits}"
        elif self._wanted not in (None, store.canvas):
            other = f"the store's images are {_described(store.canvas)}, not {_described(self._wanted)}"
        if other is not None:
            raise StoreError(other, subject=store.path, advice="name another with `store`, or replace it with `overwrite`")

    def _follow(self, store: Store) -> None:
        """The same images at another place or in another layout: follow them, so that `score` finds the test images."""
        large = store.source.reader.lifted(self._options.large).large
        now = replace(store.source, root=str(self._dataset.root), layout=self._dataset.layout, large=large)
        if now != store.source:
            store.update_source(now)

    def _check_reserved(self, samples: list[Sample]) -> None:
        if self._options.holdout and (not self._reserved or len(samples) < 2):
            share = f"{100 * self._options.holdout:g}%"
            count = f"{len(self._reserved)} of {len(self._reserved) + len(samples)} good images"
            expected = "one image reserved and two others at least"
            raise InputError(count, parameter="holdout", subject=share, expected=expected)

    def _note_copies(self) -> None:
        if alike := self._dataset.duplicates():
            first = f"{alike[0][0].id} and {alike[0][1].id}"
            self._observer.note(f"images that are there more than once: {len(alike)}, such as {first}; see: `data()`")

    def _depth(self, samples: list[Sample]) -> int:
        """The bits of the data set's files."""
        measured = depth(samples, self._options.large)
        if not measured.stated:
            values = f"16-bit files with values up to {measured.highest}: taken as {measured.bits} bits"
            self._observer.note(f"{values}; if the camera has more, give `bits`")
        return measured.bits

    def _decoded(self, samples: list[Sample], reader: Reader, canvas: Canvas) -> Iterator[tuple[str, tuple[int, int], Pixels]]:
        remarks, size = self._observer.remarks(), f"{canvas.height}x{canvas.width}"
        for done, sample in enumerate(samples, 1):
            try:
                pixels = reader.read(sample.path, remarks)
            except InputError as error:
                self._observer.problem(str(error))
            else:
                if canvas.distorts(*pixels.shape[:2]):
                    remarks(sample.path, f"stretched to {size}; `size=fit:{size}` keeps the aspect ratio")
                yield sample.id, (pixels.shape[0], pixels.shape[1]), canvas.fit(pixels)
            self._observer.progress("extract", done, len(samples))
        remarks.close()

    def _check_count(self, count: int, files: int) -> None:
        if count < self._least:
            expected = "good images" if self._least == 1 else f"at least {self._least} good images (their mean is subtracted)"
            raise InputError(f"{count} that can be read, of {files} files", subject=self._dataset.root, expected=expected)


def _described(canvas: Canvas | None) -> str:
    if canvas is None:
        return ""
    how = "fitted into" if canvas.keeps_aspect else "height x width"
    return f"{canvas.height}x{canvas.width} ({how})"
