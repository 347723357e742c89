"""`asrbatch submit --to kubernetes` and `--to shell`: a Job that the official schema takes, whose command does what a
kubelet has it do, and commands for any machine.

There is no cluster here: the container's command is started, stopped and started again as a kubelet would.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from conftest import REPO, read_jsonl, write_jsonl
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
    """Of 4 short rows, whose audio is beside it."""
    short = [row for row in demo_rows if row["duration"] < 4]
    rows = []
    for i in range(4):
        audio = Path(short[i % len(short)]["audio_filepath"])
        (tmp_path / "speech" / f"{i}").mkdir(parents=True)
        (tmp_path / "speech" / f"{i}" / audio.name).symlink_to(audio)
        rows.append({**short[i % len(short)], "id": f"row-{i}", "audio_filepath": f"speech/{i}/{audio.name}"})
    return write_jsonl(tmp_path / "m.jsonl", rows)


@pytest.fixture
def programme(tmp_path):
    """Writes a small programme that is given as --python, so that no engine starts."""

    def write(*lines):
        path = tmp_path / "bin" / "programme"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        path.chmod(0o755)
        return path

    return write


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
    assert sorted(tmp_path.iterdir()) == [manifest, tmp_path / "speech"], "a dry run writes nothing"
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
    assert "\nexport A='b c'\nset +eu\n" in script
    assert f"\n{words} --num-chunks 64 --grace 50.0 --merge &\npid=$!\n" in script
    # Whoever the image runs as, it may write what this group may; `scripts/docker/` runs as it.
    assert pod["securityContext"] == {"fsGroup": 10001, "fsGroupChangePolicy": "OnRootMismatch"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--image is missing"),
        (
            ["--image", "x"],
            "--output .*/out.jsonl: no --volume is mounted there, so pods cannot see it; mount one there",
        ),
        (["--image", "x", "--volume", "a:{here}:ro"], "--output .*: its --volume is mounted read-only"),
        (["--image", "x", "--volume", "a:{here}", "--volume", "b:{here}"], "two claims are mounted there"),
        (["--image", "x", "--volume", "{here}"], "--volume .*: write CLAIM:PATH"),
        (["--image", "x", "--volume", "a:{here}", "--gpus", "a100:1"], "--gpus a100:1: Kubernetes takes a number"),
        (["--image", "x", "--volume", "a:{here}", "--mem", "32 GB"], "--mem 32 GB: is not a Kubernetes quantity"),
        (["--image", "x", "--volume", "a:{here}", "--job-name", "A_b"], "--job-name A_b: a name in Kubernetes"),
        (["--image", "x", "--volume", "a:{here}", "--overwrite"], "--overwrite: pods that are started again would"),
        (["--image", "x", "--volume", "a:{here}", "--mem", "32K"], "--mem 32K: is not a Kubernetes quantity"),
        (["--image", "x", "--volume", "a:{here}", "--secret", "My_Secret"], "--secret My_Secret: a name in Kubernetes"),
        (["--image", "x", "--volume", "A:{here}"], "--volume A:.*: a name in Kubernetes"),
        (["--image", "x", "--volume", "a:{here}", "--volume", "b:/dev/x/../shm/"], "/dev/shm is there already"),
        (
            ["--image", "x", "--volume", "a:{here}", "-o", "{here}/../zz/out.jsonl"],
            "--output .*: no --volume is mounted",
        ),
        (["--image", "x", "--volume", "a:{here}", "-o", "m.jsonl"], "--output .*m.jsonl"),
        (["--image", "x", "--volume", "a:{here}", "--audio-folder", "/x"], "--audio-folder /x: no --volume is mounted"),
        (
            ["--image", "x", "--volume", "a:{here}", "--tars", "{here}/1.tar,/x/2.tar"],
            "--tars /x/2.tar: no --volume is",
        ),
        (["--image", "x", "--volume", "a:{here}", "{here}/n.jsonl"], "n.jsonl: no such manifest"),
        (["--image", "x", "--volume", "a:{here}", "{here}/n.jsonl,/x/m.jsonl"], "manifest /x/m.jsonl: no --volume is"),
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
    assert done.exit_code == 0 and "note: the manifest is not on this machine and was not checked" in done.stderr
    assert "transcribe /data/m.jsonl --model /data/model --output /data/out.jsonl" in done.stdout
    # Neither a list, a pattern nor a whole volume is looked for here.
    for manifest in ("/data/a.jsonl,/data/b.jsonl", "/data/*/m.jsonl", "/data/m_{0..7}.jsonl", "/data"):
        done = submit(manifest, *run[1:], "--image", "x", "--volume", "a:/data", "--dry-run")
        assert done.exit_code == 0 and "not checked" in done.stderr, (manifest, done.exception)
        assert f"transcribe {shlex.quote(manifest)} --model" in done.stdout


def test_audio_must_be_where_pods_see_it(submit, tmp_path):
    """Otherwise every row would fail, and the Job be complete."""
    rows = [{"audio_filepath": path} for path in ("https://example.org/a.wav", "here.wav", "/speech/b.wav")]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    run = [manifest, "-m", "x/y", "-o", "out.jsonl", "--num-chunks", 4, "--to", "kubernetes", "--image", "x"]
    done = submit(*run, "--volume", f"a:{tmp_path}", "--dry-run")
    assert isinstance(done.exception, UsageError) and done.exception.exit_code == EXIT_USAGE
    assert "audio of the manifest /speech/b.wav: no --volume is mounted there" in str(done.exception)
    job_of(submit(*run, "--volume", f"a:{tmp_path}", "--volume", "b:/speech:ro", "--dry-run"))


def test_the_name_leaves_room_for_the_index_of_a_pod(submit, manifest, tmp_path):
    """`NAME-999` is the name of a pod, and Kubernetes takes no more than 63 characters."""
    run = [manifest, "-m", "x/y", "--num-chunks", 1000, "--to", "kubernetes", "--image", "x"]
    run += ["--volume", f"a:{tmp_path}", "--dry-run"]
    name = job_of(submit(*run, "-o", f"{'longer-name-' * 9}.jsonl"))["metadata"]["name"]
    assert name == f"asrbatch-{'longer-name-' * 9}"[:59]
    assert job_of(submit(*run, "-o", "out.jsonl", "--job-name", "a" * 59))["metadata"]["name"] == "a" * 59
    done = submit(*run, "-o", "out.jsonl", "--job-name", "a" * 60)
    assert isinstance(done.exception, UsageError)
    assert "aaa-999, more than 63 characters; give a name of at most 59" in str(done.exception)


class Kubelet:
    """Runs the container of a Job, one index at a time.

    Args:
        variables: of the container, which Kubernetes puts into its command.
    """

    def __init__(self, job: dict, **variables: str):
        (container,) = job["spec"]["template"]["spec"]["containers"]
        self.command = [self._expand(part, variables) for part in container["command"]]

    @staticmethod
    def _expand(text: str, variables: dict) -> str:
        """By the rule of the API for `command`: $(NAME) of a variable, and of two dollars one."""
        return re.sub(r"\$(?:\$|\(([^)]*)\))", lambda m: "$" if m[0] == "$$" else variables.get(m[1], m[0]), text)

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
        assert process.returncode == EXIT_INTERRUPTED and "asrbatch ended with exit code 4" in said, said
        for index in range(2):
            process = kubelet.start(index)
            _, said = process.communicate(timeout=300)
            assert process.returncode == 0, said
            # Chunk 0 has the row that fails, which is no failure of the pod.
            assert f"asrbatch ended with exit code {3 if index == 0 else 0}" in said
    finally:
        process.kill()
    assert [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")] == [*(f"row-{i}" for i in range(4)), "gone"]
    session = json.loads(record.read_text())["sessions"][-1]
    assert session["chunk_source"] == "JOB_COMPLETION_INDEX=0"


@pytest.fixture
def start(submit, manifest, tmp_path, programme):
    """Starts the container of a Job, with lines of a shell in place of asrbatch."""
    started = []

    def call(*lines, options=(), **variables):
        run = [manifest, "-m", "x/y", "-o", "out.jsonl", "--num-chunks", 2, "--to", "kubernetes", "--image", "x"]
        run += ["--volume", f"a:{tmp_path}", "--python", programme(*lines), "--dry-run"]
        started.append(Kubelet(job_of(submit(*run, *options)), **variables).start(0))
        return started[-1]

    yield call
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


@pytest.mark.parametrize("setup", ["true", "set -eu"])
@pytest.mark.parametrize(("code", "of_the_pod"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 4), (5, 0), (6, 6)])
def test_the_codes_of_a_pod(start, setup, code, of_the_pod):
    process = start(f"exit {code}", options=["--setup", setup])
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (of_the_pod, f"asrbatch ended with exit code {code}\n")


@pytest.mark.parametrize("setup", ["true", "set -eu"])
def test_a_pod_that_is_told_to_end_waits_for_asrbatch(start, tmp_path, setup):
    told = f"trap 'echo told >>{tmp_path}/told; sleep 0.5; exit 4' TERM"
    process = start(told, f"touch {tmp_path}/ready", "while :; do sleep 0.05; done", options=["--setup", setup])
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED and "asrbatch ended with exit code 4" in said
    assert (tmp_path / "told").read_text() == "told\n"


def test_a_pod_that_is_told_to_end_during_its_setup_starts_nothing(start, tmp_path):
    process = start(f"touch {tmp_path}/begun", options=["--setup", f"touch {tmp_path}/ready", "--setup", "sleep 1"])
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (EXIT_INTERRUPTED, "stopped before asrbatch was started\n")
    assert not (tmp_path / "begun").exists()


def test_a_pod_that_is_told_to_end_before_asrbatch_listens_is_started_again(start, tmp_path):
    """The signal ends the process then, which is no failure of it."""
    process = start("kill -TERM $PPID", "exec sleep 60")
    _, said = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED and "asrbatch ended with exit code 4" in said


def test_kubernetes_puts_nothing_into_the_command(start):
    """What looks like a variable of its own is the shell's, or a text."""
    setup = ["--setup", 'SEEN="$(echo kept) $$" && export SEEN']
    process = start(
        'echo "$SEEN|$PPID|$*" >&2', options=[*setup, "--prompt", "$$5 $(HOST) $"], HOST="lost", **{"echo kept": "lost"}
    )
    seen, pid, words = process.communicate(timeout=60)[1].splitlines()[0].split("|")
    assert seen == f"kept {pid}" and "--prompt $$5 $(HOST) $ " in words


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
    assert "kubectl delete job asrbatch-out" in done.stderr and "note: this Job exists already" in done.stderr
    job = yaml.safe_load((tmp_path / "got.yaml").read_text())
    kubernetes_validate.validate(job, VERSIONS[-1], strict=True)
    kubectl.write_text("#!/bin/sh\necho 'error: no such namespace' >&2\nexit 1\n")
    done = submit(*run)
    assert "kubectl refused the Job: error: no such namespace" in str(done.exception)


