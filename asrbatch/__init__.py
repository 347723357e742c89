"""asrbatch: offline batch transcription on vLLM; every manifest row ends in exactly one output row.

`asrbatch.transcribe("manifest.jsonl", model="…")` is the whole Python API; the command line does the same.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asrbatch.runs.progress import Observer, Stop, Summary


def transcribe(
    manifest: str,
    *,
    model: str,
    observer: "Observer | None" = None,
    stop: "Stop | None" = None,
    **options: Any,
) -> "Summary":
    """Transcribes a manifest, or goes on where an earlier call of the same run left off.

    Args:
        manifest: any source of README's table, e.g. a JSONL manifest, a folder of audio, Parquet files.
        model: a checkpoint folder, or a name on the Hugging Face hub.
        observer: told of progress; shows nothing by default.
        stop: lets another thread end the run in an orderly way (`stop.request()`).
        options: fields of `config.RunConfig` and `config.EngineConfig`, e.g. `output="run/out.jsonl"`,
            `language="en"`, `dtype="float32"`, `args=("max_num_seqs=32",)`.

    Returns:
        A `progress.Summary`; `summary.rows()` iterates over the output rows.

    Raises:
        errors.AsrbatchError: the run cannot be done as asked, or stopped; rows written so far are kept.
    """
    from dataclasses import fields

    from asrbatch.config import EngineConfig, RunConfig
    from asrbatch.errors import UsageError
    from asrbatch.runs.runner import run

    of_engine = {f.name for f in fields(EngineConfig)} - {"model"}
    of_run = {f.name for f in fields(RunConfig)} - {"manifest", "engine"}
    unknown = options.keys() - of_engine - of_run
    if unknown:
        has = ", ".join(sorted(of_engine | of_run))
        raise UsageError(f"transcribe() has no option {', '.join(sorted(unknown))}; it has {has}")
    engine = EngineConfig(model=model, **{k: v for k, v in options.items() if k in of_engine})
    config = RunConfig(manifest=str(manifest), engine=engine, **{k: v for k, v in options.items() if k in of_run})
    return run(config, observer, stop)
