"""A folder of good images, and nothing else: every step, and what info says is next."""

from pathlib import Path

import numpy as np
from commands import done, records, refused, run
from PIL import Image
from smallworld import HOLE, save, texture, touched, write_plain


def test_every_step_on_a_plain_folder(tmp_path: Path) -> None:
    write_plain(tmp_path / "photos" / "monday", 2)
    write_plain(tmp_path / "photos" / "tuesday", 2, (90, 200), seed=1)
    before = touched(tmp_path / "photos")
    result = done("extract", "photos", "--size", "128x160")
    assert result.stdout == ""
    first, others, last = result.stderr.splitlines()
    assert first.endswith("photos/tuesday/000.png: stretched to 128x160; --size fit:128x160 keeps the aspect ratio")
    assert others.startswith("patchcli: 1 other image: stretched")
    assert last == "patchcli: 4 images of 128x160 pixels extracted into patchcli.zarr"
    (found,) = records(done("info"))
    assert (found["layout"], found["category"], found["images"]) == ("plain", "photos", 4)
    assert (found["height"], found["width"]) == (128, 160)
    assert found["encoder_sha256"] is found["bank"] is None
    assert found["next"].startswith("patchcli train")
    again = done("extract", "photos")
    assert again.stderr == "patchcli: 4 images of 128x160 pixels already in patchcli.zarr\n"

    result = done("train", "--steps", 0, "--dim", 8)
    assert result.stderr.splitlines()[-1].endswith("is in patchcli.zarr; next: patchcli embed")
    (found,) = records(done("info"))
    assert (found["encoder_source"], found["bank"], found["next"]) == ("untrained", None, "patchcli embed")

    result = done("embed")
    assert "vectors of 4 images (4 embedded now)\n" in result.stderr
    (found,) = records(done("info"))
    assert found["bank"] == "complete"
    assert found["next"].startswith("patchcli score")
    table = done("info", "--format", "table").stdout
    assert found["encoder_sha256"] in table
    assert "complete" in table

    refused("score", says=(f"{tmp_path}/photos: no test images there", "name images or folders to score"))
    refused("eval", says=(f"{tmp_path}/photos: no test images there", "expected test/good"))
    pixels = texture(np.random.default_rng(3), 140, 160)
    save(tmp_path / "fine.png", pixels)
    pixels[HOLE] = (230, 20, 20)
    save(tmp_path / "torn.png", pixels)
    fine, torn = records(done("score", "fine.png", "torn.png", "--out", "maps", "--overlay"))
    assert torn["score"] > fine["score"]
    assert torn["nearest_image"] in {f"{day}/{i:03}.png" for day in ("monday", "tuesday") for i in range(2)}
    assert (torn["map"], torn["overlay"]) == ("maps/torn.tiff", "maps/torn.png")
    assert not (np.asarray(Image.open("maps/torn.png")) == (255, 0, 0)).all(axis=2).any()  # no mask, no outline
    assert touched(tmp_path / "photos") == before


def test_patches_for_a_look(tmp_path: Path) -> None:
    write_plain(tmp_path / "photos", 2)
    done("extract", "photos", "--size", 128)
    result = done("extract", "--patches", "looks", "--image", "001.png", "--scale", "small")
    assert result.stderr == "patchcli: 625 patches written below looks\n"
    pictures = list((tmp_path / "looks" / "001").iterdir())
    assert len(pictures) == 625
    assert {Image.open(picture).size for picture in pictures[:5]} == {(32, 32)}
    (tmp_path / "file").write_text("x")
    refused("extract", "--patches", "file", says=("--patches file: expected a folder, found a file",))


def test_train_extracts_first(tmp_path: Path) -> None:
    write_plain(tmp_path / "photos", 2)
    (tmp_path / "photos" / "003.png").write_text("no image")
    result = run("train", "photos", "--size", 128, "--steps", 0, "--encoder", "flat", "--dim", 8)
    assert result.exit_code == 2  # one image was left out, the rest is done
    first, *_, last = result.stderr.splitlines()
    assert first.startswith(f"patchcli: left out: {tmp_path}/photos/003.png: cannot be decoded")
    assert last == "patchcli: done, but 1 problem reported above"
    (found,) = records(done("info"))
    assert (found["images"], found["encoder_architecture"], found["next"]) == (2, "flat", "patchcli embed")
