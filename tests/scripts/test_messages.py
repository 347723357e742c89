"""scripts/messages.py: the committed table of messages is that of the code."""

import subprocess
import sys

from conftest import REPO

TABLE = (REPO / "docs" / "messages.md").read_text(encoding="utf-8")


def test_the_committed_table_is_what_the_code_says():
    command = [sys.executable, REPO / "scripts" / "messages.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_message_is_found_wherever_it_is_made():
    """One of each way in which the code makes a message, with what it ends in."""
    rows = {tuple(line.strip("| ").split(" | ")[:2]) for line in TABLE.splitlines() if line.startswith("| ")}
    assert ("exit 2", "`--text-field is empty; give the name of a field`") in rows  # raised
    assert (
        "exit 6",
        "`{path}: other processes keep taking it; run the same command again when they have ended`",
    ) in rows
    assert (
        "row",
        "`audio_filepath = {path}: must be a string; give the path of one audio file`",
    ) in rows  # by a helper
    assert ("failed: `missing`", "`{name}: no such file`") in rows
    assert ("note", "`the whole log: {path}`") in rows
    assert ("job", "`asrbatch ended with exit code $code`") in rows
