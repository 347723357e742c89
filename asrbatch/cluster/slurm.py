"""A run under SLURM: the options its jobs take, and which chunks go into which array.

Pure: nothing is written, submitted or asked. It knows sbatch's options and limits; the scripts are in
`slurm_scripts.py`, and the options of the run itself are none of its business.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asrbatch.cluster.merge_report import ranges
from asrbatch.errors import UsageError

# SLURM's MaxArraySize is 1001 unless a site changed it; it bounds the index of an element, not only their number.
MAX_ARRAY_SIZE = 1000

# A GPU whose decoding and features come from one core starves. Said where nothing else was.
CPUS_PER_GPU = 8

_SHORT = {
    "-A": "--account", "-a": "--array", "-c": "--cpus-per-task", "-d": "--dependency", "-D": "--chdir", "-e": "--error",
    "-G": "--gpus", "-J": "--job-name", "-N": "--nodes", "-n": "--ntasks", "-o": "--output", "-p": "--partition",
    "-q": "--qos", "-t": "--time",
}  # fmt: skip


@dataclass(frozen=True)
class SlurmOptions:
    """How the tasks are to run. Strings go to SLURM as they are.

    Attributes:
        job_name: of the array; the merge job adds `-merge`.
        log_dir: absolute path of the folder of the jobs' logs.
        partition, account, qos, time, mem, chdir: the options of sbatch.
        gpus: per task, `1`, `0` for none, or with a type, `a100:2`.
        cpus_per_task: None takes `CPUS_PER_GPU` for each GPU, and SLURM's default without.
        sbatch: further `#SBATCH` lines of the array, such as `--constraint=a100`.
        setup: lines of bash to run first, such as `module load cuda`.
        container: words to put before the command, such as `apptainer exec --nv image.sif`.
        python: the words that start the interpreter which has asrbatch.
        max_running: most tasks at a time; None for as many as SLURM gives.
        max_array_size: most tasks in one array.
        requeue: how often in a row a task that wrote no row requeues itself; 0 for never.
        signal_before_s: how long before the time limit a task is told to finish; 0 for not at all.
        stagger_s: starts are spread over so many seconds.
        cache_dir: where compile caches go; None takes the node's temporary folder.
        merge: submit a merge job too.
        merge_partition, merge_time: of the merge job; None takes those of the array.
        merge_cpus, merge_mem: of the merge job; None takes SLURM's default.
        merge_sbatch: further `#SBATCH` lines of the merge job.

    Raises:
        UsageError: a value out of range, or one that cannot stand in a script.
    """

    job_name: str
    log_dir: Path
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    gpus: str = "1"
    cpus_per_task: int | None = None
    mem: str | None = None
    chdir: str | None = None
    sbatch: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    container: str | None = None
    python: tuple[str, ...] = ("python3",)
    max_running: int | None = None
    max_array_size: int = MAX_ARRAY_SIZE
    requeue: int = 3
    signal_before_s: int = 120
    stagger_s: int = 30
    cache_dir: str | None = None
    merge: bool = True
    merge_partition: str | None = None
    merge_time: str | None = None
    merge_cpus: int | None = None
    merge_mem: str | None = None
    merge_sbatch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, number, least, most in (
            ("--cpus-per-task", self.cpus_per_task, 1, None),
            ("--merge-cpus", self.merge_cpus, 1, None),
            ("--max-running", self.max_running, 1, None),
            ("--max-array-size", self.max_array_size, 1, None),
            ("--requeue", self.requeue, 0, None),
            ("--signal-before", self.signal_before_s, 0, 65535),
            ("--stagger", self.stagger_s, 0, None),
        ):
            if number is not None and number < least:
                raise UsageError(f"{option} {number}: must be at least {least}")
            if number is not None and most is not None and number > most:
                raise UsageError(f"{option} {number}: must be at most {most}, which is what SLURM takes")
        if not re.fullmatch(r"([\w.-]+:)?\d+", self.gpus):
            raise UsageError(f"--gpus {self.gpus}: give a number, or a type and a number such as a100:2")
        if not self.job_name or re.search(r"[/\\%\s]", self.job_name):
            raise UsageError(
                f"--job-name {self.job_name!r}: becomes part of the logs' names; no space, slash, backslash or %"
            )
        # In --output a backslash turns off SLURM's replacements, for the whole path.
        if "\\" in str(self.log_dir):
            raise UsageError(f"--log-dir {self.log_dir}: SLURM cannot write to a path with a backslash; choose another")
        self._check_lines()
        # Our own directives are asked for what they set, so that a new one cannot be forgotten here.
        _check_extra(
            "--sbatch", self.sbatch, array_directives(self, (0,), None), {"--requeue", "--no-requeue", *_GPUS}, _INSTEAD
        )
        _check_extra(
            "--merge-sbatch",
            self.merge_sbatch,
            merge_directives(self),
            {"--dependency", "--kill-on-invalid-dep"},
            _MERGES,
        )

    def _check_lines(self) -> None:
        texts = {
            "--partition": self.partition, "--account": self.account, "--qos": self.qos, "--time": self.time,
            "--mem": self.mem,
            "--chdir": self.chdir, "--log-dir": str(self.log_dir), "--merge-partition": self.merge_partition,
            "--merge-time": self.merge_time, "--merge-mem": self.merge_mem, "--cache-dir": self.cache_dir,
            "--container": self.container,
        }  # fmt: skip
        lines = {"--sbatch": self.sbatch, "--merge-sbatch": self.merge_sbatch, "--setup": self.setup}
        several = [(option, line) for option in lines for line in lines[option]]
        for option, text in [*texts.items(), *several]:
            if text is not None and (not text.strip() or re.search(r"[\n\r\0]", text)):
                raise UsageError(f"{option} {text!r}: must be one line, and not empty")
        if self.container is not None:
            try:
                shlex.split(self.container)
            except ValueError as e:
                raise UsageError(f"--container {self.container}: {e}") from e

    @property
    def num_gpus(self) -> int:
        return int(self.gpus.rpartition(":")[2])


def _check_extra(
    option: str, lines: Sequence[str], ours: "Directives", others: set[str], instead: dict[str, str]
) -> None:
    """An extra line that sets what we set would win or lose by its place in the script; neither is what was asked."""
    taken = {"--array", "--output", "--error", "--wrap", *others, *(name for name, _ in ours)}
    for line in lines:
        if not line.startswith("-"):
            raise UsageError(f"{option} {line!r}: is not an option of sbatch; write it as {option}='--constraint=a100'")
        # Short options may carry their value without a space: -pgpu.
        name = _SHORT.get(line[:2], re.split(r"[=\s]", line, maxsplit=1)[0])
        if name in taken:
            raise UsageError(f"{option} {line!r}: submit sets {name} itself; {instead.get(name, f'use {name}')}")


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


def parse_chunks(text: str, num_chunks: int) -> list[int]:
    """Chunk ids from `3,7-9`, ascending, each once.

    Raises:
        UsageError: not of that form, or out of range.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"--chunks {text}: {part!r} is not a chunk id or a range; write for example 3,7-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= num_chunks:
            raise UsageError(
                f"--chunks {text}: {last} is out of range; --num-chunks {num_chunks} has 0 to {num_chunks - 1}"
            )
        chosen.update(range(first, last + 1))
    return sorted(chosen)


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
    cpus = options.cpus_per_task or options.num_gpus * CPUS_PER_GPU or None
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
        ("--cpus-per-task", cpus),
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
