"""asrbatch: offline batch transcription on vLLM; every manifest row ends in exactly one output row.

`asrbatch.transcribe("manifest.jsonl", model="…")`, and `plan`, `align`, `merge_shards`, `score` and `export` beside it:
each does what the command of that name does, with the options of the command line, `_` in place of `-`.
"""

import importlib
from typing import TYPE_CHECKING, Any

# The others come when they are asked for: `import asrbatch` alone must cost nothing, and every command does that first.
from asrbatch import errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from typing import Unpack

    from asrbatch.cli.functions import Plan, Score
    from asrbatch.cli.keyword_types import (
        AlignKeywords,
        ExportKeywords,
        MergeKeywords,
        PlanKeywords,
        ScoreKeywords,
        TranscribeKeywords,
    )
    from asrbatch.cluster.merge import MergeResult
    from asrbatch.export.exporter import ExportResult
    from asrbatch.runs.progress import Observer, Progress, Stop, Summary

    Source = str | PathLike[str] | Sequence[str | PathLike[str]]

__all__ = [
    "ExportResult", "MergeResult", "Observer", "Plan", "Progress", "Score", "Stop", "Summary", "align", "errors",
    "export", "merge_shards", "plan", "score", "transcribe",
]  # fmt: skip
# Also in pyproject.toml; a run record, scores and `asrbatch --version` say it.
__version__ = "0.1.0"

