"""The artefact: one Zarr v3 group with images, encoder, bank, calibration and provenance. The only Zarr import.

Nothing is pickled. A store is a folder of parts, and a root that names those of the present version:

    zarr.json           the root (root.py), the only object that is ever replaced, by one rename: the switch
    images/             train uint8 or uint16 (N, H, W, 3), 8 a chunk; id string (N,); size int32 (N, 2); mean float32 (H, W, 3)
    encoder/            one array per weight; attrs: architecture, D, sha256, …; training/: what training needs to continue
    blocks/             an unfinished bank: <scale>/features float32 (N, rows, columns, D), done uint8 (blocks,)
    bank/               attrs: fingerprint, images, D, thinning, radius; of each scale K, S, rows, columns, vectors, index
    bank/<scale>/<index>/           centre, axes, low, high (see bank.search.trees)
    bank/<scale>/<index>/<page>/    vectors (n, D) float32 or float16, ids (n,) image · rows · columns + patch, and its tree
    calibration/        attrs: fingerprint, source, rates, thresholds, promise; scores, peaks float64 (n,), id string (n,)
    .lock               who writes

A new part is written beside the old one, as bank-1f2e3d4c/, sealed (parts.py) and synced; then the root names it instead. The
old part is removed when its last reader has closed it. Only blocks are written in place, each followed by its flag, so an
interrupted `embed` resumes where it stopped. One process writes at a time; each reader sees one version (locks.py).

In object storage (objects.py) every part has such a name; the switch is a write on the condition that the root is still the one
that was read; .lock is renewed while somebody writes (claims.py); and .replaced/ dates the parts that no version names.
"""

from patchcli.store.bank import Bank, Blocks, Reference, Thinning, VectorFiles, bank_bytes
from patchcli.store.calibration import Thresholds
from patchcli.store.encoder import EncoderAttributes, digest_of
from patchcli.store.images import Images, Source
from patchcli.store.locks import locked
from patchcli.store.places import check_replaceable, existing, located, stores_in
from patchcli.store.root import FORMAT_VERSION
from patchcli.store.store import Store, revision

__all__ = [
    "FORMAT_VERSION", "Bank", "Blocks", "EncoderAttributes", "Images", "Reference", "Source", "Store", "Thinning",
    "Thresholds", "VectorFiles", "bank_bytes", "check_replaceable", "digest_of", "existing", "located", "locked", "revision",
    "stores_in",
]  # fmt: skip
