"""The default encoder through every verb: what the criterion chose is what bank, maps, records and edits use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smallworld import WORKING, Told, World, write_dataset

import patchcli
from patchcli.detection import maps
from patchcli.store import Store
from patchcli.training import criterion
from patchcli.training.criterion import Judgement, Validation
from patchcli.verbs.extraction import ImageOptions


def trained(data: Path, store: Path, exponents: dict[str, float], **options: Any) -> World:
    """A store whose criterion chose these maps."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(criterion, "JUDGED_EVERY", 1)
        patched.setattr(Validation, "judge", lambda *_: Judgement(next(values), 9.0, 1.0, exponents))
        values = iter((0.5, 0.6, 0.7, 0.8))
        images = ImageOptions(size=WORKING)
        patchcli.train(data, store, images=images, steps=2, batch=2, D=8, observer=Told(), **options)
    patchcli.embed(store)
    return World(data, store)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hybrid") / "weave"
    write_dataset(folder)
    return folder


@pytest.mark.parametrize("exponents", [{"small": 0.7, "fixed": 0.3}, {"big": 0.2, "small": 0.5, "fixed": 0.3}, {"fixed": 1.0}])
def test_bank_and_maps_are_those_that_were_chosen(data: Path, tmp_path: Path, exponents: dict[str, float]) -> None:
    world = trained(data, tmp_path / "s.zarr", exponents)
    assert Store.open(world.store).encoder.attributes.exponents == exponents
    assert set(Store.open(world.store).bank().scales) == set(exponents)
    detector = patchcli.Detector.open(world.store)
    result = detector(np.full((150, 170, 3), 90, np.uint8))
    single = {name: values for name, values in result.scale_maps.items() if name != "multi"}
    assert single.keys() == exponents.keys()
    np.testing.assert_array_equal(result.scale_maps["multi"], maps.multiply(single, exponents))
    labels = {"big": "K=64", "small": "K=32", "fixed": "fixed"}
    expected = [labels[name] for name in ("big", "small", "fixed") if name in exponents]
    rows = [row.map for row in patchcli.evaluate(world.store) if row.kind is None]
    assert rows == expected + ["product"] * (len(expected) > 1)


def test_bank_edits_calibration_and_audit(data: Path, tmp_path: Path) -> None:
    world = trained(data, tmp_path / "s.zarr", {"small": 0.7, "fixed": 0.3})
    records = list(patchcli.score(world.store))
    whole = [record.score for record in records]
    for record in records:
        assert record.score_big is None
        assert record.score_small is not None and record.score_fixed is not None
        assert 0 < record.score <= record.score_small**0.7 * record.score_fixed**0.3 * (1 + 1e-5)
    (listed, *_) = patchcli.bank_list(world.store)
    assert (listed.vectors_big, listed.vectors_small, listed.vectors_fixed) == (None, 625, 484)
    (first, *_) = patchcli.audit(world.store)
    name = Store.open(world.store).images.ids[0]
    patchcli.bank_remove(world.store, [world.data / name])
    patchcli.bank_add(world.store, [world.data / name], observer=Told())
    assert sorted(record.score for record in patchcli.score(world.store)) == pytest.approx(sorted(whole), rel=1e-6)
    assert first.score > 0


def test_the_fixed_encoder_needs_no_training(data: Path, tmp_path: Path) -> None:
    told = Told()
    store = tmp_path / "s.zarr"
    done = patchcli.train(data, store, images=ImageOptions(size=WORKING), encoder="fixed", observer=told)
    assert (done.steps, done.exponents) == (0, {})
    assert "the encoder 'fixed' is fitted to the images, not trained" in told.notes
    attributes = Store.open(store).encoder.attributes
    assert (attributes.source, attributes.by_colour) == ("fitted", True)
    patchcli.embed(store)
    (row,) = [row for row in patchcli.evaluate(store) if row.kind is None]
    assert row.map == "fixed"
    assert row.pixel_auroc is not None and row.pixel_auroc > 0.9


def test_a_seed_says_nothing_to_the_fixed_features(data: Path, tmp_path: Path) -> None:
    digests = set()
    for seed in (0, 1):
        path = tmp_path / f"{seed}.zarr"
        patchcli.train(data, path, images=ImageOptions(size=WORKING), encoder="fixed", seed=seed, observer=Told())
        digests.add(Store.open(path).encoder.attributes.sha256)
    assert len(digests) == 1


@pytest.mark.parametrize("count", [2, 4])
def test_few_images_are_told_and_have_the_fixed_features(tmp_path: Path, make_images: Callable[..., Any], count: int) -> None:
    make_images(tmp_path / "few", count, (140, 150))
    told = Told()
    done = patchcli.train(tmp_path / "few", tmp_path / "s.zarr", images=ImageOptions(size=WORKING), observer=told)
    assert (done.steps, done.exponents) == (0, {"fixed": 1.0})
    few = f"{count} good images are too few to prove what training adds; the fixed features alone are used"
    assert few in told.notes
    patchcli.embed(tmp_path / "s.zarr")
    (record,) = patchcli.score(tmp_path / "s.zarr", [next((tmp_path / "few").iterdir())])
    assert record.score == pytest.approx(0, abs=1e-3)
