"""The functions of `asrbatch`: each does what its command does, under the same names, and says so in its types."""

import functools
import inspect
import os
import pty
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pandas
import pytest
import typer
from beep_run import beep_manifest, check_rows, start_beeps, text_of
from conftest import PYTHON, REPO, read_jsonl, write_jsonl

import asrbatch
from asrbatch.cli import keyword_types
from asrbatch.cli.app import app
from asrbatch.cli.keywords import keywords_of, receive
from asrbatch.config import run_config
from asrbatch.errors import OutputError, UsageError
from asrbatch.pipeline.result import TIMING_FIELDS
from asrbatch.runs.runner import run

COMMANDS = typer.main.get_command(app).commands
TYPES = {
    "transcribe": keyword_types.TranscribeKeywords, "align": keyword_types.AlignKeywords,
    "plan": keyword_types.PlanKeywords, "merge_shards": keyword_types.MergeKeywords,
    "score": keyword_types.ScoreKeywords, "export": keyword_types.ExportKeywords,
}  # fmt: skip
EXAMPLES = [REPO / "docs/python.md", REPO / "README.md"]


@pytest.fixture
def beeps(monkeypatch):
    """Runs have the small function in the engine's place."""
    from asrbatch.runs import runner

    monkeypatch.setattr(runner, "run", functools.partial(runner.run, start=start_beeps))


@pytest.fixture(scope="module")
def made_runs(tmp_path_factory, tiny_en):
    """A manifest with references, and runs of it, in one piece and in two chunks."""
    folder = tmp_path_factory.mktemp("runs")
    rows = read_jsonl(beep_manifest(folder / "in", 6))
    manifest = write_jsonl(
        folder / "manifest.jsonl", [{**row, "text": text_of(index)} for index, row in enumerate(rows)]
    )
    for output, chunks in {"run/out.jsonl": [{}], "chunks/out.jsonl": [{"chunk_id": 0}, {"chunk_id": 1}]}.items():
        for chunk in chunks:
            how = {"num_chunks": len(chunks), **chunk} if chunk else {}
            run(
                run_config({"manifest": manifest, "model": tiny_en, "output": folder / output, **how}),
                start=start_beeps,
            )
    return folder


