"""`asrbatch submit` without a SLURM: which scripts it writes, what it refuses, and what the scripts do in bash.

The scripts run here with small programmes in the place of SLURM's and of asrbatch; `test_slurm.py` runs them on a real
cluster with the real engine.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from asrbatch.cluster.jobs import JobOptions, parse_chunks
from asrbatch.cluster.merge_report import ranges
from asrbatch.cluster.slurm import SlurmOptions, split_arrays
from asrbatch.errors import UsageError
from asrbatch.storage.paths import RunPaths, find_chunks

pytest_plugins = "command_line"

TEMPLATES = sorted((REPO / "scripts/slurm").glob("*.sbatch"))


@pytest.fixture
def manifest(tmp_path) -> Path:
    return write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav"}])


def program(folder: Path, name: str, text: str) -> Path:
    """A small programme in bash."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


def options(**changes) -> SlurmOptions:
    return SlurmOptions(**{"job_name": "job", "log_dir": Path("/logs"), **changes})


# --- what is refused, or said ---------------------------------------------------------------------------------------


def test_rows_on_standard_input_are_not_checked_by_a_dry_run_and_it_says_so(tmp_path):
    """Before, without a word."""
    run = ["-m", "openai/whisper-tiny", "-o", "out.jsonl", "--num-chunks", 2]
    command = [sys.executable, "-m", "asrbatch", "submit", "-", *map(str, run), "--dry-run"]
    done = subprocess.run(command, input="no row\n", cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "nothing of it was checked" in done.stderr


@pytest.mark.parametrize("command", ["submit", "transcribe"])
def test_an_output_below_a_file_is_refused(cli_here, manifest, tmp_path, command):
    """Before, a dry run passed, and all tasks failed."""
    (tmp_path / "file").touch()
    more = ["--num-chunks", 2, "--dry-run"] if command == "submit" else []
    done = cli_here(command, manifest, "-m", tmp_path, "-o", "file/more/out.jsonl", *more)
    assert done.returncode == 2 and f"{tmp_path}/file is a file, not a folder" in done.stderr


# --- what is written -------------------------------------------------------------------------------------------------


def test_dry_run_prints_the_scripts_and_leaves_nothing(cli_here, manifest, tmp_path):
    slurm = (
        "--partition gpu --account speech --qos long --time 4:00:00 --gpus a100:2 --cpus-per-task 16 --mem 64G "
        "--chdir work"
    )
    more = "--sbatch=--constraint=nvme --sbatch=--exclusive --max-running 4 --merge-partition cpu --python python3"
    more += " --merge-cpus 8 --merge-mem 4G --merge-sbatch=--nice=5 --merge-sbatch=--reservation=night"
    lines = ["--setup", "module load cuda/12", "--setup", "source 'my env'/bin/activate"]
    run = ["-m", "openai/whisper-tiny", "-o", "run/out.jsonl", "--num-chunks", 16, "--devices", "all"]
    done = cli_here("submit", manifest, *run, *slurm.split(), *more.split(), *lines, "--dry-run")
    assert done.returncode == 0, done.stderr
    array, merge = re.split(r"(?=^#!/bin/bash\n)", done.stdout, flags=re.M)[1:]
    assert [line for line in array.splitlines() if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=asrbatch-out",
        "#SBATCH --array=0-15%4",
        f"#SBATCH --output={tmp_path}/run/logs/%x-%A_%a.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@120",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --cpus-per-task=16",
        "#SBATCH --gres=gpu:a100:2",
        "#SBATCH --mem=64G",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=speech",
        "#SBATCH --qos=long",
        "#SBATCH --time=4:00:00",
        f"#SBATCH --chdir={tmp_path}/work",
        "#SBATCH --constraint=nvme",
        "#SBATCH --exclusive",
    ]
    assert "\nmodule load cuda/12\nsource 'my env'/bin/activate\n" in array
    command = (
        f"exec python3 -m asrbatch transcribe {manifest} --model openai/whisper-tiny --output {tmp_path}/run/out.jsonl"
    )
    assert f"{command} --num-chunks 16 --devices all --chunk-offset 0\n" in array
    assert [line for line in merge.splitlines() if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=asrbatch-out-merge",
        f"#SBATCH --output={tmp_path}/run/logs/%x-%j.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=4G",
        "#SBATCH --partition=cpu",
        "#SBATCH --account=speech",
        "#SBATCH --time=4:00:00",
        f"#SBATCH --chdir={tmp_path}/work",
        "#SBATCH --nice=5",
        "#SBATCH --reservation=night",
    ]
    assert (
        f"\npython3 -m asrbatch merge-shards {tmp_path}/run/out.jsonl --manifest {manifest} --num-chunks 16\n" in merge
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.jsonl"]
    assert done.stderr.splitlines() == [
        "note: --model openai/whisper-tiny is not a folder here; every task will ask the hub for it, so fetch it first",
        "note: the model is not checked here: the tasks run in another environment (--container, --python)",
    ]


def test_several_gpus_of_a_task_are_used_with_devices(cli_here, manifest, tiny_en):
    run = ["-m", tiny_en, "--num-chunks", 2, "--gpus", 2, "--dry-run", "--no-merge"]
    done = cli_here("submit", manifest, *run, "--devices", "all")
    assert done.returncode == 0 and done.stderr == "", "no note that one engine uses one GPU"
    assert "--gres=gpu:2\n" in done.stdout and "--cpus-per-task=12\n" in done.stdout
    assert " --num-chunks 2 --devices all --chunk-offset 0\n" in done.stdout
    assert "--gpus 2 without --devices: one engine uses one GPU" in cli_here("submit", manifest, *run).stderr


def test_without_options_a_task_has_one_gpu_and_starts_this_interpreter(cli_here, manifest, tiny_en):
    done = cli_here("submit", manifest, "-m", tiny_en, "--num-chunks", 2, "--dry-run", "--no-merge")
    assert done.stdout.startswith("#!/bin/bash\n") and done.stdout.count("#!/bin/bash") == 1
    assert "--gres=gpu:1\n" in done.stdout and "--cpus-per-task=6\n" in done.stdout and "--array=0-1\n" in done.stdout
    assert f"exec {shlex.quote(sys.executable)} -m asrbatch transcribe" in done.stdout
    assert done.stderr == ""
    alone = cli_here(
        "submit", manifest, "-m", tiny_en, "--num-chunks", 2, "--dry-run", "--gpus", 0, "--signal-before", 0
    ).stdout
    assert not {"--gres", "--cpus-per-task", "--signal"} & set(re.findall(r"^#SBATCH ([\w-]+)", alone, flags=re.M))


@pytest.mark.parametrize(
    ("gpus", "cores"), [("a100:2", 6), ("nvidia_h200:1", 6), ("NVIDIA-L4:1", 2), ("l40s:1", 6), ("0", None)]
)
def test_a_task_has_the_cores_that_its_gpus_need(gpus, cores):
    # What plan --json says of each kind, and twice that of two; a kind that nobody measured is taken for the fastest.
    assert JobOptions(job_name="j", gpus=gpus).num_cpus == cores
    assert JobOptions(job_name="j", gpus=gpus, cpus_per_task=3).num_cpus == 3


def test_many_chunks_become_several_arrays(cli_here, manifest, tmp_path):
    run = ["-m", "x/y", "-o", "out.jsonl", "--num-chunks", 2500, "--max-running", 100, "--dry-run", "--no-merge"]
    done = cli_here("submit", manifest, *run)
    assert re.findall(r"--array=(\S+)", done.stdout) == ["0-999%41", "0-999%39", "0-499%20"]
    assert re.findall(r"--chunk-offset (\d+)", done.stdout) == ["0", "1000", "2000"]
    assert re.findall(r"sbatch (\S+)$", done.stdout, flags=re.M) == [
        f"{tmp_path}/out.array-{n}.sbatch" for n in (0, 1000, 2000)
    ]
    done = cli_here("submit", manifest, *run, "--chunks", "7,2003-2004,1999")
    assert re.findall(r"--array=(\S+)", done.stdout) == ["7%26", "999%25", "3-4%49"]
    assert "# chunks 1999 of 2500, one to a task" in done.stdout


@given(st.sets(st.integers(0, 5000), min_size=1), st.integers(1, 1500), st.integers(1, 200) | st.none())
def test_arrays_hold_every_chunk_once_within_the_limits(chunks, size, max_running):
    num_arrays = len({chunk // size for chunk in chunks})
    if max_running is not None and max_running < num_arrays:
        with pytest.raises(UsageError, match=f"--max-running {max_running}: .* take {num_arrays} arrays"):
            split_arrays(sorted(chunks), options(max_running=max_running, max_array_size=size))
        return
    arrays = split_arrays(sorted(chunks), options(max_running=max_running, max_array_size=size))
    assert [chunk for array in arrays for chunk in array.chunks] == sorted(chunks)
    assert all(0 <= task < size for array in arrays for task in array.tasks)
    if max_running is None:
        assert all(array.max_running is None for array in arrays)
    else:
        assert (
            sum(array.max_running for array in arrays) == max_running
            and min(array.max_running for array in arrays) >= 1
        )


@given(st.sets(st.integers(0, 3000), min_size=1))
def test_chunks_are_read_as_merge_shards_names_them(chunks):
    assert parse_chunks(ranges(chunks), 3001) == sorted(chunks)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-chunks", "4", "--chunks", "3,4"], "--chunks 3,4: 4 is out of range; --num-chunks 4 has 0 to 3"),
        (["--num-chunks", "4", "--chunks", "3-1"], '"3-1" is not a chunk id or a range'),
        (["--num-chunks", "4", "--chunks", ""], '"" is not a chunk id or a range'),
        ([], "--num-chunks is missing"),
        (["--num-chunks", "0"], "--num-chunks 0: must be at least 1"),
        (["--num-chunks", "4", "--chunk-id", "1"], "No such option"),
        (["--num-chunks", "4", "--workers", "0"], "--workers 0: must be at least 1"),
        (["--num-chunks", "4", "--output", "x.txt"], "must end in .jsonl"),
        (["--num-chunks", "4", "--model", "./nowhere"], "--model ./nowhere: no such folder"),
        (["--num-chunks", "4", "--gpus", "two"], "--gpus two: give a number, or a type and a number such as a100:2"),
        (["--num-chunks", "4", "--max-running", "0"], "--max-running 0: must be at least 1"),
        (["--num-chunks", "4", "--requeue", "-1"], "--requeue -1: must be at least 0"),
        (["--num-chunks", "4", "--signal-before", "70000"], "must be at most 65535"),
        (["--num-chunks", "4", "--job-name", "a b"], '--job-name "a b": becomes part of the logs\' names'),
        (["--num-chunks", "4", "--log-dir", "a\\b"], "a path with a backslash"),
        (["--num-chunks", "4", "--setup", "a\nb"], '--setup "a\\nb": must be one line'),
        (["--num-chunks", "4", "--time", ""], '--time "": must be one line, and not empty'),
        (["--num-chunks", "4", "--container", "run 'x"], "--container run 'x: No closing quotation"),
        (["--num-chunks", "4", "--python", ""], "--python is empty"),
        (["--num-chunks", "4", "--sbatch", "constraint=a100"], "is not an option of sbatch; write --sbatch='--"),
        (["--num-chunks", "4", "--sbatch=--array=0-9"], "submit sets --array itself; use --num-chunks, --chunks"),
        (["--num-chunks", "4", "--sbatch=-a 0-9"], "submit sets --array itself"),
        (["--num-chunks", "4", "--sbatch=-o x.log"], "submit sets --output itself; use --log-dir"),
        (["--num-chunks", "4", "--sbatch=--error x.log"], "submit sets --error itself"),
        (["--num-chunks", "4", "--sbatch=--no-requeue"], "submit sets --no-requeue itself"),
        (
            ["--num-chunks", "4", "--sbatch=--gpus-per-node=2"],
            "submit sets --gpus-per-node itself; use --gpus of submit",
        ),
        (["--num-chunks", "4", "--sbatch=--time=1", "--time", "2"], "submit sets --time itself; use --time"),
        (["--num-chunks", "4", "--merge-cpus", "0"], "--merge-cpus 0: must be at least 1"),
        (["--num-chunks", "4", "--merge-mem", ""], '--merge-mem "": must be one line, and not empty'),
        (["--num-chunks", "4", "--merge-sbatch", "a\nb"], '--merge-sbatch "a\\nb": must be one line'),
        (["--num-chunks", "4", "--merge-sbatch", "nice"], "write --merge-sbatch='--"),
        (
            ["--num-chunks", "4", "--merge-sbatch=-d singleton"],
            "submit sets --dependency itself; it waits for the arrays",
        ),
        (
            ["--num-chunks", "4", "--merge-sbatch=--mem=1", "--merge-mem", "2"],
            "submit sets --mem itself; use --merge-mem",
        ),
    ],
)
def test_what_cannot_be_submitted_is_one_line(cli_here, manifest, tmp_path, arguments, message):
    model = [] if "--model" in arguments else ["--model", "x/y"]
    done = cli_here("submit", manifest, *model, *arguments)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr and "Traceback" not in done.stderr and not done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.jsonl"], "nothing was written"


def test_a_missing_manifest_is_named(cli_here, tmp_path):
    done = cli_here("submit", "nowhere.jsonl", "-m", "x/y", "--num-chunks", 2)
    assert done.returncode == 2 and done.stderr == "asrbatch: nowhere.jsonl: no such manifest\n"


REFUSED = {
    "a bad row": (['{"audio_filepath": 3}'], [], "m.jsonl:1: audio_filepath = 3"),
    "a row of another task": (['{"audio_filepath": "a", "taskname": "ast"}'], [], "taskname"),
    "a language of a row": (['{"audio_filepath": "a", "lang": "de"}'], [], 'm.jsonl:1: lang "de"'),
    "a language": ([], ["--language", "de"], "is English-only"),
    "an option of other models": ([], ["--prompt-style", "chat"], "Whisper has one style"),
    "a window": ([], ["--window-seconds", "31"], "takes at most 30 s"),
    "an engine argument": ([], ["--engine-arg", "max_num_seq=4"], "did you mean max_num_seqs?"),
    "a device twice": ([], ["--devices", "0,0"], "0 is given twice"),
    "an engine of several devices": (
        [], ["--devices", "0,1", "--engine-arg", "tensor_parallel_size=2"], "tensor_parallel_size=2 needs several"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_tasks_would_refuse_is_refused_beforehand(cli_here, manifest, tiny_en, tmp_path, what):
    lines, given, message = REFUSED[what]
    if lines:
        manifest.write_text("\n".join(lines))
    done = cli_here("submit", manifest, "-m", tiny_en, "-o", "out.jsonl", "--num-chunks", 2, *given)
    assert done.returncode == 2 and message in done.stderr and not done.stdout, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.jsonl"], "nothing was written"


def chunk_of_another_run(folder: Path, **changes) -> None:
    paths = RunPaths(folder / "out.chunk-00001-of-00002.jsonl")
    session = {"started": "", "heartbeat": "", "outcome": "interrupted"}
    known = {"manifest": "x", "prompt": None, **changes.pop("fingerprint", {})}
    paths.record.write_text(json.dumps({"fingerprint": known, "sessions": [session], **changes}))
    paths.rows.write_text("{}\n")


FOUND = {
    "another prompt": ({"fingerprint": {"prompt": "before"}}, 'prompt: was "before", now null'),
    "another manifest": ({}, 'manifest: was "x", now '),
    "another strategy": ({"fingerprint": {"strategy": "contiguous"}}, 'strategy: was "contiguous"'),
    "hotwords": ({"fingerprint": {"asked": {"hotwords": "x"}}}, 'asked: was {"hotwords": "x"}, now null'),
    "another model": ({"fingerprint": {"model": "y"}}, 'model: was "y", now '),
    "an edited record": ({"sessions": 3}, "run.json: is not what asrbatch writes"),
}


@pytest.mark.parametrize("what", FOUND)
def test_chunks_that_their_tasks_would_refuse_are_refused_beforehand(cli_here, manifest, tiny_en, tmp_path, what):
    changes, message = FOUND[what]
    chunk_of_another_run(tmp_path, **changes)
    run = ["submit", manifest, "-m", tiny_en, "-o", "out.jsonl", "--num-chunks", 2]
    done = cli_here(*run)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert "dtype" not in done.stderr, "another node may have another device"
    if what == "another model":
        return
    for more in (["--chunks", 0], ["--overwrite"]):
        assert cli_here(*run, *more, "--dry-run").returncode == 0, more


def test_rows_without_a_record_are_refused_beforehand(cli_here, manifest, tmp_path):
    (tmp_path / "out.chunk-00001-of-00002.jsonl").write_text("{}\n")
    done = cli_here("submit", manifest, "-m", "x/y", "-o", "out.jsonl", "--num-chunks", 2, "--python", "python3")
    assert done.returncode == 2 and "it is unknown which run made it" in done.stderr


def test_an_unknown_engine_argument_is_refused_before_any_file_is_made(cli, cli_here, manifest, tiny_en, tmp_path):
    """Also where rows come on standard input, which is kept first, and where workers would meet it."""
    engine = ["-m", tiny_en, "--engine-arg", "max_num_seq=4"]
    for command in (
        ["transcribe", manifest, *engine],
        ["transcribe", manifest, *engine, "--devices", "0"],
        ["transcribe", "-", *engine],
        ["submit", "-", *engine, "--num-chunks", 2],
        ["plan", manifest, *engine],
        ["plan", manifest, *engine[2:]],
    ):
        done = (cli if "-" in command else cli_here)(*command)
        assert done.returncode == 2 and "vLLM" in done.stderr and "did you mean max_num_seqs?" in done.stderr, command
        assert sorted(p.name for p in tmp_path.iterdir()) == ["m.jsonl"], command


def test_what_may_be_a_mistake_is_noted(cli_here, manifest, tiny_en, tmp_path):
    (tmp_path / "out.chunk-00000-of-00003.jsonl").touch()
    run = ["-m", tiny_en, "-o", "out.jsonl", "--num-chunks", 2, "--gpus", 4, "--grace", 120]
    done = cli_here("submit", manifest, *run, "--dry-run")
    assert done.returncode == 0
    assert [line[:60] for line in done.stderr.splitlines()] == [
        "note: --gpus 4 without --devices: one engine uses one GPU; g",
        "note: --grace 120 may take a task past its time limit: give ",
        "note: files of this run in 3 chunks are there as well; remov",
    ]


# --- submitting -------------------------------------------------------------------------------------------------------

SBATCH = """
number=$(cat {count} 2>/dev/null || echo 100)
if [[ $number == "{refuse_at}" ]]; then echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; fi
echo $((number + 1)) > {count}
printf '%s\\n' "$*" >> {calls}
echo "$number;cluster"
"""


@pytest.fixture
def sbatch(tmp_path):
    """Puts a small `sbatch` first in PATH; the environment for `cli_here`, and the file of its calls."""

    def make(refuse_at: str = "") -> tuple[dict[str, str], Path]:
        tools = tmp_path / "tools"
        names = {"count": tools / "count", "calls": tools / "calls", "refuse_at": refuse_at}
        program(tools, "sbatch", SBATCH.format(**names))
        return {"PATH": f"{tools}:{os.environ['PATH']}"}, tools / "calls"

    return make


def test_arrays_are_submitted_and_then_the_merge(cli, manifest, tmp_path, sbatch):
    env, calls = sbatch()
    run = ["-m", "x/y", "-o", "run/out.jsonl", "--num-chunks", 3, "--max-array-size", 2, "--log-dir", "deep/er/logs"]
    done = cli("submit", manifest, *run, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "array 100\narray 101\nmerge 102\n"
    assert calls.read_text().splitlines() == [
        f"--parsable {tmp_path}/run/out.array-0.sbatch",
        f"--parsable {tmp_path}/run/out.array-2.sbatch",
        f"--parsable --dependency=afterok:100:101 --kill-on-invalid-dep=yes {tmp_path}/run/out.merge.sbatch",
    ]
    assert (tmp_path / "deep/er/logs").is_dir()
    assert "--array=0\n" in (tmp_path / "run/out.array-2.sbatch").read_text()
    for hint in (
        "squeue --jobs=100,101,102",
        f"asrbatch status {tmp_path}/run/out.jsonl --watch",
        "scancel 100 101 102",
    ):
        assert hint in done.stderr
    assert f"{tmp_path}/deep/er/logs/asrbatch-out-*.log" in done.stderr
    done = cli("submit", manifest, *run, "--no-merge", "--chunks", "1", env=env)
    assert done.stdout == "array 103\n"
    by_hand = f"asrbatch merge-shards {tmp_path}/run/out.jsonl --manifest {manifest} --num-chunks 3"
    assert f"then run: {by_hand}\n" in done.stderr


@pytest.mark.parametrize(
    ("refuse_at", "message"),
    [
        ("100", r"asrbatch: sbatch refused \S+/out.array-0.sbatch: sbatch: error: QOSMaxSubmitJobPerUserLimit$"),
        (
            "101",
            r"out.array-2.sbatch: .*: array 100, .* Either scancel 100, or .* --chunks 2-3,4 and run this .*: MERGE$",
        ),
        (
            "103",
            r"out.merge.sbatch: .*; array 100, 101, 102 was submitted and goes on; run this when it has ended: MERGE$",
        ),
    ],
)
def test_what_stands_when_sbatch_refuses_is_said(cli_here, manifest, tmp_path, sbatch, refuse_at, message):
    env, _ = sbatch(refuse_at)
    done = cli_here(
        "submit", manifest, "-m", "x/y", "-o", "out.jsonl", "--num-chunks", 5, "--max-array-size", 2, env=env
    )
    assert done.returncode == 1 and not done.stdout and "Traceback" not in done.stderr
    by_hand = f"asrbatch merge-shards {tmp_path}/out.jsonl --manifest {manifest} --num-chunks 5"
    assert re.search(message.replace("MERGE", re.escape(by_hand)), done.stderr.splitlines()[-1]), done.stderr


def test_without_sbatch_the_scripts_are_written_all_the_same(cli_here, manifest, tmp_path):
    done = cli_here("submit", manifest, "-m", "x/y", "-o", "out.jsonl", "--num-chunks", 2, env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert f"sbatch is not on this machine; {tmp_path}/out.array.sbatch is written" in done.stderr
    assert (tmp_path / "out.array.sbatch").exists() and (tmp_path / "out.merge.sbatch").exists()


# --- what the scripts do ----------------------------------------------------------------------------------------------


FAILS = """[[ -s $0.fails ]] && read -r n < "$0.fails" && ((n)) && { \
echo $((n - 1)) > "$0.fails"; echo down >&2; exit 1; }"""
QUICK = {"ASRBATCH_HELD_PAUSE_S": "0.2", "ASRBATCH_SLURM_PATIENCE_S": "1", "ASRBATCH_SLURM_PAUSE_S": "0.05"}


class Node:
    """Runs a script as SLURM would run one task, with small programmes for what it calls."""

    def __init__(self, folder: Path, asrbatch: str):
        self.tools, self.folder = folder / "node", folder
        program(self.tools, "python", asrbatch)
        program(self.tools, "asrbatch", f'exec "{self.tools}/python" "$@"')
        program(self.tools, "squeue", f'{FAILS}; cat "{self.tools}/state"')
        program(self.tools, "scontrol", f'{FAILS}; echo "$*" >> "{self.tools}/requeued"')
        self.state("RUNNING")

    def fails(self, name: str, times: int) -> None:
        """The next calls of a programme."""
        (self.tools / f"{name}.fails").write_text(f"{times}\n")

    def state(self, state: str) -> None:
        (self.tools / "state").write_text(f"{state}\n")

    def start(self, script: Path, restarts: int | None = None, task: int = 3, **more: str) -> subprocess.Popen:
        count = {} if restarts is None else {"SLURM_RESTART_COUNT": str(restarts)}
        ids = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": "81"}
        env = {
            **os.environ,
            "PATH": f"{self.tools}:{os.environ['PATH']}",
            "TMPDIR": str(self.folder),
            **QUICK,
            **ids,
            **count,
            **more,
        }
        return subprocess.Popen(
            ["bash", script], env=env, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, script: Path, restarts: int | None = None, task: int = 3, **more: str) -> tuple[int, str]:
        process = self.start(script, restarts, task, **more)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def requeued(self) -> str:
        """What `scontrol` was called with since the last question."""
        path = self.tools / "requeued"
        said = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return said.strip()


def child_of(process: subprocess.Popen) -> int:
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[0])


def write_scripts(cli_here, folder: Path, manifest, *arguments) -> tuple[Path, Path]:
    """The array's and the merge's script."""
    run = [
        "-m",
        "x/y",
        "-o",
        folder / "out.jsonl",
        "--num-chunks",
        16,
        "--stagger",
        0,
        "--python",
        folder / "node/python",
    ]
    done = cli_here("submit", manifest, *run, *arguments, "--dry-run")
    assert done.returncode == 0, done.stderr
    scripts = re.split(r"(?=^#!/bin/bash\n)", done.stdout, flags=re.M)[1:]
    paths = [folder / "array.sbatch", folder / "merge.sbatch"]
    for path, text in zip(paths, scripts, strict=True):
        path.write_text(text)
    return paths[0], paths[1]


def as_a_person_edits(template: Path, folder: Path) -> Path:
    """A template of scripts/slurm with its own environment; `asrbatch` is the programme of `Node`."""
    path = folder / f"template-{template.name}"
    path.write_text(template.read_text().replace("source .venv/bin/activate", "# in PATH"))
    return path


# asrbatch's exit code, restarts as SLURM counts them, the task's state for SLURM: the script's exit code, and whether
# it requeues itself.
ENDS = [
    (0, None, "RUNNING", 0, False),
    (3, None, "RUNNING", 0, False),
    (5, 2, "RUNNING", 0, False),
    (1, None, "RUNNING", 1, True),
    (4, None, "RUNNING", 4, True),
    (4, 2, "RUNNING", 4, True),
    (137, 1, "RUNNING", 137, True),
    (2, None, "RUNNING", 2, False),
    (127, None, "RUNNING", 127, False),
    (4, None, "COMPLETING", 4, False),
    (4, None, "", 4, False),
]


@pytest.mark.parametrize("which", ["submit", "template"])
def test_how_a_task_ends(cli_here, manifest, tmp_path, which):
    node = Node(tmp_path, "read -r code < code; ((code == 137)) && kill -KILL $$; exit $code")
    script = (
        write_scripts(cli_here, tmp_path, manifest)[0]
        if which == "submit"
        else as_a_person_edits(TEMPLATES[0], tmp_path)
    )
    for code, restarts, state, expected, requeued in ENDS:
        (tmp_path / "code").write_text(f"{code}\n")
        node.state(state)
        case = (code, restarts, state)
        ended, said = node.run(script, restarts)
        assert ended == expected, (case, said)
        assert node.requeued() == ("requeue 77_3" if requeued else ""), (case, said)
        if which == "submit" and requeued:
            (tmp_path / "out.chunk-00003-of-00016.requeues").unlink()  # as if it were the first
    node.state("RUNNING")
    assert node.run(script, 3)[0] == 4 and node.requeued() == ("requeue 77_3" if which == "submit" else "")
    assert list(tmp_path.glob("asrbatch-*")) == [], "the compile caches are gone"


def test_requeue_0_never_requeues(cli_here, manifest, tmp_path):
    node = Node(tmp_path, f"echo row >> {tmp_path}/out.chunk-00003-of-00016.jsonl; exit 4")
    script, _ = write_scripts(cli_here, tmp_path, manifest, "--requeue", 0)
    assert node.run(script)[0] == 4 and not node.requeued()


def test_only_requeues_in_a_row_without_a_new_row_are_counted(cli_here, manifest, tmp_path):
    """Neither preemptions, of which SLURM's count is full, nor requeues after a start that wrote rows."""
    chunk = "out.chunk-00003-of-00016"
    counter = tmp_path / f"{chunk}.requeues"
    node = Node(tmp_path, f"read -r rows code < work; while ((rows--)); do echo row >> {chunk}.jsonl; done; exit $code")
    script, _ = write_scripts(cli_here, tmp_path, manifest, "--requeue", 2)

    def start(restarts: int, rows: int = 0, code: int = 4, task: int = 3) -> bool:
        """Whether it requeues itself."""
        (tmp_path / "work").write_text(f"{rows} {code}\n")
        node.run(script, restarts, task)
        return node.requeued() == f"requeue 77_{task}"

    assert all(start(restarts, rows=1) for restarts in range(6)), "as long as rows come"
    assert start(6) and start(7) and not start(8), "the third start in a row without one"
    assert not counter.exists(), "a person may try again"
    assert start(9) and start(10) and start(11, rows=1) and start(12), "a row begins the count anew"
    assert counter.read_text() == "77_3 1 7\n"
    node.state("COMPLETING")
    assert not any(start(13 + i) for i in range(5)), "preempted before the first row"
    node.state("RUNNING")
    assert start(20) and counter.read_text() == "77_3 2 7\n", "which counts nothing"
    (tmp_path / f"{chunk}.jsonl").write_text("row\n" * 8)
    assert start(21) and counter.read_text() == "77_3 1 8\n", "rows of a start that could not say so: its node was lost"
    counter.write_text("76_3 2 8\n")
    assert start(22) and counter.read_text() == "77_3 1 8\n", "left by another array"
    assert not find_chunks(tmp_path / "out.jsonl")[16].keys() - {3}
    assert not start(23, rows=1, code=0) and not counter.exists(), "complete"
    assert start(0, task=4) and start(1, task=4) and (tmp_path / "out.chunk-00004-of-00016.requeues").exists()
    assert list(find_chunks(tmp_path / "out.jsonl")[16]) == [3], "a count is no sign of a chunk"


def test_a_count_that_cannot_be_kept_leaves_slurms_own(cli_here, manifest, tmp_path):
    node = Node(tmp_path, "exit 1")
    script, _ = write_scripts(cli_here, tmp_path, manifest)
    (tmp_path / "out.chunk-00003-of-00016.requeues").mkdir()
    assert node.run(script, 2)[0] == 1 and node.requeued() == "requeue 77_3"
    code, said = node.run(script, 3)
    assert code == 1 and not node.requeued() and "and SLURM counts 3 restarts" in said


@pytest.mark.parametrize("which", ["submit", "template"])
def test_a_chunk_that_another_process_writes_is_waited_for(cli_here, manifest, tmp_path, which):
    """As long as it takes, without a requeue."""
    node = Node(tmp_path, "echo >> asked; (($(wc -l < asked) < 6)) && exit 6; exit 3")
    script = (
        write_scripts(cli_here, tmp_path, manifest)[0]
        if which == "submit"
        else as_a_person_edits(TEMPLATES[0], tmp_path)
    )
    code, said = node.run(script)
    assert code == 0 and not node.requeued() and (tmp_path / "asked").read_text().count("\n") == 6, said
    if which == "submit":
        assert said.count("another process writes this chunk: trying again in 0.2 s") == 5


@pytest.mark.parametrize("which", ["submit", "template"])
@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_waiting_ends_with_the_time_limit_and_counts_as_no_requeue(cli_here, manifest, tmp_path, which, state):
    node = Node(tmp_path, "touch asked; exit 6")
    script = (
        write_scripts(cli_here, tmp_path, manifest)[0]
        if which == "submit"
        else as_a_person_edits(TEMPLATES[0], tmp_path)
    )
    process = node.start(script, restarts=3, ASRBATCH_HELD_PAUSE_S="600")
    _wait_for(tmp_path / "asked")
    _wait_for_pause(process)
    node.state(state)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 6, said
    assert node.requeued() == ("requeue 77_3" if state == "RUNNING" else "")
    assert not list(tmp_path.glob("*.requeues"))


@pytest.mark.parametrize(("which", "name"), [("submit", "squeue"), ("submit", "scontrol"), ("template", "squeue")])
def test_slurm_may_take_a_while_to_answer(cli_here, manifest, tmp_path, which, name):
    node = Node(tmp_path, "exit 4")
    script = (
        write_scripts(cli_here, tmp_path, manifest)[0]
        if which == "submit"
        else as_a_person_edits(TEMPLATES[0], tmp_path)
    )
    node.fails(name, 3)
    code, said = node.run(script, ASRBATCH_SLURM_PATIENCE_S="30")
    assert code == 4 and node.requeued() == "requeue 77_3" and said.count("down") == 3
    node.fails(name, 1000)
    code, said = node.run(script)
    if (which, name) == ("submit", "squeue"):
        assert node.requeued() == "requeue 77_3" and "no TERM, so this task is not being cancelled" in said
    else:
        assert code == 4 and not node.requeued()


def test_a_task_that_may_be_cancelled_is_not_requeued_without_squeues_word(cli_here, manifest, tmp_path):
    node = Node(tmp_path, WAITS)
    script, _ = write_scripts(cli_here, tmp_path, manifest)
    process = node.start(script)
    _wait_for(node.tools / "python.ready")
    node.fails("squeue", 1000)
    process.terminate()
    time.sleep(0.3)
    assert process.poll() is None, "nor is TERM passed on: the second one would mean leave at once"
    os.kill(child_of(process), signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 4 and not node.requeued()
    assert "not requeued: squeue does not say whether the TERM was a cancellation" in said


def test_set_up_lines_may_set_what_they_like(cli_here, manifest, tmp_path):
    node = Node(tmp_path, "exit 4")
    strict = ["--setup", "set -euCo pipefail", "--setup", "umask 022"]
    script, merge = write_scripts(cli_here, tmp_path, manifest, *strict)
    for number in (1, 2):  # the second time the count's file is there
        code, said = node.run(script)
        assert code == 4 and node.requeued() == "requeue 77_3" and "asrbatch ended with exit code 4" in said
        assert (tmp_path / "out.chunk-00003-of-00016.requeues").read_text() == f"77_3 {number} 0\n"
    program(node.tools, "python", "exit 3")
    assert node.run(script)[0] == 0 and node.run(merge)[0] == 0
    for script in write_scripts(
        cli_here, tmp_path, manifest, *strict, "--setup", "(exit 9)", "--setup", "echo gone on"
    ):
        code, said = node.run(script)
        assert code == 9 and "--setup failed: this" in said and "gone on" not in said and not node.requeued()


WAITS = """
trap 'echo got TERM >> "$0.log"; got=1' TERM
touch "$0.ready"
while ((!got)); do sleep 0.05; done
sleep 0.5
exit 4
"""


@pytest.mark.parametrize("which", ["submit", "template"])
def test_usr1_becomes_one_term_and_the_exit_code_is_kept(cli_here, manifest, tmp_path, which):
    node = Node(tmp_path, WAITS)
    script = (
        write_scripts(cli_here, tmp_path, manifest)[0]
        if which == "submit"
        else as_a_person_edits(TEMPLATES[0], tmp_path)
    )
    process = node.start(script)
    _wait_for(node.tools / "python.ready")
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 4, said
    assert (node.tools / "python.log").read_text() == "got TERM\n"
    assert node.requeued() == "requeue 77_3"


@pytest.mark.parametrize(("state", "passed_on"), [("RUNNING", 1), ("COMPLETING", 0)])
def test_term_is_passed_on_only_when_slurm_did_not_send_it_to_all(cli_here, manifest, tmp_path, state, passed_on):
    node = Node(tmp_path, WAITS.replace("exit 4", "exit 0"))
    script, _ = write_scripts(cli_here, tmp_path, manifest)
    process = node.start(script)
    _wait_for(node.tools / "python.ready")
    node.state(state)
    process.terminate()
    if not passed_on:
        time.sleep(0.5)  # time in which nothing is to happen
        assert not (node.tools / "python.log").exists() and process.poll() is None
        os.kill(child_of(process), signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert (node.tools / "python.log").read_text() == "got TERM\n"


def test_words_reach_asrbatch_as_they_were_given(cli_here, tmp_path):
    """Spaces, quotes, $ and newlines in paths and texts; read back from the programme that the script starts."""
    folder = tmp_path / 'o\'ne "two" $HOME `x` *'
    folder.mkdir()
    manifest = write_jsonl(folder / "m;.jsonl", [{"audio_filepath": "a.wav"}])
    node = Node(
        tmp_path, f'{sys.executable} -c "import json,sys; print(json.dumps(sys.argv[1:]))" "$@" > "$0.argv"; exit 0'
    )
    prompt = '-it\'s "here" $(touch gone) \\ \n två'
    run = [
        "-m",
        "x/y",
        "-o",
        folder / "out.jsonl",
        "--num-chunks",
        16,
        "--python",
        tmp_path / "node/python",
        "--prompt",
        prompt,
    ]
    slurm = [
        "--stagger",
        0,
        "--container",
        "env 'A B=c d'",
        "--cache-dir",
        folder / "cache",
        "--log-dir",
        folder / "100% logs",
    ]
    done = cli_here(
        "submit", manifest, *run, *slurm, "--retry-failed", "--engine-arg", "a=b c", "--engine-arg", "d=1", "--dry-run"
    )
    assert done.returncode == 0, done.stderr
    array, merge = re.split(r"(?=^#!/bin/bash\n)", done.stdout, flags=re.M)[1:]
    (tmp_path / "x.sbatch").write_text(array)
    code, said = node.run(tmp_path / "x.sbatch")
    assert code == 0, said
    words = [
        "-m",
        "asrbatch",
        "transcribe",
        str(manifest),
        "--model",
        "x/y",
        "--output",
        f"{folder}/out.jsonl",
    ]
    words += [
        "--num-chunks",
        "16",
        "--retry-failed",
        f"--prompt={prompt}",
        "--engine-arg",
        "a=b c",
        "--engine-arg",
        "d=1",
        "--chunk-offset",
        "0",
    ]
    assert json.loads((node.tools / "python.argv").read_text()) == words
    (tmp_path / "x.sbatch").write_text(merge)
    assert node.run(tmp_path / "x.sbatch")[0] == 0
    words = ["-m", "asrbatch", "merge-shards", f"{folder}/out.jsonl", "--manifest", str(manifest), "--num-chunks", "16"]
    assert json.loads((node.tools / "python.argv").read_text()) == words
    assert not (tmp_path / "gone").exists() and (folder / "cache").is_dir()
    escaped = str(folder / "100%% logs").replace('"', '\\"')
    assert f'#SBATCH --output="{escaped}/%x-%A_%a.log"\n' in array


def test_relative_paths_are_made_absolute(cli_here, manifest, tiny_en, tmp_path):
    (tmp_path / "model").symlink_to(tiny_en)
    done = cli_here(
        "submit", "m.jsonl", "-m", "model", "--num-chunks", 2, "--python", "venv/bin/python -I", "--dry-run"
    )
    expected = f"exec {tmp_path}/venv/bin/python -I -m asrbatch transcribe {tmp_path}/m.jsonl"
    assert f"{expected} --model {tmp_path}/model --output {tmp_path}/m.model.jsonl --num-chunks 2" in done.stdout


def test_overwrite_happens_once(cli_here, manifest, tmp_path):
    node = Node(tmp_path, 'echo "$*" > "$0.argv"')
    script, merge = write_scripts(cli_here, tmp_path, manifest, "--overwrite")
    record = tmp_path / "out.chunk-00003-of-00016.run.json"

    def overwrites(restarts: int | None, array: str | None) -> bool:
        record.unlink(missing_ok=True)
        if array:
            record.write_text(json.dumps({"sessions": [{"slurm": {"SLURM_ARRAY_JOB_ID": array}}]}, indent=1))
        assert node.run(script, restarts)[0] == 0
        return "--overwrite" in (node.tools / "python.argv").read_text().split()

    assert overwrites(None, None) and overwrites(None, "76") and overwrites(None, "77"), "the first start"
    assert overwrites(1, None) and overwrites(1, "76"), "requeued before the chunk was begun anew"
    assert not overwrites(1, "77"), "requeued later: the rows are this array's"
    assert node.run(merge)[0] == 0 and "--overwrite" in (node.tools / "python.argv").read_text()


def test_the_merge_job_counts_failed_rows_as_success(cli_here, manifest, tmp_path):
    node = Node(tmp_path, "read -r code < code; exit $code")
    _, script = write_scripts(cli_here, tmp_path, manifest)
    for merge in (script, as_a_person_edits(TEMPLATES[1], tmp_path)):
        for code, expected in ((0, 0), (3, 0), (1, 1), (2, 2)):
            (tmp_path / "code").write_text(f"{code}\n")
            assert node.run(merge)[0] == expected, (merge, code)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_are_short_and_valid(template):
    assert subprocess.run(["bash", "-n", template]).returncode == 0
    assert len(template.read_text().splitlines()) <= 75


@pytest.mark.parametrize("ci", ["", "CI", "ASRBATCH_REQUIRE_SLURM"])
def test_without_slurm_its_tests_skip_and_say_how_to_get_it_but_fail_in_ci(tmp_path, ci):
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "ASRBATCH_REQUIRE_SLURM")}
    wanted = {"CI": {"CI": "true"}, "ASRBATCH_REQUIRE_SLURM": {"ASRBATCH_REQUIRE_SLURM": "1"}}.get(ci, {})
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        "tests/cluster/test_slurm.py",
        "-k",
        "sbatch_refuses",
    ]
    environment = {**environment, **wanted, "PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == (1 if ci else 0), done.stdout
    # More is missing where SLURM's daemons are not in /usr/sbin either.
    assert re.search(r"no (\w+, )*sbatch, ", done.stdout)
    assert "run scripts/install_slurm.sh, or apt-get install slurmctld" in done.stdout


def _wait_for_pause(process: subprocess.Popen) -> None:
    """Until a script sleeps."""
    deadline = time.monotonic() + 60
    while subprocess.run(["pgrep", "-P", str(process.pid), "-x", "sleep"], stdout=subprocess.DEVNULL).returncode:
        assert time.monotonic() < deadline, "it does not wait"
        time.sleep(0.02)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)


def test_a_manifest_on_standard_input_is_kept_for_the_tasks(tmp_path):
    lines = '{"audio_filepath": "a.wav"}\n{"audio_filepath": "b.wav"}\n'
    command = [sys.executable, "-m", "asrbatch", "submit", "-", "-m", "openai/whisper-tiny", "-o", "run/out.jsonl"]
    command += ["--num-chunks", "2", "--dry-run"]

    def submit(*more):
        return subprocess.run([*command, *more], input=lines, capture_output=True, text=True, cwd=tmp_path)

    done = submit()
    assert done.returncode == 0, done.stderr
    assert (
        "asrbatch transcribe - --model openai/whisper-tiny" in done.stdout
        and "--manifest - --num-chunks 2" in done.stdout
    )
    assert not list(tmp_path.iterdir())
    done = submit("--chdir", "x")
    assert (
        done.returncode == 2 and "--chdir: paths that come on standard input are relative to this folder" in done.stderr
    )
