"""The command's entry point, guarded: worker processes import this module again."""

import sys


def main() -> None:
    from asrbatch.cli.app import main as cli_main

    sys.exit(cli_main())


if __name__ == "__main__":
    main()
