"""What a model honours, found by trying: an option counts when the prompt changes with it. Knows nothing of vLLM."""

import re
from collections.abc import Callable, Sequence

# Keyword arguments of a request (`language`, `request_prompt`, `hotwords`, `task_type`, `to_language`) to its prompt;
# None where the model refuses them.
Say = Callable[..., str | None]

# A field of SpeechToTextParams that a class uses, to what that lets one ask for.
_LETS = {
    "language": ["language"],
    "request_prompt": ["prompt"],
    "hotwords": ["hotwords"],
    "to_language": ["translation", "target_language"],
}


def detect_supported_options(say: Say, languages: Sequence[str]) -> list[str]:
    """The keys of `capabilities.WHICH_CAN` that change the prompt; the others would be ignored.

    Args:
        say: for the run's own task, where a call names none.
        languages: codes the model has.
    """
    one, other = [*languages, None, None][:2]
    changes = {
        "language": (say(language=one), say(language=other)),
        "prompt": (say(), say(request_prompt="Norland")),
        "hotwords": (say(), say(hotwords="Norland")),
        # Whatever the run does: a run that translates would otherwise be held against itself.
        "translation": (say(task_type="transcribe"), say(task_type="translate", to_language=one)),
        "target_language": (say(task_type="translate", to_language=one), say(task_type="translate", to_language=other)),
    }
    return [what for what, prompts in changes.items() if None not in prompts and len(set(prompts)) == len(prompts)]


def default_target(say: Say, languages: Sequence[str]) -> str | None:
    """The language a model translates into when none is named: that whose prompt is the same. None
    where there is none.
    """
    unnamed = say(task_type="translate")
    if unnamed is None:
        return None
    return next((code for code in languages if say(task_type="translate", to_language=code) == unnamed), None)


def supported_options_in_source(source: str) -> list[str]:
    """The same by the source of a class's `get_generation_prompt`, for want of a checkpoint to try with.

    A field that is only held against None does not count: a class that demands a language need not use it.
    """
    can = []
    source = re.sub(r"raise \w+\([^)]*\)", "", source)
    for field, whats in _LETS.items():
        local = re.search(rf"(\w+) = stt_params\.{field}\b", source)
        elsewhere = source.replace(local[0], "") if local else source
        name = local[1] if local else rf"stt_params\.{field}"
        if re.search(rf"\b{name}\b(?! is (?:not )?None)", elsewhere):
            can += whats
    return can
