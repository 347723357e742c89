"""The rows file of a real run: waited for while it grows, and compared with that of another run."""

import time
from pathlib import Path

from conftest import read_jsonl

EXACT = ("--dtype", "float32", "--engine-arg", "max_num_seqs=1")  # texts are then independent of what runs beside them


def stable(path: Path) -> dict[int, dict]:
    """Rows by index, without what may differ between two runs: clocks, and probabilities in the last digits."""
    rows = {}
    for row in read_jsonl(path):
        assert row["index"] not in rows, "written twice"
        rows[row["index"]] = {k: v for k, v in row.items() if k not in ("timing", "avg_logprob", "windows")}
    return rows


def wait_for_rows(process, path: Path, count: int, timeout_s: float = 600.0) -> int:
    """Waits until the file holds `count` complete lines; returns how many there are."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        lines = path.read_bytes().count(b"\n") if path.exists() else 0
        if lines >= count:
            return lines
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError(f"no {count} rows within {timeout_s} s")
