"""Text of others on a terminal: control characters, line breaks, and marks that turn the direction of writing.

Each command below is shown names, rows, records, leases, configurations and messages that hold `HOSTILE`. Before there
was one place that prints it:

    raw      validate, plan, plan --probe, make-manifest, status, submit (its notes), score and compare (--by),
             --json of validate and plan (8-bit controls and marks), a traceback of --verbose, typer's messages (marks),
             what libraries log and warn, the lease's holder, notes of an error (vLLM's log), titles of a report
    a line   merge-shards, models: the line break in a name began one of its own, `asrbatch: complete: 9 rows`
    safe     refused rows of validate and plan, score --json (ASCII), typer's choices

Now it is written out in all of them.
"""

import contextlib
import json
import os
import pickle
import pty
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PYTHON, REPO, write_jsonl

from asrbatch.cli.common import complain
from asrbatch.cli.display.progress import Terminal
from asrbatch.errors import EXIT_ROWS_FAILED, ManifestError, UsageError
from asrbatch.formatting import one_line, printable, show, show_text
from asrbatch.storage.lease import Lease

# Clears the screen, in 7 and in 8 bits; reverses what follows; and looks like the last line of a run that went well.
HOSTILE = "\x1b[2J\x9b2J\u202e\u2066evil\u200f\x7f\u2028\r\nasrbatch: complete: 9 rows"
NAME = f"a{HOSTILE}.wav"
RUN = """
import json, logging, sys, warnings
from asrbatch.cli.app import main
for arguments in json.load(open(sys.argv[1])):
    sys.argv = ["asrbatch", *arguments]
    for stream in (sys.stdout, sys.stderr):
        print("\\f", end="", file=stream, flush=True)
    main()
# What libraries say of what they were given, through the command's own handlers.
print("\\f\\f", end="", file=sys.stderr, flush=True)
logging.getLogger("evil").warning("server: %s", arguments[-1])
warnings.warn(arguments[-1])
"""
COMMANDS = {
    "validate": ["validate", "m.jsonl", "--report", f"{HOSTILE}.jsonl"],
    "validate --json": ["validate", "m.jsonl", "--json"],
    "validate refused": ["validate", "refused.jsonl", "--audio", "none"],
    "plan": ["plan", "m.jsonl", "--num-chunks", "2", "-o", f"{HOSTILE}/out.jsonl"],
    "plan --probe": ["plan", "m.jsonl", "--probe", "--model", f"./{HOSTILE}"],
    "plan --json": ["plan", "m.jsonl", "--json"],
    "plan refused": ["plan", "refused.jsonl"],
    "make-manifest": ["make-manifest", "folder", "-o", f"{HOSTILE}.made.jsonl"],
    "status": ["status", "run/unfinished.jsonl"],
    "merge-shards": ["merge-shards", f"{HOSTILE}/out.jsonl", "--manifest", "m.jsonl"],
    "submit": ["submit", "m.jsonl", "--num-chunks", "2", "-m", HOSTILE, "-o", "out.jsonl", "--dry-run", "--no-merge"],
    "export": ["export", f"run/{HOSTILE}.jsonl", "--format", "txt,nemo"],
    "score": ["score", f"{HOSTILE}.rows.jsonl", "--by", f"[bold]{HOSTILE}", "--normalizer", "none"],
    "score --json": ["score", f"{HOSTILE}.rows.jsonl", "--by", f"[bold]{HOSTILE}", "--json"],
    "compare": ["compare", f"{HOSTILE}.rows.jsonl", "other.jsonl", "--by", f"[bold]{HOSTILE}"],
    "report": ["report", f"{HOSTILE}.rows.jsonl", "--to", "report.html", "--by", f"[bold]{HOSTILE}"],
    "models": ["models", f"model {HOSTILE}"],
    "transcribe --verbose": ["transcribe", "m.jsonl", "-m", f"./{HOSTILE}", "-o", "out.jsonl", "--verbose"],
    "typer": ["transcribe", f"--{HOSTILE}"],
    "typer's choices": ["transcribe", "m.jsonl", "--windows", HOSTILE],
    "a file that is no manifest": ["validate", NAME],  # last: a library logs and warns of its name
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    row = {"audio_filepath": NAME, "lang": HOSTILE, HOSTILE: [HOSTILE], "duration": 1.0}
    write_jsonl(folder / "m.jsonl", [row, row, {"audio_filepath": "b.wav", "id": HOSTILE}])
    wrong = {"offset": HOSTILE}, {"id": [HOSTILE]}, {"temperature": HOSTILE}, {"target_lang": HOSTILE}
    refused = [{**row, **each} for each in wrong]
    write_jsonl(folder / "refused.jsonl", [*refused, *[{**row, "id": HOSTILE}] * 2])
    (folder / NAME).write_bytes(b"evil\x1b[2J\n")
    (folder / "folder").mkdir()
    for name in (NAME, f"{HOSTILE}.flac", f"{HOSTILE}.doc"):
        (folder / "folder" / name).write_bytes(HOSTILE.encode())
    shutil.copytree(REPO / "tests/data/before_moves", folder / "run")
    for ending in (".jsonl", ".run.json", ".done.json"):
        shutil.copy(folder / f"run/complete{ending}", folder / f"run/{HOSTILE}{ending}")
    record = folder / "run/unfinished.run.json"
    value = json.loads(record.read_text())
    value["sessions"][-1] |= {"host": HOSTILE[:13], "slurm": {"SLURM_JOB_ID": HOSTILE[:13]}}
    record.write_text(json.dumps(value))
    said = {"text": f"one {HOSTILE}", "lang": HOSTILE, f"[bold]{HOSTILE}": HOSTILE}
    rows = [{"id": f"{at}{HOSTILE}", "pred_text": f"two {HOSTILE}", "pred_text_b": "", **said} for at in range(3)]
    write_jsonl(folder / f"{HOSTILE}.rows.jsonl", rows)
    write_jsonl(folder / "other.jsonl", [{**row, "pred_text": f"one {HOSTILE} evil"} for row in rows])
    (folder / f"model {HOSTILE}").mkdir()
    (folder / f"model {HOSTILE}/config.json").write_text('{"architectures": ["evil\x1b[2J')
    return folder


@pytest.fixture(scope="module")
def printed(folder) -> dict[str, tuple[str, str]]:
    """By command, what it prints: standard output and error. All in one process, which imports once."""
    (folder / "commands.json").write_text(json.dumps(list(COMMANDS.values())))
    command = [PYTHON, "-c", RUN, "commands.json"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, cwd=folder, capture_output=True, env=env)
    # Not universal newlines: a carriage return is one of those looked for.
    stdout, stderr = (stream.decode().split("\f")[1:] for stream in (done.stdout, done.stderr))
    *stderr, _, of_libraries = stderr
    return {**dict(zip(COMMANDS, zip(stdout, stderr, strict=True), strict=True)), "libraries": ("", of_libraries)}


def assert_safe(text: str) -> None:
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)
        assert not line.startswith("asrbatch: complete"), line