def test_a_job_that_is_there_already(submit, manifest, tmp_path, monkeypatch):
    """Kubernetes changes no Job, and starts none again: what kubectl says of that has no fix in it."""
    run = [manifest, "-m", "x/y", "-o", "out.jsonl", "--num-chunks", 4, "--to", "kubernetes", "--image", "x"]
    run += ["--volume", f"a:{tmp_path}", "--namespace", "asr"]
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.write_text("#!/bin/sh\ncat >/dev/null\necho job.batch/asrbatch-out $WHAT\n")
    kubectl.chmod(0o755)
    monkeypatch.setenv("WHAT", "created")
    done = submit(*run)
    assert done.exit_code == 0 and "note: this Job exists already" not in done.stderr
    assert "kubectl get pods -l batch.kubernetes.io/job-name=asrbatch-out -n asr\n" in done.stderr
    assert "kubectl delete job asrbatch-out -n asr\n" in done.stderr
    monkeypatch.setenv("WHAT", "unchanged")
    done = submit(*run)
    again = "If it has ended, nothing runs: `kubectl delete job asrbatch-out -n asr`, then submit again"
    assert done.exit_code == 0 and again in done.stderr
    refusal = 'The Job "asrbatch-out" is invalid: spec.template: Invalid value: {"metadata":{}}: field is immutable'
    kubectl.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{refusal}' >&2\nexit 1\n")
    done = submit(*run)
    assert isinstance(done.exception, AsrbatchError)
    assert str(done.exception) == (
        "kubectl refused the Job: asrbatch-out is there already, with other options; `kubectl delete job asrbatch-out "
        "-n asr` makes room (rows that are written stay), or give another --job-name"
    )


