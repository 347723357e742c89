"""Parts what a reasoning model thought from what it answered. Text in, text out.

Only a thought that opens the answer is one: what stands inside a transcript was said by somebody. Nothing else of an
answer is touched; quotes and prefixes may have been said, too.
"""

import re
from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"

_LEADING = re.compile(rf"\s*{re.escape(OPEN)}")


class Read(NamedTuple):
    """An answer in two parts.

    Attributes:
        text: what was answered.
        reasoning: what was thought, stripped; None when there was no thought.
        is_unclosed: the answer ended inside the thought, so that all of it is one.
    """

    text: str
    reasoning: str | None = None
    is_unclosed: bool = False


def read(answer: str, *, is_opened: bool = False) -> Read:
    """Parts an answer.

    Args:
        is_opened: the prompt itself ended in `<think>`, so that the answer begins inside the thought.
    """
    opening = _LEADING.match(answer)
    if opening is None and not is_opened:
        return Read(answer)
    thought = answer[opening.end() :] if opening else answer
    inside, closing, text = thought.partition(CLOSE)
    return Read(text if closing else "", inside.strip(), not closing)


def ends_open(prompt: str) -> bool:
    """Whether a prompt ends inside a thought."""
    return prompt.rstrip().endswith(OPEN)