@pytest.mark.parametrize("command", [*sorted(COMMANDS.keys() - {"report"}), "libraries"])
def test_no_command_prints_foreign_text_as_it_is(printed, command):
    stdout, stderr = printed[command]
    assert "evil" in stdout + stderr and "a defect" not in stderr, stderr
    # What a script goes on with is the path itself, byte for byte; a terminal gets something else, see below.
    assert_safe(stderr if command in ("export", "submit") else stdout + stderr)


def test_json_is_the_same_however_it_is_written(printed):
    for command in ("validate --json", "plan --json", "score --json"):
        assert HOSTILE in "\0".join(texts_in(json.loads(printed[command][0]))), command


def texts_in(value) -> Iterator[str]:
    """Every text of a JSON value, names of fields too."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from texts_in(each)
    if isinstance(value, str):
        yield value


def test_a_report_holds_no_foreign_text_as_it_is_in_its_markup(printed, folder):
    assert printed["report"][0].endswith("report.html\n")
    markup, _, script = (folder / "report.html").read_text().partition('<script type="application/json"')
    assert markup.count("evil") > 5 and "[bold]" in markup
    for line in markup.split("\n"):
        assert line.isprintable() and not line.startswith("asrbatch: complete"), ascii(line)
    data = script.partition("</script>")[0]
    assert data.isascii() and "evil" in data  # JSON's escapes; what the script shows of them: test_report.py


def test_a_path_is_itself_to_a_script_and_safe_on_a_terminal(printed, folder):
    """The last line of `export` is the file that it wrote."""
    written = printed["export"][0].rstrip("\n").removeprefix(f"{folder}/run/")
    assert written.startswith(HOSTILE) and (folder / "run" / written.partition(".export")[0]).parent.is_dir()
    master, terminal = pty.openpty()
    command = [PYTHON, "-m", "asrbatch", "export", f"run/{HOSTILE}.jsonl", "--format", "txt", "--overwrite"]
    done = subprocess.run(command, cwd=folder, stdout=terminal, stderr=subprocess.PIPE)
    os.close(terminal)
    with open(master, "rb", closefd=True) as file, contextlib.suppress(OSError):  # the end of a terminal is an error
        shown = b""
        while part := os.read(file.fileno(), 4096):
            shown += part
    assert done.returncode == EXIT_ROWS_FAILED and b"evil" in shown
    assert_safe(shown.decode().replace("\r\n", "\n"))


def test_messages_and_notes_of_errors_are_safe(capsys):
    """A name makes no line of its own; lines of ours, and those of vLLM's log, stay lines."""
    error = ManifestError(f"{HOSTILE}: 2 problems", f"row 1: {HOSTILE}", "row 2")
    assert len(str(error).splitlines()) == 3 and str(error).endswith("\nrow 2")
    wrapped = UsageError(f"b: {error}")
    assert len(str(wrapped).splitlines()) == 1
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.args) == (str(error), error.args)
    error.add_note("INFO 11-30 \x1b[36mcore.py\x1b[0m:1]\nevil")
    complain(error, str(error))
    said = capsys.readouterr().err
    assert said.count("\n") == 5 and "\\x1b[36mcore.py" in said and "\nevil\n" in said
    assert_safe(said)


