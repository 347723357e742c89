"""What `score` and `compare` show people: tables that no terminal cuts, words beside characters,
changes side by side.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import REPO, read_jsonl, write_jsonl

pytest_plugins = "command_line"

DATA = REPO / "tests/data/prompts.tiny-en.jsonl"


def on_terminal(columns: int, *arguments) -> list[str]:
    """The lines that a command prints on a terminal so wide, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-m", "asrbatch", *map(str, arguments)], stdout=theirs, env=env):
        os.close(theirs)
        parts = []
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # how Linux says that nobody holds the other end
                break
            if not part:
                break
            parts.append(part)
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", b"".join(parts).decode()).splitlines()


def sheets(lines: list[str]) -> dict[str, list[list[str]]]:
    """The cells under each title."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for at, line in enumerate(lines):
        if line.strip() and not line.startswith(" ") and not line.startswith("─"):
            words = line.strip()
            title = words if at + 1 < len(lines) and not lines[at + 1].strip() else f"{title} {words}"
        elif line.strip() and not line.strip().startswith("─"):
            found.setdefault(title, []).append(re.split(r"\s{2,}", line.strip()))
    return found


NUMBERS = re.compile(r"(?<![\w.])[+-]?\d[\d,]*\.\d+")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("terminal")
    rows = [{**row, "voice": f"voice-{row['index'] % 3}"} for row in read_jsonl(DATA)[::4]]
    spoiled = [{**row, "pred_text": (row["pred_text"] or "").replace("the ", "a ")} for row in rows]
    return write_jsonl(folder / "a.jsonl", rows), write_jsonl(folder / "b.jsonl", spoiled)


@pytest.mark.parametrize("command", ["score", "compare"])
def test_a_terminal_of_80_columns_has_every_name_and_every_figure(command, files, cli_here):
    arguments = (command, *files[: 1 + (command == "compare")], "--by", "voice,duration", "--resamples", "20")
    arguments = (*arguments, "--show", "0") if command == "compare" else arguments
    narrow, wide = on_terminal(80, *arguments), cli_here(*arguments).stdout.splitlines()
    # Notes are sentences: the terminal wraps them.
    assert max(len(line) for line in narrow if not line.startswith("note: ")) <= 80 < max(map(len, wide))
    text = "\n".join(narrow)
    for value in ("voice-0", "voice-1", "voice-2", "2 to 5 s", "5 to 10 s"):
        assert text.count(value) >= 2, value  # in words and in characters
    assert {*NUMBERS.findall(text)} == {*NUMBERS.findall("\n".join(wide))}


def test_on_a_terminal_narrower_than_a_figure_nothing_is_cut(files):
    arguments = ("score", files[0], "--resamples", "20")
    wide, narrow = ("\n".join(on_terminal(width, *arguments)) for width in (200, 20))
    assert {*NUMBERS.findall(wide)} == {*NUMBERS.findall(narrow)}


MIXED = (
    [{"id": f"e{at}", "lang": "en", "text": "one two three", "pred_text": "one two three"} for at in range(4)]
    + [{"id": f"z{at}", "lang": "zh", "text": "今天好", "pred_text": "今天好"} for at in range(3)]
)  # fmt: skip


def changed(**texts: str) -> list[dict]:
    return [{**row, "pred_text": texts.get(row["id"], row["pred_text"])} for row in MIXED]


def test_languages_counted_in_characters_have_rows_of_their_own(cli_here, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", changed(e0="one too three", z0="今天"))
    found = sheets(
        cli_here("score", path, "--by", "lang", "--resamples", "20", "--normalizer", "none").stdout.splitlines()
    )
    words, characters = found["by lang, in words"], found["by lang, in characters"]
    assert words[0][:3] == ["lang", "rows", "WER %"] and characters[0][:3] == ["lang", "rows", "CER %"]
    # No row of words for Chinese, and its 3 rows are none of those that WER is over.
    assert [row[:3] for row in words[1:2]] == [["en", "4", "8.33"]] and not any(row[0] == "zh" for row in words)
    assert [row[:3] for row in characters[1:3]] == [["en", "4", "1.92"], ["zh", "3", "11.11"]]
    assert words[-1][:3] == ["weighted by words", "4", "8.33"] and characters[-1][:3] == [
        "weighted by characters",
        "7",
        "3.28",
    ]


def test_better_and_worse_are_counted_in_the_unit_of_their_table(cli_here, tmp_path):
    # e0: one wrong word more, and fewer characters wrong than before; z0 gets worse.
    a = write_jsonl(tmp_path / "a.jsonl", changed(e0="one abcdefgh three"))
    b = write_jsonl(tmp_path / "b.jsonl", changed(e0="onee twoo three", z0="今"))
    found = sheets(
        cli_here(
            "compare", a, b, "--by", "lang", "--show", "0", "--resamples", "20", "--normalizer", "none"
        ).stdout.splitlines()
    )
    ends = {title: {row[0]: (row[1], *row[-2:]) for row in rows} for title, rows in found.items()}
    assert ends["in words"]["all rows"] == ("4", "0", "1") and ends["in characters"]["all rows"] == ("7", "1", "1")
    assert ends["by lang, in words"] == {"lang": ("rows", "better", "worse"), "en": ("4", "0", "1")}
    assert ends["by lang, in characters"] == {
        "lang": ("rows", "better", "worse"),
        "en": ("4", "1", "0"),
        "zh": ("3", "0", "1"),
    }


def shown_changes(cli_here, folder: Path, rows: list[dict], b: list[dict]) -> str:
    paths = write_jsonl(folder / "a.jsonl", rows), write_jsonl(folder / "b.jsonl", b)
    done = cli_here("compare", *paths, "--resamples", "20", "--normalizer", "none")
    assert not done.stderr, done.stderr
    return done.stdout


def test_changes_stand_side_by_side_with_what_differs_marked(cli_here, tmp_path):
    a = [{"id": "x", "lang": "en", "text": "well, one two three", "pred_text": "well one too three"}]
    b = [{**a[0], "pred_text": "one two three four \x1b[2J[bold]five"}]
    text = shown_changes(cli_here, tmp_path, a, b)
    line = next(line for line in text.splitlines() if "{+too+}" in line)
    added = r"{+four \x1b[2J[bold]five+}"
    marked = ["[-well,-] {+well+} one [-two-] {+too+} three", f"[-well,-] one two three {added}"]
    assert re.split(r"\s{2,}", line.strip()) == marked
    assert "x: 2 errors" in text and "3 errors, in words" in text
    alone = shown_changes(cli_here, tmp_path, *([{**row, "text": None} for row in rows] for rows in (a, b)))
    assert f"[-well-] one [-too-] {{+two+}} three {added}" in alone


def test_of_a_long_row_little_is_shown_and_its_errors_are(cli_here, tmp_path):
    words = [f"w{at}" for at in range(30_000)]
    said = [word if at not in (10_000, 20_000) else "other" for at, word in enumerate(words)]
    a = [{"id": "x", "lang": "en", "text": " ".join(words), "pred_text": " ".join(words)}]
    looped = {"id": "y", "lang": "en", "text": "one", "pred_text": "one"}
    b = [{**a[0], "pred_text": " ".join(said)}, {**looped, "pred_text": "one " * 30_000}]
    text = shown_changes(cli_here, tmp_path, [*a, looped], b)
    assert "[-w10000-] {+other+} w10001" in " ".join(text.split()) and "[-w20000-]" in text
    assert len(text.splitlines()) < 60 and "30000 errors" not in text
