"""`asrbatch transcribe`: the job."""

import os
import shlex
from collections.abc import Callable

import typer

from asrbatch.cli.common import log, print_line, stop_on_signals
from asrbatch.cli.display.progress import Terminal
from asrbatch.cli.options import RunOptions, merge_arguments, run_options, takes
from asrbatch.config import STDIN, RunConfig
from asrbatch.errors import AsrbatchError, OutputError, UsageError
from asrbatch.options import option


@takes(options=run_options(without=("text_field",)))
def transcribe(
    options: RunOptions,
    merge: bool = option(False, "Merge the run, as merge-shards does, once its last chunk is complete."),
) -> None:
    """Transcribe a manifest, or one chunk of it; run the same command again to resume.

    \b
    Example:
      asrbatch transcribe manifest.jsonl --model openai/whisper-large-v3-turbo -o run/out.jsonl

    Exit codes: 0 complete; 1 stopped by an error; 2 refused: an option, the manifest, the model, or files of another
    run; 3 complete, some rows failed; 4 interrupted, resume with the same command; 5 complete, with or
    without failed rows, but a worker of --devices died and its rows were done again; 6 another process writes this
    output, try again later.
    """
    raise typer.Exit(run_command(options, merge=merge))


def run_command(options: RunOptions, *, merge: bool) -> int:
    """Runs what the options say, in a terminal; returns the exit code."""
    # Here, as in every command: at the top, --help would wait for what only a run needs.
    from asrbatch.cluster.array_index import has_several_tasks
    from asrbatch.runs.progress import Stop
    from asrbatch.runs.runner import run

    config, stop = config_of(options, merge=merge), Stop()
    with Terminal() as terminal:
        if config.num_chunks is None and has_several_tasks(os.environ):
            terminal.log(
                "warning: without --num-chunks every task of this array transcribes the whole manifest; give "
                "it, unless each task has a manifest of its own"
            )
        stop_on_signals(stop, terminal)
        summary = run(config, terminal, stop)
        terminal.summary(summary)
    # Standard output holds this alone: a script goes on with the path.
    print_line(summary.paths.rows)
    if merge and summary.outcome != "interrupted":
        merge_if_last(options, config, log)
    return summary.exit_code


def config_of(options: RunOptions, *, merge: bool) -> RunConfig:
    """The run that is asked for. Raises UsageError."""
    config = options.config(environment=os.environ)
    if merge and config.num_chunks is None:
        raise UsageError("--merge: needs chunks; give --num-chunks as well, or leave it out")
    return config


def merge_if_last(options: RunOptions, config: RunConfig, log: Callable[[str], None]) -> None:
    """Merges the run if this was its last chunk. Raises OutputError: the run is complete and could not be merged."""
    from asrbatch.cluster.last_chunk import merge_when_last

    manifests = config.manifest if config.descriptor is None else (STDIN,)  # which was kept beside the output
    by_hand = shlex.join(["asrbatch", *merge_arguments(options, config, manifests)])
    try:
        merged = merge_when_last(config, manifests, log)
    except AsrbatchError as e:
        raise OutputError(
            f"{e}\n--merge: not merged; the chunks are unchanged. When that is fixed, run: {by_hand}"
        ) from e
    if merged is None:
        return
    if not merged.report.complete:
        for line in merged.report.lines():
            log(line)
        raise OutputError(
            f"--merge: not merged, for the reasons above; the chunks are unchanged. When they are fixed, run: {by_hand}"
        )
    log(f"merged: {merged.paths.rows}")
