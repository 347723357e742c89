"""What `transcribe` would refuse about a run, as far as this machine can tell: `plan` asks from a login node.

The judge is `plan.RunPlan`, the one that `transcribe` itself asks. It needs a vLLM and its device; where those are
missing, a Whisper model and the rows' languages are checked all the same, and what was not checked is said. A model
that is not on this machine is left alone: a plan downloads nothing.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from asrbatch.audio.windows import WindowConfig
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.engine import inspector
from asrbatch.engine.devices import check_names, detect_device
from asrbatch.engine.settings import parse_engine_args
from asrbatch.errors import ManifestError, RefusedOutputError, UsageError
from asrbatch.manifest.manifest import Manifest, open_manifest
from asrbatch.manifest.stdin import KeptManifest
from asrbatch.models.capabilities import whisper_capabilities
from asrbatch.models.checkpoint import is_path, open_checkpoint
from asrbatch.runs.fingerprint import differences, digest, is_of_other_rules
from asrbatch.runs.model_selection import resolve_model, window_config
from asrbatch.runs.plan import RunPlan, sharding_of, source_of, window_choices
from asrbatch.runs.row_check import RowCheck
from asrbatch.storage.files import explained
from asrbatch.storage.journal import check_rows
from asrbatch.storage.paths import RunPaths
from asrbatch.storage.record import is_mark, is_record
from asrbatch.storage.run_files import read_chunks_of

_MEND = "put the original back, or --overwrite to start over"


@dataclass(frozen=True)
class PreflightResult:
    """Whether the run can be done.

    Attributes:
        refused: what `transcribe` will say; None when nothing was found.
        not_checked: what could not be checked here, and why; None when everything was.
        window_config: how long audio is cut, by what the model takes at once; None when the model could not be opened.
        notes: what `transcribe` will say of the manifest.
        fingerprint: those parts of the run's that are known here, and the same on every machine.
    """

    refused: str | None = None
    not_checked: str | None = None
    window_config: WindowConfig | None = None
    notes: Sequence[str] = ()
    fingerprint: Mapping[str, Any] = field(default_factory=dict)


def check_engine_options(config: RunConfig) -> None:
    """What can be said of the engine's options alone, before anything is made. Raises UsageError."""
    engine_args = parse_engine_args(config.engine.args)
    if config.devices is not None:
        check_names(config.devices, engine_args)


def check_same_run(
    paths: RunPaths,
    record: dict[str, Any] | None,
    mark: dict[str, Any] | None,
    fingerprint: Mapping[str, Any],
    *,
    retry_failed: bool,
    is_part: bool = False,
) -> str | None:
    """Refuses what stands at an output if it is not this run's, or no more what its mark vouches for; rows without a
    mark are `Journal`'s to judge. Returns what is to be said of it all the same.

    Args:
        record, mark: of the output, as they stand on disk.
        fingerprint: the run's.
        retry_failed: failed rows of a complete run are to be run again.
        is_part: those parts of it that are known; and rows are not read: for who asks about thousands of outputs.

    Raises:
        RefusedOutputError: the output is another run's or damaged; every difference is named.
    """
    note = _check_options(paths, record, mark, fingerprint, retry_failed, is_part)
    if mark:
        _check_mark(paths, record, mark)
        if not is_part:
            _check_content(paths, mark)
    return note


