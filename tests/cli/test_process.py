"""A command whose terminal, reader, disk for words or current folder is gone; signals at any moment of its life.

What was tried, with exit codes and rows of a run of 20 before and after (`transcribe` unless another is named):

    nowhere to write                           before            after
    stderr full                                1, no rows        0, 20 rows
    stdout full                                1, complete       0, 20 rows
    stderr closed                              1, no rows        0, 20 rows
    stdout closed                              1, no rows        0, 20 rows
    both closed; all three closed              1, no rows        0, 20 rows
    `2>&1 | true`, `2>&1 | head -1`            1, none or 20     0, 20 rows
    `| true` (stdout alone)                    1, complete       0, 20 rows
    a terminal that went away, with SIGHUP     killed by it      4, goes on where it stopped
    the same under nohup                       1 (EIO)           0, 20 rows
    stderr non-blocking and slow to be read    0, 20 rows        0, 20 rows
    plan, validate, models, status: full       1, "a defect"     1, "standard output: …"
    the same: reader ended                     1                 its own code
    make-manifest, merge-shards: full          1                 its own code
    status --watch, reader ended               1                 ends

    signals before the command has begun       before            after
    SIGINT                                     130, traceback    4
    SIGTERM, SIGHUP                            killed            4
    SIGHUP under nohup                         ignored           ignored

    encodings (latin-1, ascii, a C locale, names that are no UTF-8)
    models                                     UnicodeEncodeError  0
    status --json, validate --json             UnicodeEncodeError  0, JSON with escapes
    path of the output printed                 1, complete         0, its bytes

    a current folder that is gone              "a defect"          2, says so
    pathlib.Path as model, tokenizer, lora, output, audio_folder, tars
                                               TypeError in most   as text, the same run
"""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest
from beep_run import Settings, beep_manifest, check_rows
from conftest import PYTHON, REPO, write_jsonl
from processes import wait_until
from run_output import wait_for_rows

import asrbatch
from asrbatch.config import EngineConfig, RunConfig, run_config
from asrbatch.engine import inspector
from asrbatch.errors import EXIT_COMPLETE, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, UsageError

pytest_plugins = "command_line"

NUM_ROWS = 20
BEEP_RUN = [PYTHON, str(REPO / "tests/beep_run.py")]
ASRBATCH = [PYTHON, "-m", "asrbatch"]


@pytest.fixture
def job(tmp_path, tiny_en):
    """Words of a run of 20 rows; it writes `out.jsonl`."""
    manifest, output = beep_manifest(tmp_path / "in", NUM_ROWS), tmp_path / "out.jsonl"
    return [*BEEP_RUN, "transcribe", str(manifest), "-m", tiny_en, "-o", str(output), "--workers", "1"]


@pytest.mark.parametrize(
    "redirects",
    [
        "2>/dev/full", ">/dev/full", ">/dev/full 2>&1", "2>&-", ">&-", ">&- 2>&-", ">&- 2>&- <&-",
        "| true", "2>&1 | true", "2>&1 | head -n 1",
    ],
)  # fmt: skip
def test_words_that_are_lost_cost_no_row_and_no_exit_code(job, tmp_path, redirects):
    streams, pipe, reader = redirects.partition("|")
    script = f'("$@" {streams}; echo $? >code) {pipe}{reader}'
    said = subprocess.run(
        ["bash", "-c", script, "bash", *job], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert int((tmp_path / "code").read_text()) == EXIT_COMPLETE, said.stderr
    check_rows([tmp_path / "out.jsonl"], range(NUM_ROWS))
    assert (tmp_path / "out.done.json").exists()


def on_terminal(job, *, gate: Path, hangup_ignored: bool) -> tuple[subprocess.Popen, int]:
    """The run on a terminal of its own, whose other end is returned."""
    ours, theirs = pty.openpty()

    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if hangup_ignored else signal.SIG_DFL)

    environment = Settings(gate=str(gate), answers_before_gate=5).environment()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *job], stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
        preexec_fn=prepare,
    )  # fmt: skip
    os.close(theirs)
    return process, ours


@pytest.mark.parametrize("hangup_ignored", [False, True])
def test_a_terminal_that_goes_away_interrupts_a_run_unless_nohup_began_it(job, tmp_path, hangup_ignored):
    gate, output = tmp_path / "gate", tmp_path / "out.jsonl"
    process, terminal = on_terminal(job, gate=gate, hangup_ignored=hangup_ignored)
    wait_for_rows(process, output, 3)
    os.close(terminal)  # the kernel sends SIGHUP, and refuses what is written from now on
    if hangup_ignored:
        gate.touch()
        assert process.wait(60) == EXIT_COMPLETE
    else:
        gate.touch()
        assert process.wait(60) == EXIT_INTERRUPTED
        assert subprocess.run(job, capture_output=True, timeout=60).returncode == EXIT_COMPLETE
    check_rows([output], range(NUM_ROWS))


