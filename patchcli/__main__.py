"""python -m patchcli."""

from patchcli.cli import main

main()
