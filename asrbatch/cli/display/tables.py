"""How tables are printed: as wide as the terminal, and as wide as they need where there is none."""

from rich.console import Console, RenderableType
from rich.text import Text

# A table that goes into a file or a pipe has no terminal to fit into.
_PLAIN_WIDTH = 200


def show(*parts: RenderableType) -> None:
    """Prints to standard output."""
    console = make_console()
    for part in parts:
        # What is too wide for a terminal is wrapped by it; rich would cut it.
        console.print(part, soft_wrap=isinstance(part, Text), crop=False)


def make_console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)
