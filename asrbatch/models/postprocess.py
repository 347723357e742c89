"""Parts what a reasoning model thought from what it answered. Text in, text out.

Only a thought that opens the answer is one: what stands inside a transcript was said by somebody. Nothing else of an
answer is touched; quotes and prefixes may have been said, too.

The language that a model writes in front of its answer and its class takes off again. Text in, code out.
"""

import re
from typing import NamedTuple

from asrbatch.languages import is_language, primary

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


# Ends what Qwen3-ASR writes before the transcript: `language English<asr_text>`
# (vllm/model_executor/models/qwen3_asr.py).
TAG = "<asr_text>"

_STATED = re.compile(rf"\s*language ([^<>]+){re.escape(TAG)}\s*")


def stated(answer: str, text: str) -> str | None:
    """The language an answer says that it is in: a code as `languages.primary` has it; None where it says none, or
    several.

    Args:
        answer: as it was decoded.
        text: what the model class's own reader left of it. What it left was said by somebody and states nothing.
    """
    found = _STATED.fullmatch(answer.removesuffix(text))
    return primary(found[1]) if found and is_language(found[1]) else None
