"""vLLM's processes end with the asrbatch that started them, whoever has its process id by then."""

import os
import subprocess
import sys
import textwrap

import pytest

from asrbatch.child_process import start_time
from asrbatch.engine import environment

ME = os.getpid()


@pytest.mark.parametrize(
    ("owner", "began", "is_gone"),
    [
        (ME, start_time(ME), False),
        (ME, "12", True),  # a later process with its number, of the same user
        (ME, None, False),  # nothing known of when it began
        (2**22 + 5, "12", True),  # no such process: above the largest number
        (2**22 + 5, None, True),
    ],
    ids=["alive", "number used again", "alive, of unknown age", "gone", "gone, of unknown age"],
)
def test_whether_the_owner_is_gone(owner, began, is_gone):
    assert environment._is_gone(owner, began) is is_gone


def test_one_that_waits_for_its_parent_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = start_time(child.pid)
    assert not environment._is_gone(child.pid, began)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert environment._is_gone(child.pid, began)
    child.wait()


def test_another_users_process_with_its_number_is_not_the_owner():
    """Before, the question was refused, and the watch ended: the process held its GPU for ever."""
    script = """
        import os
        from asrbatch.engine import environment
        if os.getuid() == 0:
            os.setuid(65534)
        print(environment._is_gone(1, None), environment._is_gone(1, "12"))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout == "True True\n", done.stderr