def _check_options(
    paths: RunPaths,
    record: dict[str, Any] | None,
    mark: dict[str, Any] | None,
    fingerprint: Mapping[str, Any],
    retry_failed: bool,
    is_part: bool,
) -> str | None:
    """That of `check_same_run` that the record tells."""
    with explained(paths.rows):
        has_rows = paths.rows.exists() and paths.rows.stat().st_size > 0
    if record is None:
        if has_rows:
            raise RefusedOutputError(
                f"{paths.rows}: exists, but its run record {paths.record.name} does not, so it is unknown which run "
                "made it; choose another --output, or --overwrite to start over"
            )
        return None
    damaged = paths.record if not is_record(record) else paths.done if mark and not is_mark(mark) else None
    if damaged:
        raise RefusedOutputError(
            f"{damaged}: is not what asrbatch writes; it was edited: put the original back, or --overwrite to start "
            "anew"
        )
    before, now = record["fingerprint"], dict(fingerprint)
    if is_part:
        before = {name: before.get(name) for name in now}
    changed = differences(before, now)
    # A run that never wrote a row, for a mistyped option, binds nobody.
    if not changed or not (has_rows or mark):
        return None
    if not is_of_other_rules(before, now):
        raise RefusedOutputError(
            f"{paths.rows}: holds rows of another run. What differs: {'; '.join(changed)}. "
            "Give the same options, choose another --output, or --overwrite to start over"
        )
    was, is_now = (each["windows"]["version"] for each in (before, now))
    versions = f"version {was} of the rules for windows, and this asrbatch has {is_now}"
    if not mark or (retry_failed and mark["statuses"].get("failed")):
        raise RefusedOutputError(
            f"{paths.rows}: was begun with {versions} (CHANGELOG.md says what changed). Finish it with the asrbatch "
            "that began it, choose another --output, or --overwrite to start over"
        )
    return f"{paths.rows.name} was made with {versions}; --overwrite makes it again"


def _check_mark(paths: RunPaths, record: dict[str, Any] | None, mark: dict[str, Any]) -> None:
    """Raises RefusedOutputError where the mark is not that of what stands beside it."""
    if record is None or mark.get("fingerprint") != digest(record["fingerprint"]):
        raise RefusedOutputError(f"{paths.done}: belongs to another run, not to {paths.record.name}; {_MEND}")
    if not paths.rows.exists():
        raise RefusedOutputError(f"{paths.rows}: is gone, although {paths.done.name} says that it is complete; {_MEND}")


