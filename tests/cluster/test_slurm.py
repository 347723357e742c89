"""`asrbatch submit` on a real SLURM, with the real engine: what is killed, stopped, preempted or doubled ends complete,
once.

The cluster is this machine, two cores, started for these tests (`slurm_cluster.py`).
"""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from conftest import REPO, read_jsonl, write_jsonl
from processes import command_line
from run_output import EXACT, stable
from slurm_cluster import HOW_TO_GET_IT, Cluster, missing_programs, running_cluster, wait_until

MISSING = missing_programs()
REQUIRED = os.environ.get("CI") == "true" or os.environ.get("ASRBATCH_REQUIRE_SLURM") == "1"
pytestmark = pytest.mark.skipif(bool(MISSING) and not REQUIRED, reason=f"no {', '.join(MISSING)} here; {HOW_TO_GET_IT}")

# One core and no GPU for each task, all started at once: two run at a time.
ON_CPU = ("--gpus", 0, "--cpus-per-task", 1, "--stagger", 0, "--workers", 1)


@pytest.fixture(scope="session")
def slurm():
    assert not MISSING, f"no {', '.join(MISSING)} here; {HOW_TO_GET_IT}"
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def submit(cli, slurm):
    """Runs `asrbatch submit` against the cluster; the ids of the jobs, arrays first."""

    def call(*arguments) -> list[str]:
        # sbatch hands the environment on: a task that finds its chunk held asks again every second.
        done = cli("submit", *arguments, env={**slurm.environment, "ASRBATCH_HELD_PAUSE_S": "1"})
        assert done.returncode == 0, done.stderr
        return [line.split()[1] for line in done.stdout.splitlines()]

    return call


def chunk(output: Path, chunk_id: int, num_chunks: int, ending: str = "jsonl") -> Path:
    return output.with_name(f"{output.stem}.chunk-{chunk_id:05}-of-{num_chunks:05}.{ending}")


def sessions(output: Path, chunk_id: int, num_chunks: int) -> list[dict]:
    path = chunk(output, chunk_id, num_chunks, "run.json")
    return json.loads(path.read_text())["sessions"] if path.exists() else []


def wait_for_rows(slurm: Cluster, output: Path, count: int, among: set[int]) -> int:
    """Waits until one of some chunks of two has so many rows; which one."""

    def there() -> set[int]:
        paths = {i: chunk(output, i, 2) for i in among}
        return {i for i, path in paths.items() if path.exists() and path.read_bytes().count(b"\n") >= count}

    what = f"{count} rows in one chunk of {among}"
    return min(wait_until(there, what, 120, lambda: f"{slurm.jobs()} {logs(output.parent)}", every_s=0.02))


def logs(folder: Path) -> str:
    return "\n".join(
        f"{path.name}: {path.read_text(errors='replace')[-3000:]}" for path in sorted(folder.glob("logs/*.log"))
    )


def complete(slurm: Cluster, folder: Path, *jobs: str) -> None:
    """Waits for jobs to complete; requeued tasks start at once."""
    for job in jobs:
        ended = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", timeout_s=180)
        assert ended["JobState"] == "COMPLETED", f"{ended} {logs(folder)}"


