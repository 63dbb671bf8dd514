"""The page of a store, as text and in a browser."""

import base64
import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from smallworld import Told, World, copy_of, save, write_plain

import patchcli
from patchcli.datasets import images
from patchcli.errors import InputError
from patchcli.verbs import report as module
from patchcli.verbs import report_cards

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1280,900",
)  # fmt: skip


def titles(text: str) -> list[str]:
    return re.findall(r'<h3><span title="[^"]*">([^<]*)</span>', text)


@pytest.fixture(scope="module")
def calibrated(made: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("report")
    copied = copy_of(made, folder)
    write_plain(folder / "more", 12, seed=7)
    patchcli.calibrate(copied.store, [folder / "more"], false_alarms=0.25)
    return copied


@pytest.fixture(scope="module")
def page(calibrated: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patchcli.write_report(calibrated.store, out=tmp_path_factory.mktemp("page") / "new" / "r.html")


def test_what_the_page_tells(calibrated: World, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    records = list(patchcli.score(calibrated.store))
    assert [path.name for path in page.parent.iterdir()] == ["r.html"]
    assert titles(text) == [record.image for record in sorted(records, key=lambda record: -record.score)]
    for record in records:
        assert f">{record.verdict}</b>{record.score:.4g}<" in text
        assert f"nearest normal patch: {record.nearest_image} at {record.nearest_x}, {record.nearest_y}" in text
    for fact in ("at most 25% of good images", records[0].encoder, "Images by anomaly score", "ROC", "image AUROC"):
        assert fact in text
    assert "mask in red" in text and "pixel threshold" in text
    (first,) = re.findall(r"<td>all</td><td>3</td><td>2</td>(.*?)</tr>", text)
    cells = re.findall(r"<td>([^<]*)</td>", first)
    (row,) = [row for row in patchcli.evaluate(calibrated.store) if row.map == "product" and row.kind is None]
    assert cells[0].startswith(f"{row.image_auroc:.3f}")
    assert cells[2:4] == [f"{row.image_recall:.3f}", f"{row.image_false_alarms:.3f}"]


def test_images_without_labels_or_calibration(made: World, tmp_path: Path) -> None:
    odd = save(tmp_path / "<i>&.png", np.full((64, 90, 3), 90, np.uint8))
    shutil.copytree(made.data / "test" / "hole", tmp_path / "hole")
    written = patchcli.write_report(made.store, [odd, tmp_path / "hole"], out=tmp_path / "r.html", limit=2, observer=Told())
    text = written.read_text(encoding="utf-8")
    assert "not calibrated" in text and "Of 4 images the 2 with the highest scores are shown" in text
    assert text.count("<article") == 2
    assert "<i>" not in text
    assert "AUROC" not in text and "mask" not in text


def test_good_images_and_those_of_a_kind_are_counted_apart(calibrated: World, tmp_path: Path) -> None:
    copied = copy_of(calibrated, tmp_path)
    shutil.copytree(copied.data / "test" / "hole", copied.data / "test" / "dent")
    (copied.data / "test" / "dent" / "000.png").unlink()
    text = patchcli.write_report(copied.store, out=tmp_path / "r.html", observer=Told()).read_text(encoding="utf-8")
    headings = re.findall(r"<th scope=col>([^<]*)</th>", text)
    assert headings[:3] == ["kind", "defective", "good"] and "images" not in headings
    assert re.findall(r"<tr><td>(\w+)</td><td>(\d+)</td><td>(\d+)</td>", text) == [
        ("all", "5", "2"), ("dent", "2", "2"), ("hole", "3", "2"),
    ]  # fmt: skip


def test_the_page_has_a_bound(calibrated: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def size() -> int:
        out = patchcli.write_report(calibrated.store, out=tmp_path / "r.html", observer=Told())
        return sum(map(len, re.findall(r'<img alt="[^"]*" src="([^"]*)"', out.read_text(encoding="utf-8"))))

    whole = size()
    assert whole < report_cards.BYTES
    monkeypatch.setattr(report_cards, "BYTES", whole // 2)
    assert whole // 8 < size() <= whole // 2


def test_an_image_that_is_gone_by_then_is_left_out(calibrated: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [save(tmp_path / f"{number}.png", np.full((64, 90, 3), 90, np.uint8)) for number in range(2)]
    told, page = Told(), module.page

    def later(*arguments: Any) -> str:
        photos[0].unlink()
        return page(*arguments)

    monkeypatch.setattr(module, "page", later)
    out = patchcli.write_report(calibrated.store, photos, out=tmp_path / "r.html", observer=told)
    assert titles(out.read_text(encoding="utf-8")) == [photos[1].as_posix()]
    assert len(told.problems) == 1 and "0.png: no such file" in told.problems[0]


def test_refused(made: World, tmp_path: Path) -> None:
    for options, says in (
        ({"out": tmp_path / "r.pdf"}, "expected the name of a .html file"),
        ({"limit": 0}, "`limit`: expected 1 image or more, found 0"),
        ({"paths": [tmp_path / "none.png"]}, "no image could be scored"),
    ):
        with pytest.raises(InputError, match=says):
            patchcli.write_report(made.store, observer=Told(), **{"out": tmp_path / "r.html", **options})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A headless Chromium, where there is one."""
    programs = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip("chromium and chromedriver are not installed: the page is not looked at in a browser")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(programs[1])))
    yield driver
    driver.quit()


def test_the_page_in_a_browser(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    browser.get(page.as_uri())

    def shown() -> list[str]:
        articles = browser.find_elements(By.TAG_NAME, "article")
        return [a.find_element(By.CSS_SELECTOR, "h3 span").text for a in articles if a.is_displayed()]

    def told() -> str:
        return str(browser.find_element(By.ID, "shown").text)

    assert (len(shown()), told()) == (5, "5 of 5 shown")
    kind, verdict = (Select(browser.find_element(By.NAME, name)) for name in ("kind", "verdict"))
    kind.select_by_visible_text("good")
    assert (sorted(shown()), told()) == (["test/good/000.png", "test/good/001.png"], "2 of 5 shown")
    verdict.select_by_visible_text("reject")
    assert (shown(), told()) == ([], "0 of 5 shown")
    kind.select_by_visible_text("all")
    assert (sorted(shown()), told()) == ([f"test/hole/00{i}.png" for i in range(3)], "3 of 5 shown")
    drawn = "[...document.querySelectorAll('article img')]"
    sizes = browser.execute_script(f"return {drawn}.map(i => [i.naturalWidth, i.alt.length])")
    assert len(sizes) == 20 and all(width > 0 and alt > 10 for width, alt in sizes)
    body = browser.find_element(By.TAG_NAME, "body")
    reached = []
    for _ in range(4):  # two filters, then the first images
        body.send_keys(Keys.TAB)
        reached.append(browser.switch_to.active_element.tag_name)
    assert "button" in reached
    first = browser.find_element(By.CSS_SELECTOR, ".zoom")
    (dialog,) = browser.find_elements(By.TAG_NAME, "dialog")
    for key in (Keys.ENTER, Keys.SPACE):
        browser.execute_script("arguments[0].focus()", first)
        first.send_keys(key)
        assert dialog.is_displayed() and dialog.find_element(By.TAG_NAME, "figcaption").text.endswith(": image, mask in red")
        picture = dialog.find_element(By.TAG_NAME, "img")
        assert picture.get_attribute("src") == first.find_element(By.TAG_NAME, "img").get_attribute("src")
        assert picture.size["width"] > 2 * first.size["width"]
        browser.switch_to.active_element.send_keys(Keys.ESCAPE if key == Keys.SPACE else Keys.ENTER)  # or the button
        assert not dialog.is_displayed()
    first.click()
    dialog.find_element(By.TAG_NAME, "img").click()
    assert not dialog.is_displayed()
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert browser.get_log("browser") == []
    for width in (1280, 500):
        browser.set_window_size(width, 900)
        assert browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth") <= 0


# ---- what the page shows is what was scored --------------------------------------------------------------------------


def test_an_image_is_shown_whatever_it_is_called(calibrated: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that reads like an id of the data set, and a name that is not UTF-8."""
    grey = save(tmp_path / "test" / "good" / "000.png", np.full((64, 90, 3), 90, np.uint8))
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(grey, odd)
    monkeypatch.chdir(tmp_path)
    out = patchcli.write_report(calibrated.store, ["test/good/000.png", odd.name], out="r.html")
    text = out.read_text(encoding="utf-8")
    assert titles(text) == ["test/good/000.png", r"caf\udce9.png"]
    for picture in re.findall(r'alt="[^"]*: image" src="data:image/webp;base64,([^"]*)"', text):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
        assert shown.shape == (64, 90, 3) and abs(shown.mean() - 90) < 2


def test_the_patches_are_those_that_were_compared(calibrated: World, tmp_path: Path) -> None:
    """As they are at the working size, each outlined in its surroundings."""
    (record,) = patchcli.score(calibrated.store, [calibrated.data / "test" / "hole" / "000.png"])
    out = patchcli.write_report(calibrated.store, [calibrated.data / "test" / "hole" / "000.png"], out=tmp_path / "r.html")
    text = out.read_text(encoding="utf-8")
    ours, normal = re.findall(r'alt="[^"]* patch" src="data:image/webp;base64,([^"]*)"', text)
    sources = (
        (ours, record.image, record.patch_x, record.patch_y, record.patch_width, record.patch_height),
        (normal, record.nearest_image, record.nearest_x, record.nearest_y, record.nearest_width, record.nearest_height),
    )
    for picture, name, x, y, width, height in sources:
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))).astype(int)
        rows, columns = np.nonzero((shown > 220).all(axis=2))  # the outline, around the patch
        inside = shown[rows.min() + 3 : rows.max() - 2, columns.min() + 3 : columns.max() - 2].astype(np.uint8)
        wanted = images.Reader().read(calibrated.data / name)[y : y + height, x : x + width]
        found = images.resize(inside, height, width).astype(int)
        assert np.abs(found - wanted).mean() < 25  # WebP and the working size lose some
        shifted = np.roll(wanted, 4, axis=0)  # by half a thread: light where the weave is dark
        assert np.abs(found - shifted).mean() > 1.5 * np.abs(found - wanted).mean()
    assert f"most anomalous patch at {record.patch_x}, {record.patch_y}" in text


def test_both_thresholds_are_marked(made: World, tmp_path: Path) -> None:
    copied = copy_of(made, tmp_path)
    write_plain(tmp_path / "more", 12, seed=7)
    patchcli.calibrate(copied.store, [tmp_path / "more"], false_alarms=0.25, review=0.5)
    text = patchcli.write_report(copied.store, out=tmp_path / "r.html").read_text(encoding="utf-8")
    assert ">reject above</text>" in text and ">review above</text>" in text


def test_an_output_that_cannot_be_is_refused_before_anything_is_scored(made: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"`out` .*x\.html: expected a folder above it, found the file .*file"):
        patchcli.write_report(made.store, [tmp_path / "none.png"], out=tmp_path / "file" / "below" / "x.html")
    assert (tmp_path / "file").read_text() == "mine"
