"""Work in forked processes: what stops one is raised as it would be without them, and nothing forks beside pyarrow.

Before, what cannot be pickled or made again, and SystemExit, were told as a process that was killed for want of memory;
merging forked beside an open Parquet manifest, whose threads do not survive that, while counting did not.
"""

import json
import subprocess
import sys

import pytest

# In a process of its own: whether pyarrow is loaded decides.
SCRIPT = """
import json, os, sys, threading
from asrbatch.errors import RowError, UsageError
from asrbatch.parallel import over_items, over_rows

class CannotBeMade(Exception):
    def __init__(self, *, why):
        super().__init__(why)

class CannotBePickled(Exception):
    def __init__(self, why):
        super().__init__(why)
        self.lock = threading.Lock()

class Local:
    class Hidden(Exception):
        __qualname__ = "Hidden"

def fail(error):
    def work(item):
        if item == 1:
            raise error
        return item
    return work

errors = {
    "usual": ValueError("x"), "ours": UsageError("x"), "of a row": RowError("missing", "x"),
    "made": CannotBeMade(why="x"), "pickled": CannotBePickled("x"), "hidden": Local.Hidden("x"),
    "exit": SystemExit("x"), "memory": MemoryError("x"),
}
found = {}
for name, error in errors.items():
    try:
        list(over_items(fail(error), range(3), 2, "counting"))
    except BaseException as e:
        found[name] = f"{type(e).__name__}: {e}"
try:
    list(over_items(lambda item: threading.Lock(), range(3), 2, "counting"))
except BaseException as e:
    found["result"] = f"{type(e).__name__}: {e}"
pids = lambda: len({os.getpid(), *over_items(lambda item: os.getpid(), range(4), 2, "counting")})
found["processes"] = pids()
import pyarrow
found["beside pyarrow"] = pids(), len({os.getpid(), *(pid for _, pid in over_rows(lambda *_: os.getpid(), 9999, 2))})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    return json.loads(subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout)


def test_what_stops_a_process_is_raised(found):
    assert {name: found[name] for name in ("usual", "ours", "of a row", "exit", "memory")} == {
        "usual": "ValueError: x", "ours": "UsageError: x", "of a row": "RowError: missing: x", "exit": "SystemExit: x",
        "memory": "MemoryError: x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "words"),
    [("made", "CannotBeMade: x"), ("pickled", "CannotBePickled: x"), ("hidden", "Hidden: x")],
)
def test_an_error_that_does_not_travel_is_told_in_words(found, name, words):
    assert found[name] == f"AsrbatchError: {words}"


def test_a_result_that_does_not_travel_is_no_want_of_memory(found):
    assert "cannot pickle" in found["result"] and "killed" not in found["result"]


def test_nothing_forks_beside_pyarrow(found):
    assert found["processes"] == 3
    assert found["beside pyarrow"] == [1, 1]
