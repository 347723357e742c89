"""`asrbatch submit`: a run as a SLURM array, as a Job of Kubernetes, or as commands of a shell."""

from asrbatch.cli.common import log
from asrbatch.cli.estimates import EstimateOptions
from asrbatch.cli.options import NOT_EXPLAINED, RunOptions, options_of, run_options, takes
from asrbatch.cli.targets.kubernetes import submit_to_kubernetes
from asrbatch.cli.targets.options import TARGETS, TargetOptions, target_options
from asrbatch.cli.targets.shell import print_commands
from asrbatch.cli.targets.slurm import submit_to_slurm
from asrbatch.cli.targets.tasks import foreseen, make_absolute
from asrbatch.errors import UsageError
from asrbatch.options import option

_SUBMIT = {"slurm": submit_to_slurm, "kubernetes": submit_to_kubernetes, "shell": print_commands}


@takes(
    jobs=target_options(),
    options=run_options(without=("chunk_id", "chunk_offset"), titles=NOT_EXPLAINED),  # the array says which chunk
    speeds=options_of(EstimateOptions),
)
def submit(
    options: RunOptions,
    jobs: TargetOptions,
    speeds: EstimateOptions,
    to: str = option(
        "slurm",
        "Who runs the tasks: SLURM, Kubernetes by kubectl, or whoever takes commands (shell prints them).",
        choices=tuple(TARGETS),
    ),
    dry_run: bool = option(False, "Print the scripts, or the Job; write and submit nothing."),
) -> None:
    """Submit a run: one task per chunk, and the merge when all of them are complete.

    \b
    Example:
      asrbatch submit manifest.jsonl --model M -o run/out.jsonl --num-chunks 64 --partition gpu

    Takes the options of transcribe, and needs --num-chunks.

    To SLURM it submits an array and a merge job; to Kubernetes an Indexed Job, in
    which the last chunk merges; for a shell it prints a command for each chunk, as ssh and GNU parallel take them. Give
    the same options with --chunks to run some chunks again; rows that are written stay.
    """
    values = jobs.of(to)
    if options.values["num_chunks"] is None:
        raise UsageError(
            "--num-chunks is missing: into how many chunks? one task each; asrbatch plan shows what they would hold"
        )
    make_absolute(options.values)
    # Chunk 0 stands for all: what is wrong with the options is said here, once, not by a thousand tasks.
    config = options.config(environment={}, chunk_id=0)
    for line in foreseen(config, speeds, values.get("chunks")):
        log(line)
    _SUBMIT[to](options, values, config, dry_run)
