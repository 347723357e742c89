"""The batch scripts of a run under SLURM, as texts.

Pure. It knows what SLURM does with a task (the comments in the scripts say so; all of it was seen on a real cluster)
and what asrbatch's exit codes mean; not what the options of a run are.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from string import Template

from .errors import EXIT_COMPLETE, EXIT_ROWS_FAILED, EXIT_USAGE, EXIT_WORKER_DIED
from .findings import ranges
from .slurm import Array, SlurmOptions, array_directives, log_pattern


def array_script(
    array: Array, options: SlurmOptions, arguments: Sequence[str], *, path: Path, output: Path, num_chunks: int, overwrite: bool
) -> str:
    """The script of one array.

    Args:
        arguments: of `asrbatch`, beginning with the command, without the chunk and --overwrite.
        path: where the script will stand.
        output, num_chunks: of the run.
        overwrite: start the chunks anew, once.
    """
    directives = [*array_directives(options, array.tasks, array.max_running)]
    words = _command(options, [*arguments, "--chunk-offset", str(array.offset)])
    stem = shlex.quote(str(output).removesuffix(".jsonl"))
    anew = Template(_OVERWRITE).substitute(stem=stem, offset=array.offset, num_chunks=num_chunks) if overwrite else ""
    return _ARRAY.substitute(
        directives="\n".join([*map(_directive, directives), *(f"#SBATCH {line}" for line in options.sbatch)]),
        what=f"chunks {ranges(array.chunks)} of {num_chunks}",
        again=_again(path),
        setup=_setup(options),
        offset=array.offset,
        cache_root=shlex.quote(options.cache_dir) if options.cache_dir else "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}",
        overwrite=anew,
        command=f'{words} "${{overwrite[@]}}"' if overwrite else words,
        stagger=options.stagger_s + 1,
        requeue=options.requeue,
        complete=f"{EXIT_COMPLETE} | {EXIT_ROWS_FAILED} | {EXIT_WORKER_DIED}",
        rows_failed=EXIT_ROWS_FAILED,
        worker_died=EXIT_WORKER_DIED,
        usage=EXIT_USAGE,
    )


def merge_script(options: SlurmOptions, arguments: Sequence[str], *, path: Path) -> str:
    """The script of the merge job; its dependency on the arrays is given when it is submitted.

    Args:
        arguments: of `asrbatch`, beginning with the command.
        path: where the script will stand.
    """
    directives: list[tuple[str, str | None]] = [
        ("--job-name", f"{options.job_name}-merge"),
        ("--output", f"{log_pattern(options)}/%x-%j.log"),
        ("--open-mode", "append"),
        ("--nodes", "1"),
        ("--ntasks", "1"),
        ("--partition", options.merge_partition or options.partition),
        ("--account", options.account),
        ("--qos", None if options.merge_partition else options.qos),  # a GPU partition's, as a rule
        ("--time", options.merge_time or options.time),
        ("--chdir", options.chdir),
    ]
    return _MERGE.substitute(
        directives="\n".join(_directive(d) for d in directives if d[1] is not None),
        again=_again(path),
        setup=_setup(options),
        command=_command(options, arguments),
        rows_failed=EXIT_ROWS_FAILED,
    )


def _directive(directive: tuple[str, str | None]) -> str:
    name, value = directive
    if value is None:
        return f"#SBATCH {name}"
    if re.search(r"[^\w:=@%,./+-]", value):
        # sbatch is no shell: within double quotes a backslash takes the next character as it is, and nothing expands.
        value = '"{}"'.format(re.sub(r'(["\\])', r"\\\1", value))
    return f"#SBATCH {name}={value}"


def _again(path: Path) -> str:
    return f"sbatch {shlex.quote(str(path))}"


def _setup(options: SlurmOptions) -> str:
    return "\n".join(options.setup) or ": # none"


def _command(options: SlurmOptions, arguments: Sequence[str]) -> str:
    container = shlex.split(options.container) if options.container else []
    words = [*container, *options.python, "-m", "asrbatch", *arguments]
    return shlex.join(words)


_ARRAY = Template(
    r"""#!/bin/bash
# $what, one to a task. Written by `asrbatch submit`; to submit it again: $again
$directives

