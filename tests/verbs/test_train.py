"""train: the same weights whatever interrupts it; a refused call leaves the store as it was."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smallworld import WORKING, Told, World, leftovers, tree, write_plain

import patchcli
from patchcli import ImageOptions, runtime
from patchcli.errors import IncompleteError, InputError, StoreError
from patchcli.store import Store, digest_of
from patchcli.store.parts import Part
from patchcli.training import alignment as aligning
from patchcli.training import criterion
from patchcli.training.loop import Trained
from patchcli.training.recipe import Recipe
from patchcli.training.trainer import Trainer

QUICK: dict[str, Any] = {"encoder": "flat", "D": 4, "batch": 2, "device": "cpu"}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four images, without an encoder; read only."""
    folder = tmp_path_factory.mktemp("images")
    patchcli.extract(write_plain(folder / "good", 4, WORKING), folder / "good.zarr", ImageOptions(size=WORKING))
    return folder / "good.zarr"


@pytest.fixture
def store(images: Path, tmp_path: Path) -> Path:
    """A copy of the store of four images."""
    return Path(shutil.copytree(images, tmp_path / "good.zarr"))


@pytest.fixture(scope="session")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Four steps without interruption."""
    copied = Path(shutil.copytree(images, tmp_path_factory.mktemp("straight") / "good.zarr"))
    return patchcli.train(store=copied, steps=4, **QUICK)


def _signal_at_step(monkeypatch: pytest.MonkeyPatch, number: int, signals: tuple[int, ...]) -> None:
    update = Trainer.update

    def signalled(self: Trainer, *losses: Any) -> dict[str, float]:
        if len(self.history) == number - 1:
            for one in signals:
                os.kill(os.getpid(), one)
        return update(self, *losses)

    monkeypatch.setattr(Trainer, "update", signalled)


def test_what_is_written_of_a_run(store: Path) -> None:
    told = Told()
    trained = patchcli.train(store=store, steps=2, observer=told, seed=3, **QUICK)
    assert (trained.steps, trained.interrupted) == (2, False)
    opened = Store.open(store)
    attributes = opened.encoder.attributes
    assert trained.sha256 == attributes.sha256 == digest_of(opened.encoder.weights())
    assert (attributes.source, attributes.steps, attributes.D) == ("trained", 2, 4)
    assert (attributes.recipe or {})["seed"] == 3
    history = opened.encoder.training_state()["history"]
    assert history.shape == (2, len(attributes.losses))
    for column, name in enumerate(attributes.losses):
        assert trained.losses[name] == pytest.approx(history[:, column].mean())
    before = [("train", 0, None), ("train", 0, 2)]  # images are read, the untrained encoder is judged
    assert told.progressed == [*before, ("train", 1, 2), ("train", 2, 2)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_is_as_if_never_stopped(
    store: Path, straight: Trained, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    handler = signal.getsignal(number)
    with monkeypatch.context() as patched:
        _signal_at_step(patched, 2, (number,))
        stopped = patchcli.train(store=store, steps=4, **QUICK)
    assert signal.getsignal(number) == handler
    assert (stopped.steps, stopped.interrupted) == (2, True)
    assert Store.open(store).encoder.attributes.sha256 == stopped.sha256 != straight.sha256
    resumed = patchcli.train(store=store, steps=4, resume=True, device="cpu")
    assert (resumed.steps, resumed.interrupted, resumed.sha256) == (4, False, straight.sha256)
    assert resumed.losses == pytest.approx(straight.losses)


def test_resumed_before_the_first_step(store: Path, straight: Trained) -> None:
    assert patchcli.train(store=store, steps=0, **QUICK).steps == 0
    assert patchcli.train(store=store, steps=4, resume=True, device="cpu").sha256 == straight.sha256


def test_resumed_beyond_its_steps_changes_nothing(store: Path) -> None:
    trained = patchcli.train(store=store, steps=1, **QUICK)
    again = patchcli.train(store=store, steps=1, resume=True, device="cpu")
    assert (again.steps, again.sha256) == (1, trained.sha256)


def test_two_signals_at_once_are_one(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As timeout(1) sends them, to a process and to its group."""
    monkeypatch.setattr(runtime, "TWICE", 60)
    _signal_at_step(monkeypatch, 2, (signal.SIGTERM, signal.SIGTERM))
    trained = patchcli.train(store=store, steps=4, **QUICK)
    assert (trained.steps, trained.interrupted) == (2, True)


