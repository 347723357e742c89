"""The language that a model writes in front of its answer and its class takes off again. Text in, code out."""

import re

from .languages import is_language, primary

# Ends what Qwen3-ASR writes before the transcript: `language English<asr_text>` (vllm/model_executor/models/qwen3_asr.py).
TAG = "<asr_text>"

_STATED = re.compile(rf"\s*language ([^<>]+){re.escape(TAG)}\s*")


def stated(answer: str, text: str) -> str | None:
    """The language an answer says that it is in: a code as `languages.primary` has it; None where it says none, or several.

    Args:
        answer: as it was decoded.
        text: what the model class's own reader left of it. What it left was said by somebody and states nothing.
    """
    found = _STATED.fullmatch(answer.removesuffix(text))
    return primary(found[1]) if found and is_language(found[1]) else None
