"""verify: what agrees, and that each kind of disagreement is found and named."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from smallworld import WORKING, Told, World, make_store, save, texture, touched, without

import patchcli
from patchcli import runtime
from patchcli.bank import pages
from patchcli.bank.search import keops, pruned
from patchcli.detection import detector, verification
from patchcli.errors import IncompleteError
from patchcli.features import dense
from patchcli.features.encoder import Encoder
from patchcli.store import EncoderAttributes, Store
from patchcli.verbs.extraction import ImageOptions
from patchcli.verbs.goods import LOO

OTHER = torch.device("cpu", 1)  # stands in for a second device: torch computes there as on the first


@pytest.fixture(autouse=True)
def _no_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keops.KeOps, "problem", lambda device, D: "no compiler")


def verified(store: Path) -> tuple[dict[str, patchcli.Check], Told]:
    """The checks by their names, and what was said."""
    told = Told()
    return {check.check: check for check in patchcli.verify(store, observer=told)}, told


def statuses(checks: dict[str, patchcli.Check]) -> dict[str, str]:
    return {name: check.status for name, check in checks.items()}


def test_a_bank_of_bfloat16_is_checked_with_bfloat16(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: True)
    store = make_store(made.data, tmp_path / "it.zarr", D=8, precision="bfloat16")
    checks, told = verified(store)
    assert (statuses(checks), told.problems, checks["bank"].features) == (SOUND, [], 0)
    with monkeypatch.context() as patched:  # a machine that rounds far more
        embed = dense.embed
        patched.setattr(detector, "embed", lambda *args: {s: (8 * x).round() / 8 for s, x in embed(*args).items()})
        checks, _ = verified(store)
        assert checks["bank"].status == "disagrees"
    with monkeypatch.context() as patched:  # and one that rounds otherwise
        patched.setattr(detector, "embed", lambda *args: embed(*args[:-1], "float32"))
        checks, _ = verified(store)
        assert checks["bank"].status == "agrees"
        assert checks["bank"].features is not None and 1e-3 < checks["bank"].features < 2**-5


SOUND = {
    "bank": "agrees", "embed on cpu": "reference", "brute on cpu": "reference", "pruned on cpu": "agrees",
    "keops on cpu": "unavailable",
}  # fmt: skip


def test_a_sound_machine(made: World) -> None:
    before = touched(made.store)
    checks, told = verified(made.store)
    assert statuses(checks) == SOUND
    assert told.problems == []
    assert told.notes[1:] == ["keops on cpu: no compiler"]
    assert told.notes[0].startswith("a bank of 6,500 vectors; torch ")
    bank, found = checks["bank"], checks["pruned on cpu"]
    assert (bank.images, bank.patches, bank.features) == (4, 4 * 650, 0)
    assert (found.images, found.patches, found.nearest, found.distance, found.score) == (4, 4 * 650, 1, 0, 0)
    assert all(checks[name].ms for name in SOUND if "on" in name and "keops" not in name)
    assert touched(made.store) == before


def test_images_are_spread_and_left_out(made: World) -> None:
    opened = Store.open(made.store)
    reference = verification.Reference(detector.Detector.open(opened, device="cpu", search="brute"))
    assert reference.numbers == [0, 3, 6, 9]
    audited = {record.id: record.score for record in patchcli.audit(made.store)}
    assert reference.scores.tolist() == [audited[opened.images.ids[number]] for number in reference.numbers]


def test_a_large_bank_is_searched_for_a_sample(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "SECONDS", 0)
    checks, _ = verified(made.store)
    found, reference = checks["pruned on cpu"], checks["brute on cpu"]
    assert (found.status, found.score, found.images, found.patches) == ("agrees", None, 1, 7 + 157)  # one of 4
    assert (reference.images, reference.patches) == (1, 650)
    monkeypatch.setattr(verification, "PATIENCE", 0)
    monkeypatch.setattr(verification, "SECONDS", 1)
    checks, _ = verified(made.store)
    assert {(checks[name].images, checks[name].patches) for name in ("brute on cpu", "pruned on cpu")} == {(1, 7 + 157)}


# ---- what the store holds -------------------------------------------------------------------------------------------


def rewrite(store: Path, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    """Write a store's bank anew, the ids and vectors of the scale "small" changed; its checksums are right."""
    with Store.writing(store) as opened:
        bank, encoder = opened.bank(), opened.encoder.restore(torch.device("cpu"))
        grids = dense.grids(encoder, *WORKING, opened.encoder.attributes.strides)
        with opened.writing_bank(grids, bank.D) as new:
            for scale in grids:
                ids, vectors = (np.concatenate(column) for column in zip(*pages.stream(bank, scale)(), strict=True))
                if scale == "small":
                    ids, vectors = change(ids, vectors)
                stream = lambda ids=ids, vectors=vectors: [(ids, vectors)]  # noqa: E731
                pages.write(new, scale, stream, len(ids), half=False, budget=1 << 28, progress=lambda done: None)


