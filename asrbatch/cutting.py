"""Cuts a recording into windows that do not depend on each other's answers, while it is being decoded."""

from collections.abc import Iterator

from .ahead import Ahead, Piece
from .types import Window
from .windows import Rules, Splitter


def cut(ahead: Ahead, rules: Rules, splitter: Splitter, skips: list[Window]) -> Iterator[Piece]:
    """The windows of a recording.

    Args:
        skips: receives what nobody is asked about; what touches is one skip.
    """
    while len(shown := ahead.peek(rules.lookahead)):
        cut = splitter(shown)
        window = Window(ahead.position, ahead.position + cut.end)
        if cut.is_skipped:
            _add(skips, window)
        else:
            yield Piece(window, shown[: cut.end].copy())
        ahead.skip(cut.end)


def _add(skips: list[Window], skip: Window) -> None:
    if skips and skips[-1].end == skip.start:
        skip = Window(skips.pop().start, skip.end)
    skips.append(skip)
