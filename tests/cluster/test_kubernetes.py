"""`asrbatch submit --to kubernetes` and `--to shell`: a Job that the official schema takes, whose command does what a
kubelet has it do, and commands for any machine.

There is no cluster here: the container's command is started, stopped and started again as a kubelet would.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import kubernetes_validate
import pytest
import yaml
from conftest import read_jsonl, write_jsonl
from typer.testing import CliRunner

from asrbatch.cli.app import app
from asrbatch.errors import EXIT_INTERRUPTED, EXIT_USAGE, AsrbatchError, UsageError

# The least version that has all fields, and the newest that the validator knows.
VERSIONS = ("1.29", "1.33", kubernetes_validate.latest_version())


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """Runs `submit` in an empty folder; returns the finished command."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(app, ["submit", *map(str, arguments)])

    return call


@pytest.fixture
def manifest(demo_rows, tmp_path):
    """Of 4 short rows."""
    short = [row for row in demo_rows if row["duration"] < 4]
    return write_jsonl(tmp_path / "m.jsonl", [{**short[i % len(short)], "id": f"row-{i}"} for i in range(4)])


def job_of(done) -> dict:
    assert done.exit_code == 0, (done.exception, done.stderr)
    return yaml.safe_load(done.stdout)


def test_the_official_schema_takes_the_job(submit, manifest, tmp_path):
    most = ["--volume", f"speech:{tmp_path}", "--volume", "models:/models:ro", "--secret", "s3", "--secret", "hub"]
    most += [
        "--gpus",
        2,
        "--cpus-per-task",
        12,
        "--mem",
        "64Gi",
        "--namespace",
        "asr",
        "--max-running",
        8,
        "--grace",
        50,
    ]
    most += ["--requeue", 5, "--shared-memory", "16Gi", "--setup", "export A='b c'", "--job-name", "talks"]
    least = ["--volume", f"speech:{tmp_path}"]
    run = [manifest, "-m", "openai/whisper-tiny", "-o", "run/out.jsonl", "--num-chunks", 64, "--to", "kubernetes"]
    for options in (most, least):
        job = job_of(submit(*run, "--image", "registry.example/asrbatch:0.1", *options, "--dry-run"))
        for version in VERSIONS:
            kubernetes_validate.validate(job, version, strict=True)
    assert job["metadata"]["name"] == "asrbatch-out" and "namespace" not in job["metadata"]
    assert list(tmp_path.iterdir()) == [manifest], "a dry run writes nothing"
    job = job_of(submit(*run, "--image", "x", *most, "--dry-run"))
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimitPerIndex"]) == (64, 8, 5)
    rules = [
        (r["action"], r.get("onExitCodes", {}).get("operator"), r.get("onExitCodes", {}).get("values"))
        for r in spec["podFailurePolicy"]["rules"]
    ]
    assert rules == [("FailJob", "In", [2]), ("Ignore", None, None), ("Ignore", "In", [4, 6]), ("Count", "NotIn", [0])]
    pod = spec["template"]["spec"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 60)
    (container,) = pod["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "12", "memory": "64Gi", "nvidia.com/gpu": "2"},
        "limits": {"nvidia.com/gpu": "2", "memory": "64Gi"},
    }
    assert container["envFrom"] == [{"secretRef": {"name": "s3"}}, {"secretRef": {"name": "hub"}}]
    assert [(m["mountPath"], m.get("readOnly")) for m in container["volumeMounts"]] == [
        ("/dev/shm", None), (str(tmp_path), False), ("/models", True)
    ]  # fmt: skip
    script = container["command"][2]
    words = f"python3 -m asrbatch transcribe {manifest} --model openai/whisper-tiny --output {tmp_path}/run/out.jsonl"
    assert script.startswith(f"export A='b c'\n{words} --num-chunks 64 --grace 50.0 --merge &\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--image is missing"),
        (["--image", "x"], "--output .*/out.jsonl: no --volume is mounted there, so that pods would not see it"),
        (["--image", "x", "--volume", "a:{here}:ro"], "--output .*: its --volume is mounted read-only"),
        (["--image", "x", "--volume", "a:{here}", "--volume", "b:{here}"], "two claims are mounted there"),
        (["--image", "x", "--volume", "{here}"], "--volume .*: write CLAIM:PATH"),
        (["--image", "x", "--volume", "a:{here}", "--gpus", "a100:1"], "--gpus a100:1: Kubernetes takes a number"),
        (["--image", "x", "--volume", "a:{here}", "--mem", "32 GB"], "--mem 32 GB: is no quantity of Kubernetes"),
        (["--image", "x", "--volume", "a:{here}", "--job-name", "A_b"], "--job-name A_b: a name in Kubernetes"),
        (["--image", "x", "--volume", "a:{here}", "--overwrite"], "--overwrite: pods that are started again would"),
        (["--image", "x", "--volume", "a:{here}", "--chunks", "1"], "--chunks: is for --to slurm and --to shell, not"),
        (["--image", "x", "--partition", "gpu"], "--partition: is for --to slurm, not for --to kubernetes"),
    ],
)
def test_what_kubernetes_would_refuse_or_ignore_is_refused(submit, manifest, tmp_path, options, message):
    options = [option.replace("{here}", str(tmp_path)) for option in options]
    run = [manifest, "-m", "x/y", "-o", "out.jsonl", "--num-chunks", 4, "--to", "kubernetes"]
    done = submit(*run, *options, "--dry-run")
    assert isinstance(done.exception, UsageError)
    with pytest.raises(UsageError, match=message):
        raise done.exception


