"""What `transcribe` would refuse about a run, as far as this machine can tell: `plan` asks from a login node.

The judge is `plan.RunPlan`, the one that `transcribe` itself asks. It needs a vLLM and its device; where those are
missing, a Whisper model and the rows' languages are checked all the same, and what was not checked is said. A model
that is not on this machine is left alone: a plan downloads nothing.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace

from asrbatch.audio.windows import WindowConfig
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.engine import inspector
from asrbatch.engine.devices import detect_device
from asrbatch.engine.settings import parse_engine_args
from asrbatch.errors import ManifestError, UsageError
from asrbatch.models.capabilities import whisper_capabilities
from asrbatch.models.checkpoint import is_path, open_checkpoint
from asrbatch.runs.model_selection import resolve_model, window_config
from asrbatch.runs.plan import RunPlan
from asrbatch.runs.row_check import RowCheck


@dataclass(frozen=True)
class PreflightResult:
    """Whether the run can be done.

    Attributes:
        refused: what `transcribe` will say; None when nothing was found.
        not_checked: what could not be checked here, and why; None when everything was.
        window_config: how long audio is cut, by what the model takes at once; None when the model could not be opened.
        notes: what `transcribe` will say of the manifest.
    """

    refused: str | None = None
    not_checked: str | None = None
    window_config: WindowConfig | None = None
    notes: Sequence[str] = ()


def check_run(config: RunConfig, languages: Iterable[str]) -> PreflightResult:
    """Checks what can be checked without an engine.

    Args:
        config: the run; its devices are left out, they are those of another machine.
        languages: that rows of the manifest name.
    """
    model = config.engine.model
    try:
        checkpoint = open_checkpoint(model, config.engine.revision, fetch=False)
    except UsageError as e:
        if is_path(model):
            return PreflightResult(refused=str(e))
        return PreflightResult(
            not_checked="the model: it is not whole in this machine's cache; a plan downloads nothing, transcribe does"
        )
    engine = replace(config.engine, model=checkpoint.folder, revision=None)  # nothing more is fetched
    not_checked = windows = None
    try:
        is_whisper = checkpoint.is_whisper(parse_engine_args(engine.args))
        try:
            detect_device()
        except UsageError as e:
            if not is_whisper:
                return PreflightResult(not_checked=f"the model and the rows' languages: {e}")
            not_checked = f"engine options and the rows' tasks: {e}"
        if is_whisper:
            windows = window_config(config, whisper_capabilities(checkpoint))
        if not_checked is None:
            plan = RunPlan(replace(config, devices=None, engine=engine))
            return PreflightResult(window_config=plan.engine.window_config, notes=plan.notes)
        # Without the engine's options, which only a vLLM can judge; its arguments may say that the model is Whisper.
        spec = resolve_model(replace(config, engine=EngineConfig(engine.model, args=engine.args)), with_vllm=False)
        for language in languages:
            spec.capabilities.check_language(language, "language")
    except (UsageError, ManifestError) as e:
        # Messages name the folder that took the model's place above; the user wrote the name.
        return PreflightResult(str(e).replace(checkpoint.folder, model), not_checked, windows)
    return PreflightResult(None, not_checked, windows)


# Options of a run with Whisper that take a vLLM to be judged: hotwords are counted with a library of its.
_WITH_VLLM = {"hotwords", *(field.name for field in fields(EngineConfig) if field.name != "revision")}


def check_of_model(config: RunConfig, given: Collection[str]) -> tuple[RowCheck, WindowConfig]:
    """What a run with this model and these options demands of a row and its audio; Whisper's without a vLLM where that
    is enough.

    Args:
        given: names of the options about the model that were written.

    Raises:
        UsageError: an option that the model cannot honour.
    """
    checkpoint = open_checkpoint(config.engine.model, config.engine.revision)
    needs_vllm = not (checkpoint.is_whisper(parse_engine_args(config.engine.args)) and _WITH_VLLM.isdisjoint(given))
    spec = resolve_model(config, with_vllm=needs_vllm)
    inspector.close()
    return RowCheck(spec), spec.window_config
