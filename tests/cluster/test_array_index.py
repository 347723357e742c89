"""Which chunk a task takes, by what each scheduler documents; and what is refused."""

import re

import pytest
from conftest import REPO

from asrbatch.cluster.array_index import ARRAYS, has_several_tasks, resolve_chunk_id
from asrbatch.errors import UsageError

SLURM = "SLURM_ARRAY_TASK_ID"


@pytest.mark.parametrize(
    ("num_chunks", "chunk_id", "offset", "task", "expected"),
    [
        (None, None, None, None, None),
        (None, None, None, "3", None),  # an array of its own over several manifests
        (16, 5, None, None, 5),
        (16, 5, None, "3", 5),
        (16, None, None, "3", 3),
        (16, None, 8, "3", 11),
        (16, None, -1, "1", 0),  # --array=1-16
        (3000, None, 2000, "999", 2999),
    ],
)
def test_which_chunk(num_chunks, chunk_id, offset, task, expected):
    environment = {} if task is None else {SLURM: task, "SLURM_ARRAY_TASK_COUNT": "2"}
    assert resolve_chunk_id(num_chunks, chunk_id, offset, environment)[0] == expected


# Variable, what the first and the last of 16 tasks find in it, and what a job finds that is no array. Before there was
# a table, each but SLURM's ended in "which of them? give --chunk-id".
DOCUMENTED = [
    (SLURM, "0", "15", None),  # sbatch --array=0-15
    ("JOB_COMPLETION_INDEX", "0", "15", None),  # completions: 16, completionMode: Indexed
    ("AWS_BATCH_JOB_ARRAY_INDEX", "0", "15", None),  # array size 16; "only set in child array jobs"
    ("BATCH_TASK_INDEX", "0", "15", None),  # taskCount 16
    ("PBS_ARRAY_INDEX", "0", "15", None),  # qsub -J 0-15
    ("PBS_ARRAYID", "0", "15", None),  # qsub -t 0-15
    ("LSB_JOBINDEX", "1", "16", "0"),  # bsub -J "asr[1-16]"; indexes are "positive integers"
    ("SGE_TASK_ID", "1", "16", "undefined"),  # qsub -t 1-16; 0 is refused there
]


def test_every_scheduler_of_the_table_is_tried():
    assert [variable for variable, *_ in DOCUMENTED] == [array.variable for array in ARRAYS]
    page = (REPO / "docs/other-schedulers.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (.*?) \| `(\w+)` \| (\d) \|", page, flags=re.M)
    assert listed == [(array.scheduler, array.variable, str(array.base)) for array in ARRAYS]


@pytest.mark.parametrize(("variable", "first", "last", "outside"), DOCUMENTED)
def test_every_scheduler_says_which_chunk(variable, first, last, outside):
    assert resolve_chunk_id(16, None, None, {variable: first}) == (0, f"{variable}={first}")
    assert resolve_chunk_id(16, None, None, {variable: last}) == (15, f"{variable}={last}")
    assert resolve_chunk_id(32, None, 16, {variable: last}) == (31, f"{variable}={last} --chunk-offset 16")
    assert resolve_chunk_id(16, 5, None, {variable: first}) == (5, "--chunk-id 5")
    assert resolve_chunk_id(None, None, None, {variable: last}) == (None, None), "a manifest for each task"
    beyond = str(int(last) + 1)
    with pytest.raises(UsageError, match=f"^{variable}={beyond}: is chunk 16, .* from 0 to 15.*--chunk-offset is"):
        resolve_chunk_id(16, None, None, {variable: beyond})
    with pytest.raises(UsageError, match=f"^{variable}={first} --chunk-offset -1: is chunk -1, which must be from 0"):
        resolve_chunk_id(16, None, -1, {variable: first})
    for wrong in ("x", "", "-1", "1.5"):
        with pytest.raises(UsageError, match=f"^{variable}={wrong}: is not a whole number; give --chunk-id"):
            resolve_chunk_id(16, None, None, {variable: wrong})
    if outside is not None:
        with pytest.raises(UsageError, match="which chunk"):
            resolve_chunk_id(16, None, None, {variable: outside})
        assert resolve_chunk_id(16, None, None, {variable: outside, "JOB_COMPLETION_INDEX": "3"})[0] == 3


@pytest.mark.parametrize(("variable", "first", "last", "outside"), DOCUMENTED)
def test_two_arrays_agree_or_are_both_named(variable, first, last, outside):
    for other, other_first, other_last, _ in DOCUMENTED:
        if other != variable:
            assert resolve_chunk_id(16, None, None, {variable: last, other: other_last})[0] == 15
            with pytest.raises(UsageError) as refused:
                resolve_chunk_id(16, None, None, {variable: last, other: other_first})
            assert f"{variable}={last}" in str(refused.value) and f"{other}={other_first}" in str(refused.value)
            assert resolve_chunk_id(16, 5, None, {variable: last, other: other_first})[0] == 5
            assert resolve_chunk_id(None, None, None, {variable: last, other: other_first})[0] is None


@pytest.mark.parametrize(
    ("num_chunks", "chunk_id", "offset", "task", "complaint"),
    [
        (None, None, 8, "3", r"--chunk-offset 8: needs the number of chunks; give --num-chunks"),
        (16, None, None, None, "--num-chunks 16: which chunk"),
        (16, 3, 8, "3", "--chunk-offset 8: is for tasks of an array; leave out this or --chunk-id"),
    ],
)
def test_no_telling_which_chunk(num_chunks, chunk_id, offset, task, complaint):
    environment = {} if task is None else {SLURM: task}
    with pytest.raises(UsageError, match=complaint):
        resolve_chunk_id(num_chunks, chunk_id, offset, environment)


def test_whether_other_tasks_do_the_same():
    """What a run without --num-chunks is warned by."""
    assert not has_several_tasks({"SGE_TASK_ID": "undefined", "LSB_JOBINDEX": "0"})
    for array in ARRAYS:
        assert has_several_tasks({array.variable: "2"})
        if array.size:
            assert not has_several_tasks({array.variable: "0", array.size: "1"})
            assert has_several_tasks({array.variable: "0", array.size: "2"})