_CLASSES = {
    "ExportResult": "export.exporter", "MergeResult": "cluster.merge", "Observer": "runs.progress",
    "Plan": "cli.functions", "Progress": "runs.progress", "Score": "cli.functions", "Stop": "runs.progress",
    "Summary": "runs.progress",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module 'asrbatch' has no attribute '{name}'")
    return getattr(importlib.import_module(f"asrbatch.{_CLASSES[name]}"), name)


def transcribe(
    manifest: "Source" = (),
    *,
    model: "str | PathLike[str]",
    progress: bool = True,
    observer: "Observer | None" = None,
    stop: "Stop | None" = None,
    **options: "Unpack[TranscribeKeywords]",
) -> "Summary":
    """Transcribes a manifest, or goes on where an earlier call of the same run left off.

    Args:
        manifest: what `asrbatch transcribe` takes: a JSONL manifest, a folder of audio, Parquet, `hf://NAME`, …; also
            several of them.
        model: a checkpoint folder, or a name on the Hugging Face hub.
        progress: show how far it is, in a terminal or a notebook. Elsewhere nothing is shown.
        observer: told of progress instead.
        stop: lets another thread end the run in an orderly way (`stop.request()`).
        options: those of `asrbatch transcribe`, for example `output="run/out.jsonl"`, `language="en"`,
            `word_timestamps=True`, `engine_arg=["max_num_seqs=32"]`. Paths may be `pathlib.Path`.

    Returns:
        How it ended. `summary.rows()` has the output rows.

    Raises:
        errors.AsrbatchError: the run cannot be done as asked, or stopped; rows written so far are kept.

    Example:
        ```python
        import asrbatch

        summary = asrbatch.transcribe("manifest.jsonl", model="openai/whisper-large-v3-turbo", output="run/out.jsonl")
        for row in summary.rows():
            print(row["id"], row["pred_text"])
        ```
    """
    from asrbatch.cli.commands.transcribe import transcribe as command
    from asrbatch.cli.functions import run_command

    return run_command(command, {"manifest": manifest, "model": model, **options}, progress, observer, stop)


def align(
    manifest: "Source" = (),
    *,
    model: "str | PathLike[str]",
    progress: bool = True,
    observer: "Observer | None" = None,
    stop: "Stop | None" = None,
    **options: "Unpack[AlignKeywords]",
) -> "Summary":
    """Gives the words of texts that are there their times, by a Whisper model.

    Args:
        manifest: the rows file of a run, or a manifest with references.
        model: a checkpoint folder, or a name on the Hugging Face hub.
        progress: show how far it is, in a terminal or a notebook.
        observer: told of progress instead.
        stop: lets another thread end the run in an orderly way.
        options: those of `asrbatch align`, for example `text_field="text"`.

    Returns:
        How it ended. Each segment of its rows has `words`.

    Raises:
        errors.AsrbatchError: the run cannot be done as asked, or stopped; rows written so far are kept.

    Example:
        ```python
        import asrbatch

        aligned = asrbatch.align("run/out.jsonl", model="openai/whisper-large-v3-turbo", output="run/words.jsonl")
        for row in aligned.rows():
            for segment in row["segments"]:
                print([(word["word"], word["start"], word["end"]) for word in segment["words"]])
        ```
    """
    from asrbatch.cli.commands.align import align as command
    from asrbatch.cli.functions import run_command

    return run_command(command, {"manifest": manifest, "model": model, **options}, progress, observer, stop)


def plan(manifest: "Source" = (), *, progress: bool = True, **options: "Unpack[PlanKeywords]") -> "Plan":
    """Says what a run would do, before any GPU is used: rows, hours, chunks, missing or broken files, time.

    Args:
        manifest: as `transcribe` takes it.
        progress: show how far the probe is.
        options: those of `asrbatch plan`, for example `model="…"`, `num_chunks=64`, `probe=True`, `rtfx=100`.

    Raises:
        errors.AsrbatchError: the manifest or an option cannot be used, or the model would refuse the run.

    Example:
        ```python
        import asrbatch

        planned = asrbatch.plan("manifest.jsonl", num_chunks=4, probe=True)
        print(planned, planned.num_failing, planned.commands["chunk"])
        ```
    """
    from asrbatch.cli.commands.plan import plan as command
    from asrbatch.cli.functions import make_plan

    return make_plan(command, {"manifest": manifest, **options}, progress)


def merge_shards(
    output: "str | PathLike[str]", *, progress: bool = True, **options: "Unpack[MergeKeywords]"
) -> "MergeResult":
    """Verifies the chunks of a run against the manifest and joins them in manifest order; the chunks stay as they are.

    Args:
        output: the run's output path, as its chunks were given it.
        progress: say what is being done, in a terminal or a notebook.
        options: those of `asrbatch merge-shards`, for example `manifest="manifest.jsonl"`, `overwrite=True`.

    Returns:
        What came of it. `merged.complete` says whether every row is there; `merged.report` what is wrong otherwise.

    Raises:
        errors.AsrbatchError: this cannot be done as asked, or a file cannot be read or written.

    Example:
        ```python
        import asrbatch

        merged = asrbatch.merge_shards("chunks/out.jsonl", manifest="manifest.jsonl")
        if not merged.complete:
            print("run again:", merged.report.run_again)
        ```
    """
    from asrbatch.cli.commands.merge_shards import merge_run
    from asrbatch.cli.commands.merge_shards import merge_shards as command
    from asrbatch.cli.functions import call

    return call(command, {"output": output, **options}, merge_run, progress)


def score(predictions: "Source", *, progress: bool = True, **options: "Unpack[ScoreKeywords]") -> "Score":
    """Scores predictions: word and character error rates with intervals, in all and by group.

    Args:
        predictions: the rows file of a run, or other JSON Lines with predictions; or several files.
        progress: say how far it is, in a terminal or a notebook.
        options: those of `asrbatch score`, for example `by=["dataset", "duration"]`, `references="manifest.jsonl"`.

    Raises:
        errors.AsrbatchError: this cannot be done as asked, or no row has a reference.

    Example:
        ```python
        import asrbatch

        scored = asrbatch.score("run/out.jsonl", by="speaker")
        print(scored, scored.wer_percent, scored.groups("speaker"))
        ```
    """
    from asrbatch.cli.commands.score import metrics_of
    from asrbatch.cli.commands.score import score as command
    from asrbatch.cli.functions import Score, call

    return Score(call(command, {"predictions": predictions, **options}, metrics_of, progress))


def export(
    output: "str | PathLike[str]",
    *,
    format: "str | Sequence[str]",
    progress: bool = True,
    **options: "Unpack[ExportKeywords]",
) -> "ExportResult":
    """Writes the rows of a run as subtitles, texts, times of words, Whisper's JSON, or results; the run stays as it is.

    Args:
        output: a rows file.
        format: one of those of `asrbatch export`, or several: `"srt"`, `["srt", "vtt"]`.
        progress: say how far it is, in a terminal or a notebook.
        options: those of `asrbatch export`, for example `to="subtitles"`, `max_line_chars=37`, `overwrite=True`.

    Returns:
        What was written; `exported.notes` say what is missing.

    Raises:
        errors.AsrbatchError: this cannot be done as asked, or other files are in the way.

    Example:
        ```python
        import asrbatch

        exported = asrbatch.export("run/out.jsonl", format="srt", overwrite=True)
        print(exported, exported.folder, exported.files["srt"])
        ```
    """
    from asrbatch.cli.commands.export import export as command
    from asrbatch.cli.commands.export import export_rows
    from asrbatch.cli.functions import call

    return call(command, {"output": output, "format": format, **options}, export_rows, progress)
