"""Documents that fail when they lie: README and docs/ against the command line, the code and the Makefile."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

from asrbatch import errors
from asrbatch.cli.options import READING, flag_of
from asrbatch.evaluation.text_rules import EXCLUDED
from asrbatch.pipeline.result import RESULT_FIELDS, TIMING_FIELDS

README = (REPO / "README.md").read_text(encoding="utf-8")
OUTPUT = (REPO / "docs/output.md").read_text(encoding="utf-8")
TROUBLE = (REPO / "docs/troubleshooting.md").read_text(encoding="utf-8")
COMMANDS = (REPO / "docs/commands.md").read_text(encoding="utf-8")
MODELS = (REPO / "docs/models.md").read_text(encoding="utf-8")
SCORING = (REPO / "docs/scoring.md").read_text(encoding="utf-8")
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def section(title: str, text: str) -> str:
    sections = {s.split("\n")[0]: s for s in re.split(r"^## ", text, flags=re.M)}
    return sections[title]


def options() -> dict[str, set[str]]:
    """Every option by command, `--no-…` forms included."""
    import typer

    from asrbatch.cli.app import app

    commands = typer.main.get_command(app).commands
    return {
        name: {option for p in command.params for option in (*p.opts, *p.secondary_opts) if option.startswith("-")}
        - {"--help"}
        for name, command in commands.items()
    }


@pytest.mark.parametrize(
    "title",
    [
        "transcribe MANIFEST…",
        "align MANIFEST…",
        "plan MANIFEST…",
        "submit MANIFEST…",
        "status OUTPUT",
        "merge-shards OUTPUT",
        "export OUTPUT",
        "models CHECKPOINT",
        "score PREDICTIONS",
        "compare A B",
        "report PREDICTIONS",
        "validate MANIFEST…",
        "make-manifest SOURCE…",
    ],
)
def test_every_option_of_every_command_is_listed_and_no_other(title):
    command = title.split()[0]
    table = section(f"`asrbatch {title}`", COMMANDS)
    listed = {
        option
        for line in table.splitlines()
        if line.startswith("| `-")
        for option in OPTION.findall(line.split("|")[1])
    }
    if command in ("plan", "submit"):  # they take those of transcribe as well, and say so
        shared = options()["transcribe"] - {"--chunk-id", "--chunk-offset", "--merge"}
        assert shared <= options()[command] and "`--chunk-id` and `--chunk-offset`" in table
        assert listed | {"--verbose", "-v"} == options()[command] - shared | {"--verbose", "-v"}
    elif command == "align":
        taken = options()["align"] - {"--text-field"}
        assert taken < options()["transcribe"] and "--text-field" in listed
        # Both names of a switch are one option.
        left_out = {option for option in options()["transcribe"] - taken if not option.startswith(("--no-", "--keep-"))}
        assert {option for option in left_out if f"`{option}`" not in table} == set()
    elif command in ("validate", "make-manifest"):
        shared = {flag_of(name) for name in READING}
        assert shared <= options()[command] and "takes `transcribe`'s options for reading a manifest" in table
        assert listed == options()[command] - shared
    else:
        assert listed == options()[command]


def test_the_list_of_commands_is_complete():
    assert {title.split()[1] for title in re.findall(r"^## `(asrbatch .*?)`", COMMANDS, flags=re.M)} == set(options())


# Pages whose commands are those of scripts and of schedulers.
OF_OTHERS = {"fuzz.md", "parity.md", "longform.md", "benchmark.md", "schedulers.md", "vllm.md", "words.md", "where.md"}


@pytest.mark.parametrize(
    "page", sorted({page.name for page in (REPO / "docs").glob("*.md")} - OF_OTHERS | {"../README.md"})
)
def test_options_named_anywhere_exist(page):
    text = (REPO / "docs" / page).read_text(encoding="utf-8")
    others = {
        "--profile",
        "--torch-backend",
        "--overrides",
        "--help",
        "--version",
    }  # of scripts/setup.sh, uv, every tool
    others |= {"--array", "--gres", "--constraint", "--nv", "--requeue"}  # of sbatch and apptainer
    others |= {"--jobs", "--retries", "--repo-type", "--local-dir"}  # of squeue, parallel and hf, in messages
    assert {option for option in OPTION.findall(text) if option.startswith("--")} <= set().union(
        *options().values()
    ) | others


def test_every_error_kind_is_listed_with_its_meaning_and_what_helps():
    meanings, fixes = (
        dict(re.findall(r"^\| (`.*?`) \| (.*?) \|$", table, flags=re.M))
        for table in section("Failed rows", TROUBLE).split("| kind |")[1:]
    )
    assert {f"`{kind}`": meaning for kind, meaning in errors.ROW_ERROR_KINDS.items()} == meanings
    assert sorted(kind for kinds in fixes for kind in kinds.split(", ")) == sorted(meanings)


def test_every_reason_not_to_score_a_row_is_listed_with_its_meaning():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", section("Which rows", SCORING), flags=re.M))
    assert rows == EXCLUDED


def test_every_exit_code_is_listed():
    codes = {int(code) for code in re.findall(r"^\| (\d) \|", section("Exit codes", TROUBLE), flags=re.M)}
    assert codes == {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    from asrbatch.cli.commands.transcribe import transcribe

    assert {int(code) for code in re.findall(r"\b(\d) [a-z]", transcribe.__doc__.split("Exit codes:")[1])} == codes


def test_rows_in_the_documents_are_what_the_code_writes():
    manifest_row, output_row = (
        json.loads(block) for page in (README, OUTPUT) for block in re.findall(r"```json\n(.*?)```", page, flags=re.S)
    )
    carried = [name for name in manifest_row if name != "id"]
    assert list(output_row) == ["id", "index", *carried, *RESULT_FIELDS]
    assert list(output_row["timing"]) == list(TIMING_FIELDS)


def test_readme_commands_exist():
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, flags=re.S))
    targets = set(re.findall(r"^make (\S+)", blocks, flags=re.M))
    assert targets == {"demo", "test"}
    for target in (*targets, "test-vllm", "test-conformance", "test-nemo"):
        dry = subprocess.run(
            ["make", "--dry-run", target, "VERSION=0.28.0"], cwd=REPO, capture_output=True, text=True, check=True
        )
        assert dry.stdout.strip()
    assert "make test" in (REPO / ".ci/run").read_text()


def test_readme_is_read_at_one_sitting():
    assert len(README.splitlines()) <= 180
    for file in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (REPO / file).stat().st_size > 0, file


def test_the_site_is_built_without_a_warning(tmp_path):
    """A dead link, a page that no menu names and a docstring that is not well-formed are warnings."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "python/index.html").read_text(encoding="utf-8")
    assert 'id="asrbatch.transcribe"' in text and 'id="asrbatch.config.RunConfig"' in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["transcribe", "m.jsonl"], 2, "--model is missing; give a folder or a hub name"),
        (["transcribe", "m.jsonl", "--nope"], 2, "No such option"),
        (["transcribe", "m.jsonl", "-m", "./nowhere"], 2, "--model ./nowhere: no such folder"),
        (["transcribe", "m.jsonl", "-m", "x", "-o", "out.txt"], 2, "must end in .jsonl"),
        (["transcribe", "m.jsonl", "-m", "x", "--grace", "soon"], 2, "--grace"),
        (["nonsense"], 2, "No such command"),
        (["transcribe", "m.jsonl", "-m", "x", "--max-windows", "0"], 2, "--max-windows 0: must be at least 1"),
        (["--version"], 0, None),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(arguments, code, message, tmp_path):
    command = [sys.executable, "-m", "asrbatch", *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if message:
        assert message in done.stderr and not done.stdout


def test_verbose_shows_the_traceback_and_keeps_the_exit_code(tmp_path):
    command = [sys.executable, "-m", "asrbatch", "transcribe", "m.jsonl", "-vm", "./nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("asrbatch: --model ./nowhere: no such folder")


def test_a_missing_manifest_is_named(tiny_en, tmp_path):
    command = [sys.executable, "-m", "asrbatch", "transcribe", "nowhere.jsonl", "-m", tiny_en]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "nowhere.jsonl" in done.stderr and "Traceback" not in done.stderr
    assert list(Path(tmp_path).iterdir()) == []
