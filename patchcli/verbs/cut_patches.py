"""Training images → their patches as pictures."""

from collections.abc import Sequence
from pathlib import Path

from patchcli import files
from patchcli.datasets import images
from patchcli.errors import InputError
from patchcli.features.grid import PatchGrid
from patchcli.features.hierarchical import HierarchicalEncoder
from patchcli.observer import Observer
from patchcli.store import Store
from patchcli.verbs.outputs import below


def cut_patches(
    store: Path | str, folder: Path | str, names: Sequence[str] = (), scale: str = "big", observer: Observer | None = None
) -> int:
    """Write the patches of chosen training images (default: the first) as PNG below `folder`; how many."""
    opened, folder = Store.open(store), Path(folder)
    ids = opened.images.ids
    scales = HierarchicalEncoder.scales
    if scale not in scales:
        raise InputError(f"{scale!r}", parameter="scale", expected=" or ".join(scales))
    unknown = [name for name in names if name not in ids]
    if unknown:
        raise InputError(f"not in the store; expected an id such as {ids[0]}", parameter="image", subject=unknown[0])
    files.target("patches", folder)
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
