"""`submit --to shell`: a command for each chunk, for any machine."""

import shlex
from typing import Any

from asrbatch.cli.common import log
from asrbatch.cli.options import RunOptions, merge_arguments
from asrbatch.cli.targets.tasks import (
    check_outputs,
    check_run,
    default_job_name,
    interpreter,
    notes_of,
    print_lines,
    refuse_overwrite,
    task_arguments,
)
from asrbatch.cluster.jobs import JobOptions, parse_chunks
from asrbatch.config import RunConfig

# GNU parallel quotes a line as one word, which `eval` makes a command of again.
PARALLEL = "parallel -j 4 --retries 3 'export CUDA_VISIBLE_DEVICES=$(({%} - 1)); eval {}'"


def print_commands(options: RunOptions, values: dict[str, Any], config: RunConfig, dry_run: bool) -> None:
    """A command a line, on standard output: nothing is submitted."""
    refuse_overwrite(config, "commands that are run again")
    check_outputs(config, config.manifest)
    python = interpreter(values["python"], None)
    shell = JobOptions(**{**values, "python": python, "job_name": default_job_name(config.output_path)})
    ids = [*range(config.num_chunks)] if shell.chunks is None else parse_chunks(shell.chunks, config.num_chunks)
    is_here = python == interpreter(None, None)
    manifests, not_checked = check_run(config, ids, None, dry_run, is_here=is_here)
    arguments = [*task_arguments(options, config, manifests), *(["--merge"] if shell.merge else [])]
    # Each by itself, as in a script: a comment, an & or a quote that is not closed ends with its line.
    before = "".join(f"eval {shlex.quote(line)} && " for line in shell.setup)
    for note in [*notes_of(config), *not_checked]:
        log(f"note: {note}")
    print_lines(before + shell.command([*arguments, "--chunk-id", str(i)]) for i in ids)
    by_hand = shlex.join(["asrbatch", *merge_arguments(options, config, manifests)])
    for line in (
        "each line is one process, on any machine that sees these paths; run one that ends with 1, 4 or 6 again",
        f"  on one machine with 4 GPUs: {PARALLEL} < commands.txt",
        "  on another machine:         sed -n 1p commands.txt | ssh NAME bash -l",
        "the last to end merges" if shell.merge else f"then: {by_hand}",
    ):
        log(line)
