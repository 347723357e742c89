"""`--help` as a person meets it: what matters first, nothing cut off, an example for each command."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
from command_line import cli_here  # noqa: F401 (a fixture)
from conftest import PYTHON

from asrbatch.cli.app import app
from asrbatch.cli.options import FIELDS

COMMANDS = typer.main.get_command(app).commands


def flags_of(command: str) -> set[str]:
    return {flag for param in COMMANDS[command].params for flag in (*param.opts, *param.secondary_opts)}


@pytest.fixture
def help_of(cli_here, monkeypatch):  # noqa: F811
    def call(*words: str, width: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        shown = cli_here(*words, "-h")
        assert shown.returncode == 0 and shown.stderr == ""
        return shown.stdout

    return call


def test_the_list_of_commands_has_their_whole_first_sentences(help_of):
    shown = " ".join(help_of().split())
    for name, command in COMMANDS.items():
        sentence = command.help.replace("\n", " ").split(":")[0].split(". ")[0].split("  ")[0]
        assert f"{name} {sentence}" in shown, name
    assert "..." not in shown.partition("Commands:")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_an_example_that_it_takes(name, help_of):
    example = re.search(r"Example:\n +(asrbatch .*)\n", help_of(name, width=200))[1]
    program, command, *words = shlex.split(example)
    assert (program, command) == ("asrbatch", name)
    assert {word for word in words if word.startswith("-")} <= flags_of(name)


def test_options_stand_in_groups_and_those_that_matter_first(help_of):
    shown = help_of("transcribe")
    titles = re.findall(r"^(\S.*):$", shown, flags=re.M)
    assert titles == [
        "Arguments", "Most used", "Model", "Audio and windows", "Decoding", "Manifest", "Chunks", "Output and resume",
        "Engine and limits", "Options",
    ]  # fmt: skip
    most_used = shown.partition("Most used:")[2].partition("Model:")[0]
    assert len(re.findall(r"^  -", most_used, flags=re.M)) == 10
    shown = shown.partition("Arguments:")[2]
    for flag in flags_of("transcribe") - {"manifest"}:
        assert len(re.findall(rf"^  (?:-\w, )?(?:--[\w-]+ / )?{flag}(?: |$|,)", shown, flags=re.M)) == 1, flag


def test_every_option_of_a_run_has_a_group():
    """One that `_GROUPS` forgets would be no option at all."""
    from dataclasses import fields

    from asrbatch.config import EngineConfig, RunConfig

    declared = {each.name for each in (*fields(RunConfig), *fields(EngineConfig)) if each.metadata.get("help")}
    assert declared == FIELDS.keys() - {"dataset", "chunk_offset"}


@pytest.mark.parametrize("name", ["plan", "submit"])
def test_options_of_transcribe_are_named_and_not_explained_again(name, help_of):
    explained, _, named = help_of(name).partition("Options of transcribe, see asrbatch transcribe --help:")
    assert "--hang-timeout" not in explained and "--model" not in explained.partition("Arguments:")[2]
    shared = {max(param.opts, key=len) for param in COMMANDS[name].params if param.name in FIELDS} - {"manifest"}
    assert "--text-field" in explained, "transcribe has none whose help could be read"
    shared -= {"--text-field"}
    assert set(named.split()) == shared


def test_options_that_need_or_mean_something_else_say_so(help_of):
    own, _, of_model = help_of("validate").partition("Only with --model:")
    of_model = of_model.partition("Manifest:")[0]
    assert "--write-clean" in own and "--language" in of_model and "--language" not in own
    assert "a row without either is refused" in " ".join(help_of("align").split())


def test_a_mistyped_option_is_answered_by_the_one_that_was_meant(cli_here):  # noqa: F811
    said = cli_here("transcribe", "m.jsonl", "--langage", "en")
    assert said.returncode == 2 and said.stderr.splitlines()[-1].endswith(
        "No such option: --langage. Did you mean --language?"
    )
    said = cli_here("transcribe", "m.jsonl", "--zzz")
    assert said.stderr.splitlines()[-1].endswith("No such option: --zzz")


def test_a_shell_completes_commands_and_options():
    def completed(words: str) -> list[str]:
        env = {"_ASRBATCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        # By the name that people type: the variable is made of it.
        command = [Path(PYTHON).with_name("asrbatch")]
        return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True).stdout.split()

    assert completed("asrbatch tran") == ["transcribe"]
    assert "--word-timestamps" in completed("asrbatch transcribe --wor")