def test_a_shell_is_given_a_command_for_each_chunk(submit, manifest, tiny_en, tmp_path):
    run = [manifest, "-m", tiny_en, "-o", "out.jsonl", "--num-chunks", 8, "--to", "shell"]
    done = submit(*run, "--setup", "true", "--dtype", "float32")
    assert done.exit_code == 0, done.exception
    lines = done.stdout.splitlines()
    assert len(lines) == 8 and "the last to end merges" in done.stderr
    for number, line in enumerate(lines):
        assert line.startswith(f"eval true && {shlex.quote(sys.executable)} -m asrbatch transcribe {manifest} ")
        assert line.endswith(f"--num-chunks 8 --dtype float32 --merge --chunk-id {number}")
    # One of those without a row, which need no engine.
    ran = subprocess.run(["/bin/sh", "-c", lines[7]], cwd="/", capture_output=True, text=True)
    assert ran.returncode == 0 and (tmp_path / "out.chunk-00007-of-00008.done.json").exists(), ran.stderr
    some = submit(*run, "--chunks", "1,6-7", "--no-merge")
    assert [line[-1] for line in some.stdout.splitlines()] == ["1", "6", "7"] and "merge-shards" in some.stderr
    wrong = submit(*run[:-4], "--num-chunks", 8, "--to", "shell", "--chunks", "9")
    assert isinstance(wrong.exception, UsageError) and wrong.exception.exit_code == EXIT_USAGE