def test_the_holder_of_a_lease_is_shown_safely(tmp_path):
    path = tmp_path / "out.lock"
    holder = {"host": HOSTILE * 1000, "pid": HOSTILE, "slurm_job": [HOSTILE], "token": "x"}
    for content, shown in ((json.dumps(holder), "evil"), ("evil\x1b[2J", "another machine")):
        path.write_text(content)
        said = []
        lease = Lease(path, log=said.append, stale_after_s=0.2)
        lease.release()
        assert shown in said[0] and len(said[0]) < 500
        assert_safe(said[0])


def test_the_log_beside_a_bar_is_safe(monkeypatch, capfd):
    with Terminal() as terminal:
        terminal.log(f"[bold]:warning: {HOSTILE}")
    said = capfd.readouterr().err
    assert said.startswith("[bold]:warning: \\x1b[2J") and said.count("\n") == 1
    assert_safe(said)


def test_what_is_written_out_and_what_is_not():
    cases = {
        "Größe ☺ 今日は": "Größe ☺ 今日は",
        "می\u200cخواهم": "می\u200cخواهم",  # Persian is not written right without it
        "a\u00a0b\u3000c": r"a\xa0b\u3000c",  # looks like a space, and is none
        "\x00\x1b\x7f\x85\x9b\r\n\t": r"\x00\x1b\x7f\x85\x9b\r\n\t",
        "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e": r"\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e",
        "\u2066\u2067\u2068\u2069\u2028\u2029\ufeff": r"\u2066\u2067\u2068\u2069\u2028\u2029\ufeff",
        "\ud800 \U000e0041": r"\ud800 \U000e0041",  # half a pair; a tag that nobody sees
    }
    for text, shown in cases.items():
        assert printable(text) == show_text(text) == shown
    assert one_line(ValueError("a\x1b\nb\u202e")) == r"ValueError: a\x1b b\u202e"
    assert printable("a\n\tb", keep="\n") == "a\n\\tb" and show("\x1b\n") == r'"\u001b\n"'
