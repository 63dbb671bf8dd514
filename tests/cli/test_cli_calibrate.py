"""calibrate, and what score and info make of it, as commands."""

from dataclasses import fields

import pytest
from commands import done, records, refused, run, timeless
from smallworld import World, write_plain

from patchcli.detection.calibration import Thresholds


@pytest.fixture
def calibrated(world: World) -> World:
    write_plain(world.data / "validation" / "good", 12, seed=7)
    done("calibrate", "--store", world.store, "--false-alarms", "25%")
    return world


def test_the_record_and_the_promise(calibrated: World) -> None:
    given = calibrated.data / "validation" / "good"
    arguments = ("calibrate", "--store", calibrated.store, "--false-alarms", "25%", "--review", "0.4", "--from", given)
    result = done(*arguments)
    (record,) = records(result)
    assert list(record) == [field.name for field in fields(Thresholds)]
    assert (record["schema"], record["images"], record["review_rate"]) == ("patchcli.calibration/1", 12, 0.4)
    assert f"patchcli: {record['promise']}; next: patchcli score" in result.stderr.splitlines()
    table = done(*arguments, "--format", "table").stdout.splitlines()
    assert table[0].split() == ["reject", "above", "review", "above", "pixel", "images", "source"]
    assert f"{record['threshold']:.4g}" in table[1]
    (found,) = records(done("info", "--store", calibrated.store))
    assert (found["calibration"], found["threshold"]) == (record["promise"], record["threshold"])


def test_verdicts_and_exit_statuses(calibrated: World) -> None:
    store = ("--store", calibrated.store)
    found = records(done("score", *store))
    assert [record["verdict"] for record in found] == ["pass"] * 2 + ["reject"] * 3
    assert found[-1]["p_value"] == 1 / 13
    heading, *lines = done("score", *store, "--format", "table").stdout.splitlines()
    assert heading.split()[:3] == ["image", "score", "verdict"]
    assert [line.split()[2] for line in lines] == [record["verdict"] for record in found]
    result = run("score", *store, "--exit-code")
    assert (result.exit_code, timeless(records(result))) == (1, timeless(found))
    done("score", calibrated.data / "test" / "good", *store, "--exit-code")
    result = run("score", calibrated.data / "test" / "hole", "missing.png", *store, "--exit-code")
    assert (result.exit_code, len(records(result))) == (2, 3)


def test_an_exit_code_needs_a_calibration(made: World) -> None:
    refused("score", "--exit-code", "--store", made.store, says=("holds no calibration yet", "run: patchcli calibrate"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--false-alarms", "1%"), ("1% at 95% confidence needs 299 good images, found 10", "--false-alarms 25.89%")),
        (("--false-alarms", "some"), ("--false-alarms: expected a share such as 10% or 0.1, found 'some'",)),
        (("--false-alarms", "0"), ("--false-alarms: expected a share between 0 and 100%, found 0%",)),
        (("--confidence", "100%"), ("--confidence: expected a share between 0 and 100%, found 100%",)),
        (("--review", "x"), ("--review: expected a share such as 10% or 0.1, found 'x'",)),
        (("--from", "validation"), ("no validation split there", "--from loo")),
    ],
)
def test_refusals(kept: World, arguments: tuple[str, ...], says: tuple[str, ...]) -> None:
    refused("calibrate", *arguments, "--store", kept.store, says=says)


def test_a_bank_comes_first(bankless: object) -> None:
    refused("calibrate", "--store", bankless, says=("holds no bank yet", "patchcli embed"))
