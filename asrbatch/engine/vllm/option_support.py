"""Which options a model supports, found by trying: one counts when the prompt changes. Knows nothing of vLLM."""

import re
from collections.abc import Callable, Sequence

PromptText = Callable[..., str | None]
"""Keyword arguments of a request (`language`, `request_prompt`, `hotwords`, `task_type`, `to_language`) to its prompt;
None where the model refuses them."""

# A field of SpeechToTextParams that a class uses, to the features that need it.
FEATURES_OF = {
    "language": ["language"],
    "request_prompt": ["prompt"],
    "hotwords": ["hotwords"],
    "to_language": ["translation", "target_language"],
}


def detect_supported_options(prompt_text: PromptText, languages: Sequence[str]) -> list[str]:
    """The keys of `capabilities.MODELS_SUPPORTING` that change the prompt; the others would be ignored.

    Args:
        prompt_text: for the run's own task, where a call names none.
        languages: codes the model has.
    """
    # With fewer than two languages there is no choice that could change the prompt.
    one, other = [*languages, None, None][:2]
    changes = {
        "language": (prompt_text(language=one), prompt_text(language=other)),
        "prompt": (prompt_text(), prompt_text(request_prompt="Norland")),
        "hotwords": (prompt_text(), prompt_text(hotwords="Norland")),
        # Whatever the run does: a run that translates would otherwise be held against itself.
        "translation": (prompt_text(task_type="transcribe"), prompt_text(task_type="translate", to_language=one)),
        "target_language": (
            prompt_text(task_type="translate", to_language=one),
            prompt_text(task_type="translate", to_language=other),
        ),
    }
    return [feature for feature, (one, other) in changes.items() if None not in (one, other) and one != other]


def default_target(prompt_text: PromptText, languages: Sequence[str]) -> str | None:
    """The language a model translates into when none is named: that whose prompt is the same; None for none."""
    unnamed = prompt_text(task_type="translate")
    if unnamed is None:
        return None
    return next((code for code in languages if prompt_text(task_type="translate", to_language=code) == unnamed), None)


def supported_options_in_source(source: str) -> list[str]:
    """The same by the source of a class's `get_generation_prompt`, for the list of all models: there is no checkpoint
    to try with, and no run is decided by it.

    A field that is only held against None does not count: a class that demands a language need not use it.
    """
    supports: list[str] = []
    source = re.sub(r"raise \w+\([^)]*\)", "", source)
    for field, features in FEATURES_OF.items():
        local = re.search(rf"(\w+) = stt_params\.{field}\b", source)
        elsewhere = source.replace(local[0], "") if local else source
        name = local[1] if local else rf"stt_params\.{field}"
        if re.search(rf"\b{name}\b(?! is (?:not )?None)", elsewhere):
            supports += features
    return supports