def test_commands_of_a_shell_do_not_overwrite(submit, manifest):
    """One that is run again would remove its own rows."""
    done = submit(manifest, "-m", "x/y", "-o", "out.jsonl", "--num-chunks", 4, "--to", "shell", "--overwrite")
    assert isinstance(done.exception, UsageError) and "commands that are run again" in str(done.exception)
    assert done.stdout == ""


def test_what_is_run_first_ends_with_its_line(submit, manifest, tmp_path, programme):
    run = [manifest, "-m", "x/y", "-o", "out.jsonl", "--num-chunks", 4, "--to", "shell", "--chunks", 3]
    run += ["--python", programme(f'echo "$SEEN" "$@" >{tmp_path}/ran')]
    lines = ["module() { SEEN=$2; export SEEN; }", "module load cuda # 12.4", "sleep 0 &", "false || true"]
    done = submit(*run, *(word for line in lines for word in ("--setup", line)))
    for shell in ("/bin/sh", "/bin/bash"):
        ran = subprocess.run([shell, "-c", done.stdout], capture_output=True, text=True, timeout=60)
        assert (ran.returncode, ran.stderr) == (0, "")
        ran = (tmp_path / "ran").read_text()
        assert ran.startswith("cuda -m asrbatch transcribe ") and ran.endswith("--chunk-id 3\n")
        (tmp_path / "ran").unlink()
        for wrong in ("false", "echo 'a"):
            failed = submit(*run, "--setup", wrong)
            assert subprocess.run([shell, "-c", failed.stdout], capture_output=True, timeout=60).returncode != 0
            assert not (tmp_path / "ran").exists(), wrong


def test_gnu_parallel_runs_the_commands(submit, manifest, tmp_path, programme):
    """By the line that is printed, which the docs have too. Where it is not installed, what it documents is done in its
    place: a line is quoted as one word, and `{%}` is the number of its slot.
    """
    run = [manifest, "-m", "x/y", "-o", "out.jsonl", "--num-chunks", 4, "--to", "shell", "--setup", "A='b c'; export A"]
    ran = programme('for id; do :; done; echo "$A" "$1" "$CUDA_VISIBLE_DEVICES" "$#" >ran-$id')
    done = submit(*run, "--python", ran)
    (command,) = re.findall(r"parallel -j 4 .* < commands.txt", done.stderr)
    assert command in (REPO / "docs/other-schedulers.md").read_text()
    (tmp_path / "commands.txt").write_text(done.stdout)
    if shutil.which("parallel"):
        subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, timeout=60)
    else:
        (template,) = re.findall(r"--retries 3 '(.*)' <", command)
        for slot, line in enumerate(done.stdout.splitlines(), start=1):
            text = template.replace("{%}", str(slot)).replace("{}", shlex.quote(line))
            subprocess.run(["/bin/sh", "-c", text], check=True, timeout=60)
    found = [(tmp_path / f"ran-{i}").read_text().split() for i in range(4)]
    assert {words[3] for words in found} <= {"0", "1", "2", "3"}
    for words in found:
        assert words[:3] == ["b", "c", "-m"] and int(words[4]) > 10
