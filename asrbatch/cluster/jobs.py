"""What the jobs of a run need of whoever runs them: the options that all schedulers share.

Pure: nothing is written, submitted or asked. What each scheduler makes of them is in its own modules (`slurm.py`,
`kubernetes.py`); a new one declares its own options on top of these, and is added to `TARGETS` in
`cli/targets/options.py`.
"""

import math
import re
import shlex
from dataclasses import dataclass, fields
from pathlib import Path

from asrbatch.errors import UsageError
from asrbatch.formatting import show
from asrbatch.options import CheckedOptions, flag, option

# Windows of large-v3-turbo a second that a GPU can do at most, and seconds of processor time that such a window of 30 s
# of FLAC costs until the engine has it: scripts/bench_frontend.py, docs/measurements/speed.md.
WINDOWS_PER_S = {"h200": 343, "h100": 343, "a100": 108, "l4": 42}
FRONTEND_S = 0.014


def cores_per_gpu(kind: str = "") -> int:
    """Cores that keep a GPU busy: one for vLLM's engine process, and those that feed it.

    Args:
        kind: as a scheduler names it, `a100` or `nvidia_a100-sxm4`; any other is taken for the fastest.
    """
    known = [per_s for word in re.split(r"[^a-z0-9]+", kind.lower()) if (per_s := WINDOWS_PER_S.get(word))]
    return 1 + math.ceil((known or [max(WINDOWS_PER_S.values())])[0] * FRONTEND_S)


@dataclass(frozen=True, kw_only=True)
class JobOptions(CheckedOptions):
    """How the tasks of a run are to run, one for each chunk. Strings go to the scheduler as they are.

    Raises:
        UsageError: a value out of range, or one that cannot stand in a script.
    """

    gpus: str = option("1", "GPUs of a task: 1, or 0 for CPUs alone; for SLURM also with a type, a100:1.")
    cpus_per_task: int | None = option(
        None, "CPU cores of a task. [default: what each GPU needs, by its type: see plan]", minimum=1
    )
    mem: str | None = option(None, "Memory of a task, e.g. 32G.")
    job_name: str = option(help="Name of the array, or of the Job. [default: asrbatch-OUTPUT]")
    setup: tuple[str, ...] = option(
        (), "A line of shell to run first, e.g. 'module load cuda'; may be repeated.", metavar="LINE"
    )
    python: tuple[str, ...] = option(
        ("python3",), "The interpreter that has asrbatch. [default: this one; python3 in a container]"
    )
    max_running: int | None = option(None, "Most tasks at a time; shared by several arrays.", minimum=1)
    chunks: str | None = option(None, "Only these chunks, e.g. 3,7-9: as merge-shards names them.", metavar="IDS")
    requeue: int = option(
        3, "How often in a row a task that wrote no row (Kubernetes: that failed) runs again; 0 for never.", minimum=0
    )
    merge: bool = option(True, "Verify and join the chunks when all are complete.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"([\w.-]+:)?\d+", self.gpus):
            raise UsageError(f"--gpus {self.gpus}: give a number, or a type and a number such as a100:2")
        self._check_lines()

    def _check_lines(self) -> None:
        for each in fields(self):
            value = None if each.name == "chunks" else getattr(self, each.name)  # `parse_chunks` knows more of those
            texts = value if isinstance(value, tuple) else [str(value)] if isinstance(value, str | Path) else []
            for text in texts:
                # Of two lines the second would be a command of the script.
                if not text.strip() or re.search(r"[\n\r\0]", text):
                    raise UsageError(f"{flag(each)} {show(text)}: must be one line, and not empty")

    @property
    def num_gpus(self) -> int:
        return int(self.gpus.rpartition(":")[2])

    @property
    def num_cpus(self) -> int | None:
        """Cores of a task; None for the scheduler's own choice."""
        return self.cpus_per_task or self.num_gpus * cores_per_gpu(self.gpus.partition(":")[0]) or None

    def command(self, arguments: list[str]) -> str:
        """`asrbatch` with these arguments, as one line of shell."""
        return shlex.join([*self.python, "-m", "asrbatch", *arguments])


def parse_chunks(text: str, num_chunks: int) -> list[int]:
    """Chunk ids from `3,7-9`, ascending, each once.

    Raises:
        UsageError: not of that form, or out of range.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"--chunks {text}: {show(part)} is not a chunk id or a range; write for example 3,7-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= num_chunks:
            there = f"--num-chunks {num_chunks} has 0 to {num_chunks - 1}"
            raise UsageError(f"--chunks {text}: {last} is out of range; {there}")
        chosen.update(range(first, last + 1))
    return sorted(chosen)
