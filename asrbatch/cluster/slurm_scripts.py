"""The batch scripts of a run under SLURM, as texts.

Pure. It knows what SLURM does with a task (the comments in the scripts say so; all of it was seen on a real cluster)
and what asrbatch's exit codes mean; not what the options of a run are.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from string import Template

from asrbatch.cluster.merge_report import ranges
from asrbatch.cluster.slurm import Array, Directives, SlurmOptions, array_directives, merge_directives
from asrbatch.errors import EXIT_COMPLETE, EXIT_HELD, EXIT_ROWS_FAILED, EXIT_USAGE, EXIT_WORKER_DIED


def array_script(
    array: Array,
    options: SlurmOptions,
    arguments: Sequence[str],
    *,
    path: Path,
    output: Path,
    num_chunks: int,
    overwrite: bool,
) -> str:
    """The script of one array.

    Args:
        arguments: of `asrbatch`, beginning with the command, without the chunk and --overwrite.
        path: where the script will stand.
        output, num_chunks: of the run.
        overwrite: start the chunks anew, once.
    """
    words = _command(options, [*arguments, "--chunk-offset", str(array.offset)])
    stem = shlex.quote(str(output).removesuffix(".jsonl"))
    return _ARRAY.substitute(
        directives=_directives(array_directives(options, array.tasks, array.max_running), options.sbatch),
        what=f"chunks {ranges(array.chunks)} of {num_chunks}",
        again=_again(path),
        setup=_setup(options),
        offset=array.offset,
        stem=stem,
        num_chunks=num_chunks,
        cache_root=shlex.quote(options.cache_dir) if options.cache_dir else "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}",
        overwrite=_OVERWRITE if overwrite else "",
        command=f'{words} "${{overwrite[@]}}"' if overwrite else words,
        stagger=options.stagger_s + 1,
        requeue=options.requeue,
        complete=f"{EXIT_COMPLETE} | {EXIT_ROWS_FAILED} | {EXIT_WORKER_DIED}",
        rows_failed=EXIT_ROWS_FAILED,
        worker_died=EXIT_WORKER_DIED,
        usage=EXIT_USAGE,
        held=EXIT_HELD,
    )


def merge_script(options: SlurmOptions, arguments: Sequence[str], *, path: Path) -> str:
    """The script of the merge job.

    Args:
        arguments: of `asrbatch`, beginning with the command.
        path: where the script will stand.
    """
    return _MERGE.substitute(
        directives=_directives(merge_directives(options), options.merge_sbatch),
        again=_again(path),
        setup=_setup(options),
        command=_command(options, arguments),
        rows_failed=EXIT_ROWS_FAILED,
    )


def _directives(ours: Directives, extra: Sequence[str]) -> str:
    return "\n".join([*map(_directive, ours), *(f"#SBATCH {line}" for line in extra)])


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
# Never SLURM_JOB_ID: that of the last element is the whole array's.
element=$${SLURM_ARRAY_JOB_ID}_$${SLURM_ARRAY_TASK_ID}
restarts=$${SLURM_RESTART_COUNT:-0}                    # absent at the first start; counts SLURM's own requeues as well
say "chunk $$((SLURM_ARRAY_TASK_ID + $offset)), task $$element, start $$((restarts + 1)), on $$(uname -n)"

# Set-up. Under `set -e` a line that fails ends the task; what comes after the set-up looks at exit codes itself.
trap 'say "the set-up ended this task with $$?"' EXIT
$setup
set +euC +o pipefail

# Compile caches of this task's own: shared ones, in a home folder on NFS, are slow and written by all tasks at once.
cache_root=$cache_root
cache="$$cache_root/asrbatch-$$(id -un)-$$element"
mkdir -p "$$cache"
trap 'rm -rf "$$cache"' EXIT
export VLLM_CACHE_ROOT="$$cache/vllm" TORCHINDUCTOR_CACHE_DIR="$$cache/inductor" TRITON_CACHE_DIR="$$cache/triton"
export CUDA_CACHE_PATH="$$cache/cuda" FLASHINFER_WORKSPACE_BASE="$$cache"

chunk=$$(printf '%s.chunk-%05d-of-%05d' $stem "$$((SLURM_ARRAY_TASK_ID + $offset))" $num_chunks)
count_rows() { if [[ -f $$chunk.jsonl ]]; then wc -l <"$$chunk.jsonl"; else echo 0; fi; }

# Requeues in a row before which no row was written: ours alone (SLURM counts preemptions too), so kept in a
# file, with the
# rows there were. Of another array's task it says nothing.
unproductive=0
if read -r whose number rows 2>/dev/null <"$$chunk.requeues" && [[ $$whose == "$$element" ]]; then
    if (($$(count_rows) <= rows)); then unproductive=$$number; fi
fi
rows_at_start=$$(count_rows)

${overwrite}state() { squeue --noheader --jobs="$$element" --format=%T; }
child= stopping=0 cancelled=0
finish() { [[ -n $$child ]] && kill -TERM "$$child" 2>/dev/null; } # asrbatch finishes what is in its engine and exits 4
# Ahead of the time limit SLURM sends USR1, to this shell alone.
trap 'say "USR1: the time limit is near"; stopping=1; finish' USR1
# At cancelling and preemption it sends TERM to every process; passed on, that would be asrbatch's second, which means
# leave at once. A TERM to a task that stays ours (scancel --batch --signal=TERM) reaches this shell alone.
trap 'say "TERM"; stopping=1; if [[ $$(state) == RUNNING ]]; then finish; else cancelled=1; fi' TERM

run() { # in the background, because bash runs a trap only between commands
    "$$@" &
    child=$$!
    if ((stopping && !cancelled)); then finish; fi # the signal came a moment too early
    while kill -0 "$$child" 2>/dev/null; do wait "$$child"; done # a trapped signal ends `wait` early
    wait "$$child"                                              # bash remembers how a child ended
    local code=$$?
    child=
    return "$$code"
}
transcribe() {
    exec $command
}

# A little apart, for the file system's sake.
run sleep $$((SLURM_ARRAY_TASK_ID % $stagger))
# $held: another process writes this chunk, another task's or that of our own last start. It will end, and
# then the chunk is
# complete or ours, so that waiting is no failure.
code=$held pause_s=$${ASRBATCH_HELD_PAUSE_S:-60}
while ((code == $held && !stopping)); do
    run transcribe
    code=$$?
    say "asrbatch ended with $$code"
    if ((code == $held && !stopping)); then
        say "another process writes this chunk: asking again in $$pause_s s"
        run sleep "$$pause_s"
    fi
done

case $$code in
    # Complete; $rows_failed: some rows failed, $worker_died: a worker died and its rows were done again. The
    # merge job may start.
    $complete)
        rm -f "$$chunk.requeues"
        exit 0
        ;;
    # An option, a file or a programme that will not be better next time.
    $usage | 126 | 127)
        rm -f "$$chunk.requeues"
        exit "$$code"
        ;;
esac

# Anything else may go further next time: 4 interrupted, above 128 killed, 1 an error. That may be the death
# of the engine,
# and a row that kills it three times becomes a failed row in the fourth run.
most=$requeue
if ((most == 0)); then
    say "does not requeue itself: --requeue 0"
    exit "$$code"
fi

give_up() {
    say "$$*; run this chunk again with asrbatch submit --chunks"
    rm -f "$$chunk.requeues"
    exit "$$code"
}
count() { # gives up where there were enough; waiting for another process is none
    ((code == $held)) && return
    local number=0 rows line
    rows=$$(count_rows)
    ((rows > rows_at_start)) || number=$$((unproductive + 1))
    ((number <= most)) || give_up "started $$number times without writing a row: no more requeues"
    line="$$element $$number $$rows"
    # A full disk may say so at once or not at all.
    { echo "$$line" >"$$chunk.requeues"; } 2>/dev/null && [[ $$(<"$$chunk.requeues") == "$$line" ]] && return
    ((restarts < most)) || give_up "cannot count requeues in $$chunk.requeues, and SLURM counts $$restarts: no more"
}
requeue() {
    count
    say "requeueing $$element; it goes on where it stopped"
    # From here on the task counts as waiting; the exit code below is ignored, and the merge job waits as well.
    scontrol requeue "$$element" && exit "$$code"
}

# Asks SLURM first: a requeue would bring a task back that is being cancelled. An outage of SLURM's controller
# is waited for.
# Where squeue stays silent, a task that got no TERM is not being cancelled, and the requeue is tried all the same.
end=$$((SECONDS + $${ASRBATCH_SLURM_PATIENCE_S:-60})) last=0
while ((!last)); do
    ((SECONDS < end)) || last=1
    if now=$$(state); then
        if [[ $$now != RUNNING ]]; then
            say "not requeued here: for SLURM this task is $${now:-gone}. What SLURM preempts it requeues"
            exit "$$code"
        fi
        requeue
    elif ((last && cancelled)); then
        give_up "not requeued: squeue does not say whether the TERM was a cancellation"
    elif ((last)); then
        say "squeue does not answer; there was no TERM, so this task is not being cancelled"
        requeue
    fi
    ((last)) || sleep "$${ASRBATCH_SLURM_PAUSE_S:-5}"
done
give_up "not requeued: scontrol refused, or SLURM does not answer"
"""
)

_OVERWRITE = r"""# --overwrite, but a requeued task keeps its rows: they are its own once the chunk's
# record names this array.
overwrite=(--overwrite)
if ((restarts > 0)) && grep -qs "\"SLURM_ARRAY_JOB_ID\": \"$SLURM_ARRAY_JOB_ID\"" "$chunk.run.json"; then
    overwrite=()
else
    rows_at_start=0
fi

"""

_MERGE = Template(
    r"""#!/bin/bash
# Verifies and joins the chunks. Written by `asrbatch submit`; to submit it again: $again
$directives

# Set-up.
trap 'echo "the set-up ended this job with $$?"' EXIT
$setup
set +eu +o pipefail
trap - EXIT

$command
code=$$?
if ((code == $rows_failed)); then
    echo "the run is complete, and some rows failed (exit code $rows_failed): a success for SLURM"
    exit 0
fi
exit "$$code"
"""
)