def test_options_of_other_targets_are_refused(submit, manifest):
    for to, option, value in (("slurm", "--image", "x"), ("shell", "--volume", "a:/b"), ("shell", "--gpus", "2")):
        done = submit(manifest, "-m", "x/y", "--num-chunks", 4, "--to", to, option, value, "--dry-run")
        assert isinstance(done.exception, UsageError) and f"not for --to {to}" in str(done.exception)


def test_a_manifest_that_is_only_in_the_cluster(submit, tmp_path):
    """It is said that it was not checked."""
    run = ["/data/m.jsonl", "-m", "/data/model", "-o", "/data/out.jsonl", "--num-chunks", 4, "--to", "kubernetes"]
    done = submit(*run, "--image", "x", "--volume", "a:/data", "--dry-run")
    assert done.exit_code == 0 and "note: the manifest is not here, and was not checked" in done.stderr
    assert "transcribe /data/m.jsonl --model /data/model --output /data/out.jsonl" in done.stdout


class Kubelet:
    """Runs the container of a Job, one index at a time."""

    def __init__(self, job: dict):
        (container,) = job["spec"]["template"]["spec"]["containers"]
        self.command = container["command"]

    def start(self, index: int) -> subprocess.Popen:
        env = {**os.environ, "JOB_COMPLETION_INDEX": str(index)}
        return subprocess.Popen(
            self.command, env=env, stderr=subprocess.PIPE, text=True, cwd="/", start_new_session=True
        )


def test_the_container_does_what_a_kubelet_has_it_do(submit, manifest, tiny_en, tmp_path):
    """Index 0 is told to end while it starts, and started again; the last one merges."""
    write_jsonl(manifest, [*read_jsonl(manifest), {"id": "gone", "audio_filepath": "nowhere.wav"}])
    run = [manifest, "-m", tiny_en, "-o", "out.jsonl", "--num-chunks", 2, "--strategy", "strided", "--dtype", "float32"]
    pods = ["--image", "x", "--volume", f"a:{tmp_path}", "--volume", f"b:{tiny_en}:ro", "--python", sys.executable]
    kubelet = Kubelet(job_of(submit(*run, *pods, "--to", "kubernetes", "--dry-run")))
    record = tmp_path / "out.chunk-00000-of-00002.run.json"
    process = kubelet.start(0)
    try:
        deadline = time.monotonic() + 300
        while not record.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=180)
        assert process.returncode == EXIT_INTERRUPTED and "asrbatch ended with 4" in said, said
        for index in range(2):
            process = kubelet.start(index)
            _, said = process.communicate(timeout=300)
            assert process.returncode == 0, said
            # Chunk 0 has the row that fails, which is no failure of the pod.
            assert f"asrbatch ended with {3 if index == 0 else 0}" in said
    finally:
        process.kill()
    assert [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")] == [*(f"row-{i}" for i in range(4)), "gone"]
    session = json.loads(record.read_text())["sessions"][-1]
    assert session["chunk_source"] == "JOB_COMPLETION_INDEX=0"


def test_kubectl_is_given_the_job(submit, manifest, tmp_path, monkeypatch):
    """A small programme in its place; where there is none, that is said."""
    run = [manifest, "-m", "x/y", "-o", "out.jsonl", "--num-chunks", 4, "--to", "kubernetes", "--image", "x"]
    run += ["--volume", f"a:{tmp_path}"]
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    done = submit(*run)
    assert isinstance(done.exception, AsrbatchError) and "kubectl is not on this machine; --dry-run" in str(
        done.exception
    )
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.write_text(f'#!/bin/sh\n/bin/cat > {tmp_path}/got.yaml\necho "job.batch/asrbatch-out $1 $2 $3"\n')
    kubectl.chmod(0o755)
    done = submit(*run)
    assert done.exit_code == 0 and "job.batch/asrbatch-out apply -f -" in done.stderr
    assert "kubectl delete job asrbatch-out" in done.stderr
    job = yaml.safe_load((tmp_path / "got.yaml").read_text())
    kubernetes_validate.validate(job, VERSIONS[-1], strict=True)
    kubectl.write_text("#!/bin/sh\necho 'error: no such namespace' >&2\nexit 1\n")
    done = submit(*run)
    assert "kubectl refused the Job: error: no such namespace" in str(done.exception)


def test_a_shell_is_given_a_command_for_each_chunk(submit, manifest, tiny_en, tmp_path):
    run = [manifest, "-m", tiny_en, "-o", "out.jsonl", "--num-chunks", 8, "--to", "shell"]
    done = submit(*run, "--setup", "true", "--dtype", "float32")
    assert done.exit_code == 0, done.exception
    lines = done.stdout.splitlines()
    assert len(lines) == 8 and "the last to end merges" in done.stderr
    for number, line in enumerate(lines):
        assert line.startswith(f"true && {shlex.quote(sys.executable)} -m asrbatch transcribe {manifest} ")
        assert line.endswith(f"--num-chunks 8 --dtype float32 --merge --chunk-id {number}")
    # One of those without a row, which need no engine.
    ran = subprocess.run(["/bin/sh", "-c", lines[7]], cwd="/", capture_output=True, text=True)
    assert ran.returncode == 0 and (tmp_path / "out.chunk-00007-of-00008.done.json").exists(), ran.stderr
    some = submit(*run, "--chunks", "1,6-7", "--no-merge")
    assert [line[-1] for line in some.stdout.splitlines()] == ["1", "6", "7"] and "merge-shards" in some.stderr
    wrong = submit(*run[:-4], "--num-chunks", 8, "--to", "shell", "--chunks", "9")
    assert isinstance(wrong.exception, UsageError) and wrong.exception.exit_code == EXIT_USAGE