def test_an_altered_vector(world: World) -> None:
    def alter(ids: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vectors[ids == 3 * 625 + 100, 5] += 0.01
        return ids, vectors

    rewrite(world.store, alter)
    checks, told = verified(world.store)
    assert statuses(checks) == {**SOUND, "bank": "disagrees"}
    (problem,) = told.problems
    assert problem.startswith("bank disagrees: its vectors differ from the features of their patches by ")
    assert problem.endswith("of the largest, expected at most 1.0e-04; run: `embed(overwrite)`")
    assert 0.005 < (checks["bank"].features or 0) < 0.1
    patchcli.embed(world.store, overwrite=True)
    assert statuses(verified(world.store)[0]) == SOUND


def test_a_lost_vector(world: World) -> None:
    rewrite(world.store, lambda ids, vectors: (ids[ids != 5], vectors[ids != 5]))
    checks, told = verified(world.store)
    assert statuses(checks) == {**SOUND, "bank": "disagrees"}
    assert "it has 2,599 of the 2,600 vectors of 4 images" in told.problems[0]


@pytest.mark.parametrize("thinning", [{"half": True}, {"keep": 0.3}], ids=str)
def test_a_bank_that_is_thinned(world: World, thinning: dict[str, Any]) -> None:
    patchcli.embed(world.store, **thinning)
    checks, told = verified(world.store)
    assert (statuses(checks), told.problems) == (SOUND, [])
    assert (checks["bank"].features or 0) <= (2**-11 if "half" in thinning else 0)
    assert (checks["bank"].patches == 2600) == ("keep" not in thinning)
    reference = verification.Reference(detector.Detector.open(world.store, device="cpu", search="brute"))
    nearest = min(float(found["small"].distances.min()) for found in reference.found)
    assert (nearest == 0) == ("keep" in thinning)  # what is left of an image may be all that there is


def test_one_image(tmp_path: Path, random_encoder: Callable[..., Encoder]) -> None:
    save(tmp_path / "one" / "0.png", texture(np.random.default_rng(0), *WORKING))
    patchcli.extract(tmp_path / "one", tmp_path / "one.zarr", ImageOptions(size=WORKING))
    weights = {name: values.numpy() for name, values in random_encoder("hierarchical").state_dict().items()}
    with Store.writing(tmp_path / "one.zarr") as opened:
        opened.write_encoder(weights, EncoderAttributes("hierarchical", 8, "imported", by_colour=True), {})
    patchcli.embed(tmp_path / "one.zarr")
    checks, told = verified(tmp_path / "one.zarr")
    assert (statuses(checks), told.problems) == (SOUND, [])
    assert (checks["bank"].images, checks["pruned on cpu"].images) == (1, 1)


def test_the_calibration(world: World, tmp_path: Path) -> None:
    patchcli.calibrate(world.store, "loo", false_alarms=0.3)
    checks, _ = verified(world.store)
    assert statuses(checks) == {**SOUND, "calibration": "agrees"}
    assert (checks["calibration"].images, checks["calibration"].score) == (4, 0)
    shutil.copytree(world.store, tmp_path / "other.zarr")
    patchcli.embed(tmp_path / "other.zarr", half=True)
    checks, told = verified(tmp_path / "other.zarr")
    assert statuses(checks) == {**SOUND, "calibration": "disagrees"}
    assert told.problems == ["calibration disagrees: the calibration belongs to another bank; run: `calibrate()`"]
    with Store.writing(world.store) as opened:
        stored, ids = opened.calibration, opened.images.ids
        scores = stored.scores * np.where(np.arange(10) == 6, 1.1, 1)
        opened.write_calibration(ids, {"scores": scores, "peaks": scores}, stored.thresholds)
    checks, told = verified(world.store)
    assert statuses(checks) == {**SOUND, "calibration": "disagrees"}
    assert told.problems[0].startswith("calibration disagrees: train/good/006.png scores ")
    with Store.writing(world.store) as opened:  # of images that the store does not hold: nothing to compare with
        opened.write_calibration(ids, {"scores": scores, "peaks": scores}, replace(stored.thresholds, source="named images"))
    assert statuses(verified(world.store)[0]) == {**SOUND, "calibration": "agrees"}
    assert stored.thresholds.source == LOO


def test_no_bank(world: World) -> None:
    with pytest.raises(IncompleteError, match="holds no bank yet"):
        patchcli.verify(without(world.store, "bank"))


# ---- searches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
def test_a_search_that_names_another_neighbour(made: World, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    search = pruned.Pruned.__call__

    def wrong(self: Any, queries: torch.Tensor, skip: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        distances, ids = search(self, queries, skip)
        ids[-1] += 1
        return distances, ids

    monkeypatch.setattr(pruned.Pruned, "__call__", wrong)
    if not whole:
        monkeypatch.setattr(verification, "SECONDS", 0)
    checks, told = verified(made.store)
    assert statuses(checks) == {**SOUND, "pruned on cpu": "disagrees"}
    share = "8 of 2,600" if whole else "2 of 164"
    assert told.problems == [f"pruned on cpu disagrees: {share} patches have another nearest patch; use `search=brute`"]
    assert checks["pruned on cpu"].nearest == 1 - (8 / 2600 if whole else 2 / 164)


def test_a_search_that_is_wrong_about_a_distance(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    search = pruned.Pruned.__call__
    monkeypatch.setattr(pruned.Pruned, "__call__", lambda *given: (search(*given)[0] * (1 + 1e-4), search(*given)[1]))
    checks, told = verified(made.store)
    assert statuses(checks) == {**SOUND, "pruned on cpu": "disagrees"}
    (problem,) = told.problems
    assert "distances differ by 1.0e-04 of the largest, expected at most 1.0e-06" in problem
    assert "train/good/000.png scores " in problem
    assert checks["pruned on cpu"].nearest == 1


def test_a_search_that_fails(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise RuntimeError("CUDA error: no kernel image\nis available")

    monkeypatch.setattr(pruned.Pruned, "__call__", fail)
    checks, told = verified(made.store)
    assert statuses(checks) == {**SOUND, "pruned on cpu": "fails"}
    assert told.problems == ["pruned on cpu fails: CUDA error: no kernel image; use `search=brute`"]


# ---- another device -------------------------------------------------------------------------------------------------


def elsewhere(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """A second device, whose features are changed."""
    embed = detector.embed

    def embed_there(encoder: Any, pixels: Any, mean: Any, grids: Any, device: torch.device, precision: str) -> dict[str, Any]:
        features = embed(encoder, pixels, mean, grids, device, precision)
        return {scale: change(values) for scale, values in features.items()} if device == OTHER else features

    monkeypatch.setattr(runtime, "devices", lambda: [torch.device("cpu"), OTHER])
    monkeypatch.setattr(detector, "embed", embed_there)


THERE = {"embed on cpu:1": "agrees", "brute on cpu:1": "agrees", "pruned on cpu:1": "agrees", "keops on cpu:1": "unavailable"}


def noise(size: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda values: values + size * values.abs().max() * torch.linspace(-1, 1, values.numel()).reshape(values.shape)


def test_another_device_that_rounds_otherwise(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch, noise(5e-5))
    checks, told = verified(made.store)
    assert (statuses(checks), told.problems) == ({**SOUND, **THERE}, [])
    assert 4e-5 < (checks["embed on cpu:1"].features or 0) <= 5.01e-5
    assert checks["brute on cpu:1"].nearest == checks["pruned on cpu:1"].nearest == 1
    assert 0 < (checks["brute on cpu:1"].score or 0) < 1e-2


def test_another_device_whose_features_are_off(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch, noise(1e-3))  # about as TF32
    checks, told = verified(made.store)
    assert statuses(checks) == {**SOUND, **THERE, "embed on cpu:1": "disagrees"}
    (problem,) = told.problems
    assert problem.startswith("embed on cpu:1 disagrees: features differ by 1.0e-03 of the largest")
    assert problem.endswith("; use `device=cpu`")


def test_another_device_whose_features_are_no_numbers(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch, lambda values: values * torch.nan)
    checks, told = verified(made.store)
    assert statuses(checks) == {**SOUND, **THERE, "embed on cpu:1": "disagrees"}
    assert checks["embed on cpu:1"].features is checks["brute on cpu:1"].score is None
    assert len(told.problems) == 1


def test_another_device_that_fails(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(values: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    elsewhere(monkeypatch, fail)
    checks, told = verified(made.store)
    assert statuses(checks) == {**SOUND, "embed on cpu:1": "fails"}
    assert told.problems == ["embed on cpu:1 fails: CUDA out of memory; use `device=cpu`"]
