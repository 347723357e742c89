"""Which chunk a task of a job array is to take: every scheduler tells its tasks their place in a variable.

`ARRAYS` is all that is known of any of them; SLURM's other variables are `slurm.py`'s.
"""

from collections.abc import Mapping
from typing import NamedTuple

from asrbatch.errors import UsageError


class ArrayVariable(NamedTuple):
    """How one scheduler tells a task its place in an array.

    Attributes:
        variable: of the environment; holds the index.
        base: the least index that there is. Where it is 0, an array may begin elsewhere, and is taken as it is.
        source: who says so.
        outside: the variable's value in a job that is no array; None where it is not set there.
        size: variable with the number of tasks; None where there is none.
    """

    scheduler: str
    variable: str
    base: int
    source: str
    outside: str | None = None
    size: str | None = None


ARRAYS = (
    ArrayVariable("SLURM", "SLURM_ARRAY_TASK_ID", 0, "slurm.schedmd.com/job_array.html", size="SLURM_ARRAY_TASK_COUNT"),
    ArrayVariable("Kubernetes", "JOB_COMPLETION_INDEX", 0, "kubernetes.io/docs/concepts/workloads/controllers/job/"),
    ArrayVariable(
        "AWS Batch", "AWS_BATCH_JOB_ARRAY_INDEX", 0, "docs.aws.amazon.com/batch/latest/userguide/job_env_vars.html",
        size="AWS_BATCH_JOB_ARRAY_SIZE",
    ),
    ArrayVariable(
        "Google Batch", "BATCH_TASK_INDEX", 0, "cloud.google.com/batch/docs/create-run-job", size="BATCH_TASK_COUNT"
    ),
    ArrayVariable("PBS Professional, OpenPBS", "PBS_ARRAY_INDEX", 0, "PBS Professional User's Guide, qsub -J"),
    ArrayVariable("Torque", "PBS_ARRAYID", 0, "Torque Administrator Guide, qsub -t"),
    # Of these two nobody can ask for task 0: without the shift chunk 0 would have no task.
    ArrayVariable("LSF", "LSB_JOBINDEX", 1, "ibm.com/docs/en/spectrum-lsf, Job arrays (bsub -J)", outside="0"),
    ArrayVariable("SGE, UGE", "SGE_TASK_ID", 1, "qsub(1) of Grid Engine, -t", outside="undefined"),
)  # fmt: skip


def arrays_in(environment: Mapping[str, str]) -> list[ArrayVariable]:
    """Of which arrays this process is a task; usually one, or none."""
    return [array for array in ARRAYS if environment.get(array.variable) not in (None, array.outside)]


def has_several_tasks(environment: Mapping[str, str]) -> bool:
    """Whether this process is one of many tasks, as far as the scheduler says how many there are."""
    return any(array.size is None or environment.get(array.size) != "1" for array in arrays_in(environment))


def resolve_chunk_id(
    num_chunks: int | None, chunk_id: int | None, chunk_offset: int | None, environment: Mapping[str, str]
) -> tuple[int | None, str | None]:
    """Which chunk this process is to take, from 0: `--chunk-id`, or its place in an array plus `--chunk-offset`.

    The number of chunks is never taken from the array: `--array=3,7` runs two chunks of sixteen again.

    Returns:
        The chunk, and what said so, for the run record; None where the run has no chunks.

    Raises:
        UsageError: options or variables that contradict each other, or nothing that says which chunk.
    """
    # Of no meaning without --num-chunks: an array may have a manifest for each task.
    if num_chunks is None:
        for option, value in (("--chunk-id", chunk_id), ("--chunk-offset", chunk_offset)):
            if value is not None:
                raise UsageError(f"{option} {value}: needs the number of chunks; give --num-chunks as well")
        return None, None
    if chunk_id is not None:
        if chunk_offset is not None:
            raise UsageError(f"--chunk-offset {chunk_offset}: is for tasks of an array; leave out this or --chunk-id")
        return chunk_id, f"--chunk-id {chunk_id}"
    places = {f"{array.variable}={environment[array.variable]}": array for array in arrays_in(environment)}
    if not places:
        raise UsageError(f"--num-chunks {num_chunks}: which chunk? give --chunk-id, or run as a task of an array")
    ids = {said: _place(said, array) + (chunk_offset or 0) for said, array in places.items()}
    if len(set(ids.values())) > 1:
        raise UsageError(
            f"{' and '.join(ids)}: two arrays that name different chunks; unset the wrong one, or give --chunk-id"
        )
    said, found = next(iter(ids.items()))
    source = said if chunk_offset is None else f"{said} --chunk-offset {chunk_offset}"
    if not 0 <= found < num_chunks:
        raise UsageError(
            f"{source}: is chunk {found}, which must be from 0 to {num_chunks - 1}, for {num_chunks} chunks; "
            "--chunk-offset is added to the place in the array, -1 where a SLURM or PBS array begins at 1"
        )
    return found, source


def _place(said: str, array: ArrayVariable) -> int:
    value = said.partition("=")[2]
    if not value.isdecimal():
        raise UsageError(f"{said}: is not a whole number; give --chunk-id")
    return int(value) - array.base