def test_a_pipe_that_is_full_and_does_not_block_is_waited_for(job, tmp_path):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.write(writer, b"x" * 65536)
    process = subprocess.Popen(job, stdout=subprocess.DEVNULL, stderr=writer)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read().lstrip(b"x").decode()
    assert process.wait(60) == EXIT_COMPLETE and f"complete: {NUM_ROWS} rows" in said
    check_rows([tmp_path / "out.jsonl"], range(NUM_ROWS))


RESULTS = {
    "plan": ["plan", "in/manifest.jsonl", "--json"],
    "plan in tables": ["plan", "in/manifest.jsonl"],
    "validate": ["validate", "in/manifest.jsonl", "--audio", "none"],
    "submit --dry-run": [
        "submit", "in/manifest.jsonl", "-m", "MODEL", "-o", "o.jsonl", "--num-chunks", "2", "--dry-run", "--time", "1",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_that_is_lost_is_an_error_unless_its_reader_left(tmp_path, tiny_en, name):
    beep_manifest(tmp_path / "in", 3)
    command = [*ASRBATCH, *(tiny_en if part == "MODEL" else part for part in RESULTS[name])]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == EXIT_ERROR, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "asrbatch: standard output: No space left on device; the printed result is incomplete; run the command again"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert done.returncode == EXIT_COMPLETE and "asrbatch:" not in done.stderr, done.stderr


def test_a_command_whose_product_is_a_file_keeps_its_exit_code(tmp_path):
    beep_manifest(tmp_path / "in", 3)
    command = [*ASRBATCH, "make-manifest", "in/manifest.jsonl", "-o", "made.jsonl"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=full, timeout=120)
    assert done.returncode == EXIT_COMPLETE
    assert (tmp_path / "made.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_watch_ends_with_its_reader(job, tmp_path, form):
    environment = Settings(gate=str(tmp_path / "gate"), answers_before_gate=5).environment()
    run = subprocess.Popen(job, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        wait_for_rows(run, tmp_path / "out.jsonl", 3)
        reader, writer = os.pipe()
        os.close(reader)
        command = [*ASRBATCH, "status", "out.jsonl", "--watch", "--every", "0.1", *form]
        done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
        os.close(writer)
        assert (done.returncode, done.stderr) == (EXIT_INTERRUPTED, "")  # not complete
    finally:
        run.kill()
        run.wait()


def catches(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt:")).split()[1]
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("command", ["transcribe", "score", "--help"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_command_has_begun(tmp_path, number, command):
    process = subprocess.Popen([*ASRBATCH, command, "no.jsonl"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    # Python itself handles SIGINT from the start; SIGHUP is the last of ours.
    wait_until(lambda: catches(process.pid, signal.SIGHUP))
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (EXIT_INTERRUPTED, f"asrbatch: stopped by {number.name} before it began\n")


def test_nohup_keeps_the_end_of_a_terminal_away_from_the_start(tmp_path):
    process = subprocess.Popen(
        ["nohup", *ASRBATCH, "--version"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: catches(process.pid, signal.SIGTERM))
    process.send_signal(signal.SIGHUP)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_COMPLETE and said.startswith("asrbatch ")


ENCODINGS = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_terminal_without_our_characters_is_no_error(job, tmp_path, encoding):
    environment = {**os.environ, **ENCODINGS[encoding]}
    write_jsonl(tmp_path / "bad.jsonl", [{"audio_filepath": "gone/你好.wav"}])
    # They all print in one way: the others where most is lacking.
    others = [["plan", "bad.jsonl"], ["plan", "bad.jsonl", "--probe"]] if encoding == "C" else []
    for words in (["validate", "bad.jsonl"], *others):
        done = subprocess.run([*ASRBATCH, *words], cwd=tmp_path, capture_output=True, env=environment, timeout=120)
        assert b"Unicode" not in done.stderr and done.returncode in (0, 3), done.stderr
    done = subprocess.run(
        [*ASRBATCH, "validate", "bad.jsonl", "--json"], cwd=tmp_path, capture_output=True, env=environment, timeout=120
    )
    assert "你好.wav" in json.dumps(json.loads(done.stdout), ensure_ascii=False) or encoding == "C"
    done = subprocess.run(job, capture_output=True, env=environment, timeout=120)
    assert done.returncode == EXIT_COMPLETE, done.stderr
    check_rows([tmp_path / "out.jsonl"], range(NUM_ROWS))


def test_a_table_of_models_on_a_latin_1_terminal(cli, tiny_en):
    """Of one model: that of all is printed alike, and vLLM, which tells them, takes ten seconds to import."""
    done = cli("models", tiny_en, "--hotwords", "你好", env={"PYTHONIOENCODING": "latin-1"})
    assert done.returncode == EXIT_COMPLETE and r"\u4f60\u597d" in done.stdout, done.stderr


def test_a_path_that_is_not_text_is_printed_as_it_is(job, tmp_path):
    output = os.fsencode(tmp_path) + b"/caf\xe9.jsonl"
    words = [output if word.endswith("out.jsonl") else word for word in job]
    # As in en_US.UTF-8; in the C locale Python hands such bytes on by itself.
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(words, capture_output=True, env=strict, timeout=120)
    assert (done.returncode, done.stdout) == (EXIT_COMPLETE, output + b"\n"), done.stderr


GONE = (
    "asrbatch: the current folder is gone (removed, or another has its name now): change to one that is there, or give "
    "absolute paths, --output too\n"
)


@pytest.mark.parametrize(
    "words",
    [
        "transcribe m.jsonl -m {model}", "transcribe {manifest} -m {model}", "plan m.jsonl", "validate m.jsonl",
        "status o.jsonl", "score o.jsonl", "compare a.jsonl b.jsonl", "report o.jsonl", "export o.jsonl --format srt",
        "merge-shards o.jsonl --manifest m.jsonl", "make-manifest m.jsonl -o o.jsonl",
        "submit m.jsonl -m {model} -o o.jsonl --num-chunks 2", "models",
    ],
)  # fmt: skip
def test_a_current_folder_that_is_gone_is_said(tmp_path, tiny_en, cli_here, monkeypatch, words):
    manifest = beep_manifest(tmp_path / "in", 1)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    # One that other tests have left would answer.
    monkeypatch.setattr(inspector, "_processes", {})
    inspector._respond.cache_clear()
    done = cli_here(*words.format(model=tiny_en, manifest=manifest).split(), cwd=None)
    assert (done.returncode, done.stderr) == (EXIT_USAGE, GONE)


def test_a_process_that_starts_in_a_folder_that_is_gone_says_so(tmp_path, tiny_en):
    (tmp_path / "gone").mkdir()
    command = [*ASRBATCH, "transcribe", "m.jsonl", "-m", tiny_en]
    done = subprocess.run(
        ["bash", "-c", 'cd gone; rmdir ../gone; exec "$@"', "bash", *command],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPO)}, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (EXIT_USAGE, GONE)


def test_absolute_paths_need_no_current_folder(tmp_path):
    manifest = beep_manifest(tmp_path / "in", 1)
    (tmp_path / "gone").mkdir()
    command = [*ASRBATCH, "plan", str(manifest), "-o", str(tmp_path / "o.jsonl"), "--probe"]
    shell = ["bash", "-c", 'cd gone; rmdir ../gone; exec "$@"', "bash", *command]
    done = subprocess.run(
        shell, cwd=tmp_path, capture_output=True, env={**os.environ, "PYTHONPATH": str(REPO)}, timeout=120
    )
    assert done.returncode == EXIT_COMPLETE, done.stderr


def test_the_python_api_says_that_the_current_folder_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="current folder is gone"):
        asrbatch.transcribe("m.jsonl", model="/no/model", output="o.jsonl")


def test_every_path_of_the_python_api_may_be_a_path(tmp_path, tiny_en):
    of_engine = ("model", "tokenizer", "lora")
    of_run = ("manifest", "output", "tars", "audio_folder")
    names = {name: tmp_path / f"{name}.jsonl" for name in (*of_engine, *of_run)}
    as_paths, as_text = run_config(names), run_config({name: str(path) for name, path in names.items()})
    assert as_paths == as_text and all(
        type(value) is not type(tmp_path) for value in (*vars(as_paths).values(), *vars(as_paths.engine).values())
    )
    built = RunConfig(
        engine=EngineConfig(**{name: names[name] for name in of_engine}), **{name: names[name] for name in of_run}
    )
    assert built == as_text


def test_a_run_with_paths_is_the_run_with_text(tmp_path, tiny_en):
    from beep_run import start_beeps

    from asrbatch.runs.runner import run

    manifest, output = beep_manifest(tmp_path / "in", 3), tmp_path / "out.jsonl"
    paths = {"manifest": manifest, "model": Path(tiny_en), "output": output, "audio_folder": tmp_path / "in"}
    assert run(run_config(paths), start=start_beeps).outcome == "complete"
    assert run(run_config({name: str(path) for name, path in paths.items()})).outcome == "already_complete"
    check_rows([output], range(3))
