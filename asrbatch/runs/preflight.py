"""What `transcribe` would refuse about a run, as far as this machine can tell: `plan` asks from a login node.

The judge is `plan.RunPlan`, the one that `transcribe` itself asks. It needs a vLLM and its device; where those are
missing, model and languages are checked all the same, and what was not checked is said. A model that is not on this
machine is left
alone: a plan downloads nothing.
"""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial

from asrbatch.audio.windows import WindowConfig
from asrbatch.config import RunConfig
from asrbatch.engine import inspector
from asrbatch.engine.devices import detect_device
from asrbatch.errors import ManifestError, UsageError
from asrbatch.manifest.scan import Check
from asrbatch.models.capabilities import whisper_capabilities
from asrbatch.models.checkpoint import WHISPER, Checkpoint, open_checkpoint
from asrbatch.models.whisper import WhisperPrompts
from asrbatch.runs.model_selection import audio_rules, engine_plan
from asrbatch.runs.plan import RunPlan
from asrbatch.runs.row_check import RowRules, check_row, row_rules


@dataclass(frozen=True)
class PreflightResult:
    """Whether the run can be done.

    Attributes:
        refused: what `transcribe` will say; None when nothing was found.
        not_checked: what could not be checked here, and why; None when everything was.
        rules: what the model hears; None when the model could not be opened.
    """

    refused: str | None = None
    not_checked: str | None = None
    rules: WindowConfig | None = None


def check_run(config: RunConfig, languages: Iterable[str]) -> PreflightResult:
    """Asks what can be asked without an engine.

    Args:
        config: the run; its devices are not asked for, they are those of another machine.
        languages: that rows of the manifest name.
    """
    model = config.engine.model
    is_path = os.path.isdir(os.path.expanduser(model)) or model.startswith((".", "/", "~")) or model.count("/") > 1
    try:
        checkpoint = open_checkpoint(model, config.engine.revision, fetch=False)
    except UsageError as e:
        if is_path:
            return PreflightResult(refused=str(e))
        return PreflightResult(
            not_checked="the model: it is not whole in this machine's cache; a plan downloads nothing, transcribe does"
        )
    is_whisper = checkpoint.architecture == WHISPER
    try:
        rules = audio_rules(config, whisper_capabilities(checkpoint)) if is_whisper else None
    except UsageError as e:
        return PreflightResult(refused=str(e))
    try:
        detect_device()
    except UsageError as e:
        if not is_whisper:
            return PreflightResult(not_checked=f"the model and the rows' languages: {e}")
        return PreflightResult(
            _check_model(config, checkpoint, languages), f"engine options and the rows' tasks: {e}", rules
        )
    try:
        here = replace(config.engine, model=checkpoint.folder, revision=None)  # nothing more is fetched
        return PreflightResult(rules=RunPlan(replace(config, devices=None, engine=here)).rules)
    except (UsageError, ManifestError) as e:
        return PreflightResult(refused=str(e).replace(checkpoint.folder, model), rules=rules)


# What of a run with Whisper can be judged without a vLLM.
_LIGHT = frozenset(("revision", "task", "windows", "language"))


def rules_of_model(config: RunConfig, given: Collection[str]) -> tuple[Check, WindowConfig]:
    """What a run with this model, asked so, asks of a row and its audio; Whisper's without a vLLM where that is enough.

    Args:
        given: names of the options about the model and how it is asked that were written.

    Raises:
        UsageError: an option that the model cannot honour.
    """
    checkpoint = open_checkpoint(config.engine.model, config.engine.revision)
    if checkpoint.architecture == WHISPER and _LIGHT.issuperset(given):
        rules = _whisper_rules(config, checkpoint)
    else:
        rules = row_rules(engine_plan(config))
        inspector.close()
    return partial(check_row, rules), audio_rules(config, rules.capabilities)


def _whisper_rules(config: RunConfig, checkpoint: Checkpoint) -> RowRules:
    prompts = WhisperPrompts(checkpoint, config.task)
    language = None if config.language is None else prompts.check_language(config.language, "--language")
    return RowRules(whisper_capabilities(checkpoint), config.task, language, None, prompts.check_language)


def _check_model(config: RunConfig, checkpoint: Checkpoint, languages: Iterable[str]) -> str | None:
    try:
        prompts = WhisperPrompts(checkpoint, config.task)
        for language in filter(None, [config.language, *languages]):
            prompts.check_language(language)
    except UsageError as e:
        return str(e)
    return None