def test_a_killed_and_a_preempted_task_end_as_one_verified_file(
    slurm, submit, transcribe, tiny_en, demo_rows, tmp_path
):
    short = [row for row in demo_rows if row["duration"] < 8]
    rows = [
        {**short[i % len(short)], "id": f"row-{i}"} for i in range(22)
    ]  # so many that the other task runs while one waits again
    rows[5]["audio_filepath"] = "nowhere.wav"  # a chunk that is complete with a failed row does not block the merge
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    output = tmp_path / "out.jsonl"
    array, merge = submit(manifest, "-m", tiny_en, "-o", output, "--num-chunks", 2, *EXACT, *ON_CPU)

    def log(task: int) -> str:
        return (tmp_path / f"logs/asrbatch-out-{array}_{task}.log").read_text()

    def waits_again(task: int) -> None:
        wait_until(
            lambda: slurm.jobs()[f"{array}_{task}"]["Reason"] == "BeginTime",
            f"task {task} requeued",
            60,
            lambda: log(task),
        )

    killed = wait_for_rows(slurm, output, 2, among={0, 1})
    preempted = 1 - killed
    os.kill(sessions(output, killed, 2)[-1]["pid"], signal.SIGKILL)
    waits_again(killed)
    wait_for_rows(slurm, output, 2, among={preempted})
    urgent = slurm.call("sbatch", "--parsable", "-p", "urgent", "-n2", "-o", "/dev/null", "--wrap", "true").strip()
    waits_again(preempted)
    slurm.wait_for(urgent, "COMPLETED", hurry=False)
    assert slurm.state(merge) == "PENDING" and slurm.jobs()[merge]["Reason"] == "Dependency"
    before = {task: chunk(output, task, 2).read_bytes() for task in range(2)}
    assert all(2 <= content.count(b"\n") < 11 for content in before.values()), "both were stopped midway"

    complete(slurm, tmp_path, *(f"{array}_{task}" for task in range(2)), merge)
    assert [slurm.jobs()[f"{array}_{task}"]["Restarts"] for task in range(2)] == ["1", "1"]
    assert not list(tmp_path.glob("*.requeues")), "counts end with the chunk"
    assert "ended with exit code 137" in log(killed) and f"requeueing {array}_{killed}" in log(killed)
    assert "DUE TO PREEMPTION" in log(preempted) and "ended with exit code 4" in log(preempted)
    assert "requeueing" not in log(preempted), "SLURM does it"
    for task in range(2):
        stopped, resumed = sessions(output, task, 2)
        assert stopped["outcome"] == (None if task == killed else "interrupted") and resumed["outcome"] == "complete"
        assert resumed["slurm"]["SLURM_RESTART_COUNT"] == "1" and resumed["slurm"]["SLURM_ARRAY_JOB_ID"] == array
        rows_before = [line for line in before[task].splitlines(keepends=True) if line.endswith(b"\n")]
        assert chunk(output, task, 2).read_bytes().startswith(b"".join(rows_before)), "what was written stays as it was"

    whole = transcribe(manifest, tiny_en, tmp_path / "whole.jsonl", args=("max_num_seqs=1",))
    assert stable(output) == stable(whole.paths.rows)
    assert [row["index"] for row in read_jsonl(output)] == list(range(22))
    assert [row["index"] for row in read_jsonl(output) if row["status"] == "failed"] == [5]
    assert "a success for SLURM" in (tmp_path / f"logs/asrbatch-out-merge-{merge}.log").read_text()


@pytest.fixture(scope="module")
def small_run(demo_rows, tmp_path_factory) -> Path:
    """Folder with a manifest of 6 rows."""
    short = [row for row in demo_rows if row["duration"] < 4]
    folder = tmp_path_factory.mktemp("small")
    write_jsonl(folder / "m.jsonl", [{**short[i % len(short)], "id": f"row-{i}"} for i in range(6)])
    return folder


def test_two_tasks_with_one_chunk_write_it_once(slurm, submit, tiny_en, small_run):
    """Task 1, and task 0 of an array that begins at chunk 1. The one that finds the other writing waits, without a
    requeue.
    """
    output = small_run / "out.jsonl"
    run = [
        small_run / "m.jsonl",
        "-m",
        tiny_en,
        "-o",
        output,
        "--num-chunks",
        2,
        *EXACT,
        *ON_CPU,
        "--chunks",
        1,
        "--no-merge",
    ]
    (first,) = submit(*run)
    (second,) = submit(*run, "--max-array-size", 1)
    tasks = (f"{first}_1", f"{second}_0")
    complete(slurm, small_run, *tasks)
    said = [(small_run / f"logs/asrbatch-out-{task}.log").read_text() for task in tasks]
    refused = [text for text in said if "is writing this output" in text]
    assert len(refused) == 1 and "another process writes this chunk: trying again in 1 s" in refused[0], said
    assert re.findall(r"asrbatch ended with exit code (\d)", refused[0])[-2:] == ["6", "0"], said
    assert [slurm.jobs()[task]["Restarts"] for task in tasks] == ["0", "0"]
    assert [s["outcome"] for s in sessions(output, 1, 2)] == ["complete"]
    assert len(stable(chunk(output, 1, 2))) == 3


