"""The synthetic data set."""

import numpy as np
import pytest
from PIL import Image

from patchcli.datasets import layouts, weave


def test_the_same_seed_draws_the_same_pictures(tmp_path):
    for name in ("one", "two"):
        weave.write_dataset(tmp_path / name, seed=3, train=2, good=1, each=1)
    weave.write_dataset(tmp_path / "other", seed=4, train=2, good=1, each=1)
    one, two, other = (layouts.read(tmp_path / name).manifest() for name in ("one", "two", "other"))
    assert one == two != other


def test_the_layout_is_understood_without_problems(tmp_path):
    weave.write_dataset(tmp_path, seed=0, train=2, good=1, each=2)
    dataset = layouts.read(tmp_path)
    assert dataset.layout == "mvtec" and not dataset.problems
    test = dataset.split("test")
    assert {sample.kind for sample in test} == {"good", *weave.DEFECTS}
    assert all(bool(sample.masks) == sample.defective for sample in test)


@pytest.mark.parametrize("defect", weave.DEFECTS)
def test_the_mask_is_where_the_picture_differs(defect, monkeypatch):
    """The same cloth drawn without the defect's effect differs inside the mask, and hardly outside."""

    def draw(effect: bool):
        def spare(rng, cloth):
            before = cloth.u, cloth.v, cloth.missing, list(cloth.paint)
            mask = original(rng, cloth)
            if not effect:
                cloth.u, cloth.v, cloth.missing, cloth.paint = before
            return mask

        monkeypatch.setitem(weave.DEFECTS, defect, spare)
        return weave.render(np.random.default_rng(5), defect)

    original = weave.DEFECTS[defect]
    (with_it, mask), (without, same) = draw(True), draw(False)
    difference = np.abs(with_it.astype(int) - without).mean(axis=2)
    assert (mask == same).all() and 30 < mask.sum() < 0.2 * mask.size
    assert difference[mask].mean() > 10 * difference[~mask].mean()


def test_a_good_picture_has_no_mask():
    pixels, mask = weave.render(np.random.default_rng(0))
    assert pixels.shape == (weave.SIDE, weave.SIDE, 3) and not mask.any()


def test_masks_are_written_black_and_white(tmp_path):
    weave.write_dataset(tmp_path, seed=0, train=1, good=1, each=1)
    for path in (tmp_path / "ground_truth").rglob("*.png"):
        assert set(np.unique(np.asarray(Image.open(path)))) == {0, 255}
