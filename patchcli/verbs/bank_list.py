"""The images in a bank."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patchcli.bank import pages
from patchcli.store import Store

SCHEMA = "patchcli.bank/1"


@dataclass(frozen=True)
class BankImage:
    """A training image in the bank."""

    schema: str
    image: str  # its id, as no path was given
    id: str
    width: int  # original pixels
    height: int
    vectors_big: int | None  # in the bank, at the scale K=64
    vectors_small: int | None  # at the scale K=32; None where it is not used
    vectors_fixed: int | None  # of the fixed features
    vectors_pretrained: int | None  # of a pretrained backbone's


def bank_list(store: Path | str = "patchcli.zarr") -> list[BankImage]:
    """The images of a finished bank, in its order, with how many vectors are kept of each."""
    opened = Store.open(store)
    bank, images = opened.bank(), opened.images
    vectors: dict[str, list[int]] = {}  # of each scale and image
    for scale in bank.scales:
        counts = np.zeros(bank.images, np.int64)
        for ids, _ in pages.stream(bank, scale)():
            counts += np.bincount(ids // bank.patches(scale), minlength=bank.images)
        vectors[scale] = counts.tolist()
    return [
        BankImage(
            schema=SCHEMA,
            image=name,
            id=name,
            width=width,
            height=height,
            vectors_big=vectors["big"][number] if "big" in vectors else None,
            vectors_small=vectors["small"][number] if "small" in vectors else None,
            vectors_fixed=vectors["fixed"][number] if "fixed" in vectors else None,
            vectors_pretrained=vectors["pretrained"][number] if "pretrained" in vectors else None,
        )
        for number, (name, (height, width)) in enumerate(zip(images.ids, images.sizes, strict=True))
    ]