def test_a_chunk_that_stays_incomplete_cancels_the_merge_and_a_template_completes_it(
    slurm, submit, cli, tiny_en, small_run
):
    """The second chunk of the run above. Its task may not requeue itself; then a person's own script runs it again."""
    output = small_run / "out.jsonl"
    run = [small_run / "m.jsonl", "-m", tiny_en, "-o", output, "--num-chunks", 2, *EXACT, *ON_CPU]
    array, merge = submit(*run, "--chunks", 0, "--requeue", 0)
    wait_until(lambda: sessions(output, 0, 2), "a session", 60, lambda: logs(small_run))
    slurm.call("scancel", "--batch", "--signal=USR1", f"{array}_0")  # what SLURM sends ahead of the time limit
    assert slurm.wait_for(f"{array}_0", "FAILED", "COMPLETED")["ExitCode"] == "4:0"
    said = (small_run / f"logs/asrbatch-out-{array}_0.log").read_text()
    assert (
        "USR1: the time limit is near; finishing the windows in the engine" in said and "ended with exit code 4" in said
    )
    assert slurm.wait_for(merge, "CANCELLED", "COMPLETED")["JobState"] == "CANCELLED"
    assert not output.exists()

    refused = cli("merge-shards", output, "--manifest", small_run / "m.jsonl")
    assert refused.returncode == 1 and not output.exists()
    again = cli("submit", *run, "--chunks", refused.stdout.strip(), "--dry-run")
    assert "#SBATCH --array=0\n" in again.stdout, (refused, again.stderr)

    edits = {
        "--array=0-15%8": f"--array={refused.stdout.strip()}",
        "#SBATCH --gres=gpu:1\n#SBATCH --cpus-per-task=8\n#SBATCH --mem=32G\n": "#SBATCH --cpus-per-task=2\n",
        "manifest=manifest.jsonl": f"manifest='{small_run}/m.jsonl'",
        "model=openai/whisper-large-v3-turbo": f"model='{tiny_en}'",
        "output=run/out.jsonl": f"output='{output}'",
        "num_chunks=16": "num_chunks=2",
        "options=(--language en)": f"options=({' '.join(EXACT)})",
        "source .venv/bin/activate": f"source '{REPO}/.venv/bin/activate'",
    }
    for name in ("array.sbatch", "merge.sbatch"):
        text = (REPO / "scripts/slurm" / name).read_text()
        for old, new in edits.items():
            text = text.replace(old, new)
        (small_run / name).write_text(text)
    options = ("--parsable", "--chdir", small_run)
    array = slurm.call("sbatch", *options, small_run / "array.sbatch").strip()
    waits = (f"--dependency=afterok:{array}", "--kill-on-invalid-dep=yes")
    merge = slurm.call("sbatch", *options, *waits, small_run / "merge.sbatch").strip()
    complete(slurm, small_run, f"{array}_0", merge)
    assert [row["id"] for row in read_jsonl(output)] == [f"row-{i}" for i in range(6)]