def _check_content(paths: RunPaths, mark: dict[str, Any]) -> None:
    """Raises RefusedOutputError where the rows are not those that the mark vouches for."""
    # Asked before the mark is removed: a new one would vouch for whatever was done to the rows since.
    with explained(paths.rows, _MEND), open(paths.rows, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != mark["sha256"]:
        raise RefusedOutputError(
            f"{paths.rows}: was changed after the run completed (its SHA-256 is not the one in {paths.done.name}); "
            f"{_MEND}"
        )


def known_fingerprint(config: RunConfig, manifest: Manifest) -> dict[str, Any]:
    """Those parts of a run's fingerprint that its options and its manifest make."""
    sharding = sharding_of(config, manifest)
    known = {"num_chunks": 1, "strategy": None, "chunks": None}
    if sharding is not None:
        known = {"num_chunks": sharding.num_chunks, "strategy": sharding.strategy, "chunks": sharding.digest}
    made_from = {"manifest": manifest.scan.digest, "num_rows": len(manifest), "revision": config.engine.revision}
    asked = {
        "task": config.task,
        "prompt": config.prompt,
        "word_timestamps": config.word_timestamps or None,
        "text_field": config.text_field,
    }
    return {**made_from, **asked, **known}


def check_run(
    config: RunConfig,
    languages: Iterable[str],
    *,
    manifest: Manifest | None = None,
    kept: KeptManifest | None = None,
) -> PreflightResult:
    """Checks what can be checked without an engine.

    Args:
        config: the run; its devices are left out, they are those of another machine.
        languages: that rows of the manifest name.
        manifest: opened without the model, where the fingerprint is wanted.
        kept: what came on standard input, where the manifest is `-`.
    """
    model = config.engine.model
    known: dict[str, Any] = {} if manifest is None else known_fingerprint(config, manifest)
    try:
        checkpoint = open_checkpoint(model, config.engine.revision, fetch=False)
    except UsageError as e:
        if is_path(model):
            return PreflightResult(refused=str(e))
        return PreflightResult(
            not_checked="the model: it is not fully in this machine's cache; plan downloads nothing, transcribe does",
            fingerprint=known,
        )
    if manifest is not None:
        known["model"] = checkpoint.digest
    engine = replace(config.engine, model=checkpoint.folder, revision=None)  # nothing more is fetched
    not_checked = windows = None
    try:
        is_whisper = checkpoint.is_whisper(parse_engine_args(engine.args))
        try:
            detect_device()
        except UsageError as e:
            if not is_whisper:
                return PreflightResult(not_checked=f"the model and the rows' languages: {e}", fingerprint=known)
            also = "" if config.hotwords is None else ", and whether --hotwords fit the prompt"
            not_checked = f"engine options and the rows' tasks{also}: {e}"
        if is_whisper:
            windows = window_config(config, whisper_capabilities(checkpoint))
            known["windows"] = window_choices(windows)
        if not_checked is None:
            plan = RunPlan(replace(config, devices=None, engine=engine), kept)
            # Of these a fingerprint says nothing where there is nothing to say.
            unsaid = dict.fromkeys(("asked", "audio_folder", "word_timestamps", "text_field", "texts"))
            known = {**unsaid, **plan.fingerprint, "revision": config.engine.revision}
            if engine.dtype == "auto":
                del known["dtype"]  # on another device it may be another
            return PreflightResult(window_config=plan.engine.window_config, notes=plan.notes, fingerprint=known)
        # Without the engine's options, which only a vLLM can judge; its arguments may say that the model is Whisper.
        spec = resolve_model(replace(config, engine=EngineConfig(engine.model, args=engine.args)), with_vllm=False)
        for language in languages:
            spec.capabilities.check_language(language, "language")
        known["language"] = spec.language
    except (UsageError, ManifestError) as e:
        # Messages name the folder that took the model's place above; the user wrote the name.
        return PreflightResult(str(e).replace(checkpoint.folder, model), not_checked, windows)
    return PreflightResult(None, not_checked, windows, fingerprint=known)


def check_tasks(
    config: RunConfig, kept: KeptManifest | None, chunk_ids: Collection[int], *, with_model: bool
) -> list[str]:
    """Refuses, in the words of `transcribe`, what every task of a run in chunks would refuse.

    Args:
        config: that of any chunk.
        kept: what came on standard input, where the manifest is `-`; None where that was not read.
        with_model: the tasks run in this environment.

    Returns:
        What can only be told where they run.

    Raises:
        UsageError, ManifestError, OutputError: the tasks would end with it.
    """
    if kept is None and config.descriptor is not None:
        return ["what comes on standard input is read when the scripts are submitted; nothing of it was checked"]
    sources, reading = source_of(config, kept)
    if remote := next((source for source in sources if "://" in source), None):
        return [f"{remote} is not read here, and nothing was checked; asrbatch plan does"]
    languages: set[str | None] = set()
    manifest = open_manifest(sources, check=lambda row: languages.add(row.lang), options=reading)
    known, notes = known_fingerprint(config, manifest), []
    if with_model:
        verdict = check_run(config, filter(None, languages), manifest=manifest, kept=kept)
        if verdict.refused:
            # A line for each problem, as `transcribe` has them.
            raise UsageError(*verdict.refused.split("\n"))
        known, notes = verdict.fingerprint, list(verdict.notes)
        # That a model is not here is said anyway.
        if verdict.not_checked and is_path(config.engine.model):
            notes.append(f"not checked here: {verdict.not_checked}")
    else:
        notes.append("the model is not checked here: the tasks run in another environment (--container, --python)")
    if not config.overwrite and config.output_path.parent.is_dir():
        _check_chunks(config, manifest, known, chunk_ids)
    return notes


def _check_chunks(config: RunConfig, manifest: Manifest, known: Mapping[str, Any], chunk_ids: Collection[int]) -> None:
    """Raises OutputError where the task of a chunk would refuse what stands at its output."""
    chunk_of = sharding_of(config, manifest).chunk_of
    for files in read_chunks_of(config.output_path, config.num_chunks):
        if files.chunk_id not in chunk_ids:
            continue
        if files.problem:
            raise files.problem
        check_same_run(files.paths, files.record, files.mark, known, retry_failed=config.retry_failed, is_part=True)
        # To read all that is complete may take hours; its number of bytes tells most.
        if files.changed:
            raise RefusedOutputError(files.changed)
        if files.num_bytes and not files.mark:
            check_rows(files.paths.rows, len(manifest), chunk=chunk_of == files.chunk_id, keys=manifest.keys)


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