say() { echo "$$(date -u +%FT%TZ) $$*"; }
element=$${SLURM_ARRAY_JOB_ID}_$${SLURM_ARRAY_TASK_ID} # never SLURM_JOB_ID: that of the last element is the whole array's
restarts=$${SLURM_RESTART_COUNT:-0}                    # absent at the first start; counts SLURM's own requeues as well
say "chunk $$((SLURM_ARRAY_TASK_ID + $offset)), task $$element, start $$((restarts + 1)), on $$(uname -n)"

# Set-up.
$setup

# Compile caches of this task's own: shared ones, in a home folder on NFS, are slow and written by all tasks at once.
cache_root=$cache_root
cache="$$cache_root/asrbatch-$$(id -un)-$$element"
mkdir -p "$$cache"
trap 'rm -rf "$$cache"' EXIT
export VLLM_CACHE_ROOT="$$cache/vllm" TORCHINDUCTOR_CACHE_DIR="$$cache/inductor" TRITON_CACHE_DIR="$$cache/triton"
export CUDA_CACHE_PATH="$$cache/cuda" FLASHINFER_WORKSPACE_BASE="$$cache"

${overwrite}# Is the task still ours? False once it is being cancelled, preempted or has reached its time limit.
is_running() { [[ $$(squeue --noheader --jobs="$$element" --format=%T) == RUNNING ]]; }
child=
finish() { [[ -n $$child ]] && kill -TERM "$$child"; } # asrbatch finishes what is in its engine and exits 4
# Ahead of the time limit SLURM sends USR1, to this shell alone.
trap 'say "USR1: the time limit is near"; finish' USR1
# At cancelling and preemption it sends TERM to every process; passed on, that would be asrbatch's second, which means
# leave at once. A TERM to a task that stays ours (scancel --batch --signal=TERM) reaches this shell alone.
trap 'say "TERM"; is_running && finish' TERM

# In the background, because bash runs a trap only between commands; started a little apart, for the file system's sake.
(
    sleep $$((SLURM_ARRAY_TASK_ID % $stagger))
    exec $command
) &
child=$$!
while kill -0 "$$child" 2>/dev/null; do wait "$$child"; done # a trapped signal ends `wait` early
wait "$$child"                                              # bash remembers how a child ended
code=$$?
say "asrbatch ended with $$code"

case $$code in
    # Complete; $rows_failed: some rows failed, $worker_died: a worker died and its rows were done again. The merge job may start.
    $complete) exit 0 ;;
    # An option, a file or a programme that will not be better next time.
    $usage | 126 | 127) exit "$$code" ;;
esac
# Anything else may go further next time: 4 interrupted, above 128 killed, 1 an error. That may be the death of the engine,
# and a row that kills it three times becomes a failed row in the fourth run.
if ! is_running; then
    say "not requeued here: SLURM no longer runs this task, or squeue does not answer. What SLURM preempts it requeues"
elif ((restarts >= $requeue)); then
    say "started $$((restarts + 1)) times already: no more requeues; run this chunk again with asrbatch submit --chunks"
else
    say "requeueing $$element; it goes on where it stopped"
    # From here on the task counts as waiting; the exit code below is ignored, and the merge job waits as well.
    scontrol requeue "$$element"
fi
exit "$$code"
"""
)

_OVERWRITE = r"""# --overwrite, but a requeued task keeps its rows: they are its own once the chunk's record names this array.
overwrite=(--overwrite)
record=$$(printf '%s.chunk-%05d-of-%05d.run.json' $stem "$$((SLURM_ARRAY_TASK_ID + $offset))" $num_chunks)
if ((restarts > 0)) && grep -qs "\"SLURM_ARRAY_JOB_ID\": \"$$SLURM_ARRAY_JOB_ID\"" "$$record"; then overwrite=(); fi

"""

_MERGE = Template(
    r"""#!/bin/bash
# Verifies and joins the chunks. Written by `asrbatch submit`; to submit it again: $again
$directives

# Set-up.
$setup

$command
code=$$?
if ((code == $rows_failed)); then
    echo "the run is complete, and some rows failed (exit code $rows_failed): a success for SLURM"
    exit 0
fi
exit "$$code"
"""
)
