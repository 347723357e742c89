"""The command's entry point, guarded: worker processes import this module again."""

import sys


def main() -> None:
    # First of all: what follows takes half a second to import, and Ctrl-C may come at any time.
    from asrbatch.cli.process import guard_streams, leave_on_signals, use_utf8

    use_utf8()
    leave_on_signals()
    guard_streams()
    from asrbatch.cli.app import main as cli_main

    sys.exit(cli_main())


if __name__ == "__main__":
    main()
