"""Attributes of a store's parts: they come back as they were, and what is missing or of another type is refused."""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from smallworld import part_folder

from patchcli.errors import DamagedError
from patchcli.features.grid import PatchGrid
from patchcli.store import EncoderAttributes, Source, Store, Thinning, Thresholds
from patchcli.store import root as root_module
from patchcli.store.attributes import from_stored, to_stored
from patchcli.store.bank import BankAttributes, BlocksAttributes, Fingerprint, ScaleAttributes
from patchcli.store.calibration import Calibrated, CalibrationAttributes
from patchcli.store.encoder import OPTIONAL
from patchcli.store.root import Named, Root

TEXTS = st.text(st.characters(exclude_categories=()))  # a folder's name may hold bytes that are no UTF-8
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
SHARES = st.floats(0, 1, exclude_min=True)
RECIPES = st.dictionaries(TEXTS, st.none() | st.booleans() | st.integers() | st.floats() | TEXTS)
SOURCE = {"root": "", "layout": "", "category": "", "manifest": ""}
KINDS = [
    Source, EncoderAttributes, Fingerprint, Thinning, BlocksAttributes, ScaleAttributes, BankAttributes, Thresholds,
    Calibrated, CalibrationAttributes, Named, Root,
]  # fmt: skip


def any_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an attributes dataclass, every field of it drawn."""
    if kind is Thinning:
        return st.builds(Thinning, POSITIVE, st.none(), st.booleans()) | st.builds(Thinning, st.none(), SHARES | st.none())
    named = {"recipe": RECIPES | st.none(), "options": st.dictionaries(TEXTS, TEXTS | st.lists(st.integers()))}
    drawn = {name: named.get(name, st.from_type(hint)) for name, hint in get_type_hints(kind).items()}
    return st.builds(kind, **drawn)


for _kind in KINDS:
    st.register_type_strategy(_kind, any_of(_kind))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_attributes_come_back(kind: Any, data: st.DataObject) -> None:
    attributes = data.draw(st.from_type(kind))
    back = from_stored(kind, json.loads(json.dumps(to_stored(attributes))))
    assert repr(back) == repr(attributes)  # NaN differs from itself


@given(TEXTS)
def test_any_folder_name_comes_back(root: str) -> None:
    source = Source(root, "plain", "weave", "0" * 64, holdout={root: root})
    assert from_stored(Source, json.loads(json.dumps(to_stored(source)))) == source


def test_a_field_that_has_its_default_is_not_stored() -> None:
    assert to_stored(Source("r", "plain", "c", "m", bits=8)) == {
        "root": "r",
        "layout": "plain",
        "category": "c",
        "manifest": "m",
    }
    assert to_stored(Fingerprint("e", "m", (1, 2, 3, 3))) == {"encoder": "e", "manifest": "m", "images": (1, 2, 3, 3)}


@pytest.mark.parametrize(
    ("kind", "stored", "says"),
    [
        (Named, [], "attributes: expected Named, found []"),
        (Named, {"name": "bank"}, "attributes.sha256 is missing"),
        (Named, {"name": "bank", "sha256": None}, "attributes.sha256: expected str, found None"),
        (Source, SOURCE | {"bits": True}, "attributes.bits: expected int, found True"),
        (Source, SOURCE | {"bits": 8.0}, "attributes.bits: expected int, found 8.0"),
        (Source, SOURCE | {"large": 1}, "attributes.large: expected bool, found 1"),
        (Source, SOURCE | {"size": [1]}, "attributes.size: expected tuple[int, int], found [1]"),
        (Source, SOURCE | {"size": [1, "2"]}, "attributes.size[1]: expected int, found '2'"),
        (Source, SOURCE | {"holdout": {"a\nb": 1}}, r"attributes.holdout['a\nb']: expected str, found 1"),
        (BlocksAttributes, {"fingerprint": []}, "attributes.images is missing"),
        (Root, {"dataset": SOURCE, "parts": {"a\nb": 1}, "versions": {}, "revision": "", "plain": True},
         r"attributes.parts['a\nb']: expected Named, found 1"),
        (Thinning, {"keep": "1"}, "attributes.keep: expected float, found '1'"),
        (Thinning, {"keep": 3}, "`keep`: expected a share such as 10% or 0.1, found 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(kind: Any, stored: Any, says: str) -> None:
    with pytest.raises(ValueError) as refused:
        from_stored(kind, stored)
    assert str(refused.value) == says


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ValueError) as refused:
        from_stored(Named, {"name": 0, "sha256": "", "more": 1} | {"name": ["x" * 1000] * 1000})
    assert len(str(refused.value)) < 300


# ---- in a store -----------------------------------------------------------------------------------------------------

READ: dict[str, Callable[[Store], object]] = {
    "encoder": lambda store: store.encoder.attributes,
    "blocks": lambda store: store.blocks(),
    "bank": lambda store: store.bank(),
    "calibration": lambda store: store.calibration,
}
REPAIRS = {
    "encoder": "train again with `overwrite`",
    "blocks": "run: `embed(overwrite)`",
    "bank": "run: `embed(overwrite)`",
    "calibration": "run: `calibrate()`",
}
THRESHOLDS = Thresholds(
    schema="patchcli.calibration/1",
    source="each left out",
    images=2,
    false_alarms=0.25,
    confidence=0.95,
    threshold=0.5,
    pixel_threshold=0.75,
    review_rate=None,
    review_threshold=None,
    colour_low=0.0,
    colour_high=1.5,
    promise="at most 25% false alarms",
    encoder="0" * 64,
)
OTHER = [["neither"]]  # a value that no field may have


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every part, shared: read only."""
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    grids = {"big": PatchGrid(70, 80, 64, 16), "small": PatchGrid(70, 80, 32, 4)}
    with Store.creating(path, Source("/somewhere", "plain", "weave", "0" * 64)) as new:
        new.write_images((("a.png", (70, 80), np.full((70, 80, 3), n, np.uint8)) for n in range(3)), 70, 80)
    with Store.writing(path) as store:
        trained = EncoderAttributes("hierarchical", 6, "trained", steps=4, recipe={"seed": 3}, losses=["svdd"])
        store.write_encoder({"conv1.bias": np.ones(4, np.float32)}, trained, {"history": np.ones((4, 1), np.float32)})
        with store.writing_bank(grids, 6) as bank:
            for scale in grids:
                bank.write_index(scale, {"centre": np.zeros(4)}, vectors=0, pages=0, radius=0.5)
        store.write_calibration(["a.png", "b.png"], {"scores": np.array([0.5, 0.25])}, THRESHOLDS)
        store.begin_blocks(grids, 6)
    assert Store.open(path).root.parts.keys() == {"images", *READ}
    return path


