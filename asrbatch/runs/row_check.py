"""Whether a run can do what a row says; the manifest is refused, or the row fails, where it cannot."""

from collections.abc import Callable
from dataclasses import dataclass

from asrbatch.engine.spec import EngineSpec
from asrbatch.errors import UsageError
from asrbatch.languages import primary
from asrbatch.models.capabilities import CHAT_STYLE, ModelCapabilities
from asrbatch.types import Utterance

# NeMo's manifests call the tasks so.
_TASK_NAMES = {"transcribe": ("asr", "transcribe"), "translate": ("ast", "s2t_translation", "translate")}


@dataclass(frozen=True)
class RowRules:
    """What decides whether a run can do what a row says.

    Attributes:
        capabilities: what the model can be asked.
        language, target_language: the run's; None where it states none.
        check_language: a language and where it was said, to the model's own code; raises UsageError.
    """

    capabilities: ModelCapabilities
    task: str
    language: str | None
    target_language: str | None
    check_language: Callable[[str, str], str]


def _primary(lang: object) -> object:
    return primary(lang) if isinstance(lang, str) else lang


def row_rules(engine: EngineSpec) -> RowRules:
    return RowRules(
        engine.capabilities, engine.task, engine.language, engine.model_options.target_language, engine.check_language
    )


def check_row(rules: RowRules, utterance: Utterance) -> str | None:
    """What the manifest reader asks about each row: can this run do what the row says?"""
    if utterance.lang:
        try:
            rules.check_language(utterance.lang, "lang")
        except UsageError as e:
            fix = "rename the field (others are only carried along), or give another model"
            return str(e) if rules.capabilities.is_whisper else f"{e}; {fix}"
    elif rules.language is None and (silent := rules.capabilities.silent_language) is not None:
        taken = f"{rules.capabilities.architecture} detects no language and would take {silent!r}"
        return f"states no language: {taken}; give it `lang`, or give --language"
    if utterance.prompt and "prompt" not in rules.capabilities.can:
        try:
            rules.capabilities.check("prompt", f"prompt {utterance.prompt[:40]!r}")
        except UsageError as e:
            return f"{e}; remove the field"
    if utterance.prompt is not None and not utterance.prompt.strip() and rules.capabilities.style == CHAT_STYLE:
        return (
            "prompt is empty, and a chat needs an instruction; remove the field, or give {audio} to ask without words"
        )
    target = utterance.fields.get("target_lang")
    into = rules.target_language or rules.capabilities.default_target
    if target is not None and rules.task == "translate" and _primary(target) != _primary(into):
        if rules.capabilities.is_whisper:
            return f"target_lang {target!r}: Whisper translates into English only"
        if into is None:
            return f"target_lang {target!r}: this run states no language to translate into; give --target-language"
        return f"target_lang {target!r}: this run does --target-language {into}; one language for a run"
    if (
        target is not None
        and rules.task == "transcribe"
        and _primary(target) != _primary(utterance.lang or rules.language)
    ):
        return f"target_lang {target!r}: this run transcribes and does not translate; use --task translate or remove it"
    task = utterance.fields.get("taskname")
    if task is not None and task not in _TASK_NAMES[rules.task]:
        return f"taskname {task!r}: this run does --task {rules.task}"
    return None
