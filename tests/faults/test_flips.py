"""The short form of flips.py; its long form is run by hand."""

from processes import no_fault


def test_no_fault() -> None:
    no_fault("flips", 2)
