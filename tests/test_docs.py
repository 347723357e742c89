"""Documents that fail when they lie: README and docs/ against the command line, the code and the Makefile."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

from asrbatch import errors
from asrbatch.evaluation.text_rules import EXCLUDED
from asrbatch.pipeline.result import RESULT_FIELDS, TIMING_FIELDS

README = (REPO / "README.md").read_text(encoding="utf-8")
OUTPUT = (REPO / "docs/output.md").read_text(encoding="utf-8")
TROUBLE = (REPO / "docs/troubleshooting.md").read_text(encoding="utf-8")
MODELS = (REPO / "docs/models.md").read_text(encoding="utf-8")
SCORING = (REPO / "docs/scoring.md").read_text(encoding="utf-8")
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def section(title: str, text: str) -> str:
    sections = {s.split("\n")[0]: s for s in re.split(r"^## ", text, flags=re.M)}
    return sections[title]


def commands() -> dict[str, Any]:
    import typer

    from asrbatch.cli.app import app

    return typer.main.get_command(app).commands


def options() -> dict[str, set[str]]:
    """Every option by command, `--no-…` forms included."""
    return {
        name: {option for p in command.params for option in (*p.opts, *p.secondary_opts) if option.startswith("-")}
        - {"--help"}
        for name, command in commands().items()
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built as by `make docs`: a dead link, a page that no menu names, an option without help and a docstring that is
    not well-formed are errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_reference_has_every_option_of_every_command_and_no_other(site):
    page = (site / "commands/index.html").read_text(encoding="utf-8")
    sections = {re.search(r"<code>asrbatch ([\w-]+)", part)[1]: part for part in page.split('<h2 id="asrbatch-')[1:]}
    assert list(sections) == list(options())
    for command, part in sections.items():
        terms = re.findall(r'<dt id="([\w-]+)">(.*?)</dt>', part)
        assert all(name.startswith(command) for name, _ in terms)
        own = {option for _, term in terms for option in re.findall(r"<code>(--?[a-z-]+)</code>", term)}
        shared = set(re.findall(r'href="#transcribe(--[a-z-]+)"><code>\1</code>', part))
        # Both names of a switch, or a letter beside a name, are one option.
        named = {
            option
            for param in commands()[command].params
            for option in (*param.opts, *param.secondary_opts)
            if shared & {*param.opts}
        }
        assert own | named == options()[command], command
        assert own.isdisjoint(shared)


def test_the_reference_says_default_choices_and_bounds(site):
    page = (site / "commands/index.html").read_text(encoding="utf-8")
    for option, said in (
        ("transcribe--windows", "energy, sequential, silence, fixed, none"),
        ("transcribe--windows", "Default: <code>energy</code>."),
        ("transcribe--workers", "whole number, at least 1"),
        ("score--resamples", "whole number, at least 1, at most 1,000,000"),
        ("submit--merge", "Default: on."),
        ("transcribe--tars", "<code>audio__OP_0..7_CL_.tar</code>"),
    ):
        assert said in page.split(f'<dt id="{option}">')[1].split("</dd>")[0], option
    for command in options():
        assert f"\nasrbatch {command} " in re.sub(r"<[^>]+>", "", page), "an example"


def test_an_option_without_help_is_no_reference(monkeypatch):
    monkeypatch.syspath_prepend(REPO / "scripts")
    import command_reference

    (command := commands()["score"]).params[-1].help = None
    with pytest.raises(ValueError, match=f"score: --{command.params[-1].name} has no help"):
        list(command_reference.reference({"transcribe": commands()["transcribe"], "score": command}))


# Pages whose commands are those of scripts and of schedulers.
OF_OTHERS = {"other-schedulers.md", "vllm.md"}


@pytest.mark.parametrize(
    "page", sorted({page.name for page in (REPO / "docs").glob("*.md")} - OF_OTHERS | {"../README.md"})
)
def test_options_named_anywhere_exist(page):
    text = (REPO / "docs" / page).read_text(encoding="utf-8")
    others = {"--profile", "--torch-backend", "--overrides", "--help", "--version"}  # of setup.sh, uv, every tool
    others |= {"--rows"}  # of scripts that measure
    others |= {"--array", "--gres", "--constraint", "--nv", "--requeue"}  # of sbatch and apptainer
    others |= {"--jobs", "--retries", "--repo-type", "--local-dir"}  # of squeue, parallel and hf, in messages
    assert {option for option in OPTION.findall(text) if option.startswith("--")} <= set().union(
        *options().values()
    ) | others


def test_every_error_kind_is_listed_with_its_meaning_and_what_helps():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.+?) \|$", section("Failed rows", TROUBLE), flags=re.M)
    assert {kind: meaning for kind, meaning, _ in rows} == errors.ROW_ERROR_KINDS


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


def test_the_site_has_the_python_api(site):
    text = (site / "python/index.html").read_text(encoding="utf-8")
    assert 'id="asrbatch.transcribe"' in text and 'id="asrbatch.cli.keyword_types.TranscribeKeywords.language"' in text


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