def test_slurm_takes_every_option_as_it_was_given(slurm, submit, tmp_path):
    """Paths with spaces, quotes and %; the environment of the task as a small programme in asrbatch's place sees it."""
    folder = tmp_path / 'o\'ne "two" 100% #x'
    (folder / "work").mkdir(parents=True)
    manifest = write_jsonl(folder / "m.jsonl", [{"audio_filepath": "a.wav"}])
    tell = folder / "tell"
    tell.write_text(
        f'#!/bin/bash\n{{ echo "$PWD"; env; printf "%s\\n" "$@"; }} > "{tmp_path}/told.$SLURM_ARRAY_TASK_ID"\n'
    )
    tell.chmod(0o755)
    slurm_options = [
        "--gpus",
        "a100:2",
        "--cpus-per-task",
        1,
        "--time",
        "0:30:00",
        "--partition",
        "main",
        "--mem",
        "1M",
    ]
    slurm_options += [
        "--chdir",
        folder / "work",
        "--sbatch=--comment='a b'",
        "--sbatch=--nice=5",
        "--setup",
        "export EXTRA='c d'",
    ]
    slurm_options += ["--merge-cpus", 2, "--merge-mem", "1M", "--merge-sbatch=--nice=7"]
    slurm_options += [
        "--python",
        f"'{tell.parent}'/tell".replace("o'ne", "o'\"'\"'ne"),
        "--cache-dir",
        folder / "cache",
    ]
    run = [
        manifest,
        "-m",
        "x/y",
        "-o",
        folder / "out.jsonl",
        "--num-chunks",
        4,
        "--prompt",
        "it's $5",
        "--chunks",
        "1,3",
    ]
    (array, merge) = submit(*run, *slurm_options, "--max-array-size", 3, "--stagger", 0)[-2:]
    complete(slurm, folder, f"{array}_0", merge)
    job = slurm.jobs()[f"{array}_0"]
    assert (job["TimeLimit"], job["Partition"], job["Requeue"]) == ("00:30:00", "main", "1")
    job = slurm.jobs()[merge]
    assert (job["NumCPUs"], job["MinMemoryNode"], job["Nice"]) == ("2", "1M", "7")
    told = (tmp_path / "told.0").read_text().splitlines()
    assert told[0] == str(folder / "work")
    assert {"EXTRA=c d", "CUDA_VISIBLE_DEVICES=0,1", "SLURM_ARRAY_TASK_ID=0", "--prompt", "it's $5"} <= set(told)
    assert told[-2:] == ["--chunk-offset", "3"]
    (cache,) = [line.partition("=")[2] for line in told if line.startswith("VLLM_CACHE_ROOT=")]
    assert cache == f"{folder}/cache/asrbatch-root-{array}_0/vllm" or os.getuid()
    assert list((folder / "cache").iterdir()) == [], "compile caches end with their task"
    written = sorted(path.name for path in (folder / "logs").iterdir())
    assert re.fullmatch(
        rf"asrbatch-out-{int(array) - 1}_1.log asrbatch-out-{array}_0.log asrbatch-out-merge-{merge}.log",
        " ".join(written),
    )


def test_what_sbatch_refuses_is_shown(cli, slurm, tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav"}])
    run = [manifest, "-m", "x/y", "-o", tmp_path / "out.jsonl", "--num-chunks", 2]
    done = cli("submit", *run, "--partition", "nowhere", env=slurm.environment)
    assert done.returncode == 1 and not done.stdout
    assert "sbatch refused" in done.stderr and "invalid partition specified: nowhere" in done.stderr


def test_a_cancelled_task_stays_cancelled(slurm, submit, tmp_path):
    """A task that requeued itself when it is told to end would come back to life."""
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav"}])
    waits = tmp_path / "waits"
    waits.write_text(f"#!/bin/bash\ntrap 'exit 4' TERM\ntouch '{tmp_path}/started'\nwhile :; do sleep 0.1; done\n")
    waits.chmod(0o755)
    run = [manifest, "-m", "x/y", "-o", tmp_path / "out.jsonl", "--num-chunks", 1, "--python", waits]
    array, merge = submit(*run, *ON_CPU)
    wait_until((tmp_path / "started").exists, "the task runs")
    slurm.call("scancel", array)
    said = tmp_path / f"logs/asrbatch-out-{array}_0.log"
    wait_until(lambda: "not requeued here" in said.read_text(), "its end", seen=said.read_text)
    assert slurm.wait_for(f"{array}_0", "CANCELLED", "FAILED", "COMPLETED")["JobState"] == "CANCELLED"
    assert slurm.wait_for(merge, "CANCELLED", "COMPLETED")["JobState"] == "CANCELLED"
    assert slurm.jobs()[f"{array}_0"]["Restarts"] == "0"


def test_the_cluster_leaves_nothing_behind(tmp_path):
    """A second one beside that of the session: own ports, sockets and folder; its daemons end with it."""
    with running_cluster() as cluster:
        cluster.call("sbatch", "-o", "/dev/null", "--wrap", f"touch {tmp_path}/begun; sleep 600")
        folder = cluster.folder
        # Not its state, which is "running" before there is a process: SLURM takes minutes to end such a job.
        wait_until((tmp_path / "begun").exists, "a running job")
    assert not folder.exists()
    for process in Path("/proc").glob("[0-9]*"):
        assert str(folder).encode() not in command_line(int(process.name))