@pytest.fixture
def run_folder(made_runs, tmp_path, beeps, monkeypatch):
    """The current folder, with a copy of these."""
    shutil.copytree(made_runs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def function_of(name: str):
    found = getattr(asrbatch, name)
    return found if inspect.isfunction(found) else found.__call__  # the package `asrbatch.export`, once it is imported


def command_of(name: str):
    return inspect.unwrap(COMMANDS[name.replace("_", "-")].callback, stop=lambda f: hasattr(f, "receive"))


@pytest.mark.parametrize("name", TYPES)
def test_options_are_called_as_on_the_command_line(name):
    params = COMMANDS[name.replace("_", "-")].params
    flags = {max(p.opts, key=len).removeprefix("--").replace("-", "_") for p in params}
    own = inspect.signature(function_of(name)).parameters.keys() - {"options"}
    assert own - {"progress", "observer", "stop"} | TYPES[name].__annotations__.keys() == flags - {
        "help", "verbose", "json"
    }  # fmt: skip
    assert keywords_of(command_of(name)).keys() == flags - {"help", "verbose", "json"}


def test_the_types_are_those_of_the_declarations():
    """`scripts/keyword_types.py` was run after the last change."""
    command = [PYTHON, "-c", "import keyword_types; print(keyword_types.module(), end='')"]
    env = {**os.environ, "PYTHONPATH": f"{REPO / 'scripts'}:{REPO}"}
    made = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    assert made == Path(keyword_types.__file__).read_text(encoding="utf-8")


def test_a_value_is_that_of_the_command_line():
    given = {"rtfx": 31.5, "window_seconds": 20, "engine_arg": "max_num_seqs=4", "output": Path("o.jsonl")}
    plan = receive(command_of("plan"), {"manifest": Path("m.jsonl"), **given})
    values = plan["options"].values
    assert (values["manifest"], values["output"], values["window_s"]) == (["m.jsonl"], "o.jsonl", 20.0)
    assert values["args"] == ("max_num_seqs=4",) and plan["speeds"].rtfx == "31.5"
    # The fields' own names are understood as well.
    same = receive(command_of("plan"), {"manifest": "m.jsonl", "window_s": 20, "args": ["max_num_seqs=4"]})
    assert same["options"].values["window_s"] == 20.0 and same["options"].values["args"] == ("max_num_seqs=4",)
    scoring = receive(command_of("score"), {"predictions": "p", "by": ["lang", "speaker"]})
    assert scoring["options"].by == ("lang", "speaker")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: asrbatch.transcribe("m", model="m", langage="en"), 'has no option "langage"; did you mean language?'),
        (lambda: asrbatch.score("p", zzz=1), 'score() has no option "zzz"; asrbatch score --help lists its options'),
        (lambda: asrbatch.transcribe("m", model="m", window_seconds="a"), 'window_seconds="a": must be a number'),
        (lambda: asrbatch.transcribe("m", model="m", window_seconds=1), "--window-seconds 1.0: must be at least 2"),
        (lambda: asrbatch.transcribe("m", model="m", window_s=3, window_seconds=3), "are one option; give one of them"),
        (lambda: asrbatch.transcribe("m", model="m", fallback="yes"), 'fallback="yes": must be True or False'),
        (lambda: asrbatch.transcribe("m", model="m", windows="soft"), 'windows="soft": must be one of energy, '),
        (lambda: asrbatch.transcribe(model="m"), "MANIFEST is missing"),
        (lambda: asrbatch.transcribe("m", model=None), "--model is missing"),
        (lambda: asrbatch.transcribe("m", model="m", merge=True), "--merge: needs chunks"),
        (lambda: asrbatch.align("m", model="m", windows="fixed"), 'align() has no option "windows"'),
        (lambda: asrbatch.plan("m", probe_workers=0), "probe_workers=0: must be at least 1"),
        (lambda: asrbatch.score(None), "predictions=[null]: must be text, or a list of texts"),
        (lambda: asrbatch.score([]), "predictions is empty; give at least one file"),
        (lambda: asrbatch.score("p", resamples=True), "resamples=true: must be a whole number"),
        (lambda: asrbatch.export("o", format=["srt", "x"]), "--format x: unknown"),
    ],
)
def test_a_mistake_gets_one_clear_line(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        call()
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_run_is_summed_up_in_a_line_and_makes_a_table(run_folder, tiny_en):
    summary = asrbatch.transcribe("manifest.jsonl", model=Path(tiny_en), output="run/out.jsonl")
    assert re.fullmatch(
        r"Summary\(already complete: 6 of 6 rows, 0 failed, RTFx [\d.]+, run/out\.jsonl\)", repr(summary)
    )
    check_rows([summary.output], range(6))
    assert list(summary.rows()) == read_jsonl("run/out.jsonl")
    table = pandas.DataFrame(summary.rows(flat=True)).sort_values("index")
    assert table["pred_text"].tolist() == [text_of(index) for index in range(6)]
    assert table["error.kind"].isna().all()
    for name in TIMING_FIELDS:
        assert table[f"timing.{name}"].dtype == "float64", name
    assert not {"timing", "error"} & set(table.columns)


def test_rows_that_failed_make_a_table_too(tmp_path, tiny_en, beeps):
    rows = [{"audio_filepath": "nowhere.wav"}, *read_jsonl(beep_manifest(tmp_path / "in", 1))]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    summary = asrbatch.transcribe(manifest, model=tiny_en, output=tmp_path / "o.jsonl")
    assert "2 of 2 rows, 1 failed" in repr(summary)
    table = pandas.DataFrame(summary.rows(flat=True)).set_index("index")
    assert table.loc[0, "error.kind"] == "missing" and table.loc[1, "pred_text"] == "beep"


def test_the_place_in_an_array_says_which_chunk(run_folder, tiny_en, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    summary = asrbatch.transcribe("manifest.jsonl", model=tiny_en, output="chunks/out.jsonl", num_chunks=2)
    assert summary.outcome == "already_complete" and "chunk-00001-of-00002" in repr(summary)


def test_a_merge_says_what_is_missing(run_folder):
    merged = asrbatch.merge_shards("chunks/out.jsonl", manifest="manifest.jsonl")
    assert repr(merged) == "MergeResult(complete: 6 of 6 rows, 0 failed, chunks/out.jsonl)"
    assert [row["pred_text"] for row in merged.rows()] == [text_of(index) for index in range(6)]
    Path("chunks/out.chunk-00001-of-00002.done.json").unlink()
    Path("chunks/out.chunk-00001-of-00002.jsonl").write_text("")
    broken = asrbatch.merge_shards("chunks/out.jsonl", manifest=["manifest.jsonl"])
    assert not broken.complete and broken.report.run_again == [1]
    assert repr(broken) == "MergeResult(not merged: 3 missing rows, chunks to run again 1)"
    # The rows that stand there are those of before.
    with pytest.raises(OutputError, match="not merged: 3 missing rows"):
        broken.rows()
    part = asrbatch.merge_shards("chunks/out.jsonl", manifest="manifest.jsonl", allow_incomplete=True)
    assert repr(part).startswith("MergeResult(incomplete: 3 of 6 rows, 3 missing rows")


def test_the_last_chunk_merges(run_folder, tiny_en):
    for chunk_id in range(2):
        asrbatch.transcribe(
            "manifest.jsonl", model=tiny_en, output="m/out.jsonl", num_chunks=2, chunk_id=chunk_id, merge=True
        )
    check_rows(["m/out.jsonl"], range(6))


def test_a_plan_and_a_score_are_what_the_commands_print(run_folder, tiny_en):
    plan = asrbatch.plan("manifest.jsonl", num_chunks=2, probe=True)
    assert repr(plan) == "Plan(6 rows, 0.001 h of audio, 2 chunks, 0 rows will fail)"
    assert plan.num_rows == 6 and plan.commands["merge"].startswith("asrbatch merge-shards ")
    score = asrbatch.score("run/out.jsonl", by="speaker", resamples=10)
    assert repr(score) == "Score(WER 0.00 %, CER 0.00 %, 6 rows)"
    assert score.wer_percent == 0 and pandas.DataFrame(score.groups("speaker"))["speaker"].tolist() == [
        f"s{index}" for index in range(6)
    ]
    with pytest.raises(UsageError, match='groups of "lang": were not made; score with by="lang"'):
        score.groups("lang")
    several = asrbatch.score(["run/out.jsonl", "chunks/out.chunk-00000-of-00002.jsonl"], resamples=10)
    assert repr(several).startswith("Score(composite of 2 files, WER 0.00 %") and len(several.files) == 2
    with pytest.raises(UsageError, match="nowhere"):
        asrbatch.plan("manifest.jsonl", model="./nowhere")


def test_an_export_says_what_it_wrote(run_folder):
    exported = asrbatch.export("run/out.jsonl", format=["srt", "vtt"], to=Path("subtitles"))
    assert repr(exported) == "ExportResult(srt, vtt: 6 utterances, subtitles)"
    assert exported.files["srt"].is_file() and len(list(Path("subtitles").glob("*.vtt"))) == 6


def test_texts_that_are_there_are_aligned(run_folder, tiny_en):
    for name, call in {
        "a": asrbatch.align,
        "b": functools.partial(asrbatch.transcribe, text_field="pred_text"),
    }.items():
        rows = call("run/out.jsonl", model=tiny_en, output=f"{name}.jsonl").rows()
        # By id: the index is the place in the run that is aligned, whose rows stand as they finished.
        assert {row["id"]: sum(len(s["words"]) for s in row["segments"]) for row in rows} == {
            f"u{index}": index + 1 for index in range(6)
        }


def code_of(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("name", TYPES)
def test_the_example_of_each_function_runs(name, run_folder, tiny_en):
    (code,) = re.findall(r"```python\n(.*?)```", inspect.getdoc(function_of(name)), flags=re.S)
    assert f"asrbatch.{name}(" in code
    exec(textwrap.dedent(code).replace("openai/whisper-large-v3-turbo", tiny_en), {"__name__": "__main__"})


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_of_the_documents_run(page, run_folder, tiny_en):
    codes = code_of(page)
    assert codes
    for code in codes:
        exec(code.replace("openai/whisper-large-v3-turbo", tiny_en), {"__name__": "__main__"})


SCRIPT = """
import functools, sys
from beep_run import start_beeps
from asrbatch.runs import runner
runner.run = functools.partial(runner.run, start=start_beeps)
import asrbatch
asrbatch.transcribe("manifest.jsonl", model=sys.argv[1], output=sys.argv[2], progress=sys.argv[3] == "yes")
"""


def in_terminal(*command: str, cwd: Path) -> str:
    """What a program shows in a terminal."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": f"{REPO / 'tests'}:{REPO}", "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env=env):
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # it has ended
            pass
    os.close(ours)
    return shown.decode(errors="replace")


def test_progress_is_shown_where_somebody_looks(run_folder, tiny_en):
    program = [sys.executable, "-c", SCRIPT, tiny_en]
    assert "rows" in in_terminal(*program, "a.jsonl", "yes", cwd=run_folder)
    assert in_terminal(*program, "b.jsonl", "no", cwd=run_folder) == ""
    env = {**os.environ, "PYTHONPATH": f"{REPO / 'tests'}:{REPO}"}
    done = subprocess.run([*program, "c.jsonl", "yes"], cwd=run_folder, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


USER = """
from pathlib import Path
import asrbatch

def main() -> None:
    try:
        summary = asrbatch.transcribe(Path("m.jsonl"), model="m", output=Path("o.jsonl"), window_seconds=20)
    except asrbatch.errors.AsrbatchError:
        return
    score = asrbatch.score(summary.output, by=["lang"])
    reveal_type(score.wer_percent)
    reveal_type(asrbatch.plan("m", rtfx=30).commands)
    reveal_type(asrbatch.merge_shards("o", manifest="m").rows())
    asrbatch.transcribe("m.jsonl", model="m", langage="en")
    asrbatch.transcribe("m.jsonl", model="m", windows="soft")
"""


def test_a_type_checker_sees_the_types(tmp_path):
    assert (REPO / "asrbatch/py.typed").is_file()
    overrides = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    libraries = next(each["module"] for each in overrides if each.get("follow_imports") == "skip")
    # Of an installed package no error is shown; and to read the libraries takes minutes.
    others = ",".join([*libraries, "numpy.*", "rich.*", "typer.*"])
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\n[mypy-asrbatch.*]\nignore_errors = True\n[mypy-{others}]\nfollow_imports = skip\n"
    )
    (tmp_path / "user.py").write_text(USER)
    command = [PYTHON, "-m", "mypy", "--cache-dir", tmp_path / "cache", "user.py"]
    env = {**os.environ, "MYPYPATH": str(REPO)}
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env).stdout.splitlines()
    found = [re.sub(r"^user.py:\d+: ", "", line) for line in said]
    assert found[:3] == [
        'note: Revealed type is "float | None"',
        'note: Revealed type is "dict[str, str]"',
        'note: Revealed type is "typing.Iterator[dict[str, Any]]"',
    ]
    assert found[3].startswith('error: Unexpected keyword argument "langage" for "transcribe"; did you mean "language"')
    assert found[-2].startswith('error: Argument "windows" to "transcribe" has incompatible type "Literal[\'soft\']"')
    assert found[-1].startswith("Found 2 errors in 1 file")