def stored_attributes(path: Path, kind: str) -> dict[str, Any]:
    """The attributes of a part, in a file of its own."""
    return dict(json.loads((part_folder(path, kind) / "zarr.json").read_text())["attributes"])


def change_root(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what the root says, with the digest of that."""
    whole = json.loads((path / "zarr.json").read_text())
    content = whole["attributes"]["patchcli"]
    del content["sha256"]
    change(content)
    content["sha256"] = root_module._digest(content)
    (path / "zarr.json").write_text(json.dumps(whole))


def change_part(path: Path, kind: str, attributes: dict[str, Any]) -> None:
    """Give a part other attributes, with the digests that belong to them."""
    file = part_folder(path, kind) / "zarr.json"
    metadata = json.loads(file.read_text()) | {"attributes": attributes}
    file.write_text(json.dumps(metadata))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    change_root(path, lambda content: content["parts"][kind].update(sha256=digest))


def refused(path: Path, kind: str) -> str:
    """The one line that is said where the part is read, and by a check."""
    folder = part_folder(path, kind)
    with pytest.raises(DamagedError) as error:
        READ[kind](Store.open(path))
    line = str(error.value)
    assert line.startswith(f"{folder}: damaged (") and line.endswith(f"); {REPAIRS[kind]}") and "\n" not in line
    assert list(Store.open(path).check(kind)) == [line]
    return line


@pytest.mark.parametrize("kind", READ)
def test_attributes_that_are_missing_or_of_another_type(whole: Path, tmp_path: Path, kind: str) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "s.zarr"))
    before = stored_attributes(path, kind)
    optional = {"roi", *OPTIONAL}
    for name in before:
        change_part(path, kind, {**before, name: OTHER})
        assert re.search(rf"\(attributes\.{name}(\[0\])?: expected ", refused(path, kind))
        change_part(path, kind, {other: value for other, value in before.items() if other != name})
        if name in optional:
            READ[kind](Store.open(path))
        else:
            assert f"(attributes.{name} is missing)" in refused(path, kind)
    change_part(path, kind, before)
    assert list(Store.open(path).check()) == []
    READ[kind](Store.open(path))


def test_attributes_within_attributes(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "s.zarr"))
    for field in fields(ScaleAttributes):
        attributes = stored_attributes(whole, "bank")
        del attributes["scales"]["big"][field.name]
        change_part(path, "bank", attributes)
        assert f"attributes.scales['big'].{field.name} is missing" in refused(path, "bank")
    for name in ("encoder", "manifest", "images"):
        attributes = stored_attributes(whole, "calibration")
        del attributes["fingerprint"]["bank"][name]
        change_part(path, "calibration", attributes)
        assert f"attributes.fingerprint.bank.{name} is missing" in refused(path, "calibration")


@pytest.mark.parametrize("change", [{"status": ""}, {"radius": {"big": 0.0}}, {"radius": {}}])
def test_attributes_of_a_bank_that_do_not_fit_each_other(whole: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "s.zarr"))
    change_part(path, "bank", stored_attributes(path, "bank") | change)
    assert "attributes do not fit each other" in refused(path, "bank")


def test_the_attributes_of_imported_weights_are_fewer(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "s.zarr"))
    before = stored_attributes(path, "encoder")
    few = {name: before[name] for name in ("architecture", "D", "sha256")} | {"source": "imported", "steps": None}
    change_part(path, "encoder", few)
    assert Store.open(path).encoder.attributes == EncoderAttributes("hierarchical", before["D"], "imported", before["sha256"])
    assert list(Store.open(path).check("encoder")) == []


@pytest.mark.parametrize("name", ["parts", "versions", "plain", "dataset"])
def test_a_root_that_lacks_something(whole: Path, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "s.zarr"))
    content = (path / "zarr.json").read_bytes()
    for change, says in (
        (lambda content: content.pop(name), f"attributes.{name} is missing"),
        (lambda content: content.update({name: OTHER}), f"attributes.{name}: expected "),
    ):
        (path / "zarr.json").write_bytes(content)
        change_root(path, change)
        assert says in refused_root(path)


@pytest.mark.parametrize("name", [field.name for field in fields(Source)])
def test_a_data_set_that_lacks_something(whole: Path, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "s.zarr"))
    content = (path / "zarr.json").read_bytes()
    change_root(path, lambda content: content["dataset"].update({name: OTHER}))
    assert f"attributes.dataset.{name}" in refused_root(path)
    if name in ("root", "layout", "category", "manifest"):
        (path / "zarr.json").write_bytes(content)
        change_root(path, lambda content: content["dataset"].pop(name))
        assert f"attributes.dataset.{name} is missing" in refused_root(path)


def refused_root(path: Path) -> str:
    """The one line that is said where the store is opened."""
    with pytest.raises(DamagedError) as error:
        Store.open(path)
    line = str(error.value)
    assert line.startswith(f"{path}: damaged (") and line.endswith("; make the store again, or restore a copy")
    assert "\n" not in line
    return line


def test_a_number_that_is_none_is_no_lost_chunk(whole: Path, tmp_path: Path) -> None:
    """NaN that was written has a checksum that fits."""
    path = tmp_path / "s.zarr"
    for kind, name, index in (("encoder", "conv1.bias", 0), ("calibration", "scores", 1), ("images", "mean", 3)):
        shutil.copytree(whole, path)
        zarr.open_group(str(part_folder(path, kind)), mode="r+")[name][index] = math.nan  # type: ignore[index]
        (line,) = Store.open(path).check(kind)
        assert f"damaged ({name} holds NaN)" in line
        shutil.rmtree(part_folder(path, kind) / name / "c")
        (line,) = Store.open(path).check(kind)
        assert f"missing (a chunk of {name})" in line
        shutil.rmtree(path)


def test_integers_and_texts_that_a_lost_chunk_reads_as(tmp_path: Path) -> None:
    with Store.creating(tmp_path / "s.zarr", Source("r", "plain", "c", "m")) as new, new._new("images") as part:
        part.write({"numbers": np.array([[-1, -1], [0, 1]])})
        part.write_texts("id", ["", "a"])
        assert part.read("numbers").tolist() == [[-1, -1], [0, 1]]
        assert part.texts("id") == ["", "a"]
        assert list(part.check()) == []
