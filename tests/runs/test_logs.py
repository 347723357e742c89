"""What libraries print goes to the log, and a log that cannot be written ends nothing."""

import subprocess
import sys

PROGRAM = """
import os, resource, sys
from pathlib import Path
from asrbatch.runs import engine_log
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
with engine_log.captured(Path(sys.argv[1])) as start:
    print("a library's line")
    os.system("echo a child")
    os.write(2, b"from C\\n")
    sys.stdout.flush()
    if sys.argv[2] == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
        print("there is no room for this")
if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print("afterwards")
print(Path(sys.argv[1]).read_text().splitlines())
"""


def captured(tmp_path, kind: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "out.log"), kind]
    # Without PYTHONUNBUFFERED: a line that waits in Python's buffer is what a full disk meets last.
    env = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_everything_that_is_printed_goes_to_the_log(tmp_path):
    assert captured(tmp_path, "room")[0] == "afterwards"
    assert sorted((tmp_path / "out.log").read_text().splitlines()) == ["a child", "a library's line", "from C"]


def test_a_full_disk_loses_lines_of_the_log_and_nothing_else(tmp_path):
    shown = captured(tmp_path, "full")
    assert shown[0] == "afterwards" and not any("no room" in line for line in shown)
    assert "no room" not in (tmp_path / "out.log").read_text()
