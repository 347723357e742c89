"""A run under SLURM: the options its jobs take, and which chunks go into which array.

Pure: nothing is written, submitted or asked. It knows sbatch's options and limits; the scripts are in
`slurm_scripts.py`, and the options of the run itself are none of its business.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asrbatch.cluster.jobs import JobOptions
from asrbatch.cluster.merge_report import ranges
from asrbatch.errors import UsageError
from asrbatch.formatting import show
from asrbatch.options import option

# SLURM's MaxArraySize is 1001 unless a site changed it; it bounds the index of an element, not only their number.
MAX_ARRAY_SIZE = 1000

_SHORT = {
    "-A": "--account", "-a": "--array", "-c": "--cpus-per-task", "-d": "--dependency", "-D": "--chdir", "-e": "--error",
    "-G": "--gpus", "-J": "--job-name", "-N": "--nodes", "-n": "--ntasks", "-o": "--output", "-p": "--partition",
    "-q": "--qos", "-t": "--time",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SlurmOptions(JobOptions):
    """How the tasks are to run under SLURM. Strings go to SLURM as they are; folders are absolute paths.

    Raises:
        UsageError: a value out of range, or one that cannot stand in a script.
    """

    partition: str | None = option(None, "Partition of the array.")
    account: str | None = option(None, "Account to charge.")
    qos: str | None = option(None, "Quality of service.")
    time: str | None = option(None, "Time limit of a task, e.g. 4:00:00; a task that needs longer requeues itself.")
    chdir: str | None = option(None, "Folder the jobs start in. [default: this one]")
    sbatch: tuple[str, ...] = option(
        (), "One more #SBATCH line, e.g. --constraint=a100; may be repeated.", metavar="OPTION"
    )
    container: str | None = option(None, "Words to put before the command, e.g. 'apptainer exec --nv image.sif'.")
    log_dir: Path = option(help="Folder of the jobs' logs. [default: logs beside the output]")
    max_array_size: int = option(
        MAX_ARRAY_SIZE, "Most tasks in one array; more chunks are submitted as several.", minimum=1
    )
    # What `--signal` of sbatch takes at most.
    signal_before_s: int = option(
        120, "Seconds before the time limit at which a task stops and requeues itself; 0 for not at all.",
        flags="--signal-before", minimum=0, maximum=65535,
    )  # fmt: skip
    stagger_s: int = option(30, "Seconds over which the tasks' starts are spread.", flags="--stagger", minimum=0)
    cache_dir: str | None = option(None, "Folder of the tasks' compile caches. [default: the node's temporary folder]")
    merge_partition: str | None = option(None, "Partition of the merge job. [default: --partition]")
    merge_time: str | None = option(None, "Time limit of the merge job. [default: --time]")
    merge_cpus: int | None = option(None, "CPU cores of the merge job. [default: SLURM's]", minimum=1)
    merge_mem: str | None = option(None, "Memory of the merge job, e.g. 4G. [default: SLURM's]")
    merge_sbatch: tuple[str, ...] = option(
        (), "One more #SBATCH line of the merge job; may be repeated.", metavar="OPTION"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.job_name or re.search(r"[/\\%\s]", self.job_name):
            rule = "becomes part of the logs' names; no space, slash, backslash or %"
            raise UsageError(f"--job-name {show(self.job_name)}: {rule}")
        # In --output a backslash turns off SLURM's replacements, for the whole path.
        if "\\" in str(self.log_dir):
            raise UsageError(f"--log-dir {self.log_dir}: SLURM cannot write to a path with a backslash; choose another")
        if self.container is not None:
            try:
                shlex.split(self.container)
            except ValueError as e:
                raise UsageError(f"--container {self.container}: {e}") from e
        # Our own directives are asked for what they set, so that a new one cannot be forgotten here.
        others = {"--requeue", "--no-requeue", *_GPUS}
        _check_extra("--sbatch", self.sbatch, array_directives(self, (0,), None), others, _INSTEAD)
        waits = {"--dependency", "--kill-on-invalid-dep"}
        _check_extra("--merge-sbatch", self.merge_sbatch, merge_directives(self), waits, _MERGES)


def _check_extra(
    option: str, lines: Sequence[str], ours: "Directives", others: set[str], instead: dict[str, str]
) -> None:
    """An extra line that sets what we set would win or lose by its place in the script; neither is what was asked."""
    taken = {"--array", "--output", "--error", "--wrap", *others, *(name for name, _ in ours)}
    for line in lines:
        if not line.startswith("-"):
            raise UsageError(f"{option} {show(line)}: is not an option of sbatch; write {option}='--constraint=a100'")
        # Short options may carry their value without a space: -pgpu.
        name = _SHORT.get(line[:2], re.split(r"[=\s]", line, maxsplit=1)[0])
        if name in taken:
            raise UsageError(f"{option} {show(line)}: submit sets {name} itself; {instead.get(name, f'use {name}')}")


_GPUS = ("--gpus", "--gpus-per-node")

_INSTEAD = {
    "--array": "use --num-chunks, --chunks and --max-running",
    "--output": "use --log-dir and --job-name",
    "--error": "a task has one log; use --log-dir",
    "--requeue": "use --requeue of submit",
    "--no-requeue": "a requeued task goes on where it stopped; use --requeue 0 for no more than SLURM's own requeues",
    "--signal": "use --signal-before",
    "--open-mode": "a requeued task appends to its log",
    "--nodes": "a task is one process on one node",
    "--ntasks": "a task is one process; more of them are more chunks",
    "--gres": "use --gpus",
    "--gpus-per-node": "use --gpus of submit",
    "--wrap": "the script is what submit writes",
}

# Of the merge job.
_MERGES = {
    **{name: text for name, text in _INSTEAD.items() if name in ("--output", "--error", "--wrap")},
    "--array": "it is one job",
    "--open-mode": "it appends to its log",
    "--nodes": "it is one process on one node",
    "--ntasks": "it is one process on one node",
    "--cpus-per-task": "use --merge-cpus",
    "--mem": "use --merge-mem",
    "--partition": "use --merge-partition",
    "--time": "use --merge-time",
    "--dependency": "it waits for the arrays",
    "--kill-on-invalid-dep": "it ends when a task of the arrays has failed",
}


@dataclass(frozen=True)
class Array:
    """One array job.

    Attributes:
        offset: the chunk id of task 0.
        tasks: task ids, ascending; chunk ids are these plus the offset.
        max_running: most of its tasks at a time; None for any number.
    """

    offset: int
    tasks: tuple[int, ...]
    max_running: int | None

    @property
    def chunks(self) -> list[int]:
        return [self.offset + task for task in self.tasks]


def split_arrays(chunks: Sequence[int], options: SlurmOptions) -> list[Array]:
    """Deals chunk ids out to arrays whose task ids stay below the limit; `max_running` is shared among them by size.

    Raises:
        UsageError: fewer tasks may run at a time than there are arrays.
    """
    size = options.max_array_size
    groups: dict[int, list[int]] = {}
    for chunk in chunks:
        # By its id, not by its place in the list: a chunk has the same task id whichever others run with it.
        groups.setdefault(chunk // size * size, []).append(chunk % size)
    shares: list[int | None] = [None] * len(groups)
    if options.max_running is not None:
        if options.max_running < len(groups):
            raise UsageError(
                f"--max-running {options.max_running}: {len(chunks)} chunks take {len(groups)} arrays of at most "
                f"{size} tasks, "
                "and SLURM bounds each array alone; allow at least one task for each, or use fewer chunks"
            )
        # One for each, the rest by size; what rounding leaves goes to the first.
        rest = options.max_running - len(groups)
        shares = [1 + rest * len(tasks) // len(chunks) for tasks in groups.values()]
        shares[0] += options.max_running - sum(shares)
    return [Array(offset, tuple(tasks), share) for (offset, tasks), share in zip(groups.items(), shares, strict=True)]


# `#SBATCH` options: name, and value where there is one.
Directives = list[tuple[str, str | None]]


def array_directives(options: SlurmOptions, tasks: Sequence[int], max_running: int | None) -> Directives:
    """Those of an array, extra ones aside."""
    bound = "" if max_running is None else f"%{max_running}"
    wanted = [
        ("--job-name", options.job_name),
        ("--array", f"{ranges(tasks)}{bound}"),
        ("--output", f"{log_pattern(options)}/%x-%A_%a.log"),
        ("--open-mode", "append"),
        # Whatever the site's default: SLURM refuses `scontrol requeue` of a job without it.
        ("--requeue", ""),
        ("--signal", f"B:USR1@{options.signal_before_s}" if options.signal_before_s else None),
        ("--nodes", "1"),
        ("--ntasks", "1"),
        ("--cpus-per-task", options.num_cpus),
        # Older and newer than --gpus-per-node: every select plugin and every release takes it, with and without a type.
        ("--gres", f"gpu:{options.gpus}" if options.num_gpus else None),
        ("--mem", options.mem),
        ("--partition", options.partition),
        ("--account", options.account),
        ("--qos", options.qos),
        ("--time", options.time),
        ("--chdir", options.chdir),
    ]
    return [(name, str(value) or None) for name, value in wanted if value is not None]


def merge_directives(options: SlurmOptions) -> Directives:
    """Those of the merge job, extra ones aside; its dependency on the arrays is given when it is submitted."""
    wanted = [
        ("--job-name", f"{options.job_name}-merge"),
        ("--output", f"{log_pattern(options)}/%x-%j.log"),
        ("--open-mode", "append"),
        ("--nodes", "1"),
        ("--ntasks", "1"),
        ("--cpus-per-task", options.merge_cpus),
        ("--mem", options.merge_mem),
        ("--partition", options.merge_partition or options.partition),
        ("--account", options.account),
        ("--qos", None if options.merge_partition else options.qos),  # a GPU partition's, as a rule
        ("--time", options.merge_time or options.time),
        ("--chdir", options.chdir),
    ]
    return [(name, str(value)) for name, value in wanted if value is not None]


def log_pattern(options: SlurmOptions) -> str:
    """The folder of the logs as sbatch's `--output` wants it, where % begins a replacement."""
    return str(options.log_dir).replace("%", "%%")
