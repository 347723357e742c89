"""`asrbatch transcribe`: the job."""

import os

import typer

from asrbatch.cli.common import print_line, stop_on_signals
from asrbatch.cli.display.progress import Terminal
from asrbatch.cli.options import RunOptions, run_options, takes


@takes(options=run_options())
def transcribe(options: RunOptions) -> None:
    """Transcribe a manifest, or one chunk of it; run the same command again to resume.

    Exit codes: 0 complete; 1 stopped by an error; 2 refused: an option, the manifest, the model, or files of another
    run; 3 complete, some rows failed; 4 interrupted, resume with the same command; 5 complete, but a worker of
    --devices died and its rows were done again; 6 another process writes this output, try again later.
    """
    # Here, as in every command: at the top, --help would wait for what only a run needs.
    from asrbatch.cluster.array_index import has_several_tasks
    from asrbatch.runs.progress import Stop
    from asrbatch.runs.runner import run

    config = options.config(environment=os.environ)
    stop = Stop()
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
    raise typer.Exit(summary.exit_code)