def test_a_second_signal_stops_at_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "TWICE", 0)
    _signal_at_step(monkeypatch, 2, (signal.SIGINT, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        patchcli.train(store=store, steps=4, **QUICK)
    assert not Store.open(store).holds("encoder")


def test_epochs_and_minutes(store: Path) -> None:
    assert patchcli.train(store=store, epochs=1, **QUICK).steps == 2  # four images, two a step
    assert patchcli.train(store=store, minutes=0, overwrite=True, **QUICK).steps == 0


def test_loss_that_is_not_finite(store: Path) -> None:
    with pytest.raises(ArithmeticError, match=r"not finite.*lower `lr`"):
        patchcli.train(store=store, steps=20, lr=1e30, **QUICK)
    info = patchcli.info(store)
    assert str(info.encoder_trouble).startswith("training failed at step 2: a loss is not finite")
    assert info.next == "train(overwrite)"
    before = tree(store)
    with pytest.raises(StoreError, match=r"a loss is not finite.*lower `lr`.*`train\(overwrite\)`.*`embed\(force\)`"):
        patchcli.embed(store)
    assert tree(store) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"steps": -1}, "`steps`: expected 0 or more"),
        ({"epochs": float("nan")}, "`epochs`: expected 0 or more"),
        ({"minutes": -0.5}, "`minutes`: expected 0 or more"),
        ({"steps": 1, "epochs": 1}, "give one of the two"),
        ({"encoder": "deep"}, "`encoder`: expected hybrid or hierarchical or flat or fixed"),
        ({"sampler": "random"}, "`sampler`: expected dense or patch"),
        ({"precision": "float16"}, "`precision`: expected auto or float32 or bfloat16"),
        ({"lam": -1.0}, "`lam`: expected a number of 0 or more"),
        ({"lr": float("inf")}, "`lr`: expected a number of 0 or more"),
        ({"D": 0}, "`D`: expected 1 or more"),
        ({"batch": 0}, "`batch`: expected 1 or more"),
        ({"seed": -1}, "`seed`: expected 0 or more"),
        ({"threads": 0}, "`threads`: expected 1 or more"),
        ({"device": "tpu"}, "`device`: expected one of auto, cpu, cuda"),
        ({"epochs": float("inf")}, "`epochs`: expected 0 or more, found inf"),
        ({"minutes": float("inf")}, "`minutes`: expected 0 or more, found inf"),
        ({"seed": 1 << 63}, r"`seed`: expected less than 2\^63"),
        (
            {"images": ImageOptions(size="64")},
            "training needs images of at least 128×128 pixels, found a working size of 64×64",
        ),
        (
            {"images": ImageOptions(size="200x100"), "encoder": "flat"},
            "at least 128×128 pixels, found a working size of 100×200",
        ),
        ({"resume": True}, "`resume` and `overwrite`: give one of the two"),
        ({"precision": "bfloat16", "device": "cpu"}, "this CPU has no bfloat16 instructions"),
    ],
)
def test_refused_before_anything_is_touched(
    kept: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bfloat16", lambda: False)
    other = write_plain(tmp_path / "other", 3)
    for store in (kept.store, tmp_path / "new.zarr"):
        with pytest.raises(InputError, match=says):
            patchcli.train(other, store, overwrite=True, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_refused_before_the_data_set_is_read(kept: World, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store found, so there is nothing to resume"):
        patchcli.train(kept.data, tmp_path / "new.zarr", resume=True)
    assert not list(tmp_path.iterdir())
    moved = Path(shutil.copytree(kept.data, tmp_path / "moved"))  # a store follows it, but not when it is refused
    with pytest.raises(StoreError, match="holds an encoder already"):
        patchcli.train(moved, kept.store)
    with pytest.raises(InputError, match="the checkpoint has `D` 16, found 8"):
        patchcli.train(moved, kept.store, resume=True, D=8)


def test_an_encoder_is_not_replaced_unasked(kept: World) -> None:
    with pytest.raises(StoreError, match=r"untrained, 0 steps.*`resume`.*`overwrite`"):
        patchcli.train(store=kept.store, steps=0)


def test_resume_keeps_the_recipe(store: Path) -> None:
    patchcli.train(store=store, steps=0, **QUICK)
    before = tree(store)
    with pytest.raises(InputError, match=r"the checkpoint has `lr` 0\.0003, found 0\.1; leave it out"):
        patchcli.train(store=store, steps=2, resume=True, lr=0.1)
    assert tree(store) == before
    assert patchcli.train(store=store, steps=1, resume=True, lr=0.0003).steps == 1  # the same is no change


def test_a_recipe_and_changes_to_it(store: Path) -> None:
    recipe = Recipe.paper(encoder="flat", D=4, batch=2)
    patchcli.train(store=store, steps=0, device="cpu", recipe=recipe, seed=3)
    stored = Store.open(store).encoder.attributes.recipe
    assert stored is not None
    assert Recipe(**stored) == Recipe.paper(encoder="flat", D=4, batch=2, seed=3)
    with pytest.raises(InputError, match="the checkpoint has `seed` 3, found 0"):
        patchcli.train(store=store, steps=1, resume=True, device="cpu", recipe=recipe)
    assert patchcli.train(store=store, steps=1, resume=True, device="cpu", recipe=recipe, seed=3).steps == 1


def test_resume_without_an_encoder(store: Path) -> None:
    with pytest.raises(IncompleteError, match=r"no encoder yet"):
        patchcli.train(store=store, resume=True)


def test_few_images_are_remarked_upon(tmp_path: Path) -> None:
    told = Told()
    data = write_plain(tmp_path / "good", 3, WORKING)
    patchcli.train(data, tmp_path / "s.zarr", images=ImageOptions(size=(128, 160)), steps=0, observer=told, encoder="flat", D=4)
    stretched, others, few = told.notes
    assert "stretched to 128x160" in stretched and "2 other images: stretched" in others
    assert few == "3 training images are few; expect many false alarms"


@pytest.mark.parametrize("at", ["write", "seal"])
def test_a_full_disk_at_the_end_keeps_the_last_encoder(store: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    first = patchcli.train(store=store, steps=1, **QUICK)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(Part, at, full)
        patchcli.train(store=store, steps=2, resume=True, device="cpu")
    assert leftovers(store) == set()
    opened = Store.open(store)
    assert opened.encoder.attributes.sha256 == digest_of(opened.encoder.weights()) == first.sha256
    assert np.isfinite(opened.encoder.training_state()["history"]).all()


def test_a_report_shows_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criterion, "JUDGED_EVERY", 2)
    data = write_plain(tmp_path / "good", 5, WORKING)
    page = tmp_path / "run.html"
    trained = patchcli.train(
        data, tmp_path / "s.zarr", images=ImageOptions(size=WORKING), steps=3, report=page, observer=Told(), **QUICK
    )
    text = page.read_text(encoding="utf-8")
    assert f"The encoder is that of step {trained.chosen}: the last whose criterion" in text
    assert trained.sha256[:12] in text
    assert text.count("<svg") == 3
    for name in ("pixel AUROC", *trained.losses):
        assert f">{name}</text>" in text
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".html", ".part")] == ["run.html"]


def test_a_run_with_the_separation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligning, "ALIGNED", 1.1)
    data, page, told = write_plain(tmp_path / "good", 5, WORKING), tmp_path / "run.html", Told()
    trained = patchcli.train(
        data, tmp_path / "s.zarr", images=ImageOptions(size=WORKING), steps=3, report=page, observer=told, **QUICK
    )
    alignment = Store.open(tmp_path / "s.zarr").encoder.attributes.alignment
    reason = f"these images are not aligned (their mean explains {alignment:.1%} of their detail)"
    assert f"{reason}; the encoder learned from synthetic defects" in told.notes
    text = page.read_text(encoding="utf-8")
    assert f"{reason.capitalize()}, so the encoder learned to separate patches with synthetic defects from good ones" in text
    assert list(trained.losses) == ["nce_big", "ssl_big", "sep_big", "var_big"]
    assert text.count("<svg") == 5
    assert "NaN" not in text
    assert "nan" not in text


def test_a_report_without_steps_or_validation_images(store: Path, tmp_path: Path) -> None:
    patchcli.train(store=store, steps=0, report=str(tmp_path / "run.html"), **QUICK)
    assert "too few images to validate with some of them" in (tmp_path / "run.html").read_text(encoding="utf-8")


def test_one_image_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    data = write_plain(tmp_path / "one", 1)
    with pytest.raises(
        InputError, match=r"expected at least 2 good images \(their mean is subtracted\), found 1 that can be read, of 1"
    ):
        patchcli.train(data, tmp_path / "s.zarr", steps=0)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["one"]
