"""Whether a run can do what a row says; the manifest is refused, or the row fails, where it cannot."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from asrbatch.engine.spec import EngineSpec
from asrbatch.errors import RowError, UsageError
from asrbatch.formatting import show
from asrbatch.languages import primary
from asrbatch.pipeline.given_text import PIECES, given_texts, is_too_long, text_problem
from asrbatch.types import Utterance

# NeMo's manifests call the tasks so.
_TASK_NAMES = {"transcribe": ("asr", "transcribe"), "translate": ("ast", "s2t_translation", "translate")}


def _primary(lang: object) -> object:
    return primary(lang) if isinstance(lang, str) else lang


def check_row(spec: EngineSpec, utterance: Utterance) -> str | None:
    """Why a run cannot do what a row wants; None where it can."""
    try:
        if spec.aligns:
            return _check_text(spec, utterance)
        checks = (_check_language, _check_prompt, _check_target, _check_task)
        return next(filter(None, (check(spec, utterance) for check in checks)), None)
    except UsageError as e:  # said of an option as well, where there is no field
        return f"{e}; or rename the field: others are only carried along"


class RowCheck:
    """`check_row` for a whole manifest; counts the rows whose `lang` the model cannot be told, and those to be aligned
    that are sure to fail as `too_long`.

    The first are run all the same: what language it hears is such a model's own business, and `lang` says how to score
    it.

    Attributes:
        written_audio: of the files that will be written the one that is a row's audio; None for none.

    Args:
        outputs: files that will be written.
    """

    def __init__(self, spec: EngineSpec, outputs: Iterable[Path] = ()):
        self._spec, self._num_untold, self._num_too_long, self._texts = spec, 0, 0, hashlib.sha256()
        self.written_audio: Path | None = None
        # By the last name first: a look at every file would cost minutes on a shared file system.
        self._outputs = {os.path.basename(os.path.realpath(path)): path for path in outputs}

    def __call__(self, utterance: Utterance) -> str | None:
        audio = utterance.audio.path
        if audio is not None and (written := self._outputs.get(os.path.basename(audio))) is not None:
            with suppress(OSError):
                if os.path.samefile(written, audio):
                    self.written_audio = written
        problem = check_row(self._spec, utterance)
        if self._spec.aligns:
            self._texts.update(_text_key(self._spec, utterance))
            self._num_too_long += problem is None and _is_too_long(self._spec, utterance)
        # Not of a bad row, which may be checked again.
        self._num_untold += problem is None and bool(utterance.lang) and not self._spec.capabilities.takes_language
        return problem

    @property
    def texts_digest(self) -> str:
        """SHA-256 (hex) of the texts that are aligned, once all rows were checked: of these a manifest's own digest
        says nothing."""
        return self._texts.hexdigest()

    @property
    def notes(self) -> list[str]:
        """What to say of the rows that were counted, once all were checked."""
        notes = []
        if self._num_untold:
            model = self._spec.capabilities.architecture
            notes.append(
                f"{_rows(self._num_untold, 'states', 'state')} a `lang`, but {model} takes no language: it detects it; "
                "`lang` is used for scoring"
            )
        if self._num_too_long:
            hears = f"the {self._spec.window_config.window_s:g} s that the model takes at once"
            notes.append(
                f"{_rows(self._num_too_long, 'has', 'have')} a text, or a part of one, for more audio than {hears}, "
                "and will fail as too_long; give it `segments` with start, end and text"
            )
        return notes


def _rows(number: int, of_one: str, of_many: str) -> str:
    return f"1 row {of_one}" if number == 1 else f"{number} rows {of_many}"


def _check_language(spec: EngineSpec, utterance: Utterance) -> str | None:
    capabilities = spec.capabilities
    if utterance.lang and capabilities.takes_language:
        capabilities.check_language(utterance.lang, "lang")
    elif spec.language is None and (default := capabilities.default_language) is not None:
        taken = f"{capabilities.architecture} detects no language and would take {show(default)}"
        return f"states no language: {taken}; give it `lang`, or give --language"
    return None


def _check_text(spec: EngineSpec, utterance: Utterance) -> str | None:
    field = spec.window_config.text_field
    if (problem := text_problem(utterance.fields, field)) is not None:
        return problem
    if utterance.fields[field] is None:
        return None  # a failed row of a run, which fails here as well
    try:
        given_texts(utterance.fields, field)
    except RowError as e:
        return e.message
    if utterance.lang:
        spec.capabilities.check_language(utterance.lang, "lang")
    elif spec.language is None and isinstance(heard := utterance.fields.get("language"), str):
        spec.capabilities.check_language(heard, "language")
    if utterance.fields[field].strip() and spec.language_of(utterance) is None:
        return "states no language in which its text could be read; give it `lang`, or give --language"
    return None


def _is_too_long(spec: EngineSpec, utterance: Utterance) -> bool:
    config, fields = spec.window_config, utterance.fields
    if fields[config.text_field] is None:
        return False
    return is_too_long(given_texts(fields, config.text_field), utterance.duration_s, config.window_s)


def _text_key(spec: EngineSpec, utterance: Utterance) -> bytes:
    fields = utterance.fields
    said = [fields.get(name) for name in (spec.window_config.text_field, *PIECES, "language")]
    return json.dumps([utterance.index, *said], sort_keys=True, default=str).encode()


def _check_prompt(spec: EngineSpec, utterance: Utterance) -> str | None:
    if utterance.prompt:
        spec.capabilities.require("prompt", f"prompt {show(utterance.prompt)}")
    if utterance.prompt is not None and not utterance.prompt.strip() and spec.capabilities.is_chat:
        fix = "remove the field, or give {audio} to ask without words"
        return f"prompt is empty, and a chat needs an instruction; {fix}"
    return None


def _check_target(spec: EngineSpec, utterance: Utterance) -> str | None:
    if (target := utterance.fields.get("target_lang")) is None:
        return None
    said = f"target_lang {show(target)}"
    if spec.task == "transcribe":
        if _primary(target) == _primary(utterance.lang or spec.language):  # the text's language is the speech's
            return None
        return f"{said}: this run transcribes and does not translate; use --task translate or remove it"
    into = spec.target_language
    if _primary(target) == _primary(into):
        return None
    if spec.capabilities.is_whisper:
        return f"{said}: Whisper translates into English only; remove the field"
    if into is None:
        return f"{said}: this run has no language to translate into; give --target-language"
    return f"{said}: the --target-language of this run is {into}; correct the field, or drop the row"


def _check_task(spec: EngineSpec, utterance: Utterance) -> str | None:
    task = utterance.fields.get("taskname")
    if task is None or task in _TASK_NAMES[spec.task]:
        return None
    return f"taskname {show(task)}: the --task of this run is {spec.task}; correct the field, or the option"
