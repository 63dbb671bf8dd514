"""The command line: parse, one library call, print."""


def main() -> None:
    """Entry point of the `patchcli` command."""
    from patchcli.cli.app import app
    from patchcli.cli.process import run

    run(app)
