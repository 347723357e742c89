"""What stands around the transcript in a generated text: a reasoning model's thought, the language it states first.

Only a thought that opens the text is one: what stands inside a transcript was said by somebody. Nothing else is
touched; quotes and prefixes may have been said, too. Knows text alone: tokens and models are `engine/processors.py`'s.
"""

import re

from asrbatch.languages import is_language, primary

OPEN, CLOSE = "<think>", "</think>"
_LEADING = re.compile(rf"\s*{re.escape(OPEN)}")

# Ends what Qwen3-ASR writes before the transcript: `language English<asr_text>`
# (vllm/model_executor/models/qwen3_asr.py). Its class takes it off again, so that it is lost unless it is read here.
TAG = "<asr_text>"
_STATED = re.compile(rf"\s*language ([^<>]+){re.escape(TAG)}\s*")


def split_reasoning(generated: str, *, is_opened: bool = False) -> tuple[str, str | None, bool]:
    """The transcript; the reasoning, stripped, or None; whether the text ended inside the reasoning, all of it then.

    Args:
        is_opened: the prompt itself ended in `<think>`, so that the generated text begins inside the thought.
    """
    opening = _LEADING.match(generated)
    if opening is None and not is_opened:
        return generated, None, False
    thought = generated[opening.end() :] if opening else generated
    inside, closing, text = thought.partition(CLOSE)
    return text if closing else "", inside.strip(), not closing


def ends_in_reasoning(prompt: str) -> bool:
    """Whether a prompt ends inside a thought."""
    return prompt.rstrip().endswith(OPEN)


def stated_language(generated: str, text: str) -> str | None:
    """The language that a generated text states: a code as `languages.primary` has it; None where it states none, or
    several.

    Args:
        generated: as it was decoded.
        text: what the model class's own reader left of it. What it left was said by somebody and states nothing.
    """
    found = _STATED.fullmatch(generated.removesuffix(text))
    return primary(found[1]) if found and is_language(found[1]) else None
