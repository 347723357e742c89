"""asrbatch: offline batch transcription on vLLM; every manifest row ends in exactly one output row.

`asrbatch.transcribe("manifest.jsonl", model="…")` is the whole Python API; the command line does the same.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from asrbatch.runs.progress import Observer, Stop, Summary


# Also in pyproject.toml; a run record, scores and `asrbatch --version` say it.
__version__ = "0.1.0"


def transcribe(
    manifest: "str | PathLike[str] | Sequence[str | PathLike[str]]",
    *,
    model: "str | PathLike[str]",
    observer: "Observer | None" = None,
    stop: "Stop | None" = None,
    **options: Any,
) -> "Summary":
    """Transcribes a manifest, or goes on where an earlier call of the same run left off.

    Args:
        manifest: any source of docs/manifests.md: a JSONL manifest, a folder of audio, Parquet, …; also several.
        model: a checkpoint folder, or a name on the Hugging Face hub.
        observer: told of progress; shows nothing by default.
        stop: lets another thread end the run in an orderly way (`stop.request()`).
        options: fields of `config.RunConfig` and `config.EngineConfig`, e.g. `output="run/out.jsonl"`,
            `language="en"`, `dtype="float32"`, `args=("max_num_seqs=32",)`. Every path may be a `pathlib.Path`.

    Returns:
        A `progress.Summary`; `summary.rows()` iterates over the output rows.

    Raises:
        errors.AsrbatchError: the run cannot be done as asked, or stopped; rows written so far are kept.
    """
    # Late: `import asrbatch` alone must cost nothing, and every command imports this module first.
    from asrbatch.config import run_config
    from asrbatch.runs.runner import run

    return run(run_config({**options, "manifest": manifest, "model": model}), observer, stop)
